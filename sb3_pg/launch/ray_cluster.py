"""An existing Ray cluster. Ray schedules; this module only hands tasks over."""

from __future__ import annotations

import importlib
import math
import socket
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from sb3_pg.launch.tasks import Lost, carry_out_with_one_thread, describe_error

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0


class RayCluster:
    """
    Tasks of an existing Ray cluster, each with one thread for torch and one for BLAS.

    sb3_pg, at the same version and with the same Python, has to be installed on its nodes. Ray's own repetition of
    tasks is off: a task whose worker or node is gone comes back as :class:`~sb3_pg.launch.tasks.Lost`, and the caller
    starts it again, on a node that is there.

    :param address: ``host:port`` of the head node or ``ray://host:port`` of its client server, ``"auto"`` for the
        cluster that this machine belongs to, ``"local"`` for a new one on this machine alone
    :param num_cpus: CPUs that each task occupies
    :param num_gpus: GPUs that each task occupies, also a fraction
    :param memory: bytes that each task occupies, if given
    :raises ConnectionError: on entering, when there is no such cluster or none of its nodes can carry out such a task
    :raises ImportError: on entering, when Ray is not installed
    """

    capacity: float = math.inf  # tasks that have no place yet wait in Ray's queue

    def __init__(self, address: str, num_cpus: float = 1, num_gpus: float = 0, memory: float | None = None) -> None:
        self.address = address
        self._options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": 0}
        if memory is not None:
            self._options["memory"] = memory
        self._running: dict[Any, int] = {}

    def __enter__(self) -> RayCluster:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise ImportError(f"Ray is not installed ({error}): pip install 'sb3_pg[cluster]'") from error
        self._connect()
        try:
            self._check_resources()
        except BaseException:
            self._ray.shutdown()
            raise
        self._remote = self._ray.remote(carry_out_with_one_thread).options(**self._options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()

    def start(self, key: int, function: Callable[[Any], Any], task: Any) -> None:
        """Hand a task to Ray."""
        self._running[self._remote.remote(function, task)] = key

    def wait(self) -> list[tuple[int, Any]]:
        """Wait for the end of at least one task."""
        references = list(self._running)
        self._ray.wait(references, num_returns=1)
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [(self._running.pop(reference), self._end_of(reference)) for reference in done]

    def _end_of(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # the value could not be sent back
            return describe_error(error)
        except self._ray.exceptions.RayError as error:
            return Lost(f"its Ray worker is gone: {' '.join(str(error).split())[:300]}")

    def _connect(self) -> None:
        host_and_port = _host_and_port(self.address)
        if host_and_port is not None:
            try:
                socket.create_connection(host_and_port, timeout=CONNECT_SECONDS).close()
            except OSError as error:
                raise self._unreachable(f"{error} (tried for {CONNECT_SECONDS:g} s at most)") from error
            if "://" not in self.address:  # ray.init would ask for many minutes; ray:// gives up by itself
                self._check_answer()
        try:
            self._ray.init(address=self.address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise self._unreachable(str(error)) from error

    def _check_answer(self) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", self.address]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
        except subprocess.TimeoutExpired as error:
            why = f"something listens there, but did not answer as the head of a cluster within {ANSWER_SECONDS:g} s"
            raise self._unreachable(why) from error
        if answer.returncode:
            raise self._unreachable(f"it does not answer as the head of a cluster: {answer.stderr.strip()[-300:]}")

    def _unreachable(self, why: str) -> ConnectionError:
        return ConnectionError(
            f"no Ray cluster at {self.address!r}: {why.rstrip('.')}. Is it started (`ray start --head` there, "
            "`ray status` to see it), and is its port open to this machine? 'auto' looks for the cluster of this "
            "machine, 'local' starts a new one on this machine"
        )

    def _check_resources(self) -> None:
        needed = {"CPU": self._options["num_cpus"], "GPU": self._options["num_gpus"]}
        needed["memory"] = self._options.get("memory", 0)
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in needed.items()) for node in nodes):
            has = "; ".join(", ".join(f"{name} {node.get(name, 0):g}" for name in needed) for node in nodes)
            wanted = ", ".join(f"{name} {amount:g}" for name, amount in needed.items() if amount)
            raise ConnectionError(
                f"no node of the Ray cluster at {self.address!r} can carry out a task that needs {wanted}; "
                f"its nodes have: {has or 'nothing, there are none'}"
            )


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Where to knock; nothing for the addresses that Ray looks up itself."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None
    except ValueError as error:
        raise ConnectionError(f"{address!r} is no Ray address: {error}") from error
