"""The figures of the report, each for itself: what cannot be drawn from these trials says why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from sb3_pg.drawing import BLUE, GREY, look, new_figure, shorten_ticks, style, to_png
from sb3_pg.files import write_whole
from sb3_pg.tune.experiment import Experiment
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.search import Rules, best_trials

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    drawings: dict[str, Callable[[], Figure]] = {
        "history": lambda: _optuna_figure(record, "plot_optimization_history"),
        "importances": lambda: _importances(record),
        "parallel_coordinates": lambda: _parallel_coordinates(record),
        "learning_curves": lambda: _learning_curves(record, experiment),
        "gae_lambda": lambda: _lambda_against_score(record, rules),
    }
    problems = {}
    for name, draw in drawings.items():
        path = folder / f"{name}.png"
        try:
            with warnings.catch_warnings(), style():
                warnings.simplefilter("ignore")  # layouts and experimental functions, nothing about the numbers
                write_whole(path, to_png(draw(), 110, tight=True))
            problems[name] = ""
        except (NothingToDrawError, ValueError, RuntimeError, ImportError) as error:
            path.unlink(missing_ok=True)
            problems[name] = str(error)
    return problems


def _complete(record: StudyRecord, at_least: int) -> list[FrozenTrial]:
    trials = [trial for trial in record.trials if trial.state is TrialState.COMPLETE]
    if len(trials) < at_least:
        raise NothingToDrawError(f"it needs {at_least} complete trials, there are {len(trials)}")
    return trials


def _optuna_figure(record: StudyRecord, function: str, **kwargs: Any) -> Figure:
    """Optuna draws with pyplot, and sets a style of its own, which the caller's context takes back."""
    _complete(record, 2)
    matplotlib.use("Agg")  # there may be no screen
    from matplotlib import pyplot as plt

    try:
        getattr(optuna.visualization.matplotlib, function)(record.study, **kwargs)
        return plt.gcf()
    finally:
        plt.close()


def _importances(record: StudyRecord) -> Figure:
    if len({trial.value for trial in _complete(record, 4)}) == 1:
        raise NothingToDrawError("all complete trials have the same value")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Needs neither scikit-learn nor many trials, and asks what sets the best trials apart
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return _optuna_figure(record, "plot_param_importances", evaluator=evaluator)


def _parallel_coordinates(record: StudyRecord) -> Figure:
    figure = _optuna_figure(record, "plot_parallel_coordinate")
    figure.set_size_inches(15, 5.5)
    for axes in figure.axes:
        axes.grid(False)  # each parameter has axes of its own, and their grids lie over the lines
    for label in figure.axes[0].get_xticklabels():
        label.set(ha="left", rotation_mode="anchor")  # begin at their axis
    return figure


def _learning_curves(record: StudyRecord, experiment: Experiment) -> Figure:
    _complete(record, 1)
    figure = new_figure((7, 4.5))
    axes = figure.subplots()
    steps = experiment.n_timesteps * np.arange(1, experiment.n_evaluations + 1) / experiment.n_evaluations
    for number, trial in enumerate(best_trials(record.trials, N_CURVES)):
        of = look(number)
        curves = np.array([result.curve for result in record.results(trial.number)])
        label = f"trial {trial.number}: {trial.value:.6g}"
        axes.plot(steps, curves.mean(axis=0), color=of.color, ls=of.dash, label=label)
        axes.fill_between(steps, curves.min(axis=0), curves.max(axis=0), alpha=0.15, lw=0, color=of.color)
    axes.set(xlabel="environment steps", ylabel="mean return of an evaluation", title="Mean and range over seeds")
    shorten_ticks(axes)
    axes.legend()
    return figure


def _has_rule(trial: FrozenTrial) -> bool:
    return bool(trial.params.get("lambda_rule", "constant") != "constant")


def gae_lambda_of(trial: FrozenTrial) -> float | None:
    """Lambda of a trial, if it was searched and no rule chooses it for each batch."""
    if _has_rule(trial):
        return None
    if "one_minus_gae_lambda" in trial.params:
        return 1 - float(trial.params["one_minus_gae_lambda"])
    value = trial.params.get("gae_lambda")
    return float(value) if isinstance(value, (int, float)) else None


def _lambda_against_score(record: StudyRecord, rules: Rules) -> Figure:
    points: list[tuple[float, list[float], bool]] = []
    for trial in record.trials:
        gae_lambda = gae_lambda_of(trial)
        scores = rules.scores(record.results(trial.number))
        if gae_lambda is not None and scores:
            points.append((gae_lambda, scores, trial.state is TrialState.COMPLETE))
    if not points:
        raise NothingToDrawError("no trial has a gae_lambda that was searched and that no rule chooses for each batch")
    figure = new_figure((7, 4.5))
    axes = figure.subplots()
    for complete, label, color in ((True, "complete", BLUE), (False, "pruned: the seeds it had", GREY)):
        chosen = [
            (horizon(gae_lambda), scores) for gae_lambda, scores, is_complete in points if is_complete == complete
        ]
        for number, (x, scores) in enumerate(chosen):
            axes.plot([x] * len(scores), scores, ".", color=color, alpha=0.35)
            axes.plot(x, np.mean(scores), "o", color=color, label=label if number == 0 else None)
    axes.set_xscale("log")
    ticks = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
    axes.set_xticks([horizon(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="gae_lambda (uniform in the logarithm of the horizon 1/(1 - lambda))", ylabel="score of a seed")
    n_ruled = sum(_has_rule(trial) for trial in record.trials)
    if n_ruled:
        axes.set_title(f"Left out, as a rule chooses their lambda: {n_ruled} of {len(record.trials)} trials")
    axes.legend()
    return figure


def horizon(gae_lambda: float) -> float:
    """Steps that the advantage looks ahead before the critic takes over, at most 10,000."""
    return 1 / max(1 - gae_lambda, 1e-4)
