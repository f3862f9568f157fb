"""Compare rules for lambda over seeds, and write the table and the figure of docs/lambda.md.

    python zoo_scripts/compare_lambdas.py                                  # five environments, seeds 1 to 5, all arms
    python zoo_scripts/compare_lambdas.py --envs CartPole-v1 --seeds 10
    python zoo_scripts/compare_lambdas.py --report                         # only write what results/lambda/ holds

One process trains one run after another with RL Zoo's settings (hyperparams/vpg.yml), and appends each result to
results/lambda/<env>.csv as soon as it is there: what was interrupted goes on with the run that was lost. Seeds are the
outer loop, so that an unfinished comparison has all arms. The critic's target has one lambda in all arms, unless
--critic-lambda says otherwise, and so only the advantages differ.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch read it

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tables import put_between_marks
from tqdm import tqdm

from sb3_pg.zoo.extend import extend_all

extend_all()
import rl_zoo3.import_envs  # noqa: E402, F401 - as RL Zoo's own commands do, after the extension
from rl_zoo3.exp_manager import ExperimentManager  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "lambda"
PAGE = ROOT / "docs" / "lambda.md"
FIGURE = ROOT / "docs" / "figures" / "lambda.png"
MARK = "study"

ENVS = ("CartPole-v1", "LunarLander-v3", "InvertedPendulum-v5", "HalfCheetah-v5", "Hopper-v5")
FIXED = ("0", "0.8", "0.9", "0.95", "0.97", "0.98", "0.99", "1")
CHOSEN = ("lin_1_0.9", "explained_variance", "length:0.05", "auto:0.97", "auto:0.8", "auto:1", "hoof:0.97")
ARMS = (*FIXED, *CHOSEN)
N_BINS = 20


class Result(NamedTuple):
    """One line of a CSV file."""

    arm: str
    seed: int
    timesteps: int
    critic_lambda: str
    area: float
    """Mean return over training: the mean of the means over equal shares of the steps."""
    final: float
    """Mean return in the last tenth of the steps."""
    mean_lambda: float
    """Mean over the updates of what was in use."""
    seconds: float

    @property
    def key(self) -> tuple[Any, ...]:
        """What a run is known by."""
        return self[:4]


class Watch(BaseCallback):
    """Notes the return of every episode, and lambda at every update."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[int] = []
        self.returns: list[float] = []
        self.lambdas: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.ends.append(self.num_timesteps)
                self.returns.append(float(info["episode"]["r"]))
        return True

    def _on_rollout_end(self) -> None:
        self.lambdas.append(float(np.mean(self.model.rollout_buffer.gae_lambda)))  # type: ignore[attr-defined]


