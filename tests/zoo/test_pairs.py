"""RL Zoo's KEY:VALUE."""

from __future__ import annotations

import argparse

import pytest

from sb3_pg.zoo.pairs import Pairs, read_pairs


def test_values_are_those_that_python_evaluates() -> None:
    found = read_pairs("--env-kwargs", ["a:2**3", "b:float('inf')", "c:'x:y'", "d:dict(e=[1])"])
    assert found == {"a": 8, "b": float("inf"), "c": "x:y", "d": {"e": [1]}}
    assert read_pairs("--env-kwargs", []) == {}


@pytest.mark.parametrize("pair", ["a", "a:", "a:b", "a:1/0"])
def test_what_python_cannot_evaluate_is_refused_with_the_option(pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = f"KEY:VALUE is expected, with a VALUE as Python writes it, not {pair}"
    with pytest.raises(ValueError, match=rf"^--env-kwargs: {message}"):
        read_pairs("--env-kwargs", [pair])
    parser = argparse.ArgumentParser()
    parser.add_argument("--env-kwargs", nargs="+", action=Pairs)
    with pytest.raises(SystemExit):
        parser.parse_args(["--env-kwargs", pair])
    assert f"argument --env-kwargs: {message}" in capsys.readouterr().err
