"""What is wrong with a command or with its surroundings, in one line for the one who typed it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

N_LISTED = 40
"""Names that are listed in a message; with more of them the closest one has to do."""


class TuneError(Exception):
    """Ends the command with its message instead of a traceback."""


def unknown(what: str, name: str, known: Iterable[str]) -> TuneError:
    """
    Build the error for a name that does not exist, with the closest one that does.

    :param what: what the name stands for, such as ``"--env"``
    :param name: the name that was given
    :param known: the names that exist
    """
    return TuneError(f"{what} {name!r} is not known{suggestion(name, known)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """
    What to write instead of a name, as the rest of a sentence.

    :param name: the name that was given
    :param known: the names that exist
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.4)
    advice = f"; did you mean {close[0]!r}?" if close else "."
    return advice + ("" if len(known) > N_LISTED else f" Accepted are {', '.join(known)}")
