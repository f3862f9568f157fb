"""The best trials once more, on seeds that the search has not seen.

The best of many noisy values is too good by luck (the winner's curse); on fresh seeds it has to be as good again. The
block that the search began with takes part, so that it shows whether tuning was worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sb3_pg.launch import Backend, Outcome, run_all
from sb3_pg.tune.blocks import merged
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.experiment import Block, Experiment, SeedResult, SeedTask, title_of
from sb3_pg.tune.record import BLOCK_CANDIDATE, StudyRecord
from sb3_pg.tune.scores import bootstrap_interval, interquartile_mean
from sb3_pg.tune.search import Listener, Rules, best_trials, failed
from sb3_pg.tune.space import Space


@dataclass(frozen=True)
class Candidate:
    """
    Hyperparameters that are trained again.

    :param name: number of the trial, or ``"block"`` for what the search began with
    :param block: the hyperparameters
    :param value: the trial's value in the search
    """

    name: int | str
    block: Block
    value: float | None = None

    @property
    def title(self) -> str:
        """For tables."""
        return title_of(self.name)


@dataclass(frozen=True)
class Standing:
    """
    How a candidate did on fresh seeds.

    :param candidate: whose
    :param results: of its seeds
    :param scores: of those that did not diverge
    """

    candidate: Candidate
    results: tuple[SeedResult, ...]
    scores: tuple[float, ...]

    @property
    def n_diverged(self) -> int:
        """Number of seeds that diverged."""
        return len(self.results) - len(self.scores)

    @property
    def iqm(self) -> float:
        """Interquartile mean of the scores."""
        return interquartile_mean(self.scores) if self.scores else float("-inf")

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % bootstrap interval; NaN for fewer than two scores."""
        return bootstrap_interval(self.scores)

    @property
    def order(self) -> tuple[float, ...]:
        """
        What candidates are ranked by.

        Fewest diverged seeds, then the interquartile mean; of equals (many environments have a highest return) the one
        with the higher mean, then the one that learned faster, then what is there already.
        """
        curves = [sum(result.curve) / len(result.curve) for result in self.results if result.curve]
        mean = sum(self.scores) / max(len(self.scores), 1)
        is_there = self.candidate.name == BLOCK_CANDIDATE
        return (-self.n_diverged, self.iqm, mean, sum(curves) / max(len(curves), 1), is_there)


def candidates_of(record: StudyRecord, block: Block, space: Space, top_k: int) -> list[Candidate]:
    """The best trials, and the block that the search began with."""
    best = best_trials(record.trials, top_k)
    tuned = [Candidate(trial.number, merged(block, space.convert(trial.params)), trial.value) for trial in best]
    return [*tuned, Candidate(BLOCK_CANDIDATE, block)] if tuned else []


def run_finals(
    record: StudyRecord,
    experiment: Experiment,
    candidates: Sequence[Candidate],
    seeds: Sequence[int],
    train: Callable[[SeedTask], SeedResult],
    backend: Backend,
    listener: Listener,
) -> None:
    """
    Train the candidates on fresh seeds, all of them on the same; what the study already has is not repeated.

    :param record: the study, where results are kept
    :param experiment: what is trained
    :param candidates: hyperparameters
    :param seeds: fresh ones
    :param train: trains one seed
    :param backend: where
    :param listener: is told what happens
    :raises TuneError: when a training fails for another reason than divergence, or its workers keep dying
    """
    # Seed by seed, so that whoever looks at an unfinished final compares equals
    tasks = [
        SeedTask(candidate.name, index, seed, experiment, candidate.block)
        for index, seed in enumerate(seeds)
        for candidate in candidates
        if index not in record.final_results(candidate.name)
    ]
    n_trainings = len(candidates) * len(seeds)
    listener.final_begun(n_trainings - len(tasks), n_trainings)

    def take(outcome: Outcome[SeedTask, SeedResult]) -> None:
        """Keep the result of a training; without one, end the final."""
        task = outcome.task
        if outcome.error is not None:
            raise failed(task, outcome.error.traceback)
        if outcome.value is None:
            raise TuneError(
                f"training {task.candidate} with fresh seed {task.seed} was lost {outcome.runs} times: {outcome.lost}. "
                "The same command goes on from here"
            )
        record.add_final_result(task.candidate, task.index, outcome.value)
        listener.retrained(task, outcome.value)

    run_all(train, tasks, backend, take, listener.rerun)


def ranking(record: StudyRecord, rules: Rules, candidates: Sequence[Candidate], n_seeds: int) -> list[Standing]:
    """
    Rank candidates by their fresh seeds, the best one first.

    :param record: the study with their results
    :param rules: how a seed is scored
    :param candidates: who takes part
    :param n_seeds: how many of the seeds count
    """
    standings = []
    for candidate in candidates:
        found = record.final_results(candidate.name)
        results = tuple(found[index] for index in range(n_seeds) if index in found)
        scores = tuple(rules.scores(results))
        standings.append(Standing(candidate, results, scores))
    return sorted(standings, key=lambda standing: standing.order, reverse=True)
