"""Files that are written whole or not at all."""

from __future__ import annotations

import os
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
