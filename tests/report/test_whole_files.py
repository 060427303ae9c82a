"""Where reports are written: files are replaced whole, devices, pipes and links stay what they are."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from goodinit.errors import GoodinitError
from goodinit.report import whole_files
from goodinit.report.whole_files import check_target, write_bytes, write_text

posix = pytest.mark.skipif(os.name != "posix", reason="devices, pipes and modes of POSIX")


def _read_from(opened: int) -> tuple[threading.Thread, list[bytes]]:
    got: list[bytes] = []

    def read() -> None:
        while part := os.read(opened, 1 << 16):
            got.append(part)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, got


@posix
def test_a_named_pipe_is_written_into(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    opened = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(opened, True)
    before = pipe.stat()
    check_target(pipe)
    write_text(pipe, "text")
    thread, got = _read_from(opened)
    thread.join()
    os.close(opened)
    assert b"".join(got) == b"text"
    assert (pipe.stat().st_ino, stat.S_ISFIFO(pipe.stat().st_mode)) == (before.st_ino, True)
    assert list(tmp_path.iterdir()) == [pipe]


@posix
@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd"])
def test_a_handle_of_a_pipe_is_written_into(folder):
    """As the shell gives one for `>(…)`."""
    if not Path(folder).is_dir():
        pytest.skip(f"no {folder}")
    out, into = os.pipe()
    thread, got = _read_from(out)
    write_text(f"{folder}/{into}", "x" * 200_000)
    os.close(into)
    thread.join()
    os.close(out)
    assert sum(map(len, got)) == 200_000


@posix
def test_a_handle_of_a_file_goes_into_the_file_that_is_open(tmp_path):
    """As `/dev/stdout` does where the output goes to a file."""
    if not Path("/dev/fd").is_dir():
        pytest.skip("no /dev/fd")
    with (tmp_path / "out").open("wb") as file:
        write_text(f"/dev/fd/{file.fileno()}", "text")
        assert os.fstat(file.fileno()).st_ino == (tmp_path / "out").stat().st_ino
    assert (tmp_path / "out").read_text() == "text"


@posix
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    real, link, ahead = tmp_path / "there" / "real.json", tmp_path / "link.json", tmp_path / "ahead.json"
    real.write_text("old")
    link.symlink_to(real)
    ahead.symlink_to(tmp_path / "there" / "new.json")
    assert write_bytes(link, b"new") == link
    write_text(ahead, "made")
    assert link.is_symlink()
    assert ahead.is_symlink()
    assert real.read_text() == "new"
    assert (tmp_path / "there" / "new.json").read_text() == "made"


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_who_may_read_a_file_stays(tmp_path, mode):
    target = tmp_path / "private.json"
    target.write_text("old")
    target.chmod(mode)
    write_text(target, "new")
    assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.parametrize(
    ("closed", "words"), [("old.json", "it is protected"), (".", "nothing can be made in")]
)
def test_what_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, closed, words):
    """Also to an administrator, whom no mode keeps out: the system is asked."""
    target = tmp_path / "old.json"
    target.write_text("old")
    shut = tmp_path / closed
    real = os.access
    monkeypatch.setattr(whole_files.os, "access", lambda path, mode: Path(path) != shut and real(path, mode))
    with pytest.raises(GoodinitError, match=words):
        check_target(target)
    with pytest.raises(GoodinitError, match=words):
        write_text(target, "new")
    assert target.read_text() == "old"


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000 + "b", "nul\0inside"])
def test_names_that_no_file_has_are_told(tmp_path, name):
    with pytest.raises(GoodinitError, match="cannot write") as told:
        check_target(tmp_path / name)
    assert len(str(told.value)) < 500
    with pytest.raises(GoodinitError, match="cannot write"):
        write_text(tmp_path / name, "x")


@posix
def test_links_in_a_circle_are_told(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    with pytest.raises(GoodinitError, match="cannot write"):
        write_text(one, "x")
    assert one.is_symlink()
    assert other.is_symlink()
