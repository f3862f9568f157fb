"""The figures of the report: what is drawn, and what is left out."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import InMemoryStorage
from planted_search import rules

from sb3_pg.drawing import style
from sb3_pg.tune import figures
from sb3_pg.tune.experiment import SeedResult
from sb3_pg.tune.record import StudyRecord

optuna.logging.set_verbosity(optuna.logging.WARNING)


def study(*lambda_rules: str) -> StudyRecord:
    """One complete trial for each rule, with another lambda and another score."""
    storage = InMemoryStorage()
    StudyRecord(storage, "study", {})
    for number, rule in enumerate(lambda_rules):
        score = 10.0 * number
        optuna.load_study(study_name="study", storage=storage).add_trial(
            optuna.trial.create_trial(
                params={"one_minus_gae_lambda": 0.1 * (number + 1), "lambda_rule": rule},
                distributions={
                    "one_minus_gae_lambda": FloatDistribution(0.001, 1.0),
                    "lambda_rule": CategoricalDistribution(["constant", "explained_variance", "auto"]),
                },
                value=score,
                user_attrs={"seed_0": SeedResult(11, (score,)).as_json()},
            )
        )
    return StudyRecord(storage, "study", {})


def test_trials_whose_rule_chooses_lambda_have_no_place_on_its_axis() -> None:
    (axes,) = figures._lambda_against_score(study("constant", "auto", "explained_variance", "constant"), rules()).axes
    drawn = {round(float(x), 6) for line in axes.lines for x in line.get_xdata()}
    assert drawn == {round(figures.horizon(gae_lambda), 6) for gae_lambda in (0.9, 0.6)}
    assert axes.get_title() == "Left out, as a rule chooses their lambda: 2 of 4 trials"
    with pytest.raises(figures.NothingToDrawError, match="no rule chooses"):
        figures._lambda_against_score(study("auto", "auto"), rules())


def test_no_grid_lies_over_the_parallel_coordinates() -> None:
    with style(), pytest.warns(optuna.exceptions.ExperimentalWarning):
        figure = figures._parallel_coordinates(study("constant", "auto", "constant"))
    assert len(figure.axes) > 2
    for axes in figure.axes:
        lines = [*axes.get_xgridlines(), *axes.get_ygridlines()]
        assert not any(line.get_visible() for line in lines)
