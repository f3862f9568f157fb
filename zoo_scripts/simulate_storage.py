"""How many workers one search keeps busy, for each kind of storage. The tables go into docs/scaling.md.

    python zoo_scripts/simulate_storage.py

First, the calls of real storages are timed: a journal file, SQLite, PostgreSQL (a server of its own, where it is
installed), and what Optuna's gRPC proxy adds to the storage behind it. What counts is the time until a call returns,
the disk included, but not the time in which something else has the processor. Then thousands of workers are simulated.
A training is a random duration on a clock of its own, and a call of a storage takes what was measured; the search,
Optuna's samplers and the copy of the study in memory are real, and take the processor time that they need. While the
search is busy with one result, others wait for it, on that clock too.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import os
import sys
import tempfile
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from simulate_tuning import EXPERIMENT, PlantedSpace
from storage_servers import IN_MEMORY, NotInstalledError, grpc_proxy, postgresql

from sb3_pg.launch import InThisProcess
from sb3_pg.pages import markdown_table, put_between_marks
from sb3_pg.tune.experiment import SeedResult, SeedTask, seeds_of
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.search import Listener, Rules, Search
from sb3_pg.tune.storage import open_storage

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
N_SEEDS = 5
MINUTE = 60.0
SPACE = PlantedSpace([f"x{number}" for number in range(12)])  # as many as vpg's search space has


def train(task: SeedTask) -> SeedResult:
    """A curve, at once."""
    noise = np.random.default_rng(task.seed).normal(size=EXPERIMENT.n_evaluations)
    return SeedResult(task.seed, tuple(float(value) for value in 100 * task.block["x0"] + noise))


class Cost(NamedTuple):
    """
    What a storage takes.

    :param call: seconds of a call that writes, on average
    :param calls: how many a trial makes
    """

    call: float = 0.0
    calls: float = 0.0

    @property
    def of_a_training(self) -> float:
        """Milliseconds."""
        return 1000 * self.call * self.calls / N_SEEDS


class Simulated(NamedTuple):
    """
    What a simulation came to.

    :param milliseconds: that the search was busy for each training
    :param share: of the workers' time that was training, up to the begin of the last trial
    """

    milliseconds: float
    share: float


CALLS = ("create_new_trial", "set_trial_intermediate_value", "set_trial_user_attr", "set_trial_state_values")


class TimedStorage:
    """
    Measures how long what a search asks of a storage takes.

    :param real: the storage
    :param clock: gives seconds
    """

    def __init__(self, real: BaseStorage, clock: Callable[[], float]) -> None:
        self.real = real
        self.calls = 0
        self.seconds = 0.0
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        if name not in CALLS:
            return found

        def timed(*args: Any, **kwargs: Any) -> Any:
            """Do what the storage does, and note how long it takes."""
            begin = self._clock()
            result = found(*args, **kwargs)
            self.seconds += self._clock() - begin
            self.calls += 1
            return result

        return timed


def undisturbed() -> float:
    """Seconds of a clock that stands still while this thread could run, but something else does."""
    return time.perf_counter() - waited(Path("/proc/thread-self"))


def waited(task: Path) -> float:
    """Seconds in which a thread could have run, but something else did (Linux; 0 elsewhere)."""
    with contextlib.suppress(OSError):
        return int((task / "schedstat").read_text().split()[1]) / 1e9
    return 0.0


def waited_by_postgresql(pid: int) -> float:
    """The same of those processes of a server that answer; a storage asks for them one after the other."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    answering = [number for number in children if "studies" in Path(f"/proc/{number}/cmdline").read_text()]
    return sum(waited(Path("/proc", number)) for number in answering)


