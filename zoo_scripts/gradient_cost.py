"""Measure what GradientStatisticsCallback, "auto" and "hoof" cost beside an update; write it into the documentation.

    python zoo_scripts/gradient_cost.py              # CartPole-v1 and HalfCheetah-v5, 30 repeats
    python zoo_scripts/gradient_cost.py --repeats 5

Networks of 2 x 64 units, batches of 2048 steps (8 environments in this process), one thread. The time is the process's
own, so that other programs on the machine are not counted (but their share of its caches is). Everything is measured
once in each repeat, in turn, so that a machine whose speed drifts slows all of it; medians.

"auto" and "hoof" are the whole difference between estimating a batch's advantages with the rule and with a number, with
the critic's target, which then needs a recursion of its own.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch read it

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stable_baselines3.common.env_util import make_vec_env
from tqdm import tqdm

from sb3_pg import VPG
from sb3_pg.gradient.callbacks import batch_statistics, read_batch
from sb3_pg.pages import markdown_table, put_between_marks

DOCS = Path(__file__).resolve().parents[1] / "docs"
N_ENVS, N_STEPS = 8, 256


def timed(function: Callable[[], Any]) -> float:
    """Milliseconds of this process's time that a call takes."""
    start = time.process_time()
    function()
    return 1e3 * (time.process_time() - start)


def measure(env_id: str, repeats: int) -> dict[str, float]:
    """Median milliseconds of collecting, updating, the statistics, and of what rules add."""
    env = make_vec_env(env_id, n_envs=N_ENVS, seed=0)
    model = VPG("MlpPolicy", env, n_steps=N_STEPS, seed=0, device="cpu", gae_lambda="auto")
    _, callback = model._setup_learn(10**9)
    times = defaultdict(list)
    for _ in tqdm(range(repeats + 1), desc=env_id):
        times["collecting"].append(timed(lambda: model.collect_rollouts(env, callback, model.rollout_buffer, N_STEPS)))
        for name, all_layers in (("last layer", False), ("all layers", True)):
            times[name].append(
                timed(lambda every=all_layers: batch_statistics(model, read_batch(model), all_layers=every))
            )
        for gae_lambda in (
            0.97,
            "hoof",
            "auto",
        ):  # the update that follows keeps what "auto" has learned from the batch
            model.gae_lambda = gae_lambda
            times[str(gae_lambda)].append(timed(lambda: model._estimate_advantages(model.rollout_buffer)))
        times["update"].append(timed(model.train))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def tables(results: dict[str, dict[str, float]]) -> tuple[str, str]:
    """The numbers as Markdown: of the callback, as shares for its every=10, and of rules, which work at every update.

    Shares are those of collecting and updating together, without all of these.
    """
    heading = ["milliseconds", "collecting 2048 steps", "update"]
    of_the_callback, of_rules = [], []
    for env_id, ms in results.items():
        added = ms["auto"] - ms["0.97"]
        collecting = ms["collecting"] - added
        whole = collecting + ms["update"]
        shares = " / ".join(f"{10 * ms[name] / whole:.1f} %" for name in ("last layer", "all layers"))
        first = [env_id, f"{collecting:.1f}", f"{ms['update']:.1f}"]
        of_the_callback.append([*first, f"{ms['last layer']:.1f}", f"{ms['all layers']:.1f}", shares])
        extra = (added, ms["hoof"] - ms["0.97"])
        auto, hoof = ([f"{each:.1f}", f"{100 * each / whole:.1f} %"] for each in extra)
        of_rules.append([*first, *auto, *hoof])
    return (
        markdown_table([*heading, "last layer", "all layers", "every tenth update, last / all"], of_the_callback),
        markdown_table([*heading, "`auto` adds", "share", "`hoof` adds", "share"], of_rules),
    )


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    found = tables({env_id: measure(env_id, args.repeats) for env_id in ("CartPole-v1", "HalfCheetah-v5")})
    for page, text in zip(("gradients.md", "lambda.md"), found, strict=True):
        print(text)
        put_between_marks(DOCS / page, "cost", f"\n{text}\n")


if __name__ == "__main__":
    main()
