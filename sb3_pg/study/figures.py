"""The figures of a study's page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_pg.drawing import GREY, Look, look, new_figure, short, shorten_ticks, style, to_png
from sb3_pg.study.pictures import N_WALKS, kept_agent, walks
from sb3_pg.study.plan import OF_TWO_CURVES, FigurePlan, Study
from sb3_pg.study.regrets import lambda_of, regrets
from sb3_pg.study.runner import Results
from sb3_pg.study.statistics import (
    N_TO_SETTLE,
    Estimate,
    band,
    estimate,
    is_share,
    median_seconds,
    normalized,
    performance_profiles,
    probabilities_of_improvement,
    scores,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_COLUMNS = 3
MANY = 4
"""Curves in a panel from which on their intervals are drawn more faintly."""
LONG_LABEL = 32
"""Letters of a label from which on a legend beside the panel would leave it no room."""
DECADES = 1000.0
"""The longest training's seconds through the first that are shown: some begin with a fraction of a second."""
DPI = 120

NAMES = {
    "returns": "return of an episode",
    "lengths": "steps of an episode",
    "successes": "share of successful episodes",
    "final": "return in the last tenth of the steps",
    "area": "mean return over the training",
    "best": "highest return while training",
    "evaluation": "return of the final policy",
    "success": "share of successful episodes",
    "wobble": "standard deviation along the second half",
    "train/gae_lambda": "λ in use",
    "gradient/half_cosine": "cosine of the gradients of two halves of a batch",
}


class NothingToDrawError(Exception):
    """Says why there is no figure."""


def draw(plan: FigurePlan, study: Study, results: Results, logs: Path = Path("logs", "studies")) -> bytes:
    """
    Draw a figure.

    :param plan: what the study says of it
    :param study: the whole
    :param results: of its trainings
    :param logs: folder of models, which ``walks`` plays with
    :return: a PNG file
    :raises NothingToDrawError: when what it needs has not been trained, or is not installed
    :raises NoModelError: when it needs a model that is not here
    """
    kinds: dict[str, Callable[[FigurePlan, Study, Results], Figure]] = {
        "curves": _curves,
        "seconds": _curves,
        "scores": _scores,
        "against": _against,
        "regret": _regret,
        "profile": _profile,
        "improvement": _improvement,
        "walks": lambda plan, study, _: _walks(plan, study, logs),
    }
    with style():
        try:
            return to_png(kinds[plan.kind](plan, study, results), DPI, n_colors=256)
        except ImportError as error:
            raise NothingToDrawError(f"it needs rliable, which the extra `plots` installs ({error})") from error


def looks(plan: FigurePlan, study: Study) -> dict[str, Look]:
    """Look of each curve: the same in all figures of a study, where there are colours enough."""
    names = [curve.name for curve in study.curves]
    order = names if len(names) <= 10 else list(plan.curves)
    return {name: look(order.index(name)) for name in plan.curves}


def _drawn(plan: FigurePlan, study: Study, results: Results, env: str) -> list[str]:
    return [name for name in plan.curves if env in study.curve(name).envs and results.of(env, name)]


