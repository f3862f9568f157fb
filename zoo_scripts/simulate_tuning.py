"""Search over several seeds against search over one seed, at the same training budget, where the truth is known.

    python zoo_scripts/simulate_tuning.py

Nothing is trained: a training's return is drawn from a distribution that is known for every point of the search space,
so that the true ranking is known, too. There are two kinds of distribution. One is made like those of policy gradients:
the higher the learning rate, the faster the rise and the more often a training collapses. In the other one no training
collapses. The searches themselves are sb3_pg.tune's own. Every strategy gets the same number of evaluations, in all its
trainings and its final together. Every search is in results/tuning/simulation.csv, and those that are there are not
repeated; the tables go into docs/tuning.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna

from sb3_pg.files import write_whole
from sb3_pg.launch import InThisProcess, LocalProcesses, Outcome, run_all
from sb3_pg.pages import as_csv, markdown_table, put_between_marks
from sb3_pg.tune.experiment import Experiment, SeedResult, SeedTask, seeds_of
from sb3_pg.tune.final import candidates_of, ranking, run_finals
from sb3_pg.tune.record import BLOCK_CANDIDATE, StudyRecord
from sb3_pg.tune.scores import interquartile_mean
from sb3_pg.tune.search import Listener, Rules, Search

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tuning.md"
RESULTS = ROOT / "results" / "tuning" / "simulation.csv"
N_EVALUATIONS = 10
EXPERIMENT = Experiment("planted", "Planted-v0", n_timesteps=1000, n_evaluations=N_EVALUATIONS)
HIGHEST = 500.0
COORDINATES = ("rate", "horizon", "other_1", "other_2", "other_3")  # as many as matter in a real search
TERRAINS = {"collapsing": 0.75, "calm": 0.0}
"""How often a training collapses at the highest learning rates."""


class Strategy(NamedTuple):
    """One way to search."""

    title: str
    n_seeds: int
    pruner: str = "none"
    p_threshold: float = 0.0
    top_k: int = 0
    n_final_seeds: int = 10
    window: int = 8
    last_k: int = 3


FINAL = ", then 3 trials on 10 fresh seeds"
ZOO = Strategy("1 seed, its last evaluation, median pruner: RL Zoo's -optimize", 1, "median", last_k=1)
ONE_SEED = Strategy("1 seed, median pruner" + FINAL, 1, "median", top_k=3)
SEARCH = Strategy("5 seeds, median pruner, Wilcoxon 0.15", 5, "median", 0.15)
DEFAULT = SEARCH._replace(title=SEARCH.title + FINAL + ": the defaults", top_k=3)
STRATEGIES = (
    ZOO,
    ONE_SEED,
    Strategy("5 seeds", 5),
    Strategy("5 seeds, Wilcoxon 0.15", 5, p_threshold=0.15),
    SEARCH,
    DEFAULT,
    Strategy("5 seeds, median pruner, Wilcoxon 0.3" + FINAL, 5, "median", 0.3, top_k=3),
    Strategy("3 seeds, median pruner, Wilcoxon 0.3" + FINAL + ": the defaults for 3", 3, "median", 0.3, top_k=3),
    DEFAULT._replace(title="the defaults, 1 trial at a time", window=1),
    DEFAULT._replace(title="the defaults, 32 trials at a time", window=32),
)
CASES = [("collapsing", way) for way in STRATEGIES] + [("calm", way) for way in (ZOO, ONE_SEED, SEARCH, DEFAULT)]


class Found(NamedTuple):
    """
    What a search came to.

    :param true: true value of what it chose
    :param believed: the value that it believed that to have
    :param better: share of the search space that is better, of 1000 random points
    :param trials: trials that were begun
    """

    true: float
    believed: float
    better: float
    trials: int


Task = tuple[str, Strategy, int, int]  # terrain, strategy, seed, budget in trainings
Key = tuple[str, str, int, int]


def returns(
    point: Mapping[str, Any], rng: np.random.Generator, n_seeds: int, collapse: float
) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw the final returns of trainings, and how fast they rise.

    :param point: coordinates between 0 and 1
    :param rng: random numbers
    :param n_seeds: number of trainings
    :param collapse: see :data:`TERRAINS`
    """
    rate, horizon, *others = (point[name] for name in COORDINATES)
    distance = ((rate - 0.7) / 0.35) ** 2 + ((horizon - 0.5) / 0.3) ** 2 + sum((x - 0.5) ** 2 for x in others)
    level = 480 * np.exp(-distance)
    final = level * rng.normal(1, 0.15, n_seeds)
    collapsed = rng.random(n_seeds) < collapse / (1 + np.exp(-(rate - 0.6) / 0.06))
    final = np.where(collapsed, final * rng.uniform(0, 0.5, n_seeds), final)
    return np.clip(final, 10, HIGHEST), np.full(n_seeds, 0.1 + 0.5 * rate)


