"""Files that are written whole or not at all, and terminals that are written to whatever their encoding."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """
    Write to another name, and rename at the end: who reads the file, or interrupts this, never finds half of it.

    :param path: what is to be there in the end; what was there before stays until then
    :return: where to write
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")  # two processes may write the same file
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno is not None:  # a full disk does not say which file it was
            error.filename = error.filename or str(path)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, text: str | bytes) -> None:
    """Write a file, and the folder that it is in; see :func:`whole`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as unfinished:
        unfinished.write_bytes(text.encode() if isinstance(text, str) else text)


def accept_any_text() -> None:
    """Print as escapes what the terminal's encoding has no letters for, such as a Greek name, instead of ending."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
