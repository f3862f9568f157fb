"""The figures of the doctor's page."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_pg.advantage.gae_lambda import BATCHES
from sb3_pg.doctor.advice import describe, steps
from sb3_pg.doctor.arrays import Array, StrangersRollout
from sb3_pg.doctor.diagnosis import Critic, Diagnosis, LambdaCurve
from sb3_pg.drawing import BLUE, GREEN, GREY, ORANGE, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = Callable[["Axes", Diagnosis], None]


def _lambda_axis(axes: Axes, lambdas: Any) -> Any:
    """Lambdas stand side by side, as 0.9 and 0.99 are as different as 0 and 0.9."""
    positions = np.arange(len(lambdas))
    axes.set_xticks(positions, [f"{value:g}" for value in lambdas], rotation=45, fontsize=8)
    axes.set_xlabel("lambda")
    return positions


def draw_cosine(axes: Axes, diagnosis: Diagnosis) -> None:
    """Cosine with the true gradient over lambda."""
    curve: LambdaCurve = diagnosis.curve  # type: ignore[assignment]
    x = _lambda_axis(axes, curve.lambdas)
    value, error = curve.cosine
    axes.axvspan(
        x[curve.good].min() - 0.4, x[curve.good].max() + 0.4, color=GREEN, alpha=0.12, label="as good as the best"
    )
    axes.plot(x, np.minimum(curve.cosine_of_bias, 1), color=GREY, ls=":", label="infinite batch: bias alone")
    one, one_error = curve.cosine_of_one
    axes.errorbar(x, value, error, color=BLUE, marker="o", capsize=3, label=f"mean of {BATCHES:g} batches")
    axes.errorbar(x, one, one_error, color=BLUE, ls="--", lw=1, capsize=2, label="one batch")
    own = np.flatnonzero(np.isclose(curve.lambdas, round(diagnosis.training.gae_lambda, 6)))
    axes.axvline(x[own[0]], color=ORANGE, lw=1.5, label=f"in use: {diagnosis.training.gae_lambda:g}")
    low = np.nanmin(np.concatenate([value - error, one - one_error, [0]]))
    axes.set(
        title="Which lambda points the right way?",
        ylabel="cosine with the true gradient",
        ylim=(max(low, -1) - 0.03, 1.03),
    )
    axes.legend(fontsize=7)


def draw_bias_and_variance(axes: Axes, diagnosis: Diagnosis) -> None:
    """Squared bias, variance and their sum over lambda."""
    curve: LambdaCurve = diagnosis.curve  # type: ignore[assignment]
    x = _lambda_axis(axes, curve.lambdas)
    axes.plot(x, curve.variance, color=ORANGE, marker="o", label="variance of one batch")
    bias = np.maximum(curve.bias_squared, 0)
    axes.plot(x, bias, color=BLUE, marker="o", label="squared bias")
    axes.plot(x, bias + curve.variance, color=GREY, ls="--", label="sum: mean squared error")
    if np.nanmax(curve.variance) > max(10 * np.nanmax(bias), 1.0):
        axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(bottom=0)
    axes.set(title="Bias against variance", ylabel="in units of the true gradient squared")
    axes.legend(fontsize=7)


def draw_estimators(axes: Axes, diagnosis: Diagnosis) -> None:
    """Cosine with the true gradient of every estimator and baseline, with the variance."""
    rows = diagnosis.estimators[::-1]
    y = np.arange(len(rows))
    cosines = np.nan_to_num([row.cosine for row in rows])
    errors = np.nan_to_num([row.cosine_error for row in rows])
    colors = [BLUE if row.baseline == "value" else ORANGE for row in rows]
    axes.barh(y, cosines, xerr=errors, color=colors, error_kw={"lw": 0.8})
    axes.set_yticks(y, [describe(row) for row in rows], fontsize=7)
    right = max(float((cosines + errors).max()), 0.05)
    for height, row in enumerate(rows):
        text = f"variance {row.variance:.0f}" if row.variance >= 10 else f"variance {row.variance:.2g}"
        axes.text(1.04 * right, height, text, fontsize=6.5, va="center")
    axes.axvline(0, color=GREY, lw=0.8)
    axes.set_xlim(min(float((cosines - errors).min()), 0), 1.6 * right)
    axes.set_xticks([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= min(1.04 * right, 1.0)])
    axes.set(title="Estimators and baselines", xlabel="cosine with the true gradient (blue: critic)")


def draw_noise_scale(axes: Axes, diagnosis: Diagnosis) -> None:
    """How the gradient's direction gets better with the size of the batch."""
    signal, error = (float(array[0]) for array in diagnosis.signal)
    batch, scale = diagnosis.batch_steps, diagnosis.noise_scale
    known = [number for number in (batch, scale) if np.isfinite(number)]
    sizes = np.geomspace(min(known) / 30, max(known) * 30, 100)

    def cosine(of_signal: float) -> Any:
        good = max(of_signal, 0.0)
        return np.sqrt(good / (good + diagnosis.noise * diagnosis.mean_length / sizes))

    axes.fill_between(sizes, cosine(signal - 2 * error), cosine(signal + 2 * error), color=BLUE, alpha=0.15)
    axes.plot(sizes, cosine(signal), color=BLUE)
    axes.axvline(batch, color=ORANGE, lw=1.5, label=f"batch: {batch:.0f} steps")
    if np.isfinite(scale):
        axes.axvline(scale, color=GREEN, lw=1.5, ls="--", label=f"noise scale: {steps(scale)}")
    axes.set_xscale("log")
    axes.set(title="How large a batch?", xlabel="steps in a batch", ylabel="cosine with its own mean", ylim=(0, 1.03))
    axes.legend(fontsize=7)


