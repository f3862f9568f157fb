"""Advice fits the numbers, and the page shows all of them and stands alone."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_pg.doctor.advice import advise, recommended_lambda, steps
from sb3_pg.doctor.arrays import check_rollout
from sb3_pg.doctor.diagnosis import Calibration, Critic, Diagnosis, EstimatorRow, LambdaCurve
from sb3_pg.doctor.experience import Training
from sb3_pg.doctor.figures import compose, panels_of
from sb3_pg.doctor.mistakes import right_advantages
from sb3_pg.doctor.page import write_page, write_rollout_page
from sb3_pg.gradient.statistics import Estimate, TimeProfile
from sb3_pg.pages import Finding

PNG = b"\x89PNG\r\n\x1a\n"
LAMBDAS = np.array([0.0, 0.5, 0.9, 0.95, 1.0])


def one(value: float, error: float) -> Estimate:
    return Estimate(np.array([value]), np.array([error]))


def curve(cosines: Any = (0.2, 0.5, 0.6, 0.55, 0.4), error: float = 0.02) -> LambdaCurve:
    values = np.array(cosines, dtype=float)
    best = int(np.nanargmax(values)) if np.isfinite(values).any() else 4
    good = np.isfinite(values) & ~(values[best] - values > 2 * error)
    spread = np.full(5, error)
    return LambdaCurve(
        LAMBDAS,
        Estimate(values, spread),
        Estimate(values - 0.1, spread),
        values + 0.3,
        1 - values,
        1 + LAMBDAS,
        best,
        good,
    )


def critic(explained: float = 0.6) -> Critic:
    profile = TimeProfile(np.arange(3.0), np.array([0.5, 0.6, 0.7]), np.array([5, 5, 5]))
    bins = np.arange(4.0)
    return Critic(Calibration(bins, bins + 0.1, bins * 0 + 0.1, bins), explained, 0.9, 0.1, profile, profile)


def row(estimator: str, baseline: str, cosine: float, variance: float = 1.0) -> EstimatorRow:
    return EstimatorRow(estimator, baseline, variance, 0.5, 0.1, cosine, 0.05)


def diagnosis(**instead: Any) -> Diagnosis:
    settings: dict[str, Any] = dict(
        training=Training("vpg on <b>Task</b>", 0.99, 0.9, 8, 64), layers="all layers", n_steps=20_000, n_episodes=80,
        n_groups=80, mean_length=250.0, mean_return=123.4, batch_steps=512.0, batch_units=2.048,
        signal=one(1.0, 0.1), noise=4.0, cosine=one(0.6, 0.02), curve=curve(), critic=critic(),
        critic_gain=one(0.2, 0.05),
        estimators=[row("total_return", "none", 0.1, 30.0), row("reward_to_go", "time_mean", 0.4, 2.0),
                    row("reward_to_go", "value", 0.5, 1.5), row("gae, lambda 0.9", "value", 0.6)],
    )  # fmt: skip
    return Diagnosis(**{**settings, **instead})


def level_of(found: Diagnosis, part: str) -> str:
    (level,) = [advice.level for advice in advise(found) if part in advice.title]
    return level


# -- advice ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "title", "level"),
    [
        (4.0, "The batch fits", "good"),  # noise scale 1000 steps against 512
        (0.15, "Batch larger than needed by a factor of 14", "watch"),
        (40.0, "Batch too small by a factor of 20", "watch"),
        (400.0, "Batch too small by a factor of 195", "bad"),
    ],
)
def test_the_batch_is_judged_by_the_noise_scale(noise: float, title: str, level: str) -> None:
    found = advise(diagnosis(noise=noise))[0]
    assert (found.title, found.level) == (title, level)
    assert f"The noise scale is {steps(noise * 250)}" in found.text


@pytest.mark.parametrize(("noise", "level"), [(0.15, "bad"), (4.0, "bad"), (40.0, "watch")])
def test_a_batch_that_points_away_without_much_noise_does_not_fit(noise: float, level: str) -> None:
    found = advise(diagnosis(noise=noise, cosine=one(-0.8, 0.02)))[0]
    assert found.level == level
    assert "cosine with the true one is about -0.80" in found.text
    assert ("points away" in found.title) == (level == "bad")


def test_an_estimator_that_points_away_is_not_recommended_for_being_the_best() -> None:
    rows = [row("reward_to_go", "value", -0.5, 1.5), row("gae, lambda 0.9", "value", -0.1)]
    found = diagnosis(
        estimators=[row("total_return", "none", -0.2, 30.0), row("reward_to_go", "time_mean", -0.3), *rows]
    )
    assert level_of(found, "No estimator points along the true gradient") == "bad"
    assert "gae, lambda 0.9, has cosine -0.10" in advise(found)[-1].text


def test_without_a_signal_nothing_is_recommended() -> None:
    found = advise(diagnosis(signal=one(0.1, 0.1)))
    assert [each.level for each in found] == ["unknown"] * 4
    assert found[0].title == "No gradient above the noise"
    assert "at least 3 300 steps" in found[0].text  # 4 / 0.3 * 250


def test_few_episodes_are_mentioned() -> None:
    assert level_of(diagnosis(n_groups=9), "Few episodes") == "unknown"
    assert not [each for each in advise(diagnosis()) if "Few" in each.title]


@pytest.mark.parametrize(
    ("own", "title", "level"),
    [
        (0.9, "Lambda 0.9 is fine", "good"),
        (1.0, "Lambda too high: 1", "bad"),
        (0.0, "Lambda too low: 0", "bad"),
    ],
)
def test_lambda_is_compared_with_the_best(own: float, title: str, level: str) -> None:
    found = advise(diagnosis(training=Training("t", 0.99, own, 8, 64)))[1]
    assert (found.title, found.level) == (title, level)
    assert "The best of the grid is 0.9 (cosine 0.60 of the mean of 4 batches" in found.text
    assert "0.9 to 0.9 cannot be told" in found.text


def test_a_lambda_that_cannot_be_told_from_the_best_is_fine() -> None:
    found = diagnosis(training=Training("t", 0.99, 1.0, 8, 64), curve=curve(error=0.15))
    assert level_of(found, "Lambda 1 is fine") == "good"
    assert "A larger --n-batches would tell" in advise(found)[1].text


def test_a_lambda_that_loses_hardly_anything_is_fine() -> None:
    found = diagnosis(training=Training("t", 0.99, 0.95, 8, 64), curve=curve((0.2, 0.5, 0.6, 0.585, 0.4), error=0.001))
    assert level_of(found, "Lambda 0.95 is fine") == "good"
    assert recommended_lambda(found) == 0.95


def test_where_no_lambda_can_be_told_from_another_it_is_not_said_to_be_fine() -> None:
    found = diagnosis(curve=curve(error=1.0))
    assert level_of(found, "nothing better than 0.9 was found") == "unknown"
    assert "0.9 has" not in advise(found)[1].text, "it is the best itself"
    assert recommended_lambda(found) == 0.9


def test_the_recommended_lambda_is_one_that_is_measurably_better() -> None:
    too_high = diagnosis(training=Training("t", 0.99, 1.0, 8, 64))
    assert recommended_lambda(too_high) == 0.9
    assert recommended_lambda(too_high, (0.0, 0.95, 1.0)) == 0.95
    assert recommended_lambda(too_high._replace(signal=one(0.1, 0.1))) == 1.0
    assert recommended_lambda(too_high._replace(curve=None)) == 1.0


def test_lambda_is_only_told_to_those_who_use_it() -> None:
    found = diagnosis(training=Training("t", 0.99, 0.95, 8, 64, estimator="n_step:5"))
    assert "uses none" in advise(found)[1].text
    assert advise(diagnosis(curve=curve([np.nan] * 5)))[1].title == "Lambda cannot be judged"
    without = diagnosis(curve=None, critic=None, critic_gain=None)
    assert [each.title.split()[0] for each in advise(without)] == ["The", "Best"]


@pytest.mark.parametrize(
    ("explained", "gain", "title", "level"),
    [
        (0.6, (0.2, 0.05), "The critic is worth using", "good"),
        (0.6, (0.05, 0.05), "The critic does not help measurably", "watch"),
        (0.6, (-0.2, 0.05), "The critic is not yet worth using", "bad"),
        (-0.5, (-0.05, 0.05), "The critic is not yet worth using", "bad"),
        (-0.5, (0.05, 0.05), "The critic does not help measurably", "watch"),
        (np.nan, (0.05, 0.05), "The critic has nothing to explain", "unknown"),
    ],
)
def test_the_critic_is_judged_by_what_it_gains(explained: float, gain: Any, title: str, level: str) -> None:
    found = advise(diagnosis(critic=critic(explained), critic_gain=one(*gain)))[2]
    assert (found.title, found.level) == (title, level)


def test_without_a_signal_the_critic_is_judged_by_what_it_explains() -> None:
    assert level_of(diagnosis(critic=critic(-0.1), critic_gain=None), "not yet worth using") == "bad"
    assert level_of(diagnosis(critic_gain=None), "cannot be told") == "unknown"


def test_the_best_estimator_points_best() -> None:
    found = advise(diagnosis())[-1]
    assert found.title == "Best estimator: gae, lambda 0.9"
    assert "total_return, baseline none has 30 times its variance" in found.text
    nothing = [row("total_return", "none", np.nan)]
    assert advise(diagnosis(estimators=nothing, critic=None, curve=None))[-1].level == "unknown"


def test_numbers_of_steps_are_rounded() -> None:
    assert [steps(n) for n in (0.4, 7, 12, 1234, 19_600, 1e7)] == [
        "0 steps", "7 steps", "12 steps", "1 200 steps", "20 000 steps", "10 000 000 steps"
    ]  # fmt: skip
    assert steps(np.inf) == "infinitely many steps"


def test_an_uncertain_noise_scale_has_no_upper_end() -> None:
    certain, uncertain = (diagnosis(signal=one(1.0, error)) for error in (0.1, 0.4999))
    assert "(between 830 and 1 200 steps)" in advise(certain)[0].text
    assert certain.noise_scale_range == pytest.approx((1000 / 1.2, 1000 / 0.8))
    assert uncertain.noise_scale_range[1] > 1e6
    assert diagnosis(signal=one(1.0, 0.6)).noise_scale_range[1] == np.inf


# -- the page --------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Checks that every tag is closed, and keeps what is linked."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_html(path: Path) -> tuple[str, Reader]:
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return text, reader


def test_the_page_stands_alone_and_says_everything(tmp_path: Path) -> None:
    found = diagnosis()
    advice = advise(found)
    page, picture, numbers = write_page(found, advice, tmp_path / "new" / "folder")
    text, reader = read_html(page)
    assert len(reader.sources) == 6
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in reader.sources)
    assert "<b>Task</b>" not in text
    assert all(each.title.replace("'", "&#x27;") in text for each in advice)
    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_size < 200_000
    with numbers.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    by_name = {(each["quantity"], each["of"]): each for each in rows}
    assert float(by_name["lambda_cosine", "0.95"]["value"]) == 0.55
    assert float(by_name["lambda_cosine", "0.95"]["standard_error"]) == 0.02
    assert float(by_name["batch", "noise_scale"]["value"]) == 1000
    assert float(by_name["estimator_variance", "total_return/none"]["value"]) == 30
    assert float(by_name["critic", "gain"]["value"]) == 0.2
    assert len(by_name) == len(rows)


def test_a_page_without_a_critic_has_fewer_figures(tmp_path: Path) -> None:
    found = diagnosis(curve=None, critic=None, critic_gain=None)
    assert list(panels_of(found)) == ["estimators", "batch"]
    page, _, numbers = write_page(found, advise(found), tmp_path)
    assert len(read_html(page)[1].sources) == 2
    assert "lambda_cosine" not in numbers.read_text()


@pytest.mark.parametrize(
    "instead",
    [
        dict(signal=one(-0.1, 0.1), cosine=one(np.nan, np.nan), curve=curve([np.nan] * 5)),
        dict(noise=0.0),
        dict(signal=one(1.0, 0.7)),
        dict(curve=curve([np.nan, 0.1, 0.2, 0.3, 0.4], error=np.nan)),
        dict(estimators=[row("total_return", "none", np.nan, np.nan)], critic=None),
    ],
    ids=["no signal", "no noise", "hardly a signal", "no lambda 0", "no estimator"],
)
def test_numbers_that_are_none_are_drawn_and_written(instead: dict[str, Any], tmp_path: Path) -> None:
    found = diagnosis(**instead)
    page, picture, _ = write_page(found, advise(found), tmp_path)
    read_html(page)
    assert picture.read_bytes().startswith(PNG)


def test_no_figures_make_a_picture_of_a_title() -> None:
    assert compose([], "title").startswith(PNG)


def test_the_page_of_a_rollout_shows_where_it_differs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (50, 2)
    values = dict(values=rng.normal(size=shape), next_values=rng.normal(size=shape), gamma=0.9, gae_lambda=0.9)
    rollout = check_rollout(dict(rewards=rng.normal(size=shape), dones=rng.random(shape) < 0.1,
                                 advantages=rng.normal(size=shape), **values))  # fmt: skip
    advice = [Finding("bad", "A <title>", "A text.")]
    page, picture, numbers = write_rollout_page(rollout, advice, "mine.npz", tmp_path)
    text, reader = read_html(page)
    assert "A &lt;title&gt;" in text
    assert re.search(r"50 steps of 2 environments, \d+ ends", text)
    assert len(reader.sources) == 1
    assert picture.read_bytes().startswith(PNG)
    assert len(numbers.read_text().splitlines()) == 1 + 2 * 100


def test_a_rollout_without_advantages_has_no_figure(tmp_path: Path) -> None:
    rollout = check_rollout(dict(rewards=np.zeros(20), dones=np.zeros(20)))
    assert right_advantages(rollout) is None
    paths = write_rollout_page(rollout, [], "mine.npz", tmp_path)
    assert [path.name for path in paths] == ["doctor.html", "doctor.csv"]
    assert read_html(paths[0])[1].sources == []


@pytest.mark.parametrize(("with_critic", "without"), [(1.5, 0.0), (float("nan"), 2.0), (1.5, float("nan"))])
def test_what_cannot_be_measured_of_the_critic_is_left_out(with_critic: float, without: float) -> None:
    shown = diagnosis()
    assert "leaves 0.75 times the variance" in advise(shown)[2].text
    rows = [row("reward_to_go", "time_mean", 0.4, without), row("reward_to_go", "value", 0.5, with_critic)]
    still = diagnosis(estimators=[*shown.estimators[:1], *rows, shown.estimators[-1]],
                      critic=critic()._replace(explained_by_targets=float("nan")))  # fmt: skip
    text = advise(still)[2].text
    assert "times the variance" not in text
    assert "nothing varies in TD(0) targets" in text
    assert "nan" not in text
