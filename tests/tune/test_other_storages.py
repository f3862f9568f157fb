"""The same study in PostgreSQL and by Ray. Each is skipped where it is not installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from planted_search import Killed, KilledAfter, search, summary
from storage_servers import NotInstalledError, postgresql

from sb3_pg.tune.command import main
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.storage import open_storage

optuna.logging.set_verbosity(optuna.logging.WARNING)

SMALL = (
    *("--algo", "vpg", "--env", "CartPole-v1", "-n", "256", "--n-evaluations", "2", "--last-k", "1"),
    *("--eval-episodes", "1", "--n-eval-envs", "1", "--n-seeds", "2", "--n-trials", "4", "--window", "2"),
    *("--top-k", "1", "--n-final-seeds", "2", "--study-name", "study"),
)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """URL of a database on a server that lives as long as these tests."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(postgresql(fsync=False))
        except NotInstalledError as error:
            pytest.skip(str(error))
        yield server.address


def close(storage: Any) -> None:
    storage.remove_session()
    storage.engine.dispose()


def test_a_search_in_postgresql_is_the_same_however_often_it_is_killed(database: str) -> None:
    while True:
        storage = open_storage(database)
        try:
            record = search(storage, backend=KilledAfter(7))
            break
        except Killed:
            close(storage)
    assert summary(record) == summary(search())
    kept = optuna.load_study(study_name="planted", storage=storage)
    assert [trial.value for trial in kept.trials] == [trial.value for trial in record.trials]
    close(storage)


def test_a_wrong_password_or_name_is_said(database: str) -> None:
    with pytest.raises(TuneError, match=r'(?s)cannot open the storage .*"nothing" does not exist.*Check user'):
        open_storage(database.replace("/studies", "/nothing"))


def facts(storage: Any) -> list[Any]:
    study = optuna.load_study(study_name="study", storage=storage)
    final = {key: value["curve"] for key, value in study.user_attrs.items() if key.startswith("final:")}
    return [final, *((trial.state, trial.values, trial.params, trial.intermediate_values) for trial in study.trials)]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Facts of the study as one process finds them."""
    cwd = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        assert main([*SMALL, "--workers", "0", "--storage", "study.log"]) == 0
        return facts(open_storage("study.log"))


@pytest.mark.expensive
def test_the_command_finds_the_same_in_postgresql(
    database: str, local: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--workers", "2", "--storage", database]) == 0
    storage = open_storage(database)
    assert facts(storage) == local
    close(storage)


CLUSTER = """
import json, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from sb3_pg.tune.command import main

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    doomed = cluster.add_node(num_cpus=1)

    def kill_a_node():
        while not (Path("study.log").exists() and '"seed_0"' in Path("study.log").read_text()):
            time.sleep(0.02)
        cluster.remove_node(doomed, allow_graceful=False)

    threading.Thread(target=kill_a_node, daemon=True).start()
    code = main([*json.loads(sys.argv[1]), "--storage", "study.log", "--ray", cluster.address])
    cluster.shutdown()
    sys.exit(code)
"""


@pytest.mark.expensive
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_the_command_finds_the_same_by_ray_though_a_node_dies(local: list[Any], tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, json.dumps(SMALL)],
        cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert facts(open_storage(str(tmp_path / "study.log"))) == local