def _panels(plan: FigurePlan, study: Study, results: Results, height: float, share_y: bool) -> tuple[Any, Any]:
    """A figure with a panel for each environment that has results."""
    envs = [env for env in plan.envs if _drawn(plan, study, results, env)]
    if not envs:
        raise NothingToDrawError("none of its curves has been trained yet")
    n_columns = min(len(envs), N_COLUMNS)
    n_rows = -(-len(envs) // n_columns)
    size = (8.4 if n_columns == 1 else 3.7 * n_columns, height * n_rows + 0.3)
    figure = new_figure(size, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharey=share_y).ravel()
    for unused in axes[len(envs) :]:
        unused.set_visible(False)
    return figure, dict(zip(envs, axes, strict=False))


def _curves(plan: FigurePlan, study: Study, results: Results) -> Figure:
    """Return against steps or seconds: interquartile mean with its interval, or every seed."""
    key = plan.options.get("y", "returns")
    height = 3.1 if len(plan.envs) > 1 else 4.0
    figure, panels = _panels(plan, study, results, height, plan.options.get("share_y", False))
    styles, lines = looks(plan, study), {}
    opacity = 0.17 if len(plan.curves) <= MANY else 0.08
    for env, axes in panels.items():
        for name in _drawn(plan, study, results, env):
            found, of = results.of(env, name), styles[name]
            shown = band(found, key)
            if not np.isfinite(shown.each).any():
                continue
            if plan.kind == "seconds":
                x = median_seconds(found)
            else:
                x = np.linspace(0, study.curve(name).n_timesteps[env], shown.middle.size + 1)[1:]
            for seed in shown.each if plan.options.get("seeds") else ():
                axes.plot(x, seed, color=of.color, lw=0.7, alpha=0.45)
            if len(found) >= N_TO_SETTLE:
                axes.fill_between(x, shown.low, shown.high, color=of.color, alpha=opacity, lw=0)
            (lines[name],) = axes.plot(x, shown.middle, color=of.color, ls=of.dash, label=study.curve(name).label)
        axes.set_title(env if len(panels) > 1 else plan.title or env)
        if plan.kind == "seconds":
            axes.set_xscale("log")
            axes.set_xlim(left=max(axes.get_xlim()[0], axes.dataLim.x1 / DECADES))
        else:
            axes.set_xlim(0, max(study.curve(name).n_timesteps[env] for name in _drawn(plan, study, results, env)))
            axes.locator_params(axis="x", nbins=5)
        if key == "train/gae_lambda":
            axes.set_ylim(0, 1.02)
        shorten_ticks(axes)
    if not lines:
        raise NothingToDrawError(f"{key} was not recorded when its curves were trained, or never logged")
    what = "seconds of training (one thread)" if plan.kind == "seconds" else "environment steps"
    _label(figure, panels, what, NAMES.get(key, key))
    _legend(figure, [lines[name] for name in plan.curves if name in lines], len(panels))
    return figure  # type: ignore[no-any-return]


def _legend(figure: Any, handles: list[Any], n_panels: int) -> None:
    """Beside a single panel or above several; none for a single curve."""
    if n_panels == 1 and len(handles) > 1 and max(len(handle.get_label()) for handle in handles) > LONG_LABEL:
        figure.legend(handles=handles, loc="outside lower center", handlelength=2.4)
    elif n_panels == 1 and len(handles) > 1:
        figure.legend(handles=handles, loc="outside right upper", handlelength=2.4)
    elif len(handles) > 1:
        figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 5), handlelength=2.4)


def _label(figure: Any, panels: dict[str, Any], x: str, y: str) -> None:
    if len(panels) > 1:
        figure.supxlabel(x, fontsize=10)
        figure.supylabel(y, fontsize=10)
    else:
        next(iter(panels.values())).set(xlabel=x, ylabel=y)


def _scores(plan: FigurePlan, study: Study, results: Results) -> Figure:
    """A row for each curve: every seed, and the estimate with its interval."""
    measure = plan.options.get("measure", "final")
    names = [name for name in plan.curves if any(results.of(env, name) for env in plan.envs)]
    figure, panels = _panels(plan, study, results, 0.9 + 0.32 * max(len(names), 2), share_y=True)
    # Many colours would mean nothing
    styles = looks(plan, study) if len(names) <= 10 else dict.fromkeys(names, look(0))
    for env, axes in panels.items():
        for row, name in enumerate(names):
            if results.of(env, name):
                _row(axes, -row, scores(study, results, env, name, measure), measure, styles[name])
        axes.set_yticks([-row for row in range(len(names))], [study.curve(name).label for name in names])
        axes.set_ylim(-len(names) + 0.4, 0.6)
        if measure.startswith("steps_to"):
            axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
        axes.set_title(env if len(panels) > 1 else plan.title or env)
        shorten_ticks(axes)
    _label(figure, panels, name_of(measure), "")
    return figure  # type: ignore[no-any-return]


def name_of(measure: str) -> str:
    """A measure in words."""
    kind, _, argument = measure.partition(":")
    words = {
        "steps_to": f"steps until the return first is {argument}",
        "above": f"share of seeds that end at {argument} or more",
        "until": f"return after {argument} steps",
        OF_TWO_CURVES: f"return after {argument} s each",
        "logged": f"{NAMES.get(argument, argument)}, mean over the training",
        "early": f"{NAMES.get(argument, argument)}, mean over the first tenth of the steps",
    }
    return words.get(kind) or NAMES[measure]


