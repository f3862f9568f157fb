"""Draw the figure of docs/exact.md: bias and variance of GAE over lambda, exact and measured."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from gradient_checks import SEVERAL, Case, draw, expectation, gradients, problem, true_gradient

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "exact.png"
LAMBDAS = np.linspace(0.0, 1.0, 21)
CRITICS = {"exact": "exact V", "wrong": "wrong V", "none": "V = 0"}
COLOURS = dict(zip(CRITICS, ("tab:green", "tab:red", "tab:blue"), strict=True))
# Environments in a batch, each with ten episodes
N_ENVS, N_BATCHES = 2, 4000


def measure(critic: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each lambda: exact and measured length, spread of the length, and the total variance of a batch."""
    rollout = draw(problem("short or long"), SEVERAL, np.random.default_rng(0), N_ENVS * N_BATCHES)
    columns = []
    for gae_lambda in LAMBDAS:
        case = Case("short or long", SEVERAL, "gae", gae_lambda, critic=critic)
        true, found = true_gradient(case), gradients(case, rollout, N_ENVS)
        along = found @ true / (true @ true)
        bias = np.sum((expectation(case) - true) ** 2) / (true @ true)
        variance = found.var(axis=0).sum() / (true @ true)
        columns.append((expectation(case) @ true / (true @ true), along.mean(), along.std(), bias, variance))
    exact, mean, spread, bias, variance = np.array(columns).T
    return exact, np.stack([mean, spread]), bias, variance


def main() -> None:
    """Write the figure."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
    for shift, critic in zip((-0.012, 0.0, 0.012), CRITICS, strict=True):
        exact, (mean, spread), bias, variance = measure(critic)
        colour, label = COLOURS[critic], CRITICS[critic]
        left.plot(LAMBDAS, exact, color=colour, label=f"{label}: exact expectation")
        left.errorbar(LAMBDAS + shift, mean, spread, fmt="o", color=colour, markersize=3, linewidth=0.8)
        right.plot(LAMBDAS, bias + variance, color=colour, label=f"{label}: bias² + variance")
        right.plot(LAMBDAS, bias, color=colour, linestyle=":", label=f"{label}: bias²")
    left.axhline(1.0, color="grey", linewidth=0.8)
    left.set(xlabel="λ", ylabel="length along the true gradient")
    left.set(title=f"batches of {10 * N_ENVS} episodes: mean and standard deviation")
    right.set(xlabel="λ", ylabel="in units of |true gradient|²", title="bias and variance")
    for axes in (left, right):
        axes.legend(fontsize=7)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
