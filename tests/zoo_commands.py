"""Commands of RL Zoo as processes of their own, and where they leave what they made."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ZOO_TRAIN = ("-m", "rl_zoo3.train")
ZOO_ENJOY = ("-m", "rl_zoo3.enjoy")


def run(cwd: Path, *arguments: str, succeeds: bool = True, **environment: str) -> str:
    """Run this Python with arguments; return all that it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert (done.returncode == 0) == succeeds, f"{' '.join(arguments)}\n{done.stdout}"
    return done.stdout


def run_folder(cwd: Path, algo: str, env_id: str, number: int = 1) -> Path:
    return cwd / "logs" / algo / f"{env_id}_{number}"


def config_of(folder: Path, env_id: str) -> dict[str, object]:
    return dict(yaml.unsafe_load((folder / env_id / "config.yml").read_text()))
