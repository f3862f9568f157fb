"""How many workers one search keeps busy, for each kind of storage. The tables go into docs/scaling.md.

    python zoo_scripts/simulate_storage.py
    python zoo_scripts/simulate_storage.py --storage PostgreSQL=postgresql+psycopg2://me@host/studies

Nothing is trained: a training is a random duration on a clock of its own. Everything else is real: sb3_pg.tune's
search, Optuna's samplers, the storage. While the search is busy with one result, others wait for it, on that clock too.
"""

from __future__ import annotations

import argparse
import heapq
import re
import shutil
import sys
import tempfile
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from sb3_pg.launch import InThisProcess
from sb3_pg.tune.experiment import Experiment, SeedResult, SeedTask, seeds_of
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.search import Listener, Rules, Search
from sb3_pg.tune.storage import open_storage

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
MARKS = ("<!-- storage -->", "<!-- /storage -->")
EXPERIMENT = Experiment("planted", "Planted-v0", n_timesteps=1000, n_evaluations=10)
N_SEEDS = 5
N_PARAMETERS = 12  # as many as vpg's search space has


class PlantedSpace:
    """Numbers between 0 and 1."""

    def suggest(self, trial: optuna.Trial) -> None:
        """Ask for them."""
        for number in range(N_PARAMETERS):
            trial.suggest_float(f"x{number}", 0, 1)

    def convert(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """They are the block."""
        return dict(params)


def train(task: SeedTask) -> SeedResult:
    """A curve, at once."""
    noise = np.random.default_rng(task.seed).normal(size=EXPERIMENT.n_evaluations)
    return SeedResult(task.seed, tuple(float(value) for value in 100 * task.block["x0"] + noise))


class VirtualCluster(InThisProcess):
    """
    Workers on a clock of their own.

    :param n_workers: how many
    :param seconds: mean duration of a training
    """

    def __init__(self, n_workers: int, seconds: float) -> None:
        super().__init__()
        self.capacity = n_workers
        self._seconds = seconds
        self._rng = np.random.default_rng(0)
        self._running: list[tuple[float, int]] = []
        self._last_return = time.perf_counter()
        self._spans: list[tuple[float, float]] = []
        self.clock = 0.0
        self.busy = 0.0

    def start(self, key: int, function: Callable[[Any], Any], task: Any) -> None:
        """Begin a training, at what the clock is after the work of the search so far."""
        super().start(key, function, task)
        begin = self.clock + time.perf_counter() - self._last_return
        end = begin + self._seconds * float(self._rng.lognormal(-0.125, 0.5))
        self._spans.append((begin, end))
        heapq.heappush(self._running, (end, key))

    def wait(self) -> list[tuple[int, Any]]:
        """Go to the end of the next training, or to now, if the search was busy for longer."""
        busy = time.perf_counter() - self._last_return
        self.busy += busy
        end, key = heapq.heappop(self._running)
        self.clock = max(self.clock + busy, end)
        index = next(index for index, (other, _) in enumerate(self._ended) if other == key)
        self._last_return = time.perf_counter()
        return [self._ended.pop(index)]

    def share(self, until: float) -> float:
        """Share of the workers' time up to some time that was training."""
        trained = sum(max(min(end, until) - begin, 0) for begin, end in self._spans)
        return trained / (self.capacity * until)


class LastBegin(Listener):
    """Keeps when the last trial was begun: after that there is nothing left for workers that are done."""

    def __init__(self, cluster: VirtualCluster) -> None:
        self._cluster = cluster
        self.time = 0.0

    def begun(self, trial: FrozenTrial) -> None:
        """Keep the time."""
        assert trial.state is TrialState.RUNNING
        self.time = self._cluster.clock


def rules(window: int, sampler: str = "tpe") -> Rules:
    """All seeds of every trial, so that all storages have the same to do."""
    seeds = tuple(seeds_of(0, "search", N_SEEDS))
    return Rules(seed=0, seeds=seeds, sampler=sampler, pruner="none", p_threshold=0.0, window=window)


class CountingStorage(InMemoryStorage):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in dir(BaseStorage) and not name.startswith("_"):
            self.calls[name] += 1
        return found


def operations() -> str:
    """What one trial asks of a storage: by this search, and by Optuna's usual way in every worker."""
    ours, usual = CountingStorage(), CountingStorage()
    record = StudyRecord(ours, "study", {})
    before = Counter(ours.calls)
    Search(record, EXPERIMENT, {}, PlantedSpace(), rules(8), 20).run(train, InThisProcess())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner()
    study = optuna.create_study(storage=usual, direction="maximize", pruner=pruner)

    def objective(trial: optuna.Trial) -> float:
        PlantedSpace().suggest(trial)
        for index in range(N_SEEDS):
            trial.report(trial.params["x0"], index)
            trial.should_prune()
        return float(trial.params["x0"])

    start = Counter(usual.calls)
    study.optimize(objective, n_trials=20)
    lines = ["| a trial of 5 seeds and 12 parameters | writes | reads |", "|---|---|---|"]
    for title, calls in (
        ("sb3_pg.tune", ours.calls - before),
        ("Optuna in each worker (`study.optimize`, reports, WilcoxonPruner)", usual.calls - start),
    ):
        writes = sum(count for name, count in calls.items() if name.startswith(("create", "set")))
        lines.append(f"| {title} | {writes / 20:.0f} | {(sum(calls.values()) - writes) / 20:.0f} |")
    return "\n".join(lines)


def simulate(
    storage: BaseStorage, n_workers: int, window: int, seconds: float, n_trials: int, sampler: str
) -> tuple[float, float]:
    """
    Search with many workers.

    :param storage: where the study is kept
    :param n_workers: number of workers
    :param window: trials under way at a time
    :param seconds: mean duration of a training
    :param n_trials: trials of the study
    :param sampler: Optuna's
    :return: milliseconds that the search was busy for each training, and the share of the workers' time that was
        training, up to the begin of the last trial
    """
    cluster = VirtualCluster(n_workers, seconds)
    last = LastBegin(cluster)
    record = StudyRecord(storage, f"simulation_{uuid.uuid4().hex}", {})
    Search(record, EXPERIMENT, {}, PlantedSpace(), rules(window, sampler), n_trials, last).run(train, cluster)
    return 1000 * cluster.busy / (n_trials * N_SEEDS), cluster.share(last.time)


def storages(folder: Path, others: list[str]) -> dict[str, BaseStorage]:
    """Those that need no server, and those of the command line."""
    found: dict[str, BaseStorage] = {"memory alone": InMemoryStorage()}
    found["journal file"] = open_storage(str(folder / "study.log"))
    found["SQLite"] = open_storage(f"sqlite:///{folder}/study.db")
    for other in others:
        name, _, address = other.partition("=")
        found[name] = open_storage(address)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", nargs="*", default=[], metavar="NAME=ADDRESS", help="other storages")
    parser.add_argument("--trials", type=int, default=200, help="trials of each search with few workers")
    parser.add_argument("--workers", type=int, nargs="*", default=[10, 100, 1000], help="numbers of workers")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="simulate_storage_"))
    minute = 60.0
    rows = ["| storage | ms a training | workers that trainings of 1 min keep busy | of 10 min |", "|---|---|---|---|"]
    for name, storage in storages(folder, arguments.storage).items():
        milliseconds, _ = simulate(storage, 8, 16, minute, arguments.trials, "random")
        most = 1000 * minute / milliseconds
        rows.append(f"| {name} | {milliseconds:.1f} | {most:,.0f} | {10 * most:,.0f} |")
        print(rows[-1], file=sys.stderr)
    busy = [
        "| workers | window | trials | sampler | ms a training | workers' time that is training |",
        "|---|---|---|---|---|---|",
    ]
    cases = [(n, 2 * n, sampler) for n in arguments.workers for sampler in ("tpe", "random")]
    cases += [(100, window, "random") for window in (100, 150, 400)]
    for number, (n_workers, window, sampler) in enumerate(cases):
        journal = open_storage(str(folder / f"{number}.log"))
        n_trials = max(3 * n_workers, arguments.trials)
        milliseconds, share = simulate(journal, n_workers, window, minute, n_trials, sampler)
        busy.append(f"| {n_workers} | {window} | {n_trials} | {sampler} | {milliseconds:.1f} | {share:.0%} |")
        print(busy[-1], file=sys.stderr)
    shutil.rmtree(folder)
    printed = "\n\n".join(
        [operations(), "\n".join(rows), "\n".join(busy), f"Printed by `python {' '.join(sys.argv)}`."]
    )
    print(printed)
    if PAGE.exists():
        pattern = re.compile(f"{MARKS[0]}.*?{MARKS[1]}", re.DOTALL)
        PAGE.write_text(pattern.sub(lambda _: f"{MARKS[0]}\n{printed}\n{MARKS[1]}", PAGE.read_text()))


if __name__ == "__main__":
    main()