def train(task: SeedTask, collapse: float) -> SeedResult:
    """A learning curve: it rises to the drawn return, with the noise of five episodes."""
    rng = np.random.default_rng([task.seed, *(round(task.block[name] * 1e9) for name in COORDINATES)])
    (final,), (speed,) = returns(task.block, rng, 1, collapse)
    curve: list[float] = []
    for number in range(1, N_EVALUATIONS + 1):
        risen = final * (1 - np.exp(-speed * number)) / (1 - np.exp(-speed * N_EVALUATIONS))
        curve.append(float(np.clip(risen + rng.normal(scale=0.1 * final), 10, HIGHEST)))
        if task.bars.missed(curve) is not None:
            return SeedResult(task.seed, tuple(curve), stopped="curve")
    return SeedResult(task.seed, tuple(curve))


def true_value(point: Mapping[str, Any], collapse: float) -> float:
    """Interquartile mean over 4000 trainings."""
    return interquartile_mean(list(returns(point, np.random.default_rng(0), 4000, collapse)[0]))


@functools.cache
def values_of_random_points(collapse: float) -> np.ndarray:
    """True values of 1000 points of the search space, in order."""
    points = np.random.default_rng(1).random((1000, len(COORDINATES)))
    return np.sort([true_value(dict(zip(COORDINATES, point, strict=True)), collapse) for point in points])


class SpentError(Exception):
    """The budget is spent."""


class Purse(Listener):
    """Ends a search when its evaluations are spent."""

    def __init__(self, n_evaluations: int, train: Callable[[SeedTask], SeedResult]) -> None:
        self.left = n_evaluations
        self._train = train

    def pay(self, task: SeedTask) -> SeedResult:
        """Train and pay."""
        result = self._train(task)
        self.left -= len(result.curve)
        return result

    def trained(self) -> None:
        """Stop when there is nothing left."""
        if self.left <= 0:
            raise SpentError


