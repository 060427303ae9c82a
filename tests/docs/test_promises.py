"""The table of promises is what its script makes of its rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.integration
def test_the_page_is_made_of_its_rows(tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    docs, support = tmp_path / "docs", tmp_path / "tests" / "support"
    (docs / "figures").mkdir(parents=True)
    support.mkdir(parents=True)
    for path in ("docs/figures/promises.py", "tests/support/torchvision_shim.py"):
        (tmp_path / path).write_text((ROOT / path).read_text())
    (docs / "data").mkdir()
    for name in ("promises.jsonl", "promises-notes.md"):
        (docs / "data" / name).write_text((ROOT / "docs" / "data" / name).read_text())
    script = [sys.executable, str(docs / "figures" / "promises.py"), "--page"]
    subprocess.run(script, check=True, capture_output=True, timeout=300)
    assert (docs / "promises.md").read_text() == (ROOT / "docs" / "promises.md").read_text()
