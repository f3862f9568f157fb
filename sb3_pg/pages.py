"""Pages as Markdown, HTML and CSV, and tables between two marks of a page."""

from __future__ import annotations

import base64
import csv
import html
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sb3_pg.files import write_whole


def as_csv(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as comma-separated values, None as nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    return text.getvalue()


class NoMarksError(ValueError):
    """A page has no place for what is to be put into it."""


def put_between_marks(page: Path, mark: str, text: str) -> None:
    """
    Replace what stands between ``<!-- mark -->`` and ``<!-- /mark -->`` in a page.

    :raises NoMarksError: when the page has no such marks
    """
    first, last = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    whole, found = re.subn(
        f"{first}.*?{last}", lambda _: f"{first}\n{text}\n{last}", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    if not found:
        raise NoMarksError(f"{page} has no place for the table: {first} and {last} are expected in it")
    write_whole(page, whole)


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; a bar within a cell is escaped."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# -- what a page is made of ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heading:
    """A heading of a level from 1."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Text, with Markdown's `code` and **bold** and links."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Lines for a shell."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG or GIF file, with its title below it, or a longer text."""

    name: str
    title: str
    content: bytes = field(repr=False)
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Finding:
    """A box with what was found, in the colour of its level."""

    level: str
    """``good``, ``watch`` (may be worth a change), ``bad`` (costs learning) or ``unknown`` (too little data)."""
    title: str
    text: str


@dataclass(frozen=True)
class Table:
    """A heading and rows of the same length."""

    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Heading | Paragraph | Items | Code | Picture | Gallery | Finding | Table
Page = Iterator[Block]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
figure { margin: 1rem 0; } figure img { max-width: 100%; } figcaption { font-size: 0.9rem; color: #555; }
div.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e3e3e3; }
th { border-bottom: 2px solid #999; } pre { background: #f4f4f4; padding: 0.7rem; overflow-x: auto; font-size: 85%; }
code { background: #f0f0f0; padding: 0 0.2rem; } pre code { background: none; padding: 0; }
.gallery { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1.2rem; }
.gallery figure { margin: 0; } .gallery img { width: 100%; }
.finding { border-left: 6px solid; padding: 0.4rem 0.9rem; margin: 0.6rem 0; background: #f7f7f7; }
.finding b { display: block; } .good { border-color: #2f8f4e; } .watch { border-color: #d9a514; }
.bad { border-color: #c03a2b; } .unknown { border-color: #8a8a8a; }
"""


def as_markdown(blocks: Iterable[Block], folder: str) -> str:
    """
    Write a page as Markdown.

    :param blocks: what it is made of
    :param folder: where its pictures are, seen from the page
    """
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def as_html(title: str, blocks: Iterable[Block]) -> str:
    """
    Write a page as HTML that stands alone, with its pictures in it.

    :param title: of the window
    :param blocks: what it is made of
    """
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(_html(block) for block in blocks)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _markdown(block: Block, folder: str) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Paragraph):
        return " ".join(block.text.split())
    if isinstance(block, Items):
        return "\n".join(f"- {' '.join(text.split())}" for text in block.texts)
    if isinstance(block, Code):
        return f"```sh\n{block.text}\n```"
    if isinstance(block, Picture):
        return f"![{block.title}]({quote(f'{folder}/{block.name}')})\n*{block.caption or block.title}*"
    if isinstance(block, Gallery):
        return "\n\n".join(_markdown(picture, folder) for picture in block.pictures)
    if isinstance(block, Finding):
        return f"> **{block.title}** {' '.join(block.text.split())}"
    return markdown_table(block.heading, block.rows)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Items):
        return "<ul>" + "".join(f"<li>{_inline(text)}</li>" for text in block.texts) + "</ul>"
    if isinstance(block, Code):
        return f"<pre><code>{html.escape(block.text)}</code></pre>"
    if isinstance(block, Picture):
        kind, content = block.name.rpartition(".")[2], base64.b64encode(block.content).decode()
        picture = f'<img alt="{html.escape(block.title)}" src="data:image/{kind};base64,{content}">'
        return f"<figure>{picture}<figcaption>{_inline(block.caption or block.title)}</figcaption></figure>"
    if isinstance(block, Gallery):
        return f'<div class="gallery">{"".join(map(_html, block.pictures))}</div>'
    if isinstance(block, Finding):
        return f'<div class="finding {block.level}"><b>{_inline(block.title)}</b>{_inline(block.text)}</div>'
    rows = [_cells(block.heading, "th"), *(_cells(row, "td") for row in block.rows)]
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _cells(texts: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{_inline(text)}</{tag}>" for text in texts) + "</tr>"


def _inline(text: str) -> str:
    """Markdown's code, bold and links within a line."""
    text = html.escape(" ".join(text.split()), quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)
    return re.sub(r"\[([^\]]+)\]\((https?://[^)\s]+)\)", r'<a href="\2">\1</a>', text)
