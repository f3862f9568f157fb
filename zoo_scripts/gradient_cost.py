"""Measure what GradientStatisticsCallback costs beside an update, and write it into docs/gradients.md.

    python zoo_scripts/gradient_cost.py              # CartPole-v1 and HalfCheetah-v5, 30 repeats
    python zoo_scripts/gradient_cost.py --repeats 5

Networks of 2 x 64 units, batches of 2048 steps (8 environments), one thread. Everything is measured once in each
repeat, in turn, so that a machine whose speed drifts slows all of it; medians.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch read it

import argparse
import re
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

PAGE = Path(__file__).resolve().parents[1] / "docs" / "gradients.md"
MARKS = ("<!-- cost -->", "<!-- /cost -->")
N_ENVS, N_STEPS = 8, 256


def timed(function: Callable[[], Any]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def measure(env_id: str, repeats: int) -> dict[str, float]:
    """Median milliseconds of collecting, updating, and of the statistics."""
    model = VPG("MlpPolicy", make_vec_env(env_id, n_envs=N_ENVS, seed=0), n_steps=N_STEPS, seed=0, device="cpu")
    _, callback = model._setup_learn(10**9)
    times = defaultdict(list)
    for _ in tqdm(range(repeats + 1), desc=env_id):
        times["collecting"].append(
            timed(lambda: model.collect_rollouts(model.env, callback, model.rollout_buffer, N_STEPS))
        )
        for name, all_layers in (("last layer", False), ("all layers", True)):
            times[name].append(
                timed(lambda every=all_layers: batch_statistics(model, read_batch(model), all_layers=every))
            )
        times["update"].append(timed(model.train))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def table(results: dict[str, dict[str, float]]) -> str:
    """The numbers as Markdown; shares are of collecting and updating together, for the callback's every=10."""
    lines = [
        "| milliseconds | collecting 2048 steps | update | last layer | all layers | every tenth update, last / all |",
        "|---|---|---|---|---|---|",
    ]
    for env_id, ms in results.items():
        whole = ms["collecting"] + ms["update"]
        shares = " / ".join(f"{10 * ms[name] / whole:.1f} %" for name in ("last layer", "all layers"))
        cells = [f"{ms[name]:.1f}" for name in ("collecting", "update", "last layer", "all layers")]
        lines.append(f"| {env_id} | {' | '.join(cells)} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    text = table({env_id: measure(env_id, args.repeats) for env_id in ("CartPole-v1", "HalfCheetah-v5")})
    print(text)
    page = PAGE.read_text(encoding="utf-8")
    between = f"{MARKS[0]}\n\n{text}\n\n{MARKS[1]}"
    PAGE.write_text(re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: between, page, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
