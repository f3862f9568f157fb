"""Search CartPole-v1 with two workers and again with one, and train the `default:` block on the same fresh seeds.

    python zoo_scripts/check_tuning.py

Trainings that are there already are not repeated, so this can be stopped and started again. The table goes into
docs/tuning.md, trial and seed by seed into results/tuning/.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
import yaml

from sb3_pg.files import write_whole
from sb3_pg.launch import LocalProcesses, Outcome, run_all
from sb3_pg.pages import as_csv, markdown_table, put_between_marks
from sb3_pg.tune.arguments import parse
from sb3_pg.tune.command import Plan, plan_of
from sb3_pg.tune.experiment import Block, SeedResult, SeedTask
from sb3_pg.tune.final import candidates_of, ranking
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.scores import bootstrap_interval, interquartile_mean, say_interval
from sb3_pg.tune.storage import open_storage
from sb3_pg.tune.training import train_seed
from sb3_pg.zoo.extend import hyperparams_path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "tuning"
SCORES = RESULTS / "cartpole_fresh_seeds.csv"
COMMAND = "--algo vpg --env CartPole-v1 --n-seeds 3 --n-trials 20 --workers 2 --n-timesteps 30000 --seed 0"
AGAIN = COMMAND.replace("--workers 2", "--workers 1 --top-k 0")
DEFAULT = "`default:` block"


def search(command: str, folder: Path) -> Plan:
    """Carry out a command, or what is left of it."""
    words = [*command.split(), "-f", str(folder)]
    subprocess.run([sys.executable, "-m", "sb3_pg.tune", *words], check=True)
    return plan_of(parse(words))


def trials_of(plan: Plan) -> list[optuna.trial.FrozenTrial]:
    """The trials of a study."""
    return optuna.load_study(study_name=plan.name, storage=open_storage(plan.storage)).trials


def default_block(n_timesteps: int) -> Block:
    """The block for every environment that has none."""
    blocks = yaml.safe_load(hyperparams_path("vpg").read_text())
    return {**blocks["default"], "n_timesteps": n_timesteps}


def score_of(plan: Plan, result: SeedResult) -> float:
    """Score of a training; of one that diverged, below all others."""
    score = plan.rules.score(result)
    return float("-inf") if score is None else score


def read_scores() -> dict[str, dict[int, float]]:
    """Score of each seed of each block."""
    scores: dict[str, dict[int, float]] = {}
    if SCORES.exists():
        with SCORES.open(newline="") as file:
            for row in csv.DictReader(file):
                scores.setdefault(row["hyperparameters"], {})[int(row["seed"])] = float(row["score"])
    return scores


def write_scores(scores: Mapping[str, Mapping[int, float]]) -> None:
    """Keep them."""
    rows = [(title, seed, score) for title, seeds in scores.items() for seed, score in seeds.items()]
    write_whole(SCORES, as_csv(("hyperparameters", "seed", "score"), rows))


def train_default(plan: Plan, known: Mapping[int, float], workers: int) -> dict[int, float]:
    """Train the `default:` block on the fresh seeds that it has not been trained on, and keep what each came to."""
    scores = dict(known)
    block = default_block(plan.experiment.n_timesteps)
    tasks = [
        SeedTask("default", index, seed, plan.experiment, block)
        for index, seed in enumerate(plan.fresh_seeds)
        if seed not in scores
    ]

    def keep(outcome: Outcome[SeedTask, SeedResult]) -> None:
        """Write down the score of a training as soon as it ends; a failed one ends the script."""
        if outcome.value is None:
            raise RuntimeError(outcome.error.traceback if outcome.error else outcome.lost)
        scores[outcome.task.seed] = score_of(plan, outcome.value)
        write_scores({**read_scores(), DEFAULT: scores})

    with LocalProcesses(workers) as backend:
        run_all(train_seed, tasks, backend, keep)
    return {seed: scores[seed] for seed in plan.fresh_seeds}


def finals(plan: Plan) -> dict[str, dict[int, float]]:
    """Scores of the candidates of a search on its fresh seeds, the winner first."""
    record = StudyRecord(open_storage(plan.storage), plan.name, plan.settings)
    candidates = candidates_of(record, plan.block, plan.space, plan.top_k)
    standings = ranking(record, plan.rules, candidates, len(plan.fresh_seeds))
    found = {}
    for rank, standing in enumerate(standings):
        title = standing.candidate.title if isinstance(standing.candidate.name, int) else "`CartPole-v1` block"
        title = f"{title}{', the winner' if rank == 0 else ''}"
        found[title] = {result.seed: score_of(plan, result) for result in standing.results}
    return found


def compare(first: Sequence[optuna.trial.FrozenTrial], second: Sequence[optuna.trial.FrozenTrial]) -> int:
    """Write the trials of two studies side by side; return how many are the same in all that was found."""
    rows, same = [], 0
    for one, other in zip(first, second, strict=True):
        equal = all(
            getattr(one, name) == getattr(other, name) for name in ("state", "values", "params", "intermediate_values")
        )
        same += equal
        rows.append((one.number, one.state.name.lower(), one.value, other.value, equal))
    heading = ("trial", "state", "value with 2 workers", "value with 1 worker", "same")
    write_whole(RESULTS / "cartpole_trials.csv", as_csv(heading, rows))
    return same


def table(plan: Plan, scores: Mapping[str, Mapping[int, float]], n_same: int) -> str:
    """The page's table."""
    rows = []
    values = {title: [seeds[seed] for seed in plan.fresh_seeds] for title, seeds in scores.items()}
    for title, mine in values.items():
        interval = say_interval(bootstrap_interval(mine), "{:.0f} to {:.0f}")
        rows.append([title, f"{interquartile_mean(mine):.0f}", interval, f"{min(mine):.0f}"])
    best = next(title for title in values if title.startswith("trial"))
    seeds = np.random.default_rng(0).integers(len(plan.fresh_seeds), size=(4000, len(plan.fresh_seeds)))
    gains = [
        interquartile_mean(np.take(values[best], drawn)) - interquartile_mean(np.take(values[DEFAULT], drawn))
        for drawn in seeds
    ]
    low, high = np.quantile(gains, [0.025, 0.975])
    gain = interquartile_mean(values[best]) - interquartile_mean(values[DEFAULT])
    lines = [
        markdown_table(["hyperparameters", "IQM", "95 % interval", "lowest seed"], rows),
        "",
        f"Return on {len(plan.fresh_seeds)} fresh seeds ({', '.join(map(str, plan.fresh_seeds))}) after "
        f"{plan.experiment.n_timesteps} steps, mean of the last {plan.rules.last_k} evaluations. "
        f"{best.capitalize()} minus `default:`: {gain:.0f}, 95 % interval {low:.0f} to {high:.0f} (bootstrap over "
        "seeds).",
        f"With `--workers 1`, {n_same} of {plan.n_trials} trials have the same parameters, state, and score of every "
        "seed as with `--workers 2`.",
        "",
        "Printed by `python zoo_scripts/check_tuning.py`, which runs",
        "",
        f"    python -m sb3_pg.tune {COMMAND}",
        f"    python -m sb3_pg.tune {AGAIN}",
        "",
        "Trial by trial and seed by seed: `cartpole_trials.csv` and `cartpole_fresh_seeds.csv` in `results/tuning/`.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("logs/check_tuning"), help="where the searches go")
    parser.add_argument("--workers", type=int, default=2, help="for the `default:` block")
    arguments = parser.parse_args()
    first = search(COMMAND, arguments.folder / "workers_2")
    second = search(AGAIN, arguments.folder / "workers_1")
    n_same = compare(trials_of(first), trials_of(second))
    default = train_default(first, read_scores().get(DEFAULT, {}), arguments.workers)
    scores = {**finals(first), DEFAULT: default}
    write_scores(scores)
    printed = table(first, scores, n_same)
    print(printed)
    put_between_marks(ROOT / "docs" / "tuning.md", "check", printed)


if __name__ == "__main__":
    main()
