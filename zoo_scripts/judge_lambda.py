"""Judge gae_lambda="auto" where the true gradient is known: a table and a figure for docs/lambda.md. Three minutes.

    python zoo_scripts/judge_lambda.py
    python zoo_scripts/judge_lambda.py --gate 2   # another rule: the table is printed and not written

Problems that the rule was not made with, seven critics, batches of 4, 16 and 64 episodes, six seeds each. What is
judged is the true cosine of the lambda that was chosen, as a share of that of the best lambda of the grid: the cosine
of the mean gradient of as many batches as the rule has in mind (``batches``).
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lambda_problems import CRITICS, GRID, HELD_OUT, cell, cosines, products, run
from tqdm import tqdm

from sb3_pg.advantage.gae_lambda import GradientAgreement, GradientProducts
from sb3_pg.drawing import look, new_figure, style, to_png
from sb3_pg.files import write_whole
from sb3_pg.gradient.statistics import moments
from sb3_pg.pages import markdown_table, put_between_marks

DOCS = Path(__file__).resolve().parents[1] / "docs"
SIZES, DEFAULTS, N_SEEDS, N_UPDATES = (4, 16, 64), (0.97, 0.8, 1.0), 6, 41
# A batch's gradient of lambda = 1 that points closer than this to the true one can be measured in 40 updates
MEASURABLE = 0.3
N_BATCHES = 200


class Judged(NamedTuple):
    """One problem, critic and size of batch."""

    critic: str
    reference: float
    """True cosine of lambda = 1."""
    best: float
    """The best lambda of the grid."""
    chosen: np.ndarray
    """From the first default, shape ``(n_seeds,)``."""
    shares: np.ndarray
    """Of the best cosine, for the choice from each default, shape ``(n_defaults, n_seeds)``."""
    stayed: np.ndarray
    """The same for each default, held fixed, shape ``(n_defaults,)``."""
    moved: float
    """Share of the updates off the default where the expected gradient is zero."""


class Pool:
    """Draws what a rule is told of a batch, from batches that were made once."""

    def __init__(self, problem: str, critic: str, n: int) -> None:
        rng, episodes = np.random.default_rng(5), cell(problem, critic)
        made = [products(episodes.blocks(n, rng)) for _ in range(N_BATCHES)]
        self._made = GradientProducts(*map(np.array, zip(*made, strict=True)))

    def draw(self, rng: np.random.Generator) -> GradientProducts:
        """A batch."""
        chosen = rng.integers(N_BATCHES)
        return GradientProducts(*(each[chosen] for each in self._made))

    def draw_without_signal(self, rng: np.random.Generator) -> GradientProducts:
        """A batch with the same noise and no expected gradient."""
        found = self.draw(rng)
        cross, own = (each - made.mean(axis=0) for each, made in zip(found, self._made[:2], strict=False))
        return GradientProducts(cross, own, found.noise)


def judge(problem: str, critic: str, n: int, **parameters: Any) -> Judged:
    """Let the rule choose, from every default and seed.

    :param parameters: of the rule, instead of its own
    """
    pool = Pool(problem, critic, n)
    rules = [[GradientAgreement(default, tuple(GRID), **parameters) for _ in range(N_SEEDS)] for default in DEFAULTS]
    chosen = np.array([[run(rule, pool.draw, N_UPDATES, seed)[-1] for seed, rule in enumerate(row)] for row in rules])
    nothing = [
        run(GradientAgreement(0.97, tuple(GRID), **parameters), pool.draw_without_signal, 100, seed)
        for seed in range(2)
    ]
    exact = cosines(problem, critic, round(n * rules[0][0].batches))
    shares = exact[np.searchsorted(GRID, chosen)] / exact.max()
    stayed = exact[np.searchsorted(GRID, DEFAULTS)] / exact.max()
    moved = float(np.mean(np.array(nothing) != 0.97))
    return Judged(
        critic, float(cosines(problem, critic, n)[-1]), float(GRID[exact.argmax()]), chosen[0], shares, stayed, moved
    )


def row(name: str, found: list[Judged]) -> list[str]:
    """A row of the table."""
    cells = [name, str(len(found)), f"{np.median([each.best for each in found]):g}"]
    cells.append(f"{np.median(np.concatenate([each.chosen for each in found])):g}")
    for number in range(len(DEFAULTS)):
        shares = np.concatenate([each.shares[number] for each in found])
        stayed = np.mean([each.stayed[number] for each in found])
        cells.append(f"{stayed:.2f} → **{shares.mean():.2f}** ({shares.min():.2f})")
    return cells


def table(found: list[Judged], batches: float) -> str:
    """What the rule comes to, by critic, where there is something to be measured, and where there is not."""
    heading = ["critic", "cells", "best λ", "chosen", *(f"from {default:g}" for default in DEFAULTS)]
    clear = [each for each in found if each.reference >= MEASURABLE]
    weak = [each for each in found if each.reference < MEASURABLE]
    rows = [row(critic, [each for each in clear if each.critic == critic]) for critic in CRITICS]
    rows += [row("all of these", clear), row("weak signal", weak)]
    harm = np.concatenate([np.ravel(each.shares - each.stayed[:, None]) for each in found])
    return "\n".join([
        markdown_table(heading, rows),
        "",
        f"A cell is a problem ({len(HELD_OUT)}), a critic and a size of batch ({', '.join(map(str, SIZES))} episodes),",
        f"with {N_SEEDS} seeds. Best and chosen λ are medians. The last columns are true cosines of the mean gradient",
        f"of {batches:g} batches, after 40 updates, as shares of that of the best λ of the grid: of the default held",
        "fixed → mean of the choice from it (and worst).",
        "Weak signal: the cosine of a batch's gradient of λ = 1 with the true one is below",
        f"{MEASURABLE:g}, all critics together.",
        "",
        f"In {np.mean(harm < -0.03):.1%} of all runs the choice is worse than the default by more than 0.03 of the",
        f"best cosine, at worst by {-harm.min():.2f}. Where the expected gradient is made zero, the default is kept",
        f"in {1 - np.mean([each.moved for each in found]):.1%} of 100 updates.",
        "Written by `python zoo_scripts/judge_lambda.py`.",
    ])  # fmt: skip


def figure(problem: str = "garnet 10", n: int = 16) -> bytes:
    """Squared bias, variance and cosine over lambda, for a good, a middling and a useless critic, as PNG."""
    with style():
        drawn = new_figure((11, 3.6), layout="constrained")
        panels, x = drawn.subplots(1, 3), np.arange(len(GRID))
        for number, (critic, label) in enumerate({"exact": "exact V", "half": "half of V", "zero": "V = 0"}.items()):
            episodes = cell(problem, critic)
            found, length = moments(episodes.gradients.swapaxes(0, 1)), episodes.truth @ episodes.truth
            bias = found.own - 2 * episodes.gradients.mean(axis=0) @ episodes.truth + length
            exact, of = cosines(problem, critic, n), look(number)
            curves = np.maximum(bias / length, 0), found.variance(n) / length, exact
            for panel, curve in zip(panels, curves, strict=True):
                panel.plot(x, curve, color=of.color, marker=of.marker, ms=3, label=label)
            panels[2].plot(x[exact.argmax()], exact.max(), "*", color=of.color, ms=12)
        titles = ("squared bias", f"variance of a batch of {n} episodes", "cosine with the true gradient (star: best)")
        for panel, title in zip(panels, titles, strict=True):
            panel.set_title(title, fontsize=9)
            panel.set_xticks(x, [f"{each:g}" for each in GRID], rotation=60, fontsize=8)
            panel.set_xlabel("λ")
        panels[0].set_ylabel("in units of |true gradient|²")
        panels[0].legend()
        return to_png(drawn)


def main() -> None:
    """Write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("memory", "caution", "gate", "batches"):
        parser.add_argument(f"--{name}", type=float, help="of the rule, instead of its own")
    parameters = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    found = [judge(*each, **parameters) for each in tqdm(list(product(HELD_OUT, CRITICS, SIZES)))]
    text = table(found, GradientAgreement(**parameters).batches)
    print(text)
    if parameters:
        return
    write_whole(DOCS / "figures" / "lambda_bias_variance.png", figure())
    put_between_marks(DOCS / "lambda.md", "judged", text)


if __name__ == "__main__":
    main()
