"""Say where the newest run of an algorithm lies, and draw its learning curve.

The evaluations are those that RL Zoo made while training (``--eval-freq``), each over several episodes.
"""

import argparse
from pathlib import Path

import numpy as np
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import get_latest_run_id

from sb3_pg.drawing import BLUE, new_figure, shorten_ticks, style, to_png
from sb3_pg.files import write_whole


def draw_learning_curve(evaluations: Path, picture: Path, title: str) -> None:
    """Draw the mean return of each evaluation, with one standard deviation over its episodes.

    :param evaluations: the ``evaluations.npz`` that SB3's EvalCallback wrote
    :param picture: the PNG file to write
    :param title: title of the figure
    """
    with np.load(evaluations) as data:
        steps, returns = data["timesteps"], data["results"]
    mean, std = returns.mean(axis=1), returns.std(axis=1)
    with style():
        figure = new_figure((6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, mean, color=BLUE)
        axes.fill_between(steps, mean - std, mean + std, color=BLUE, lw=0, alpha=0.2)
        axes.set(title=title, xlabel="environment steps", ylabel="return of an episode")
        shorten_ticks(axes)
        write_whole(picture, to_png(figure, dpi=120))


def main() -> None:
    """Print the files of the newest run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", default="vpg")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("-f", "--folder", default="logs", help="the Zoo's log folder")
    args = parser.parse_args()

    runs = Path(args.folder, args.algo)
    name = EnvironmentName(args.env)
    run = runs / f"{name}_{get_latest_run_id(str(runs), name)}"
    print(f"Agent:          {run / f'{name}.zip'} (the best one of all evaluations: {run / 'best_model.zip'})")
    print(f"Log:            {run / '*.monitor.csv'} (the return of every episode, a file for each environment)")
    evaluations = run / "evaluations.npz"
    if evaluations.exists():
        picture = run / "learning_curve.png"
        draw_learning_curve(evaluations, picture, f"{args.algo} on {args.env}")
        print(f"Learning curve: {picture} (its numbers: {evaluations})")
    else:
        print("Learning curve: none, since nothing was evaluated while training (--eval-freq)")


if __name__ == "__main__":
    main()
