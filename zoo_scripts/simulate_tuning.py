"""Search over several seeds against search over one seed, at the same training budget, where the truth is known.

    python zoo_scripts/simulate_tuning.py --repeats 100 --workers 2

Nothing is trained: a training's return is drawn from a distribution that is known for every point of the search space,
so that the true ranking is known, too. The distribution is made like those of policy gradients: the higher the learning
rate, the faster the rise and the more often a training collapses. The searches themselves are sb3_pg.tune's own.
Every strategy gets the same number of evaluations, in all its trainings and its final together. The table goes into
docs/tuning.md.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna

from sb3_pg.launch import InThisProcess, LocalProcesses, Outcome, run_all
from sb3_pg.tune.experiment import Experiment, SeedResult, SeedTask, seeds_of
from sb3_pg.tune.final import candidates_of, ranking, run_finals
from sb3_pg.tune.record import BLOCK_CANDIDATE, StudyRecord
from sb3_pg.tune.scores import interquartile_mean
from sb3_pg.tune.search import Listener, Rules, Search

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tuning.md"
MARKS = ("<!-- simulation -->", "<!-- /simulation -->")
N_EVALUATIONS = 10
EXPERIMENT = Experiment("planted", "Planted-v0", n_timesteps=1000, n_evaluations=N_EVALUATIONS)
HIGHEST = 500.0
COORDINATES = ("rate", "horizon", "other_1", "other_2", "other_3")


class Strategy(NamedTuple):
    """One way to search."""

    title: str
    n_seeds: int
    pruner: str = "none"
    p_threshold: float = 0.0
    top_k: int = 0
    n_final_seeds: int = 10
    window: int = 8


FINAL = ", then 3 trials on 10 fresh seeds"
STRATEGIES = (
    Strategy("1 seed, median pruner (as RL Zoo's -optimize)", 1, "median"),
    Strategy("1 seed, median pruner" + FINAL, 1, "median", top_k=3),
    Strategy("5 seeds", 5),
    Strategy("5 seeds, Wilcoxon 0.15", 5, p_threshold=0.15),
    Strategy("5 seeds, Wilcoxon 0.3", 5, p_threshold=0.3),
    Strategy("5 seeds, median pruner, Wilcoxon 0.15", 5, "median", 0.15),
    Strategy("5 seeds, median pruner, Wilcoxon 0.3", 5, "median", 0.3),
    Strategy("5 seeds, median pruner, Wilcoxon 0.15" + FINAL, 5, "median", 0.15, top_k=3),
    Strategy("5 seeds, median pruner, Wilcoxon 0.3" + FINAL, 5, "median", 0.3, top_k=3),
    Strategy("3 seeds, median pruner, Wilcoxon 0.3" + FINAL, 3, "median", 0.3, top_k=3),
    Strategy(
        "5 seeds, median pruner, Wilcoxon 0.3" + FINAL + ", 1 trial at a time", 5, "median", 0.3, top_k=3, window=1
    ),
    Strategy(
        "5 seeds, median pruner, Wilcoxon 0.3" + FINAL + ", 32 trials at a time", 5, "median", 0.3, top_k=3, window=32
    ),
)


def returns(point: Mapping[str, Any], rng: np.random.Generator, n_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw the final returns of trainings, and how fast they rise.

    :param point: coordinates between 0 and 1
    :param rng: random numbers
    :param n_seeds: number of trainings
    """
    rate, horizon, *others = (point[name] for name in COORDINATES)
    distance = ((rate - 0.7) / 0.35) ** 2 + ((horizon - 0.5) / 0.3) ** 2 + sum((x - 0.5) ** 2 for x in others)
    level = 480 * np.exp(-distance)
    collapse = 0.75 / (1 + np.exp(-(rate - 0.6) / 0.06))
    final = level * rng.normal(1, 0.15, n_seeds)
    collapsed = rng.random(n_seeds) < collapse
    final = np.where(collapsed, final * rng.uniform(0, 0.5, n_seeds), final)
    return np.clip(final, 10, HIGHEST), np.full(n_seeds, 0.1 + 0.5 * rate)


def train(task: SeedTask) -> SeedResult:
    """A learning curve: it rises to the drawn return, with the noise of five episodes."""
    rng = np.random.default_rng([task.seed, *(round(task.block[name] * 1e9) for name in COORDINATES)])
    (final,), (speed,) = returns(task.block, rng, 1)
    curve: list[float] = []
    for number in range(1, N_EVALUATIONS + 1):
        risen = final * (1 - np.exp(-speed * number)) / (1 - np.exp(-speed * N_EVALUATIONS))
        curve.append(float(np.clip(risen + rng.normal(scale=0.1 * final), 10, HIGHEST)))
        if task.bars.missed(curve) is not None:
            return SeedResult(task.seed, tuple(curve), stopped="curve")
    return SeedResult(task.seed, tuple(curve))


