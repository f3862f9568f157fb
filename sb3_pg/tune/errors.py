"""What is wrong with a command or with its surroundings, in one line for the one who typed it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TuneError(Exception):
    """Ends the command with its message instead of a traceback."""


def unknown(what: str, name: str, known: Iterable[str]) -> TuneError:
    """
    Build the error for a name that does not exist, with the closest one that does.

    :param what: what the name stands for, such as ``"--env"``
    :param name: the name that was given
    :param known: the names that exist
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.4)
    many = len(known) > 30
    advice = f"; did you mean {close[0]}?" if close else ""
    accepted = "" if many else f" Accepted are {', '.join(known)}"
    return TuneError(f"{what} {name!r} is not known{advice}{accepted}")