def _row(axes: Axes, height: float, values: Any, measure: str, of: Look) -> None:
    finite = values[np.isfinite(values)]
    # Seeds one above the other where they are equal: a fixed jitter
    jitter = np.random.default_rng(0).uniform(-0.17, 0.17, len(finite))
    axes.plot(finite, height + jitter, "o", color=of.color, alpha=0.35, ms=4, mew=0)
    found = estimate(values, measure)
    if np.isfinite(found.value) and found.n_seeds >= N_TO_SETTLE:
        ends = [end if np.isfinite(end) else np.nanmax(finite) for end in (found.low, found.high)]
        axes.plot(ends, [height, height], color=of.color, lw=2.6)
    if np.isfinite(found.value):
        axes.plot(found.value, height, of.marker, color=of.color, ms=7, mec="white", mew=0.8)
    text = written(found, measure)
    if len(finite) < len(values):
        text = f"{text.split(' ')[0]} ({len(values) - len(finite)} of {len(values)} never)"
    axes.annotate(
        text, (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=8, color="#444444",
        annotation_clip=False,
    )  # fmt: skip


def written(found: Estimate, measure: str) -> str:
    """An estimate as text: 195 [190, 200], without the interval where it is of too few seeds; shares in per cent."""
    if not found.n_seeds:
        return "-"
    value, low, high = (_written_number(number, measure) for number in (found.value, found.low, found.high))
    return value if found.n_seeds < N_TO_SETTLE else f"{value} [{low}, {high}]"


def _written_number(value: float, measure: str) -> str:
    if not np.isfinite(value):
        return "never"
    if is_share(measure):
        return f"{100 * value:.0f} %"
    if measure.startswith("steps_to"):
        return short(float(f"{value:.3g}"))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _against(plan: FigurePlan, study: Study, results: Results) -> Figure:
    """A measure against a hyperparameter; curves whose value is no number are lines across."""
    measure, parameter = plan.options.get("measure", "final"), plan.options["parameter"]
    figure, panels = _panels(plan, study, results, 3.1 if len(plan.envs) > 1 else 4.0, share_y=False)
    for env, axes in panels.items():
        points: list[tuple[float, Any]] = []
        across: list[tuple[str, Any]] = []
        for name in _drawn(plan, study, results, env):
            value = study.settings(study.curve(name), env).block.get(parameter)
            found = scores(study, results, env, name, measure)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                points.append((float(value), found))
            elif len(found):
                across.append((study.curve(name).label, found))
        points.sort(key=lambda point: point[0])
        values = sorted({value for value, _ in points})
        _along(axes, [values.index(value) for value, _ in points], [found for _, found in points], measure)
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        for number, (label, found) in enumerate(across, 1):
            one, of = estimate(found, measure), look(number)
            if np.isfinite(one.low) and np.isfinite(one.high):
                axes.axhspan(one.low, one.high, color=of.color, alpha=0.13, lw=0)
            if np.isfinite(one.value):
                axes.axhline(one.value, color=of.color, ls=of.dash, label=label)
            else:
                axes.plot([], color=of.color, ls=of.dash, label=f"{label}: never")
        axes.set_title(env if len(panels) > 1 else plan.title or env)
        if across:
            axes.legend(loc="best")
    _label(figure, panels, parameter, name_of(measure))
    return figure  # type: ignore[no-any-return]


def _along(axes: Axes, places: Sequence[int], points: Sequence[Any], measure: str) -> None:
    """Every seed of each point, and a line through their estimates; a point that is infinite is one in words."""
    blue = look(0)
    estimates = np.array([estimate(found, measure)[:3] for found in points]).reshape(-1, 3)
    for at, found, middle in zip(places, points, estimates[:, 0], strict=True):
        axes.plot([at] * len(found), found, "o", color=blue.color, alpha=0.35, ms=4, mew=0)
        if np.isinf(middle):
            axes.text(at, 0.97, "never", transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=8)
    middles, lows, highs = np.where(np.isfinite(estimates), estimates, np.nan).T
    enough = np.array([len(found) >= N_TO_SETTLE for found in points], dtype=bool)
    ends = np.where(enough, (middles - lows, highs - middles), np.nan)
    if len(points):
        line = "-" if len(set(places)) == len(places) else "none"  # several at a place are no one curve
        axes.errorbar(places, middles, ends, color=blue.color, marker="o", capsize=4, ms=7, lw=1.8, ls=line)


def fixed_curves(study: Study, env: str, names: Sequence[str]) -> list[str]:
    """Curves whose lambda is a number."""
    here = [curve for curve in map(study.curve, names) if env in curve.envs]
    return [curve.name for curve in here if isinstance(lambda_of(study.settings(curve, env)), (int, float))]


def _regret(plan: FigurePlan, study: Study, results: Results) -> Figure:
    """Regret of every curve to the best fixed lambda, one panel for each environment."""
    found = {}
    for env in plan.envs:
        one = regrets({name: results.of(env, name) for name in plan.curves}, fixed_curves(study, env, plan.curves))
        if one is not None:
            found[env] = one
    if not found:
        raise NothingToDrawError("no seed has been through two fixed lambdas yet")
    figure = new_figure((max(2.0 + 2.0 * len(found), 6.4), 1.2 + 0.27 * len(plan.curves)), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (env, one) in zip(panels, found.items(), strict=True):
        fixed = fixed_curves(study, env, plan.curves)
        for name, (mean, low, high) in zip(one.curves, 100 * one.regrets, strict=True):
            of = look(0) if name not in fixed else Look(GREY, "-", "o")
            height = -plan.curves.index(name)
            axes.plot([low, high], [height, height], color=of.color, lw=2.4)
            axes.plot(mean, height, "o", color=of.color, ms=6, mec="white", mew=0.8)
        axes.axvline(0, color="#222222", lw=0.9)
        axes.axhline(-len(fixed) + 0.5, color="#bbbbbb", lw=0.8)
        axes.set_title(f"{env}\n{one.areas.shape[1]} seeds, best {one.best}", fontsize=9, fontweight="normal")
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(
        [-row for row in range(len(plan.curves))], [study.curve(name).label for name in plan.curves], fontsize=8.5
    )
    panels[0].set_ylim(-len(plan.curves) + 0.4, 0.6)
    what = "regret to the best fixed λ, % of best − worst (grey: fixed, blue: chosen while training)"
    figure.supxlabel(what, fontsize=9)
    return figure


def _comparable(plan: FigurePlan, study: Study, results: Results) -> tuple[dict[str, Any], list[str]]:
    n_seeds = {env: min(len(scores(study, results, env, name, "final")) for name in plan.curves) for env in plan.envs}
    envs = [env for env in plan.envs if n_seeds[env] >= N_TO_SETTLE]
    if not envs:
        raise NothingToDrawError(f"no environment has been trained with {N_TO_SETTLE} seeds of all of its curves yet")
    return normalized(study, results, envs, plan.curves), envs


def _listed(envs: Sequence[str]) -> str:
    return ", ".join(envs) if len(envs) <= N_COLUMNS else f"{len(envs)} environments"


def _profile(plan: FigurePlan, study: Study, results: Results) -> Figure:
    """Share of trainings above each level of the normalised return."""
    found, envs = _comparable(plan, study, results)
    taus = np.linspace(0.0, max(1.05, max(float(values.max()) for values in found.values())), 51)
    figure = new_figure((8.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (share, low, high) in performance_profiles(found, taus).items():
        of = looks(plan, study)[name]
        axes.fill_between(taus, low, high, color=of.color, alpha=0.15, lw=0)
        axes.plot(taus, share, color=of.color, ls=of.dash, label=study.curve(name).label)
    axes.set(
        title=plan.title,
        xlabel=f"return: 0 the worst training, 1 the best algorithm's interquartile mean\n({_listed(envs)})",
        ylabel="share of trainings above",
        ylim=(-0.02, 1.02),
    )
    figure.legend(loc="outside right upper")
    return figure


def _improvement(plan: FigurePlan, study: Study, results: Results) -> Figure:
    """Probability that a training of the first curve is better than one of another."""
    found, envs = _comparable(plan, study, results)
    first, *others = plan.curves
    probabilities = probabilities_of_improvement(found, first)
    figure = new_figure((8.4, 1.0 + 0.4 * len(others)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(others):
        one, of = probabilities[name], looks(plan, study)[name]
        axes.plot([one.low, one.high], [-row, -row], color=of.color, lw=2.6)
        axes.plot(one.value, -row, of.marker, color=of.color, ms=7, mec="white")
    axes.axvline(0.5, color="#222222", lw=0.9)
    axes.set_yticks([-row for row in range(len(others))], [study.curve(name).label for name in others])
    axes.set(
        title=plan.title,
        xlim=(-0.02, 1.02),
        ylim=(-len(others) + 0.4, 0.6),
        xlabel=f"P({study.curve(first).label} is better than ...), {_listed(envs)}",
    )
    axes.grid(axis="y", visible=False)
    return figure


def _walks(plan: FigurePlan, study: Study, logs: Path) -> Figure:
    """Cells from the target at each step of some walks of LineWorld, one panel for each curve."""
    found: dict[str, list[list[float]]] = {}
    for name in plan.curves:
        with kept_agent(study, plan.envs[0], name, logs) as (model, env):
            found[name] = walks(model, env)
    figure = new_figure((2.1 + 2.1 * len(found), 3.1), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, N_WALKS)
    for axes, (name, each) in zip(panels, found.items(), strict=True):
        for walk, shift in zip(each, jitter, strict=True):
            axes.plot(np.array(walk) + shift, color=looks(plan, study)[name].color, lw=0.8, alpha=0.35)
        share = np.mean([abs(walk[-1]) < 0.5 for walk in each])
        label = textwrap.fill(study.curve(name).label, 24)
        axes.set_title(f"{label}\n{share:.0%} end on the target", fontsize=9, fontweight="normal")
        axes.axhline(0, color="#222222", lw=0.9)
        axes.locator_params(axis="x", integer=True)
    panels[0].set_ylabel("cells from the target")
    figure.supxlabel("step", fontsize=10)
    return figure