def true_value(point: Mapping[str, Any]) -> float:
    """Interquartile mean over 4000 trainings."""
    return interquartile_mean(list(returns(point, np.random.default_rng(0), 4000)[0]))


class SpentError(Exception):
    """The budget is spent."""


class Purse(Listener):
    """Ends a search when its evaluations are spent."""

    def __init__(self, n_evaluations: int) -> None:
        self.left = n_evaluations

    def pay(self, task: SeedTask) -> SeedResult:
        """Train and pay."""
        result = train(task)
        self.left -= len(result.curve)
        return result

    def trained(self) -> None:
        """Stop when there is nothing left."""
        if self.left <= 0:
            raise SpentError


class PlantedSpace:
    """Five numbers between 0 and 1, as many as matter in a real search."""

    def suggest(self, trial: optuna.Trial) -> None:
        """Ask for them."""
        for name in COORDINATES:
            trial.suggest_float(name, 0, 1)

    def convert(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """They are the block."""
        return dict(params)


def one_search(task: tuple[Strategy, int, int]) -> tuple[float, float, int]:
    """
    Search once.

    :param task: strategy, seed and budget in trainings
    :return: true value of what was chosen, the value that the search believed it has, trials that were begun
    """
    strategy, seed, budget = task
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rules = Rules(
        seed=seed,
        seeds=tuple(seeds_of(seed, "search", strategy.n_seeds)),
        pruner=strategy.pruner,
        p_threshold=strategy.p_threshold,
        window=strategy.window,
    )
    reserved = strategy.top_k * strategy.n_final_seeds
    purse = Purse((budget - reserved) * N_EVALUATIONS)
    record = StudyRecord(optuna.storages.InMemoryStorage(), "planted", {})
    space = PlantedSpace()
    with contextlib.suppress(SpentError):
        Search(record, EXPERIMENT, {}, space, rules, 10**6, purse).run(purse.pay, InThisProcess())
    believed = record.study.best_value
    chosen: Mapping[str, Any] = record.study.best_params
    if strategy.top_k:
        candidates = [one for one in candidates_of(record, {}, space, strategy.top_k) if one.name != BLOCK_CANDIDATE]
        fresh = seeds_of(seed, "fresh", strategy.n_final_seeds)
        run_finals(record, EXPERIMENT, candidates, fresh, train, InThisProcess(), Listener())
        best = ranking(record, rules, candidates, len(fresh))[0]
        chosen, believed = best.candidate.block, best.iqm
    return true_value(chosen), believed, len(record.trials)


def best_possible() -> float:
    """True value of the best point."""
    grid = np.linspace(0, 1, 41)
    return max(true_value({**dict.fromkeys(COORDINATES, 0.5), "rate": rate}) for rate in grid)


def table(results: Mapping[Strategy, list[tuple[float, float, int]]], repeats: int, budget: int) -> str:
    """The table, best possible value first."""
    lines = [
        "| search | trials | chosen: true value | worst tenth | believed value |",
        "|---|---|---|---|---|",
    ]
    for strategy, rows in results.items():
        true, believed, trials = (np.array(column) for column in zip(*rows, strict=True))
        error = true.std(ddof=1) / np.sqrt(len(true))
        lines.append(
            f"| {strategy.title} | {trials.mean():.0f} | {true.mean():.0f} ± {error:.0f} "
            f"| {np.quantile(true, 0.1):.0f} | {believed.mean():.0f} |"
        )
    lines += [
        "",
        f"{repeats} searches each, with TPE; all have a budget of {budget} trainings, their final included.",
        f"The best point has a true value of {best_possible():.0f}, the interquartile mean of its returns.",
        "± is one standard error.",
        f"Printed by `python zoo_scripts/simulate_tuning.py --repeats {repeats} --budget {budget}`.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100, help="searches of each strategy")
    parser.add_argument("--budget", type=int, default=150, help="trainings of each search")
    parser.add_argument("--workers", type=int, default=2, help="searches at a time")
    arguments = parser.parse_args()
    tasks = [(way, seed, arguments.budget) for seed in range(arguments.repeats) for way in STRATEGIES]
    results: dict[Strategy, list[tuple[float, float, int]]] = {strategy: [] for strategy in STRATEGIES}

    def keep(outcome: Outcome[tuple[Strategy, int, int], tuple[float, float, int]]) -> None:
        if outcome.value is None:
            raise RuntimeError(outcome.error.traceback if outcome.error else outcome.lost)
        results[outcome.task[0]].append(outcome.value)

    with LocalProcesses(arguments.workers) as backend:
        run_all(one_search, tasks, backend, keep)
    printed = table(results, arguments.repeats, arguments.budget)
    print(printed)
    if PAGE.exists():
        pattern = re.compile(f"{MARKS[0]}.*?{MARKS[1]}", re.DOTALL)
        PAGE.write_text(pattern.sub(lambda _: f"{MARKS[0]}\n{printed}\n{MARKS[1]}", PAGE.read_text()))


if __name__ == "__main__":
    main()