def area(ends: Sequence[int], returns: Sequence[float], timesteps: int, n_bins: int = N_BINS) -> float:
    """Mean return over training.

    :param ends: timestep at which each episode ended, in order
    :param returns: its return
    :param timesteps: length of the training
    :param n_bins: equal shares of it; one without the end of an episode counts as the one before it
    """
    numbers = np.minimum(np.asarray(ends) * n_bins // max(timesteps, 1), n_bins - 1)
    means: list[float] = []
    for number in range(n_bins):
        there = np.asarray(returns)[numbers == number]
        if len(there):
            means += [float(there.mean())] * (1 if means else number + 1)
        elif means:
            means.append(means[-1])
    return float(np.mean(means)) if means else float("nan")


def as_parameter(text: str) -> float | str:
    """A number where it is one, and a schedule or a rule otherwise."""
    try:
        return float(text)
    except ValueError:
        return text


def train(env_id: str, arm: str, seed: int, timesteps: int, critic_lambda: str) -> Result:
    """Train one model as RL Zoo would."""
    start, watch = time.perf_counter(), Watch()
    hyperparams = {"gae_lambda": as_parameter(arm)}
    if critic_lambda != "own":
        hyperparams["critic_gae_lambda"] = as_parameter(critic_lambda)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        manager = ExperimentManager(
            argparse.Namespace(), "vpg", env_id, folder, n_timesteps=timesteps, eval_freq=-1, seed=seed, verbose=0,
            hyperparams=hyperparams, device="cpu",
        )  # fmt: skip
        model, _ = manager.setup_experiment()
        # Not manager.learn(), which takes an interrupted training for a finished one
        model.learn(manager.n_timesteps, callback=[*manager.callbacks, watch], log_interval=None)
        model.env.close()
    late = np.asarray(watch.returns)[np.asarray(watch.ends, dtype=int) >= 0.9 * manager.n_timesteps]
    final = float(late.mean()) if len(late) else float("nan")
    total = area(watch.ends, watch.returns, manager.n_timesteps)
    seconds = time.perf_counter() - start
    return Result(arm, seed, timesteps, critic_lambda, total, final, float(np.mean(watch.lambdas)), seconds)


def read_results(path: Path) -> list[Result]:
    """Every complete line of a CSV file; a line that an interruption cut is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if path.exists() else ():
        fields = line.strip().split(",")
        if line.endswith("\n") and len(fields) == len(Result._fields):
            arm, seed, timesteps, critic, *numbers = fields
            found.append(Result(arm, int(seed), int(timesteps), critic, *map(float, numbers)))
    return found


def append(path: Path, result: Result) -> None:
    """Add a line; what is left of a line that an interruption cut goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    heading = "" if path.exists() and path.stat().st_size else ",".join(Result._fields) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(
            heading + ",".join(f"{field:.6g}" if type(field) is float else str(field) for field in result) + "\n"
        )


def run(
    envs: Iterable[str], arms: Sequence[str], seeds: Sequence[int], timesteps: int, critic_lambda: str, folder: Path
) -> None:
    """Train what is missing, one run after another."""
    todo = []
    for env_id in envs:
        known = {result.key for result in read_results(folder / f"{env_id}.csv")}
        todo += [
            (env_id, arm, seed) for seed in seeds for arm in arms if (arm, seed, timesteps, critic_lambda) not in known
        ]
    progress = tqdm(todo)
    for env_id, arm, seed in progress:
        progress.set_description(f"{env_id} {arm} seed {seed}")
        append(folder / f"{env_id}.csv", train(env_id, arm, seed, timesteps, critic_lambda))


class Summary(NamedTuple):
    """What the seeds that all arms have in common say of one environment."""

    arms: list[str]
    areas: np.ndarray
    """Shape ``(n_arms, n_seeds)``."""
    best: str
    """The fixed lambda with the highest mean, in hindsight."""
    regrets: np.ndarray
    """Mean, lower and upper end of the interval for each arm, as a share of what the best fixed lambda is above the
    worst, shape ``(n_arms, 3)``."""
    lambdas: np.ndarray
    """Mean lambda in use, shape ``(n_arms,)``."""
    gains: dict[str, np.ndarray]
    """Of each rule with a default over that default held fixed, seed by seed: mean and interval, in the same unit."""


def summarize(results: Sequence[Result], n_resamples: int = 4000) -> Summary | None:
    """Regret to the best fixed lambda; None where no seed has been through two fixed lambdas.

    In every bootstrap resample of the seeds, the same for all arms, the best and the worst fixed lambda are chosen
    anew, so that the interval knows that the best was picked in hindsight.
    """
    by_arm = {arm: {each.seed: each for each in results if each.arm == arm and np.isfinite(each.area)} for arm in ARMS}
    arms = [arm for arm in ARMS if by_arm[arm]]
    seeds = sorted(set.intersection(*(set(by_arm[arm]) for arm in arms))) if arms else []
    fixed = [number for number, arm in enumerate(arms) if arm in FIXED]
    if len(fixed) < 2 or not seeds:
        return None
    areas = np.array([[by_arm[arm][seed].area for seed in seeds] for arm in arms])
    lambdas = np.array([np.mean([by_arm[arm][seed].mean_lambda for seed in seeds]) for arm in arms])
    drawn = np.random.default_rng(0).integers(0, len(seeds), (n_resamples, len(seeds)))
    means, resampled = areas.mean(axis=1), areas[:, drawn].mean(axis=2)
    regrets = _with_interval(_regret(means, fixed), _regret(resampled, fixed))
    spread = np.ptp(means[fixed])
    gains = {}
    for row, arm in enumerate(arms):
        default = arm.partition(":")[2]
        if default in arms:
            other = arms.index(default)
            gains[arm] = _with_interval(
                (means[row] - means[other]) / spread, (resampled[row] - resampled[other]) / spread
            )
    return Summary(arms, areas, arms[fixed[int(means[fixed].argmax())]], regrets, lambdas, gains)


def _with_interval(value: np.ndarray, resampled: np.ndarray) -> np.ndarray:
    """Value, 2.5th and 97.5th percentile, along a new last axis."""
    return np.stack([value, *np.percentile(resampled, [2.5, 97.5], axis=-1)], axis=-1)


def _regret(means: np.ndarray, fixed: list[int]) -> np.ndarray:
    best, worst = means[fixed].max(axis=0), means[fixed].min(axis=0)
    regret: np.ndarray = (best - means) / np.where(best > worst, best - worst, 1.0)
    return regret


def table(summaries: dict[str, Summary]) -> str:
    """One row for each arm, one column for each environment."""
    columns = list(summaries)
    lines = ["| λ | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for arm in ARMS:
        cells = [_cell(summaries[env_id], arm) for env_id in columns]
        if any(cells):
            lines.append(f"| `{arm}` | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| gain over its default, held fixed | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for arm in CHOSEN:
        gains = [summaries[env_id].gains.get(arm) for env_id in columns]
        if any(gain is not None for gain in gains):
            cells = ["" if gain is None else "{:+.0f} % ({:+.0f} to {:+.0f})".format(*(100 * gain)) for gain in gains]
            lines.append(f"| `{arm}` | " + " | ".join(cells) + " |")
    counts = ", ".join(f"{env_id} {summary.areas.shape[1]}" for env_id, summary in summaries.items())
    return "\n".join([
        *lines,
        "",
        "Mean return over training (area under the curve), and in brackets the regret to the best fixed λ (bold), as a",
        "share of the difference between the best and the worst, with a 95 % bootstrap interval over the seeds in",
        "which best and worst are chosen anew. For rules, the mean λ in use. Below, what a rule gains over its",
        f"default, in the same unit, seed by seed. Seeds: {counts}.",
        "Written by `python zoo_scripts/compare_lambdas.py`; every run is in `results/lambda/`.",
    ])  # fmt: skip


def _cell(summary: Summary, arm: str) -> str:
    if arm not in summary.arms:
        return ""
    row = summary.arms.index(arm)
    mean, low, high = 100 * summary.regrets[row]
    value = f"{summary.areas[row].mean():.4g}"
    value = f"**{value}**" if arm == summary.best else value
    used = "" if arm in FIXED else f", λ {summary.lambdas[row]:.2f}"
    return f"{value} ({mean:.0f} %, {low:.0f} to {high:.0f}{used})"


def draw(summaries: dict[str, Summary], path: Path) -> None:
    """Regret of every arm, one panel for each environment."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(summaries), figsize=(2.2 + 2.1 * len(summaries), 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (env_id, summary) in zip(panels[0], summaries.items(), strict=True):
        for arm, (mean, low, high) in zip(summary.arms, 100 * summary.regrets, strict=True):
            height = -ARMS.index(arm)
            color = "tab:gray" if arm in FIXED else "tab:blue"
            panel.plot([low, high], [height, height], color=color, lw=2)
            panel.plot(mean, height, "o", color=color, ms=5)
        panel.axvline(0, color="black", lw=0.8)
        panel.set_title(env_id, fontsize=9)
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks([-number for number in range(len(ARMS))], ARMS, fontsize=8)
    figure.supxlabel("regret to the best fixed λ, % of best − worst", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def report(envs: Iterable[str], timesteps: int, critic_lambda: str, folder: Path, page: Path, figure: Path) -> str:
    """Write table and figure of what is there.

    :return: the table
    :raises ValueError: when there is nothing yet
    """
    summaries = {}
    for env_id in envs:
        results = [
            result
            for result in read_results(folder / f"{env_id}.csv")
            if (result.timesteps, result.critic_lambda) == (timesteps, critic_lambda)
        ]
        summary = summarize(results)
        if summary is not None:
            summaries[env_id] = summary
    if not summaries:
        raise ValueError(f"{folder} holds no seed that went through two fixed lambdas; run without --report first")
    draw(summaries, figure)
    text = table(summaries)
    link = os.path.relpath(figure, page.parent).replace(os.sep, "/")
    put_between_marks(page, MARK, f"{text}\n\n![Regret of every rule to the best fixed lambda]({link})")
    return text


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(ENVS), help="environments (default: all five)")
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help=f"of {', '.join(ARMS)}"
    )
    parser.add_argument("--seeds", type=int, default=5, help="train seeds 1 to this number (default: 5)")
    parser.add_argument("-n", "--timesteps", type=int, default=0, help="steps of each run (default: RL Zoo's)")
    parser.add_argument("--critic-lambda", default="0.97", help="of the target in all arms; own: what each arm has")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the results are (default: results/lambda)")
    parser.add_argument("--page", type=Path, default=PAGE, help="page with the marks (default: docs/lambda.md)")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="(default: docs/figures/lambda.png)")
    given = parser.parse_args()
    if not given.report:
        seeds = range(1, given.seeds + 1)
        run(given.envs, given.arms, seeds, given.timesteps, given.critic_lambda, given.folder)
    print(report(given.envs, given.timesteps, given.critic_lambda, given.folder, given.page, given.figure))


if __name__ == "__main__":
    main()
