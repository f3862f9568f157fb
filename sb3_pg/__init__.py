"""Policy gradients for Stable-Baselines3: REINFORCE, VPG and tunable GAE(lambda)."""

from pathlib import Path

import sb3_pg.envs  # noqa: F401  registers the environments with Gymnasium
from sb3_pg.reinforce import REINFORCE
from sb3_pg.tunable import TunableA2C, TunablePPO, TunableTRPO
from sb3_pg.vpg import VPG

__version__ = (Path(__file__).parent / "version.txt").read_text(encoding="utf-8").strip()

__all__ = ["REINFORCE", "VPG", "TunableA2C", "TunablePPO", "TunableTRPO", "__version__"]
