"""The script that trains what the README promises."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import check_learning
import pytest

ROOT = Path(__file__).parents[1]


def test_the_check_of_what_is_learned_trains_what_was_trained_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_learning, "ROOT", tmp_path)
    monkeypatch.setattr(check_learning, "RESULTS", tmp_path)
    finals = iter(range(100))
    monkeypatch.setattr(check_learning, "final_evaluation", lambda *_: float(next(finals)))
    asked = re.search(r"`python (zoo_scripts/check_learning.py[^`]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert asked
    monkeypatch.setattr(sys, "argv", [*asked[1].split(), "--seeds", "3"])
    check_learning.main()
    check_learning.main()
    assert next(finals) == 2 * 3 * len(check_learning.CASES)
    capsys.readouterr()


def test_the_table_says_the_seeds_that_it_is_of() -> None:
    assert "over seeds 1 to 3, all of\nwhich" in check_learning.table([], 3)
    text = check_learning.table([], 10)
    for line in text.splitlines()[3:]:
        assert line in (ROOT / "README.md").read_text().splitlines()
