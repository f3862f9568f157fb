"""Compare the lambda that the doctor names from frozen batches with the best one of a sweep.

    python zoo_scripts/reproduce.py zoo_scripts/studies/lambda.yml   # the sweep
    python zoo_scripts/doctor_lambda.py                              # asks the doctor, writes into docs/lambda.md
    python zoo_scripts/doctor_lambda.py --report                     # the table alone

For each environment and seed a model is trained with lambda 0.97 and everything else as in the sweep, and stopped after
a fifth of the steps. The doctor plays 40 batches with it; its lambda is the best of those of the sweep by the cosine
with the true gradient, but 0.97 where that cannot be told from the best. What it said is kept in
``results/lambda/doctor.jsonl``, a line for each environment and seed, and not asked again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch read it

import argparse
import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import unwrap_vec_normalize
from tqdm import tqdm

from sb3_pg.doctor.advice import recommended_lambda
from sb3_pg.doctor.diagnosis import diagnose
from sb3_pg.doctor.experience import describe_training, gather
from sb3_pg.files import write_whole
from sb3_pg.pages import markdown_table, put_between_marks
from sb3_pg.study.results import RunResult, RunSettings, path_of, read_results
from sb3_pg.tune.blocks import BlockManager, prepare, silence
from sb3_pg.tune.experiment import Experiment

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "lambda", ROOT / "docs" / "lambda.md"
FIXED = ("0", "0.8", "0.9", "0.95", "0.97", "0.98", "0.99", "1")
DEFAULT = "0.97"
SHARE, N_BATCHES = 0.2, 40
GOAL = 0.95


class Stop(BaseCallback):
    """Ends training after some steps."""

    def __init__(self, n_timesteps: float) -> None:
        super().__init__()
        self._n_timesteps = n_timesteps

    def _on_step(self) -> bool:
        return self.num_timesteps < self._n_timesteps


def ask(settings: RunSettings, seed: int, n_batches: int) -> dict[str, Any]:
    """Train a fifth, and let the doctor look at it."""
    prepare(())
    set_random_seed(seed)
    experiment = Experiment(
        settings.algo, settings.env, settings.n_timesteps, n_eval_envs=1, env_kwargs=settings.env_kwargs
    )
    with silence():
        make_model, env, eval_env, callbacks = BlockManager(experiment, settings.block, seed=seed).build()
    eval_env.close()
    try:
        model: Any = make_model()
        # Schedules are those of the whole training
        model.learn(settings.n_timesteps, callback=[*callbacks, Stop(SHARE * settings.n_timesteps)])
        normalization = unwrap_vec_normalize(env)
        if normalization is not None:
            normalization.training = False
        training = describe_training(model, settings.env, env.num_envs, float(DEFAULT))
        trained = model.num_timesteps
        diagnosis = diagnose(gather(model, training, n_batches, progress=False), training)
    finally:
        env.close()
    curve = diagnosis.curve
    assert curve is not None
    return {
        "env": settings.env,
        "seed": seed,
        "n_timesteps": settings.n_timesteps,
        "chosen": f"{recommended_lambda(diagnosis, map(float, FIXED)):g}",
        "steps": trained + diagnosis.n_steps,
        "lambdas": curve.lambdas.tolist(),
        "cosines": [round(float(each), 4) for each in curve.cosine.value],
        "standard_errors": [round(float(each), 4) for each in curve.cosine.standard_error],
    }


def sweep(folder: Path, env: str) -> dict[str, dict[int, RunResult]]:
    """Results of the fixed lambdas, by lambda and seed."""
    found = {arm: {each.seed: each for each in read_results(path_of(folder, env, arm))} for arm in FIXED}
    return {arm: results for arm, results in found.items() if results}


def read_answers(path: Path) -> list[dict[str, Any]]:
    """What the doctor said before; what an interruption cut is left out, but not what only lacks its newline."""
    *lines, last = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
    answers: list[dict[str, Any]] = [json.loads(line) for line in lines]
    with contextlib.suppress(ValueError):
        answers.append(json.loads(last))
    return answers


def keep(path: Path, answer: dict[str, Any]) -> None:
    """Write an answer after those that are there by now, all of them or nothing: a full disk costs this one alone."""
    write_whole(path, "".join(f"{json.dumps(each)}\n" for each in [*read_answers(path), answer]))


def ask_all(folder: Path, envs: Iterable[str], seeds: Iterable[int], n_batches: int) -> None:
    """Ask what was not asked yet."""
    path = folder / "doctor.jsonl"
    asked = {(answer["env"], answer["seed"]) for answer in read_answers(path)}
    settings = {env: next(iter(sweep(folder, env)[DEFAULT].values())).settings for env in envs}
    for env, seed in tqdm([(env, seed) for seed in seeds for env in settings if (env, seed) not in asked]):
        keep(path, ask(settings[env], seed, n_batches))


def table(folder: Path, envs: Iterable[str]) -> str:
    """The doctor's lambdas beside the best of the sweep."""
    answers = read_answers(folder / "doctor.jsonl")
    heading = ["environment", "best fixed λ", "area", "doctor's λ (seeds)", "area", "of the best", "cost"]
    rows = []
    n_good = n_envs = 0
    for env in envs:
        found, own = sweep(folder, env), [answer for answer in answers if answer["env"] == env]
        if len(found) < 2 or not own:
            continue
        seeds = sorted(set.intersection(*(set(results) for results in found.values())))
        areas = {arm: float(np.mean([results[seed].area for seed in seeds])) for arm, results in found.items()}
        best = max(areas, key=lambda arm: areas[arm])
        chosen = float(np.mean([areas[answer["chosen"]] for answer in own]))
        share = 1 - (areas[best] - chosen) / abs(areas[best])
        n_envs, n_good = n_envs + 1, n_good + (share >= GOAL)
        counts = Counter(answer["chosen"] for answer in own)
        named = ", ".join(f"{arm} ({count})" for arm, count in sorted(counts.items(), key=lambda each: float(each[0])))
        cost = np.mean([answer["steps"] for answer in own]) / sum(
            each.settings.n_timesteps for results in found.values() for each in [results[seeds[0]]]
        )
        rows.append([env, best, f"{areas[best]:.4g}", named, f"{chosen:.4g}", f"{share:.0%}", f"{cost:.1%}"])
    if not n_envs:
        raise ValueError(f"{folder} holds no environment with a sweep and the doctor's answers; run without --report")
    return "\n".join([
        markdown_table(heading, rows),
        "",
        f"Within 5 % of the best fixed λ on {n_good} of {n_envs} environments. Area: mean return over training, of the",
        "seeds that all fixed λ have. The best fixed λ is the highest of several noisy numbers, known in hindsight.",
        "Cost: steps of the doctor's training and batches, as a share of those of a sweep with one seed.",
        "Written by `python zoo_scripts/doctor_lambda.py`.",
    ])  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="the sweep's results (default: results/lambda)")
    parser.add_argument("--envs", nargs="+", help="environments (default: all that the sweep has)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to this number (default: 3)")
    parser.add_argument("--n-batches", type=int, default=N_BATCHES, help=f"at least (default: {N_BATCHES})")
    parser.add_argument("--report", action="store_true", help="ask nothing")
    parser.add_argument("--page", type=Path, default=PAGE, help="page with the marks (default: docs/lambda.md)")
    args = parser.parse_args()
    envs = args.envs or sorted(path.name for path in args.folder.glob("*") if path.is_dir())
    envs = [env for env in envs if DEFAULT in sweep(args.folder, env)]
    if not args.report:
        ask_all(args.folder, envs, range(1, args.seeds + 1), args.n_batches)
    text = table(args.folder, envs)
    print(text)
    put_between_marks(args.page, "doctor", text)


if __name__ == "__main__":
    main()
