"""Writes the doctor's findings: one HTML page that stands alone, one PNG, one CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pg.doctor.advice import describe, steps
from sb3_pg.doctor.arrays import Array, StrangersRollout
from sb3_pg.doctor.diagnosis import Diagnosis
from sb3_pg.doctor.figures import compose, draw_panels, draw_rollout
from sb3_pg.doctor.mistakes import right_advantages
from sb3_pg.files import write_whole
from sb3_pg.pages import Block, Finding, Gallery, Heading, Paragraph, Picture, Table, as_csv, as_html

_CAPTIONS = {
    "lambda": """
        Cosine between a gradient and the true one, with standard errors. Solid, what lambda is judged by: the mean of
        four batches, since an optimizer averages noise away and bias stays. Low lambdas lose by the critic's bias
        (dotted: all that is left with endless data; at lambda 1, by the value that stands in where a batch cuts an
        episode), high ones by variance. In the green range no lambda can be told from the best.""",
    "bias": """
        The same in two parts. Where the variance of a single batch is far above 1, steps are mostly noise whatever
        lambda is.""",
    "estimators": """
        How well one batch's gradient points, bias and variance together. Total returns count what happened before the
        action; TD residuals believe the critic after one step. Advantages are centred if training does so, and then no
        baseline is as good as the mean.""",
    "batch": """
        Below the noise scale (green) twice the batch is worth twice the updates; above it, nearly nothing. The band is
        two standard errors.""",
    "calibration": """
        Steps in bins of the critic's value. On the line: right on average. Orange: what TD(0) would teach it next;
        blue: what really came, each observation counted once an episode.""",
    "profile": """
        1: the critic knows what comes; 0: no better than one number for all steps at that time; below: worse.""",
}


_COLUMNS = ("quantity", "of", "value", "standard_error")


def write_page(diagnosis: Diagnosis, advice: list[Finding], folder: Path) -> list[Path]:
    """Write ``doctor.html``, ``doctor.png`` and ``doctor.csv``.

    :param folder: made if it is not there
    :return: the paths of the files
    """
    figures = draw_panels(diagnosis)
    page, picture, numbers = (folder / f"doctor.{kind}" for kind in ("html", "png", "csv"))
    write_whole(page, as_html(f"Doctor: {diagnosis.training.name}", _page(diagnosis, advice, figures)))
    title = f"{diagnosis.training.name}: {diagnosis.n_episodes} episodes, gradient of {diagnosis.layers}"
    write_whole(picture, compose(list(figures.values()), title))
    write_whole(numbers, as_csv(_COLUMNS, _numbers(diagnosis)))
    return [page, picture, numbers]


def _page(diagnosis: Diagnosis, advice: Iterable[Finding], figures: dict[str, bytes]) -> Iterator[Block]:
    training = diagnosis.training
    yield Heading(training.name, 1)
    yield Paragraph(
        f"{diagnosis.n_episodes} whole episodes ({steps(diagnosis.n_steps)}) of the frozen policy, mean length "
        f"{diagnosis.mean_length:.0f}, mean return {diagnosis.mean_return:.4g}. A batch is "
        f"{diagnosis.batch_steps:.0f} steps{_minibatch(diagnosis)}. gamma {training.gamma:g}, lambda "
        f"{training.gae_lambda:g}, estimator {training.estimator}, baseline {training.baseline}. Gradients of "
        f"{diagnosis.layers} of the actor."
    )
    yield from advice
    yield Heading("Figures")
    yield Gallery(tuple(Picture(f"{name}.png", name, image, _CAPTIONS[name]) for name, image in figures.items()))
    yield Heading("Estimators and baselines")
    yield Table(
        ("", "variance", "signal to noise", "±", "cosine", "±"),
        tuple(
            (describe(row), *map(_number, (row.variance, row.snr, row.snr_error, row.cosine, row.cosine_error)))
            for row in diagnosis.estimators
        ),
    )
    yield Paragraph(
        """For one batch; variance in units of the true gradient's squared length, signal to noise with the estimator's
        own expectation as the signal, whether that is biased or not. The true gradient is that of Monte-Carlo returns
        of whole episodes, told from all pairs of different groups of episodes, so without the bias of chance. Every
        number of this page is in doctor.csv; docs/gradients.md explains them."""
    )


def _minibatch(diagnosis: Diagnosis) -> str:
    size = diagnosis.training.minibatch
    return f" (one gradient step takes {size} of them)" if size and size < diagnosis.batch_steps else ""


def write_rollout_page(rollout: StrangersRollout, advice: list[Finding], name: str, folder: Path) -> list[Path]:
    """Write the page of a stranger's rollout: ``doctor.html``, ``doctor.csv``, and ``doctor.png`` if there is a figure.

    :param name: of the file, for the title
    :param folder: made if it is not there
    :return: the paths of the files
    """
    right = right_advantages(rollout)
    picture = None if right is None else draw_rollout(rollout, right)
    facts = f"{rollout.rewards.shape[0]} steps of {rollout.rewards.shape[1]} environments, {rollout.dones.sum()} ends."
    blocks: list[Block] = [Heading(name, 1), Paragraph(facts), *advice]
    if picture is not None:
        blocks += [
            Heading("Where they differ"),
            Picture("doctor.png", "In the file, and right", picture),
        ]
    page, numbers = folder / "doctor.html", folder / "doctor.csv"
    write_whole(page, as_html(name, blocks))
    write_whole(numbers, as_csv(_COLUMNS, _rollout_numbers(rollout, right)))
    if picture is None:
        return [page, numbers]
    write_whole(folder / "doctor.png", picture)
    return [page, folder / "doctor.png", numbers]


def _rollout_numbers(rollout: StrangersRollout, right: Array | None) -> Iterator[tuple[Any, ...]]:
    """Advantages of the file and the right ones, step by step."""
    if rollout.advantages is None or right is None:
        return
    for (step, env_index), value in np.ndenumerate(rollout.advantages):
        at = f"step {step} of environment {env_index}"
        yield "advantage_in_file", at, value, ""
        yield "advantage_right", at, right[step, env_index], ""


def _number(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.3g}" if math.isfinite(cell) else "-"
    return str(cell)


def _numbers(diagnosis: Diagnosis) -> Iterator[tuple[Any, ...]]:
    """Every number of the page: what it is, of what, its value, its standard error."""
    batch: dict[str, float] = {
        "steps": diagnosis.batch_steps,
        "episodes": diagnosis.batch_units,
        "snr": diagnosis.snr,
        "noise_scale": diagnosis.noise_scale,
        "noise_scale_low": diagnosis.noise_scale_range[0],
        "noise_scale_high": diagnosis.noise_scale_range[1],
    }
    yield from (("batch", name, value, "") for name, value in batch.items())
    yield "batch", "cosine", float(diagnosis.cosine.value[0]), float(diagnosis.cosine.standard_error[0])
    curve = diagnosis.curve
    if curve is not None:
        for index, gae_lambda in enumerate(curve.lambdas):
            at = f"{gae_lambda:g}"
            for name, cosine in (("lambda_cosine", curve.cosine), ("lambda_cosine_one_batch", curve.cosine_of_one)):
                yield name, at, cosine.value[index], cosine.standard_error[index]
            yield "lambda_cosine_bias_alone", at, curve.cosine_of_bias[index], ""
            yield "lambda_bias_squared", at, curve.bias_squared[index], ""
            yield "lambda_variance", at, curve.variance[index], ""
            yield "lambda_as_good_as_the_best", at, int(curve.good[index]), ""
    for row in diagnosis.estimators:
        name = f"{row.estimator}/{row.baseline}"
        yield "estimator_snr", name, row.snr, row.snr_error
        yield "estimator_variance", name, row.variance, ""
        yield "estimator_cosine", name, row.cosine, row.cosine_error
    critic = diagnosis.critic
    if critic is not None:
        yield "critic", "explained_variance_returns", critic.explained_by_returns, ""
        yield "critic", "explained_variance_td0", critic.explained_by_targets, ""
        yield "critic", "bias", critic.bias, ""
        if diagnosis.critic_gain is not None:
            yield (
                "critic",
                "gain",
                float(diagnosis.critic_gain.value[0]),
                float(diagnosis.critic_gain.standard_error[0]),
            )
        found = critic.calibration
        for value, mean, error, target in zip(*found, strict=True):
            yield "critic_mean_return_at_value", f"{value:.6g}", mean, error
            yield "critic_mean_td0_target_at_value", f"{value:.6g}", target, ""
        for name, profile in (("returns", critic.returns_profile), ("td0", critic.targets_profile)):
            for time, explained, _ in zip(*profile, strict=True):
                yield f"critic_explained_variance_{name}_at_time", f"{time:.6g}", explained, ""
