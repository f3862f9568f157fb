"""Files are there whole or as they were."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from sb3_pg.files import accept_any_text, whole, write_whole


def test_text_and_bytes_are_written_and_their_folder_made(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "text", "λ")
    write_whole(tmp_path / "a" / "bytes", b"\x00")
    assert (tmp_path / "a" / "text").read_text(encoding="utf-8") == "λ"
    assert (tmp_path / "a" / "bytes").read_bytes() == b"\x00"
    assert len(list((tmp_path / "a").iterdir())) == 2


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_was_there_stays_when_writing_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def write_half() -> None:
        with whole(path) as unfinished:
            unfinished.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    def write() -> None:
        with whole(tmp_path / "file"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*file'$"):
        write()


def test_two_processes_do_not_write_to_the_same_unfinished_file(tmp_path: Path) -> None:
    with whole(tmp_path / "file") as unfinished:
        unfinished.write_text("mine")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            write_whole(tmp_path / "file", "theirs")
        assert (tmp_path / "file").read_text() == "theirs"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_terminal_without_greek_letters_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    accept_any_text()
    print("λ = 0.5")
    terminal.flush()
    assert terminal.buffer.getvalue() == b"\\u03bb = 0.5\n"  # type: ignore[attr-defined]
