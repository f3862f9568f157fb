"""A list of tasks, carried out by processes of this machine or by an existing Ray cluster."""

from sb3_pg.launch.choice import backend_for
from sb3_pg.launch.local import InThisProcess, LocalProcesses
from sb3_pg.launch.ray_cluster import RayCluster
from sb3_pg.launch.run import Backend, run_all
from sb3_pg.launch.tasks import Outcome, TaskError

__all__ = [
    "Backend",
    "InThisProcess",
    "LocalProcesses",
    "Outcome",
    "RayCluster",
    "TaskError",
    "backend_for",
    "run_all",
]
