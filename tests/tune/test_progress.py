from __future__ import annotations

import io
import re

from optuna.storages import InMemoryStorage
from planted_search import EXPERIMENT, PlantedSpace, rules, train_planted
from rich.console import Console

from sb3_pg.launch import InThisProcess
from sb3_pg.tune.experiment import SeedResult, SeedTask
from sb3_pg.tune.progress import Progress, clock
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.search import Search


def shown(terminal: bool) -> str:
    """What a search shows."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=140, highlight=False)
    record = StudyRecord(InMemoryStorage(), "planted", {})
    with Progress(record, rules(), 12, 4, console) as progress:
        Search(record, EXPERIMENT, {}, PlantedSpace(), rules(), 12, progress).run(train_planted, InThisProcess())
        task = SeedTask("block", 0, 5, EXPERIMENT, {})
        progress.final_begun(0, 4)
        progress.rerun(task, "its worker died")
        progress.retrained(task, SeedResult(5, (7.0,)))
        progress.retrained(task, SeedResult(5, (), stopped="diverged", why="nan"))
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue())


def test_a_log_has_a_line_for_each_trial_and_no_table() -> None:
    lines = shown(terminal=False).splitlines()
    trials = [line for line in lines if line.startswith("trial ")]
    assert len(trials) == 12
    assert re.match(
        r"trial 0: [\d.]+ \(5 seeds\); 1/12 trials, 0 pruned, best [\d.]+ \[[\d.]+, [\d.]+\] \(trial 0\), "
        r"[\d.e+]+ trainings/min, \d+:\d\d:\d\d left$",
        trials[0],
    )
    assert any("pruned: seed 11 diverged: planted divergence" in line for line in trials)
    assert any("clearly worse than trial" in line for line in trials)
    assert lines[12:] == [
        "block of the file, seed 5, is trained again: its worker died",
        "final 1/4: block of the file with fresh seed 5: 7",
        "final 2/4: block of the file with fresh seed 5: diverged: nan",
    ]


def test_a_terminal_has_a_table_of_the_best_trials() -> None:
    text = shown(terminal=True)
    last = text[text.rindex("planted: 12/12 trials") :]
    assert "95 % interval" in last
    assert "final on fresh seeds: 2/4 trainings" in last
    assert re.search(r"│ +0 │ +[\d.]+ │ +[\d.]+ to [\d.]+ │ +5 │", last)


def test_seconds_are_shown_as_a_clock() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3661, 100 * 3600)] == ["0:00:00", "0:01:00", "1:01:01", "100:00:00"]