class PlantedSpace:
    """Numbers between 0 and 1.

    :param names: theirs
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def suggest(self, trial: optuna.Trial) -> None:
        """Ask for them."""
        for name in self._names:
            trial.suggest_float(name, 0, 1)

    def convert(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """They are the block."""
        return dict(params)


def one_search(task: Task) -> Found:
    """Search once."""
    terrain, strategy, seed, budget = task
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    collapse = TERRAINS[terrain]
    planted = functools.partial(train, collapse=collapse)
    rules = Rules(
        seed=seed,
        seeds=tuple(seeds_of(seed, "search", strategy.n_seeds)),
        pruner=strategy.pruner,
        p_threshold=strategy.p_threshold,
        window=strategy.window,
        last_k=strategy.last_k,
    )
    reserved = strategy.top_k * strategy.n_final_seeds
    purse = Purse((budget - reserved) * N_EVALUATIONS, planted)
    record = StudyRecord(optuna.storages.InMemoryStorage(), "planted", {})
    space = PlantedSpace(COORDINATES)
    with contextlib.suppress(SpentError):
        Search(record, EXPERIMENT, {}, space, rules, 10**6, purse).run(purse.pay, InThisProcess())
    believed = record.study.best_value
    chosen: Mapping[str, Any] = record.study.best_params
    if strategy.top_k:
        candidates = [one for one in candidates_of(record, {}, space, strategy.top_k) if one.name != BLOCK_CANDIDATE]
        fresh = seeds_of(seed, "fresh", strategy.n_final_seeds)
        run_finals(record, EXPERIMENT, candidates, fresh, planted, InThisProcess(), Listener())
        best = ranking(record, rules, candidates, len(fresh))[0]
        chosen, believed = best.candidate.block, best.iqm
    true = true_value(chosen, collapse)
    better = float(np.mean(values_of_random_points(collapse) > true))
    return Found(true, believed, better, len(record.trials))


def mean_and_interval(values: Sequence[float] | np.ndarray) -> str:
    """Mean, and where it lies with 95 % probability (its standard error, 1.96 times)."""
    mean, error = np.mean(values), 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:.0f} [{mean - error:.0f}, {mean + error:.0f}]"


def table(results: Mapping[tuple[str, Strategy], list[Found]], terrain: str) -> str:
    """What the strategies choose."""
    heading = ["trials", "chosen: true value", "worst tenth", "points that are better", "believed value"]
    rows = []
    for (where, strategy), found in results.items():
        if where == terrain:
            true, believed, better, trials = (np.array(column) for column in zip(*found, strict=True))
            row = [strategy.title, f"{trials.mean():.0f}", mean_and_interval(true), f"{np.quantile(true, 0.1):.0f}"]
            rows.append([*row, f"{better.mean():.1%}", f"{believed.mean():.0f}"])
    return markdown_table([f"{terrain}: search", *heading], rows)


def comparisons(results: Mapping[tuple[str, Strategy], list[Found]]) -> str:
    """Several seeds against one, search by search."""
    heading = ["terrain", "several seeds", "one seed", "true value: difference", "better in", "worse in"]
    rows = []
    for terrain in TERRAINS:
        for many, one in ((SEARCH, ZOO), (DEFAULT, ZOO), (DEFAULT, ONE_SEED)):
            pairs = zip(results[terrain, many], results[terrain, one], strict=True)
            gains = np.array([mine.true - theirs.true for mine, theirs in pairs])
            shares = [f"{np.mean(gains > 0):.0%}", f"{np.mean(gains < 0):.0%}"]
            rows.append([terrain, many.title, one.title, mean_and_interval(gains), *shares])
    return markdown_table(heading, rows)


def key_of(task: Task) -> Key:
    """A search by what it is called in the file."""
    terrain, strategy, seed, budget = task
    return terrain, strategy.title, seed, budget


def read() -> dict[Key, Found]:
    """The searches that are in the file."""
    known = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            for row in csv.DictReader(file):
                key = row["terrain"], row["search"], int(row["seed"]), int(row["budget"])
                numbers = (float(row[name]) for name in ("true", "believed", "better"))
                known[key] = Found(*numbers, int(row["trials"]))
    return known


def write(known: Mapping[Key, Found]) -> None:
    """Keep all searches."""
    rows = [
        (*key, f"{found.true:.2f}", f"{found.believed:.2f}", f"{found.better:.4f}", found.trials)
        for key, found in sorted(known.items())
    ]
    write_whole(RESULTS, as_csv(("terrain", "search", "seed", "budget", *Found._fields), rows))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25, help="searches of each strategy")
    parser.add_argument("--budget", type=int, default=150, help="trainings of each search")
    parser.add_argument("--workers", type=int, default=2, help="searches at a time; 0 for this process itself")
    parser.add_argument("--again", action="store_true", help="repeat the searches that are in the file")
    arguments = parser.parse_args()
    tasks = [(terrain, way, seed, arguments.budget) for seed in range(arguments.repeats) for terrain, way in CASES]
    known = {} if arguments.again else read()

    def keep(outcome: Outcome[Task, Found]) -> None:
        """Write down a search as soon as it ends; a failed one ends the script."""
        if outcome.value is None:
            raise RuntimeError(outcome.error.traceback if outcome.error else outcome.lost)
        known[key_of(outcome.task)] = outcome.value
        write(known)

    with LocalProcesses(arguments.workers) if arguments.workers else InThisProcess() as backend:
        run_all(one_search, [task for task in tasks if key_of(task) not in known], backend, keep)
    results: dict[tuple[str, Strategy], list[Found]] = {}
    for task in tasks:
        results.setdefault(task[:2], []).append(known[key_of(task)])
    best = {
        terrain: max(
            true_value({**dict.fromkeys(COORDINATES, 0.5), "rate": x}, collapse) for x in np.linspace(0, 1, 41)
        )
        for terrain, collapse in TERRAINS.items()
    }
    notes = [
        f"{arguments.repeats} searches each, with TPE; all have a budget of {arguments.budget} trainings, their final "
        "included.",
        f"The best point of the collapsing terrain has a true value of {best['collapsing']:.0f}, of the calm one "
        f"{best['calm']:.0f}.",
        "Brackets: 95 % interval of the mean over searches. Every search is in `results/tuning/simulation.csv`.",
        "Printed by `python zoo_scripts/simulate_tuning.py`"
        + ("." if arguments.repeats == 25 and arguments.budget == 150 else " with other settings than its own."),
    ]
    tables = [table(results, terrain) for terrain in TERRAINS]
    printed = "\n\n".join([*tables, comparisons(results), "\n".join(notes)])
    print(printed)
    put_between_marks(PAGE, "simulation", printed)


if __name__ == "__main__":
    main()