def processor_time(pid: int) -> float:
    """Seconds of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ChargedStorage(InMemoryStorage):
    """
    Adds up what another storage would have taken.

    :param cost: of that storage
    """

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self._cost = cost
        self.charged = 0.0

    def __getattribute__(self, name: str) -> Any:
        if name in CALLS:
            self.charged += self._cost.call
        return super().__getattribute__(name)


class VirtualCluster(InThisProcess):
    """
    Workers on a clock of their own.

    :param n_workers: how many
    :param seconds: mean duration of a training
    :param storage: what its calls take is on that clock, too
    """

    def __init__(self, n_workers: int, seconds: float, storage: ChargedStorage) -> None:
        super().__init__()
        self.capacity = n_workers
        self._seconds = seconds
        self._storage = storage
        self._rng = np.random.default_rng(0)
        self._running: list[tuple[float, int]] = []
        self._values: dict[int, Any] = {}
        self._last_return = self._now()
        self._spans: list[tuple[float, float]] = []
        self.clock = 0.0
        self.busy = 0.0

    def _now(self) -> float:
        """What the search and its storage have taken so far."""
        return time.process_time() + self._storage.charged

    def start(self, key: int, function: Callable[[Any], Any], task: Any) -> None:
        """Begin a training, at what the clock is after the work of the search so far."""
        before = self._now()
        super().start(key, function, task)
        self._last_return += self._now() - before  # that is not the search's work
        begin = self.clock + self._now() - self._last_return
        end = begin + self._seconds * float(self._rng.lognormal(-0.125, 0.5))
        self._spans.append((begin, end))
        heapq.heappush(self._running, (end, key))

    def wait(self) -> list[tuple[int, Any]]:
        """Go to the end of the next training, or to now, if the search was busy for longer."""
        busy = self._now() - self._last_return
        self.busy += busy
        end, key = heapq.heappop(self._running)
        self.clock = max(self.clock + busy, end)
        self._values.update(self._ended)
        self._ended.clear()
        value = self._values.pop(key)
        self._last_return = self._now()
        return [(key, value)]

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


class CountingStorage:
    """Counts what is asked of a storage, but not what that asks of itself."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._real = InMemoryStorage()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if callable(found):
            self.calls[name] += 1
        return found


def operations() -> str:
    """What one trial asks of a storage: by this search, and by Optuna's usual way in every worker."""
    ours, usual = CountingStorage(), CountingStorage()
    record = StudyRecord(ours, "study", {})
    before = Counter(ours.calls)
    Search(record, EXPERIMENT, {}, SPACE, rules(8), 20).run(train, InThisProcess())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner()
    study = optuna.create_study(storage=usual, direction="maximize", pruner=pruner)

    def objective(trial: optuna.Trial) -> float:
        """Suggest, report and ask for pruning as a trial of several seeds does, without training."""
        SPACE.suggest(trial)
        for index in range(N_SEEDS):
            trial.report(trial.params["x0"], index)
            trial.should_prune()
        return float(trial.params["x0"])

    start = Counter(usual.calls)
    study.optimize(objective, n_trials=20)
    rows = []
    for title, calls in (
        ("sb3_pg.tune", ours.calls - before),
        ("Optuna in each worker (`study.optimize`, reports, WilcoxonPruner)", usual.calls - start),
    ):
        writes = sum(count for name, count in calls.items() if name.startswith(("create", "set")))
        rows.append([title, f"{writes / 20:.0f}", f"{(sum(calls.values()) - writes) / 20:.0f}"])
    return markdown_table(["a trial of 5 seeds and 12 parameters", "writes", "reads"], rows)


def measure(
    address: str, n_trials: int, clock: Callable[[], float], of_server: Callable[[], float] = lambda: 0.0
) -> Cost:
    """
    Time what a search asks of a storage.

    :param address: of the storage
    :param n_trials: trials of the study
    :param clock: what a call takes
    :param of_server: what is to be added, as a clock that runs while a server works
    """
    storage = TimedStorage(open_storage(address), clock)
    record = StudyRecord(storage, "measured", {})  # type: ignore[arg-type]
    storage.calls, storage.seconds = 0, 0.0
    begin = of_server()
    Search(record, EXPERIMENT, {}, SPACE, rules(8, "random"), n_trials).run(train, InThisProcess())
    seconds = storage.seconds + of_server() - begin
    close(storage.real)
    return Cost(seconds / storage.calls, storage.calls / n_trials)


def close(storage: BaseStorage) -> None:
    """Leave a server that is about to end."""
    storage.remove_session()
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()
    elif isinstance(storage, GrpcStorageProxy):
        storage.close()


def measure_all(folder: Path, n_trials: int) -> dict[str, Cost]:
    """The storages of this machine; PostgreSQL where it is installed."""
    costs = {"journal file": measure(str(folder / "study.log"), n_trials, undisturbed)}
    costs["SQLite"] = measure(f"sqlite:///{folder}/study.db", n_trials, undisturbed)
    try:
        with postgresql(fsync=True) as server:
            pid = server.pid
            costs["PostgreSQL"] = measure(server.address, n_trials, undisturbed, lambda: -waited_by_postgresql(pid))
    except NotInstalledError as error:
        print(f"left out: {error}", file=sys.stderr)
    with grpc_proxy(IN_MEMORY) as server:  # both sides only compute: what they take is their processor time
        proxy = measure(server.address, n_trials, time.process_time, lambda: processor_time(server.pid))
    for name in ("journal file", "PostgreSQL"):
        if name in costs:
            costs[f"gRPC proxy of {name}"] = Cost(costs[name].call + proxy.call, proxy.calls)
    return costs


