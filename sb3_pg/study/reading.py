"""A YAML file whose mistakes are told with the line that they are in."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sb3_pg.tune.errors import suggestion
from sb3_pg.tune.yaml_keys import keys_of

Place = tuple[str | int, ...]
"""Keys and positions that lead from the top of a document to a value in it."""

Kind = TypeVar("Kind")

_KINDS = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "a mapping"}
_MERGE = "tag:yaml.org,2002:merge"


class StudyError(Exception):
    """What is wrong with a study or with its surroundings, for the one who typed it."""


@dataclass(frozen=True)
class Document:
    """
    A YAML file and where its values stand.

    :param path: of the file
    :param values: the mapping in it
    :param lines: line of each value, or of its key where it has one
    """

    path: Path
    values: dict[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)

    def line(self, place: Place) -> int:
        """Line of a value, or of what it would be in."""
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]

    def error(self, place: Place, message: str) -> StudyError:
        """Build the error for what is wrong at a place."""
        return StudyError(f"{self.path}:{self.line(place)}: {message}")


def read_document(path: Path) -> Document:
    """
    Read a YAML file that holds a mapping.

    :param path: of the file
    :raises StudyError: when it cannot be read, is no YAML, holds something else, or says the same key twice
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"cannot read {path}: it is not in UTF-8 ({error.reason} at byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StudyError(f"{path}:{line}: no YAML: {error.problem or error}") from error
    except yaml.YAMLError as error:
        raise StudyError(f"{path}:1: no YAML: {error}") from error
    document = Document(path, values if isinstance(values, dict) else {}, {(): 1})
    if not isinstance(values, dict):
        raise document.error((), "a study is a mapping, such as `title: ...`")
    for place, line, is_double in _walk(node, ()):
        if is_double:
            raise StudyError(f"{path}:{line}: {place[-1]!r} is there twice")
        document.lines.setdefault(place, line)
    return document


def _walk(node: Any, place: Place) -> Iterator[tuple[Place, int, bool]]:
    """Every place below a node with its line, and whether its key was there before."""
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1, False
            yield from _walk(value, (*place, index))
    elif isinstance(node, yaml.MappingNode):
        for key, value, is_double in keys_of(node):
            if key.tag == _MERGE:
                yield from ((at, line, False) for at, line, _ in _walk(value, place))
                continue
            yield (*place, key.value), key.start_mark.line + 1, is_double
            yield from _walk(value, (*place, key.value))


class Section:
    """
    A mapping in a document, with known keys.

    :param document: the whole
    :param place: where the mapping is
    :param accepted: its keys; None for any
    :raises StudyError: for something else than a mapping, and for other keys
    """

    def __init__(self, document: Document, place: Place, accepted: Collection[str] | None) -> None:
        value: Any = document.values
        for key in place:
            value = value[key]
        self.document, self.place = document, place
        if not isinstance(value, dict):
            raise document.error(place, f"{_name(place)} must be a mapping, not {value!r}")
        for key in value if accepted is not None else ():
            if key not in (accepted or ()):
                raise self.error(key, f"{key!r} is unknown here{suggestion(str(key), accepted or ())}")
        self.values: dict[str, Any] = value

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def error(self, key: str | int, message: str) -> StudyError:
        """Build the error for what is wrong with a key's value."""
        return self.document.error((*self.place, key), message)

    def get(self, key: str, kind: type[Kind], default: Kind | None = None) -> Kind:
        """
        Give a value of a kind.

        :param key: its key
        :param kind: str, int, bool, list or dict
        :param default: where the key is missing; None if it must be there
        :raises StudyError: when it is missing, or of another kind
        """
        if key not in self.values:
            if default is None:
                raise self.document.error(self.place, f"{key!r} is missing{_in(self.place)}")
            return default
        value = self.values[key]
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        raise self.error(key, f"{key} must be {_KINDS[kind]}, not {value!r}")

    def count(self, key: str, value: Any = ...) -> int:
        """
        Give a whole number above 0; ``1000000.0`` is one.

        :param key: its key
        :param value: what stands there, if it is no value of this section itself
        :raises StudyError: for anything else
        """
        value = self.values[key] if value is ... else value
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and value > 0 and value % 1 == 0:  # infinity % 1 is NaN
            return int(value)
        hint = " (YAML reads 1e6 as text: write 1_000_000)" if isinstance(value, str) else ""
        raise self.error(key, f"{key} must be a whole number above 0, not {value!r}{hint}")

    def texts(self, key: str) -> tuple[str, ...]:
        """
        Give a text, or a list of texts, as a tuple; empty where the key is missing.

        :raises StudyError: for anything else
        """
        value = self.values.get(key, [])
        values = value if isinstance(value, list) else [value]
        for each in values:
            if not isinstance(each, str):
                raise self.error(key, f"{key} must be text or a list of texts; {each!r} is none")
        return tuple(values)

    def known(self, key: str, value: str, accepted: Collection[str]) -> str:
        """
        Give the value back.

        :raises StudyError: with the closest one that is accepted, where it is none
        """
        if value not in accepted:
            raise self.error(key, f"{key} {value!r} is not known{suggestion(value, accepted)}")
        return value


def _name(place: Place) -> str:
    parts = (f".{part}" if isinstance(part, str) else f"[{part + 1}]" for part in place)
    return "".join(parts).removeprefix(".") or "a study"


def _in(place: Place) -> str:
    return f" in {_name(place)}" if place else ""
