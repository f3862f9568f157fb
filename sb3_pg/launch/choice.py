"""Where a command's tasks are carried out."""

from __future__ import annotations

from sb3_pg.launch.local import InThisProcess, LocalProcesses
from sb3_pg.launch.ray_cluster import RayCluster
from sb3_pg.launch.run import Backend


def backend_for(
    workers: int | None, ray: str | None, cpus: float = 1, gpus: float = 0, memory: float | None = None
) -> Backend:
    """
    What ``--workers`` and ``--ray`` ask for.

    :param workers: processes of this machine; 0 for this process itself, None for one
    :param ray: address of a Ray cluster, instead; None or empty for none
    :param cpus: that a task takes on the cluster
    :param gpus: likewise
    :param memory: likewise, in bytes; None for no limit
    """
    if ray:
        return RayCluster(ray, cpus, gpus, memory)
    return InThisProcess() if workers == 0 else LocalProcesses(workers or 1)
