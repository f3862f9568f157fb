"""Measure every estimator against exact gradients, and write what came out into docs/correctness.md.

    python zoo_scripts/verify_gradients.py                  # the long form: ten minutes on one core
    python zoo_scripts/verify_gradients.py --samples 200    # a quarter of the samples

What is measured is in gradient_checks.py. Seeds are fixed: the same --samples gives the same page.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from gradient_checks import (
    LAMBDA_ORDER,
    LARGEST_Z,
    VARIANCE_ORDER,
    Case,
    Pipeline,
    array_cases,
    bias,
    counted,
    expectation,
    expectation_of,
    keeps_its_promise,
    measure_arrays,
    measure_pipeline,
    pipelines,
    short_two_state,
    total_variance,
    true_gradient,
)
from tqdm import tqdm

from sb3_pg.advantage.baselines import critic_free
from sb3_pg.exact.expectation import expected_episodes
from sb3_pg.exact.mdp import solve
from sb3_pg.exact.sampling import Measurement
from sb3_pg.pages import markdown_table, put_between_marks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "correctness.md"


def verdict(passed: bool) -> str:
    """A word for the tables."""
    return "holds" if passed else "**FAILS**"


def array_rows(measured: dict[Case, Measurement], n_samples: int) -> Iterator[tuple[Case, list[str]]]:
    """The lines of the first tables."""
    for case, measurement in measured.items():
        longer, degrees = bias(case)
        promised = f"biased: {100 * longer:+.1f} %, {degrees:.1f}°"
        if case.is_unbiased:
            promised = "unbiased" + (" up to 1/N" if case.looks_at_itself else "")
        length, error = measurement.length(true_gradient(case))
        worst = measurement.worst_z(expectation(case))
        passed = worst < LARGEST_Z and keeps_its_promise(case)
        interval = f"{length:.4f} ± {1.96 * error:.4f}"
        yield case, [case.words, promised, interval, f"{worst:.1f}", f"{n_samples}", verdict(passed)]


def pipeline_row(pipeline: Pipeline, measurement: Measurement) -> list[str]:
    """A line of the table of models."""
    exact = expectation_of(pipeline)
    length, error = measurement.length(exact)
    worst, batches = measurement.worst_z(exact), len(measurement.samples) * pipeline.n_batches
    interval = f"{length:.4f} ± {1.96 * error:.4f}"
    return [str(pipeline), interval, f"{worst:.1f}", f"{batches} × {pipeline.n_envs}", verdict(worst < LARGEST_Z)]


def counted_rows() -> Iterator[list[str]]:
    """The table of small batches: no samples, every batch counted."""
    small = short_two_state()
    exact = solve(small.mdp, small.policy).semi_gradient
    for baseline, n_envs in product(critic_free(), (2, 4)):
        share = float(counted(small, baseline, n_envs)[0] / exact[0])
        is_one = baseline in ("none", "leave_one_out")
        passed = abs(share - 1.0) < 1e-12 if is_one else 0.0 < share < 1.0
        yield [baseline, f"{n_envs} episodes", "1" if is_one else "below 1", f"{share:.4f}", verdict(passed)]
    for baseline, n_steps in product(critic_free(), (2, 4)):
        episodes = expected_episodes(small.mdp, small.policy, n_steps)
        share = float(counted(small, baseline, 2, n_steps)[0] / exact[0] / episodes)
        promised = {"none": "1", "leave_one_out": "near 1"}.get(baseline, "below 1")
        passed = {"1": abs(share - 1.0) < 1e-12, "near 1": abs(share - 1.0) < 0.05}.get(promised, 0.0 < share < 1.0)
        batch = f"2 environments, whole episodes of at least {n_steps} steps"
        yield [baseline, batch, promised, f"{share:.4f}", verdict(passed)]


def variance_rows(order: tuple[Case, ...], n_batches: int) -> Iterator[list[str]]:
    """The table of variances, largest first."""
    before: tuple[float, float] | None = None
    for case in order:
        variance, error = total_variance(case, n_batches)
        passed = before is None or before[0] - variance > LARGEST_Z * np.hypot(before[1], error)
        yield [str(case), f"{variance:.4f} ± {1.96 * error:.4f}", "" if before is None else verdict(passed)]
        before = variance, error


def array_tables(rows: list[tuple[Case, list[str]]]) -> str:
    """A line about all combinations, and a table for each problem and batch, folded up."""
    words = [row for _, row in rows]
    up_to = sum(case.is_unbiased and case.looks_at_itself for case, _ in rows)
    unbiased = sum(case.is_unbiased for case, _ in rows) - up_to
    worst = max(float(row[3]) for row in words)
    parts = [
        f"{len(rows)} combinations, {unbiased} of them promised to be unbiased and {up_to} up to 1/N; "
        f"largest |z| of all: {worst}; {sum(row[-1] != verdict(True) for row in words)} fail."
    ]
    together: dict[str, list[list[str]]] = defaultdict(list)
    for case, row in rows:
        together[f"{case.problem}: {case.batch}"].append(row)
    header = ["combination", "promised", "measured length (95 %)", "worst z", "samples", "verdict"]
    for title, lines in together.items():
        parts.append(
            f"<details><summary>{title} ({len(lines)})</summary>\n\n{markdown_table(header, lines)}\n\n</details>"
        )
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Measure everything, write the page, and return the number of promises that were not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples", type=int, default=800, help="gradients for each combination, each of about a thousand episodes"
    )
    n_samples = parser.parse_args(arguments).samples
    began, cases, models = time.time(), list(array_cases()), list(pipelines())
    with tqdm(total=len(cases) + len(models), unit="combination") as progress:
        arrays = list(array_rows(measure_arrays(cases, n_samples, progress.update), n_samples))
        trained = []
        for pipeline in models:
            trained.append(pipeline_row(pipeline, measure_pipeline(pipeline, max(50, n_samples // 4))))
            progress.update()
    variances = [row for order in (VARIANCE_ORDER, LAMBDA_ORDER) for row in variance_rows(order, 10 * n_samples)]
    write = partial(put_between_marks, PAGE)
    write("arrays", array_tables(arrays))
    header = ["VPG with", "measured length (95 %)", "worst z", "batches × environments", "verdict"]
    write("pipeline", markdown_table(header, trained))
    small = list(counted_rows())
    write("counted", markdown_table(["baseline", "batch", "promised", "expected length", "verdict"], small))
    header = ["gradient of 8 environments", "variance (95 %)", "less than the line above"]
    write("variances", markdown_table(header, variances))
    failed = [row for row in [*(row for _, row in arrays), *trained, *small, *variances] if verdict(False) in row]
    print(f"{len(arrays)} combinations and {len(trained)} models in {time.time() - began:.0f} s, {len(failed)} failed")
    for row in failed:
        print(*row, sep=" | ")
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(bool(main()))