def simulate(cost: Cost, n_workers: int, window: int, sampler: str, n_trials: int) -> Simulated:
    """
    Search with many workers, whose trainings take a minute on average.

    :param cost: what calls of the storage take
    :param n_workers: number of workers
    :param window: trials under way at a time
    :param sampler: Optuna's
    :param n_trials: trials of the study
    """
    storage = ChargedStorage(cost)
    cluster = VirtualCluster(n_workers, MINUTE, storage)
    last = LastBegin(cluster)
    record = StudyRecord(storage, f"simulation_{uuid.uuid4().hex}", {})
    Search(record, EXPERIMENT, {}, SPACE, rules(window, sampler), n_trials, last).run(train, cluster)
    return Simulated(1000 * cluster.busy / (n_trials * N_SEEDS), cluster.share(last.time))


def measured_table(costs: Mapping[str, Cost], own: float) -> str:
    """Milliseconds of each storage, and the workers at which the search is busy all the time."""
    heading = ["storage", "ms a call", "ms a training", "workers that it can serve: trainings of 1 min", "of 10 min"]
    rows = []
    for name, cost in costs.items():
        most = 1000 * MINUTE / (cost.of_a_training + own)
        milliseconds = [f"{1000 * cost.call:.1f}", f"{cost.of_a_training:.1f}"]
        rows.append([name, *milliseconds, f"{round_down(most):,}", f"{round_down(10 * most):,}"])
    return markdown_table(heading, rows)


def round_down(number: float) -> int:
    """To two digits: more are not known."""
    step = 10 ** max(len(str(int(number))) - 2, 0)
    return int(number) // step * step


def show(row: Iterable[str]) -> None:
    """Print a row as soon as it is known: the whole table takes minutes."""
    print(f"| {' | '.join(row)} |", file=sys.stderr)


def simulated_table(costs: Mapping[str, Cost], workers: list[int]) -> str:
    """Share of the workers' time that is training, for each storage."""
    rows = []
    for name in ("journal file", "PostgreSQL", "gRPC proxy of PostgreSQL"):
        if name in costs:
            found = [simulate(costs[name], n, 2 * n, "random", 3 * n) for n in workers]
            rows.append([name, *(f"{one.share:.0%}" for one in found)])
            show(rows[-1])
    return markdown_table(["storage", *(f"{n:,} workers" for n in workers)], rows)


def rules_table(cost: Cost) -> str:
    """What the window and the sampler cost, with one storage."""
    heading = ["workers", "window", "trials", "sampler", "ms a training", "workers' time that is training"]
    rows = []
    cases = [(100, window, "random") for window in (100, 150, 200, 400)] + [(n, 2 * n, "tpe") for n in (20, 100, 300)]
    for n_workers, window, sampler in cases:
        n_trials = 3 * n_workers if sampler == "tpe" else 1000
        found = simulate(cost, n_workers, window, sampler, n_trials)
        numbers = [str(n_workers), str(window), str(n_trials)]
        rows.append([*numbers, sampler, f"{found.milliseconds:.1f}", f"{found.share:.0%}"])
        show(rows[-1])
    return markdown_table(heading, rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60, help="trials of which each storage is timed")
    parser.add_argument("--workers", type=int, nargs="*", default=[100, 1000, 4000], help="numbers of workers")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="simulate_storage_") as folder:
        costs = measure_all(Path(folder), arguments.trials)
    own = simulate(Cost(), 100, 200, "random", 300).milliseconds
    note = (
        f"One search alone, without a storage, needs {own:.1f} ms a training. A training takes a minute on average in "
        "the last two tables (log-normal, between 20 s and 2.5 min for 95 % of them), window and trials of the third "
        "are twice and three times the number of workers, the fourth is with a journal file. All on one machine, "
        "servers included. "
        f"Printed by `python {' '.join(['zoo_scripts/simulate_storage.py', *sys.argv[1:]])}`."
    )
    tables = [operations(), measured_table(costs, own), simulated_table(costs, arguments.workers)]
    printed = "\n\n".join([*tables, rules_table(costs["journal file"]), note])
    print(printed)
    put_between_marks(PAGE, "storage", printed)


if __name__ == "__main__":
    main()
