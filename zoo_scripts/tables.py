"""Files that scripts write: whole or not at all, and tables between two marks of a page."""

from __future__ import annotations

import os
import re
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name and rename it: who reads it, or interrupts this, never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def put_between_marks(page: Path, mark: str, text: str) -> None:
    """Replace what stands between ``<!-- mark -->`` and ``<!-- /mark -->`` in a page.

    :raises ValueError: when the page has no such marks
    """
    first, last = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    whole, found = re.subn(
        f"{first}.*?{last}", lambda _: f"{first}\n{text}\n{last}", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    if not found:
        raise ValueError(f"{page} has no place for the table: {first} and {last} are expected in it")
    write_whole(page, whole)
