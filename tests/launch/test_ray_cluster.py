"""A Ray cluster of two nodes on this machine. In a process of its own: Ray's threads and warnings would outlive a test.

Needs Ray, which is not among the packages of the tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sb3_pg.launch import RayCluster, ray_cluster

HERE = Path(__file__).parent
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def run(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script that writes JSON to the file that is its first argument."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(Path(arguments[0]).read_text())
    return result


TWO_NODES = """
import json, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
import tasks_for_tests as given
from sb3_pg.launch import RayCluster, run_all

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
doomed = cluster.add_node(num_cpus=1)
paths = sys.argv[2:]

def wait_for_pid(path, other_than=""):
    while not Path(path).exists() or Path(path).read_text() in ("", other_than):
        time.sleep(0.05)
    return Path(path).read_text()

def is_dead(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True

def kill_a_node():
    pids = {path: wait_for_pid(path) for path in paths}
    cluster.remove_node(doomed, allow_graceful=False)
    while not any(map(is_dead, pids.values())):
        time.sleep(0.05)
    (lost,) = [path for path, pid in pids.items() if is_dead(pid)]
    (other,) = [path for path in paths if path != lost]
    Path(other).unlink()
    wait_for_pid(lost, pids[lost])
    Path(lost).unlink()

found = {"outcomes": [], "reruns": []}
def keep(outcome):
    error = outcome.error and [outcome.error.kind, outcome.error.message, "in " in outcome.error.traceback]
    found["outcomes"].append([outcome.runs, error, outcome.lost, outcome.value])

threading.Thread(target=kill_a_node, daemon=True).start()
with RayCluster(cluster.address) as backend:
    run_all(given.write_pid_and_wait, paths, backend, keep, lambda task, why: found["reruns"].append(why))
    run_all(given.fail_for_two, [2], backend, keep)
    run_all(given.fail_awkwardly, [1], backend, keep)
    run_all(given.number_of_threads, [1], backend, keep)
cluster.shutdown()
Path(sys.argv[1]).write_text(json.dumps(found))
"""


@needs_ray
@pytest.mark.expensive
def test_a_node_that_dies_has_its_task_carried_out_elsewhere(tmp_path: Path) -> None:
    found = run(TWO_NODES, *(str(tmp_path / name) for name in ("result", "a", "b")))
    first, second, failed, awkward, threads = found["outcomes"]
    assert sorted([first[0], second[0]]) == [1, 2]
    assert first[1:3] == second[1:3] == [None, None]
    assert len(found["reruns"]) == 1
    assert "Ray worker is gone" in found["reruns"][0]
    assert failed[1] == ["ValueError", "two is not allowed", True]
    assert awkward[1] == ["AwkwardError", "not picklable", True]
    assert set(threads[3]) == {1}


NO_GPU = """
import json, sys
from pathlib import Path
from sb3_pg.launch import RayCluster
try:
    RayCluster("local", num_gpus=3).__enter__()
except ConnectionError as error:
    Path(sys.argv[1]).write_text(json.dumps({"message": str(error)}))
"""


@needs_ray
@pytest.mark.expensive
def test_a_task_that_no_node_can_carry_out_is_refused(tmp_path: Path) -> None:
    message = run(NO_GPU, str(tmp_path / "result"))["message"]
    assert "no node of the Ray cluster at 'local' can carry out a task that needs CPU 1, GPU 3" in message


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the address be looked at, though Ray may not be there."""
    monkeypatch.setattr(ray_cluster.importlib, "import_module", lambda _: object())


@pytest.mark.usefixtures("with_ray")
@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nobody_listens_is_named_with_what_to_try(address: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = address.format(free.getsockname()[1])
        with pytest.raises(ConnectionError) as caught, RayCluster(address):
            pass
    message = str(caught.value)
    assert f"no Ray cluster at '{address}'" in message
    assert "tried for 10 s at most" in message
    assert "ray start --head" in message


@pytest.mark.usefixtures("with_ray")
def test_something_else_that_listens_there_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionError, match="answer as the head of a cluster"):
            RayCluster(address).__enter__()


@pytest.mark.usefixtures("with_ray")
def test_a_port_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConnectionError, match="'host:port' is no Ray address"):
        RayCluster("host:port").__enter__()


def test_without_ray_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'sb3_pg\[cluster\]'"):
        RayCluster("auto").__enter__()