def draw_calibration(axes: Axes, diagnosis: Diagnosis) -> None:
    """The critic's values against Monte-Carlo returns and TD(0) targets."""
    critic: Critic = diagnosis.critic  # type: ignore[assignment]
    found = critic.calibration
    ends = [np.nanmin([found.values, found.returns]), np.nanmax([found.values, found.returns])]
    axes.plot(ends, ends, color=GREY, lw=1, label="a perfect critic")
    axes.errorbar(
        found.values,
        found.returns,
        found.returns_error,
        color=BLUE,
        marker="o",
        capsize=2,
        label="returns, first visit",
    )
    axes.plot(found.values, found.targets, color=ORANGE, marker="s", ms=4, ls="--", label="TD(0) targets")
    axes.set(title="Does the critic know the returns?", xlabel="value of the critic", ylabel="what followed")
    axes.legend(fontsize=7)


def draw_profile(axes: Axes, diagnosis: Diagnosis) -> None:
    """Explained variance over the time in the episode."""
    critic: Critic = diagnosis.critic  # type: ignore[assignment]
    for profile, color, label in (
        (critic.returns_profile, BLUE, f"returns ({critic.explained_by_returns:.2f} of all steps)"),
        (critic.targets_profile, ORANGE, f"TD(0) targets ({critic.explained_by_targets:.2f})"),
    ):
        axes.plot(profile.times, profile.explained_variance, color=color, marker="o", label=label)
    axes.axhline(0, color=GREY, lw=1)
    bottom = np.nanmin(
        [critic.returns_profile.explained_variance.min(), critic.targets_profile.explained_variance.min(), 0]
    )
    axes.set_ylim(max(bottom, -1.0) - 0.05, 1.05)
    axes.set(
        title="When in the episode does it know?", xlabel="steps since the episode began", ylabel="explained variance"
    )
    axes.legend(fontsize=7)


def panels_of(diagnosis: Diagnosis) -> dict[str, Panel]:
    """The figures that there are numbers for, by name."""
    found: dict[str, Panel] = {}
    if diagnosis.curve is not None and np.isfinite(diagnosis.curve.cosine.value).any():
        found |= {"lambda": draw_cosine, "bias": draw_bias_and_variance}
    if any(np.isfinite(row.cosine) for row in diagnosis.estimators):
        found["estimators"] = draw_estimators
    if diagnosis.noise > 0:
        found["batch"] = draw_noise_scale
    if diagnosis.critic is not None:
        found["calibration"] = draw_calibration
        if np.isfinite(diagnosis.critic.returns_profile.explained_variance).any():
            found["profile"] = draw_profile
    return found


def draw_panels(diagnosis: Diagnosis) -> dict[str, bytes]:
    """Every figure as PNG, by name; all have the same size."""
    return {
        name: to_png(_draw(diagnosis, panel, left=0.4 if panel is draw_estimators else 0.14))
        for name, panel in panels_of(diagnosis).items()
    }


def _draw(diagnosis: Diagnosis, panel: Panel, left: float) -> Figure:
    figure = new_figure((5.4, 3.8))
    # Places that are given take a fifth of the time of places that matplotlib finds
    panel(figure.add_axes((left, 0.16, 0.97 - left, 0.74)), diagnosis)
    return figure


def compose(panels: list[bytes], title: str) -> bytes:
    """All figures side by side in one PNG, under a title."""
    from PIL import Image, ImageDraw, ImageFont

    images = [Image.open(io.BytesIO(panel)).convert("RGB") for panel in panels]
    width, height = images[0].size if images else (600, 0)
    n_columns = min(3, max(1, len(images)))
    header = 44
    whole = Image.new("RGB", (n_columns * width, header + -(-len(images) // n_columns) * height), "white")
    ImageDraw.Draw(whole).text((20, 12), title, fill="black", font=ImageFont.load_default(22))
    for number, image in enumerate(images):
        whole.paste(image, (number % n_columns * width, header + number // n_columns * height))
    stream = io.BytesIO()
    # A palette: a third of the size
    whole.quantize(256).save(stream, format="png", optimize=True)
    return stream.getvalue()


_SHOWN_STEPS = 300


def draw_rollout(rollout: StrangersRollout, right: Array) -> bytes | None:
    """Advantages of a file beside the right ones, in the environment where they differ most; None if none is known.

    :param right: see :func:`~sb3_pg.doctor.mistakes.right_advantages`
    """
    assert rollout.advantages is not None
    given = rollout.advantages
    if not np.isfinite(right).any():
        return None
    difference = np.nan_to_num(np.abs(given - right))
    worst_step, worst = np.unravel_index(difference.argmax(), difference.shape)
    first = max(0, min(int(worst_step) - _SHOWN_STEPS // 2, len(given) - _SHOWN_STEPS))
    rows = np.arange(first, min(first + _SHOWN_STEPS, len(given)))
    figure = new_figure((11, 3.6))
    axes = figure.add_axes((0.07, 0.15, 0.92, 0.75))
    for number, end in enumerate(rows[rollout.dones[rows, worst]]):
        axes.axvline(end + 0.5, color=GREY, lw=0.8, ls=":", label="end of an episode" if number == 0 else None)
    axes.plot(rows, right[rows, worst], color=GREEN, lw=2, label="right, on the same scale")
    axes.plot(rows, given[rows, worst], color=ORANGE, ls="--", label="in the file")
    axes.set(title=f"Advantages of environment {worst}", xlabel="step of the rollout", ylabel="advantage")
    axes.legend(fontsize=7)
    return to_png(figure)
