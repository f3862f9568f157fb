"""Draw the figure of docs/exact.md: bias and variance of GAE over lambda, exact and measured."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from gradient_checks import SEVERAL, Case, draw, expectation, gradients, problem, true_gradient

from sb3_pg.drawing import GREY, look, new_figure, style, to_png
from sb3_pg.files import write_whole

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "exact.png"
LAMBDAS = np.linspace(0.0, 1.0, 21)
CRITICS = {"exact": "exact V", "wrong": "wrong V", "none": "V = 0"}
# Environments in a batch, each with ten episodes
N_ENVS, N_BATCHES = 2, 4000


def measure(critic: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each lambda: exact and measured length, spread of the length, and the total variance of a batch."""
    rollout = draw(problem("short or long"), SEVERAL, np.random.default_rng(0), N_ENVS * N_BATCHES)
    columns = []
    for gae_lambda in LAMBDAS:
        case = Case("short or long", SEVERAL, "gae", gae_lambda, critic=critic)
        true, expected, found = true_gradient(case), expectation(case), gradients(case, rollout, N_ENVS)
        along = found @ true / (true @ true)
        bias = np.sum((expected - true) ** 2) / (true @ true)
        variance = found.var(axis=0).sum() / (true @ true)
        columns.append((expected @ true / (true @ true), along.mean(), along.std(), bias, variance))
    exact, mean, spread, bias, variance = np.array(columns).T
    return exact, np.stack([mean, spread]), bias, variance


def figure() -> bytes:
    """The figure as PNG."""
    with style():
        drawn = new_figure((11, 4.2), layout="constrained")
        left, right = drawn.subplots(1, 2)
        for number, (shift, (critic, label)) in enumerate(zip((-0.012, 0.0, 0.012), CRITICS.items(), strict=True)):
            exact, (mean, spread), bias, variance = measure(critic)
            of = look(number)
            left.plot(LAMBDAS, exact, color=of.color, label=f"{label}: exact expectation")
            left.errorbar(LAMBDAS + shift, mean, spread, fmt=of.marker, color=of.color, markersize=3, linewidth=0.8)
            right.plot(LAMBDAS, bias + variance, color=of.color, label=f"{label}: bias² + variance")
            right.plot(LAMBDAS, bias, color=of.color, linestyle=":", label=f"{label}: bias²")
        left.axhline(1.0, color=GREY, linewidth=0.8)
        left.set(xlabel="λ", ylabel="length along the true gradient")
        left.set(title=f"batches of {10 * N_ENVS} episodes: mean and standard deviation")
        right.set(xlabel="λ", ylabel="in units of |true gradient|²", title="bias and variance")
        for axes in (left, right):
            axes.legend()
        return to_png(drawn)


def main() -> None:
    """Write the figure."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_whole(FIGURE, figure())


if __name__ == "__main__":
    main()
