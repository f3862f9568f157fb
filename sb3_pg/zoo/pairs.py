"""RL Zoo's ``KEY:VALUE`` of command lines, for commands of this library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rl_zoo3.utils import StoreDict


def read_pairs(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """
    Read ``KEY:VALUE``, with values as Python writes them.

    :param option: of the command line, for the error
    :param pairs: its values
    :raises ValueError: for what Python cannot evaluate
    """
    found = argparse.Namespace(pairs={})
    try:
        StoreDict([option], "pairs", nargs="+")(argparse.ArgumentParser(), found, list(pairs))  # type: ignore[no-untyped-call]
    except Exception as error:  # of evaluating any text
        message = f"KEY:VALUE is expected, with a VALUE as Python writes it, not {' '.join(pairs)} ({error})"
        raise ValueError(f"{option}: {message}") from error
    return dict(found.pairs)


class Pairs(argparse.Action):
    """An option whose values are :func:`read_pairs`'; what is none ends the command with a line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002  argparse's own
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """See :class:`argparse.Action`."""
        option = option_string or self.dest
        try:
            setattr(namespace, self.dest, read_pairs(option, values))
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error).removeprefix(f"{option}: ")) from error
