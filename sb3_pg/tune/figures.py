"""The figures of the report, each for itself: what cannot be drawn from these trials says why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from sb3_pg.tune.experiment import Experiment
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.search import Rules, best_trials

N_CURVES = 5


class NothingToDrawError(Exception):
    """Says why there is no figure."""


def draw_all(record: StudyRecord, experiment: Experiment, rules: Rules, folder: Path) -> dict[str, str]:
    """
    Draw all figures as PNG files.

    :param record: the study
    :param experiment: what was trained
    :param rules: how it was searched
    :param folder: where the files go
    :return: for each figure's name why it could not be drawn; empty if it was
    """
    matplotlib.use("Agg")  # there may be no screen
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, Callable[[], None]] = {
        "history": lambda: _optuna_figure(record, "plot_optimization_history"),
        "importances": lambda: _importances(record),
        "parallel_coordinates": lambda: _parallel_coordinates(record),
        "learning_curves": lambda: _learning_curves(record, experiment),
        "gae_lambda": lambda: _lambda_against_score(record, rules),
    }
    problems = {}
    for name, draw in drawings.items():
        try:
            with warnings.catch_warnings(), plt.rc_context():  # Optuna sets a style of its own for good
                warnings.simplefilter("ignore")  # layouts and experimental functions, nothing about the numbers
                draw()
                plt.gcf().savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
            problems[name] = ""
        except (NothingToDrawError, ValueError, RuntimeError, ImportError) as error:
            (folder / f"{name}.png").unlink(missing_ok=True)
            problems[name] = str(error)
        plt.close("all")
    return problems


def _complete(record: StudyRecord, at_least: int) -> list[FrozenTrial]:
    trials = [trial for trial in record.trials if trial.state is TrialState.COMPLETE]
    if len(trials) < at_least:
        raise NothingToDrawError(f"it needs {at_least} complete trials, there are {len(trials)}")
    return trials


def _optuna_figure(record: StudyRecord, function: str, **kwargs: Any) -> None:
    _complete(record, 2)
    getattr(optuna.visualization.matplotlib, function)(record.study, **kwargs)


def _importances(record: StudyRecord) -> None:
    if len({trial.value for trial in _complete(record, 4)}) == 1:
        raise NothingToDrawError("all complete trials have the same value")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Needs neither scikit-learn nor many trials, and asks what sets the best trials apart
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    _optuna_figure(record, "plot_param_importances", evaluator=evaluator)


def _parallel_coordinates(record: StudyRecord) -> None:
    from matplotlib import pyplot as plt

    _optuna_figure(record, "plot_parallel_coordinate")
    plt.gcf().set_size_inches(15, 5.5)
    plt.setp(plt.gcf().axes[0].get_xticklabels(), ha="left", rotation_mode="anchor")  # begin at their axis


def _learning_curves(record: StudyRecord, experiment: Experiment) -> None:
    from matplotlib import pyplot as plt

    _complete(record, 1)
    _, axes = plt.subplots(figsize=(7, 4.5))
    steps = experiment.n_timesteps * np.arange(1, experiment.n_evaluations + 1) / experiment.n_evaluations
    for trial in best_trials(record.trials, N_CURVES):
        curves = np.array([result.curve for result in record.results(trial.number)])
        (line,) = axes.plot(steps, curves.mean(axis=0), label=f"trial {trial.number}: {trial.value:.6g}")
        axes.fill_between(steps, curves.min(axis=0), curves.max(axis=0), alpha=0.15, color=line.get_color())
    axes.set(xlabel="environment steps", ylabel="mean return of an evaluation", title="Mean and range over seeds")
    axes.legend()


def gae_lambda_of(trial: FrozenTrial) -> float | None:
    """Lambda of a trial, if it was searched."""
    if "one_minus_gae_lambda" in trial.params:
        return 1 - float(trial.params["one_minus_gae_lambda"])
    value = trial.params.get("gae_lambda")
    return float(value) if isinstance(value, (int, float)) else None


def _lambda_against_score(record: StudyRecord, rules: Rules) -> None:
    from matplotlib import pyplot as plt

    points: list[tuple[float, list[float], bool]] = []
    for trial in record.trials:
        gae_lambda = gae_lambda_of(trial)
        scores = [score for score in map(rules.score, record.results(trial.number)) if score is not None]
        if gae_lambda is not None and scores:
            points.append((gae_lambda, scores, trial.state is TrialState.COMPLETE))
    if not points:
        raise NothingToDrawError("gae_lambda was not searched with a number")
    _, axes = plt.subplots(figsize=(7, 4.5))
    for complete, label, style in ((True, "complete", "C0"), (False, "pruned: the seeds it had", "0.6")):
        chosen = [
            (horizon(gae_lambda), scores) for gae_lambda, scores, is_complete in points if is_complete == complete
        ]
        for number, (x, scores) in enumerate(chosen):
            axes.plot([x] * len(scores), scores, ".", color=style, alpha=0.35)
            axes.plot(x, np.mean(scores), "o", color=style, label=label if number == 0 else None)
    axes.set_xscale("log")
    ticks = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
    axes.set_xticks([horizon(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="gae_lambda (uniform in the logarithm of the horizon 1/(1 - lambda))", ylabel="score of a seed")
    axes.legend()


def horizon(gae_lambda: float) -> float:
    """Steps that the advantage looks ahead before the critic takes over, at most 10,000."""
    return 1 / max(1 - gae_lambda, 1e-4)
