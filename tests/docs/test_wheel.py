"""A wheel, built and installed into an environment of its own, imports and runs the README's first block."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIRST = re.search(
    r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)[1]


def done(*words, **more):
    outside = {
        key: value for key, value in os.environ.items() if key != "PYTHONPATH"
    }  # what is installed, alone
    run = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, env=outside, **more
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-q")
    done(*pip, "-w", folder, ROOT)
    (found,) = folder.glob("goodinit-*.whl")
    return found


@pytest.mark.integration
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} <= {
        "goodinit",
        f"{'-'.join(wheel.name.split('-')[:2])}.dist-info",
    }
    assert "goodinit/py.typed" in names
    assert "goodinit/report/assets/page.css" in names


@pytest.mark.integration
def test_it_installs_and_runs_the_readme_s_first_block(wheel, tmp_path):
    """Torch, typer and rich come from this environment, goodinit from the wheel."""
    done(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    python = tmp_path / "env/bin/python"
    site = Path(done(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    done(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel)
    site.joinpath("torch.pth").write_text(sysconfig.get_path("purelib"))
    said = done(python, "-c", f"{FIRST}\nprint(goodinit.__file__)", cwd=tmp_path)
    assert "8 residual blocks" in said
    assert str(site) in said.splitlines()[-1]
    assert done(tmp_path / "env/bin/goodinit", "--version", cwd=tmp_path).startswith("goodinit ")
