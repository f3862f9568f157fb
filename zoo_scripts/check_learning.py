"""Train what the README promises through RL Zoo's own command, over many seeds, and write the table into it.

    python zoo_scripts/check_learning.py                     # all cases, seeds 1 to 10, two at a time
    python zoo_scripts/check_learning.py --only vpg CartPole-v1

A run whose result is already under results/learning/ is not repeated; --again repeats it. Every seed is in the CSV.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from sb3_pg.files import write_whole
from sb3_pg.pages import as_csv, markdown_table, put_between_marks
from sb3_pg.tune.scores import bootstrap_interval, interquartile_mean, say_interval

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "learning"


class Case(NamedTuple):
    """One promise: after this command, the final evaluation is at least this good."""

    algo: str
    env: str
    n_timesteps: int
    eval_episodes: int
    measure: str
    bar: float

    @property
    def file(self) -> Path:
        """Where the seeds' results are kept."""
        return RESULTS / f"{self.algo}-{self.env}.csv"

    def command(self, seed: int | str, folder: str = "logs") -> list[str]:
        """The command a user types; evaluated every 10,000 steps."""
        options = (
            f"--seed {seed} -n {self.n_timesteps} --eval-freq 10000 --eval-episodes {self.eval_episodes} -f {folder}"
        )
        return ["python", "-m", "rl_zoo3.train", "--algo", self.algo, "--env", self.env, *options.split()]


CASES = (
    Case("vpg", "CartPole-v1", 100_000, 5, "return", 475),
    Case("reinforce", "CartPole-v0", 100_000, 5, "return", 195),
    Case("vpg", "LineWorld-v0", 100_000, 100, "success rate", 0.95),
)


def final_evaluation(case: Case, seed: int) -> float:
    """Train one model in an empty folder, and give the mean of its last evaluation."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *case.command(seed)[1:]]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        files = list(Path(folder).glob(f"logs/{case.algo}/{case.env}_1/evaluations.npz"))
        if done.returncode or not files:
            raise RuntimeError(f"{' '.join(case.command(seed))} failed:\n{done.stderr[-2000:]}")
        with np.load(files[0]) as evaluations:
            key = "successes" if case.measure == "success rate" else "results"
            return float(evaluations[key][-1].mean())


def run(case: Case, seeds: Iterable[int], workers: int, again: bool) -> dict[int, float]:
    """Train the seeds that are missing, and keep each result as soon as it is there."""
    known: dict[int, float] = {}
    if case.file.exists() and not again:
        with case.file.open() as file:
            known = {int(row["seed"]): float(row["final"]) for row in csv.DictReader(file)}
    missing = [seed for seed in seeds if seed not in known]
    with ThreadPoolExecutor(workers) as pool:
        futures = pool.map(lambda seed: (seed, final_evaluation(case, seed)), missing)
        for seed, result in tqdm(futures, total=len(missing), desc=f"{case.algo} {case.env}"):
            known[seed] = result
            write_whole(case.file, as_csv(("seed", "final"), sorted(known.items())))
    return {seed: known[seed] for seed in seeds}


def row(case: Case, results: dict[int, float]) -> list[str]:
    """One line of the table."""
    values = list(results.values())
    number = "{:.3f}" if case.bar < 1 else "{:.1f}"
    interval = say_interval(bootstrap_interval(values), f"{number} to {number}")
    reached = [number.format(interquartile_mean(values)), interval, number.format(min(values))]
    return [case.algo, case.env, f"{case.n_timesteps:,}", case.measure, *reached, str(len(values)), f"{case.bar:g}"]


def table(rows: list[list[str]], n_seeds: int) -> str:
    """The table with its heading and the commands behind it."""
    measured = ["final evaluation", "IQM", "95 % interval", "worst seed"]
    lines = [
        markdown_table(["algorithm", "environment", "steps", *measured, "seeds", "goal"], rows),
        "",
        f"Deterministic policy at the end of training. IQM: interquartile mean over seeds 1 to {n_seeds}, all of",
        "which are in `results/learning/`. Printed by `python zoo_scripts/check_learning.py`; for each seed S it runs",
        "",
        *(f"    {' '.join(case.command('S'))}" for case in CASES),
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs=2, metavar=("ALGO", "ENV"), help="one case; the README is left alone")
    parser.add_argument("--seeds", type=int, default=10, help="train seeds 1 to this number")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")
    parser.add_argument("--again", action="store_true", help="repeat runs whose results are there")
    arguments = parser.parse_args()
    chosen = [case for case in CASES if arguments.only is None or [case.algo, case.env] == arguments.only]
    if not chosen:
        parser.error(f"--only {' '.join(arguments.only)}: accepted are {[(case.algo, case.env) for case in CASES]}")
    seeds = range(1, arguments.seeds + 1)
    rows = [row(case, run(case, seeds, arguments.workers, arguments.again)) for case in chosen]
    printed = table(rows, arguments.seeds)
    print(printed)
    readme = ROOT / "README.md"
    if arguments.only is None and readme.exists():
        put_between_marks(readme, "results", printed)


if __name__ == "__main__":
    main()
