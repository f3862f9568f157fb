"""The command as users type it, with trainings of a second."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from storage_servers import free_port

from sb3_pg.tune.blocks import starting_point
from sb3_pg.tune.command import main
from sb3_pg.tune.experiment import Experiment
from sb3_pg.tune.storage import open_storage

SMALL = (
    *("-n", "256", "--n-evaluations", "2", "--last-k", "1", "--eval-episodes", "1", "--n-eval-envs", "1"),
    *("--n-seeds", "2", "--n-trials", "3", "--window", "2", "--top-k", "1", "--n-final-seeds", "2", "--seed", "3"),
)
VPG = ("--algo", "vpg", "--env", "CartPole-v1", *SMALL)


def folder_of(cwd: Path, algo: str = "vpg") -> Path:
    return cwd / "logs" / "tune" / f"{algo}_CartPole-v1"


def facts(storage: str, name: str = "vpg_CartPole-v1") -> list[Any]:
    """All that has to be equal in two runs of the same study: everything but times."""
    study = optuna.load_study(study_name=name, storage=open_storage(storage))

    def timeless(attributes: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for key, value in attributes.items():
            if key != "driver":
                found[key] = {**value, "seconds": 0} if key.startswith(("seed_", "final:")) else value
        return found

    rows: list[Any] = [
        (trial.state, trial.values, trial.params, trial.intermediate_values, timeless(trial.user_attrs))
        for trial in study.trials
    ]
    return [*rows, timeless(study.user_attrs)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a study that was searched in this process."""
    cwd = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        assert main([*VPG, "--workers", "0"]) == 0
    return cwd


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_search_leaves_its_tables_figures_and_page(finished: Path) -> None:
    folder = folder_of(finished)
    trials = rows_of(folder / "trials.csv")
    assert [row["trial"] for row in trials] == ["0", "1", "2"]
    assert all(float(row["learning_rate"]) > 0 for row in trials)
    curves = rows_of(folder / "curves.csv")
    assert {row["phase"] for row in curves} == {"search", "final"}
    assert {row["steps"] for row in curves} == {"128", "256"}
    assert [row["rank"] for row in rows_of(folder / "final.csv")] == ["1", "2"]
    page = (folder / "report.html").read_text()
    pictures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"history", "learning_curves", "gae_lambda", "parallel_coordinates"} <= pictures
    assert page.count("data:image/png;base64,") == len(pictures)
    assert "it needs 4 complete trials" in page
    assert 'src="http' not in page


def test_the_winners_file_works_with_conf(finished: Path) -> None:
    path = folder_of(finished) / "winner.yml"
    block = yaml.safe_load(path.read_text())["CartPole-v1"]
    assert block["n_timesteps"] == 256
    start = starting_point(Experiment("vpg", "CartPole-v1", 0), str(path), {})
    assert start.block == block


def test_another_start_trains_nothing_and_writes_the_same_report(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    before = (folder_of(finished) / "curves.csv").read_text()
    assert main([*VPG, "--workers", "0"]) == 0
    assert "goes on: 3 trials have ended" in capsys.readouterr().out
    assert (folder_of(finished) / "curves.csv").read_text() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["-n", "300"], "n_timesteps was 256, is 300"),
        (["--n-seeds", "3"], "seeds was"),
        (["-params", "max_grad_norm:0.7"], "block: max_grad_norm was 0.5, is 0.7"),
        (["--algo", "a2c", "--study-name", "vpg_CartPole-v1"], "algo was 'vpg', is 'a2c'"),
        (["--env", "Acrobot-v1", "--study-name", "vpg_CartPole-v1"], "env was 'CartPole-v1', is 'Acrobot-v1'"),
    ],
)
def test_a_study_of_other_settings_is_not_touched(
    finished: Path, changes: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(finished)
    before = (folder_of(finished) / "study.log").read_text()
    assert main([*VPG, *changes, "--workers", "0"]) == 2
    assert message in capsys.readouterr().err
    assert (folder_of(finished) / "study.log").read_text() == before


def test_the_report_of_another_storages_study_is_not_written_over(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(finished)
    before = {path.name: path.read_bytes() for path in folder_of(finished).glob("*.*")}
    assert main([*VPG, "--storage", "other.log", "--workers", "0"]) == 2
    assert "has the report of a study in study.log" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in folder_of(finished).glob("*.*")}
    (finished / "afile").write_text("")
    assert main([*VPG, "--storage", "other.log", "-f", "afile", "--workers", "0"]) == 2
    assert "cannot write to afile" in capsys.readouterr().err


def test_without_a_final_the_earlier_one_stays(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    before = (folder_of(finished) / "final.csv").read_text()
    assert before
    assert main([*VPG, "--workers", "0", "--top-k", "0"]) == 0
    assert (folder_of(finished) / "final.csv").read_text() == before


def until(condition: Callable[[], Any], driver: subprocess.Popen[str]) -> Any:
    """Wait for something to become true while a process runs."""
    end = time.monotonic() + 120
    while not (found := condition()):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def workers_of(driver: int) -> list[int]:
    """Worker processes of a driver."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == driver and "spawn_main" in (path.parent / "cmdline").read_text():
                found.append(int(path.parent.name))
    return found


def start(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "sb3_pg.tune", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@needs_proc
def test_a_study_survives_the_death_of_a_worker_and_of_the_driver(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = folder_of(tmp_path) / "study.log"

    def journal_has(text: str, times: int) -> bool:
        return journal.exists() and journal.read_text().count(text) >= times

    with start(tmp_path, *VPG, "--workers", "1") as driver:
        until(lambda: journal_has('"params"', 2), driver)
        os.kill(until(lambda: workers_of(driver.pid), driver)[0], signal.SIGKILL)
        until(lambda: journal_has('"seed_0"', 1), driver)
        workers = workers_of(driver.pid)
        driver.kill()
        out, _ = driver.communicate()
    assert len(re.findall("is trained again: its worker process died", out)) == 1
    assert len(facts(str(journal))) <= 4
    end = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end, "workers without a driver"
        time.sleep(0.02)

    monkeypatch.chdir(tmp_path)
    assert main([*VPG, "--workers", "0"]) == 0
    assert "goes on" in capsys.readouterr().out
    assert facts(str(journal)) == facts(str(folder_of(finished) / "study.log"))


@needs_proc
@pytest.mark.expensive
def test_an_interrupt_ends_search_and_workers_quietly(tmp_path: Path) -> None:
    with start(tmp_path, *VPG, "--workers", "2", "--n-trials", "100") as driver:
        until(lambda: (path := folder_of(tmp_path) / "study.log").exists() and "seed_0" in path.read_text(), driver)
        workers = workers_of(driver.pid)
        for pid in (driver.pid, *workers):  # as a terminal does
            os.kill(pid, signal.SIGINT)
        _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_an_algorithm_of_rl_zoo_is_tuned_with_its_own_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("-n", "64", "--n-trials", "1", "--n-seeds", "1", "--top-k", "0", "--n-evaluations", "1", "--last-k", "1")
    where = ("--storage", "here.log", "--study-name", "mine", "-f", "results", "--workers", "0")
    words = ("--algo", "a2c", "--env", "CartPole-v1", "--eval-episodes", "1", "-params", "gamma:0.9", "n_envs:4")
    assert main([*words, *small, *where]) == 0
    out = capsys.readouterr().out
    assert "1/1 trials" in out
    assert "note: gamma of -params are searched" in out
    (trial,) = optuna.load_study(study_name="mine", storage=open_storage("here.log")).trials
    assert "one_minus_gae_lambda" in trial.params
    assert (tmp_path / "results" / "tune" / "mine" / "report.html").exists()
    assert not (tmp_path / "results" / "tune" / "mine" / "winner.yml").exists()


def test_a_grid_is_searched_and_divergence_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yml").write_text("learning_rate: [1.0e+30]\ngamma: [0.9, 0.99]\n")
    words = ("--algo", "a2c", "--env", "CartPole-v1", "-n", "300", "--grid", "grid.yml", "--workers", "0")
    assert main([*words, "--seeds", "7", "--eval-episodes", "1"]) == 1
    out = capsys.readouterr().out
    assert "pruned: seed 7 diverged: " in out
    assert "2/2 trials" in out
    assert "No trial was completed: seed 7 diverged" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--algo", "vgp"], "--algo 'vgp' is not known; did you mean 'vpg'? Accepted are a2c, "),
        (["--algo", "sac"], "--algo sac is not on-policy"),
        (["--env", "CartPole-v11"], "--env 'CartPole-v11' is not known; did you mean 'CartPole-v1'?"),
        (["--n-seeds", "0"], "--n-seeds must be at least 1, not 0"),
        (["--n-trials", "0"], "--n-trials must be at least 1, not 0"),
        (["--seeds", "1", "1"], "--seeds must be different"),
        (["--seeds", "4294967296"], "--seeds must be different from each other, not negative and below 2**32"),
        (
            ["-n", "0", "-params", "n_timesteps:'1e3'"],
            "n_timesteps of CartPole-v1 is '1e3'; accepted is a number above 0",
        ),
        (["-n", "0", "-params", "n_timesteps:-5"], "n_timesteps of CartPole-v1 is -5; accepted is a number above 0"),
        (["--p-threshold", "2"], "--p-threshold must be from 0 to 1"),
        (["--last-k", "3"], "--last-k is 3, but there are only 2 evaluations"),
        (["--sampler", "grid"], "--sampler grid needs --grid FILE"),
        (["--grid", "missing.yml"], "cannot read the grid file missing.yml"),
        (["--workers", "2", "--ray", "auto"], "give one of them"),
        (["--gym-packages", "no_such_package"], "--gym-packages no_such_package"),
        (["-conf", "missing.yml"], "missing.yml"),
        (["-params", "gae_lamda:0.9"], "gae_lamda"),
        (["-params", "gae_lambda:lambda _: 0.9"], "gae_lambda of the block is <function <lambda>"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_made(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*VPG, *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("sb3_pg.tune: error: ")
    assert message in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_point_of_a_grid_that_cannot_be_built_is_found_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yml").write_text("n_steps: [16, -3]\n")
    assert main([*VPG, "--grid", "grid.yml"]) == 2
    captured = capsys.readouterr()
    assert "error: grid.yml: with n_steps -3: cannot make vpg for CartPole-v1: ValueError: n_steps=-3" in captured.err
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yml"]


@pytest.mark.parametrize("words", [["-params", "foo"], ["--env-kwargs", "gamma:0.9", "n_steps:foo"]])
def test_words_that_are_no_pairs_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*VPG, *words])
    assert (
        f"KEY:VALUE is expected, with a VALUE as Python writes it, not {' '.join(words[1:])}" in capsys.readouterr().err
    )


def test_an_unreachable_storage_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    assert main([*VPG, "--storage", f"postgresql://me:secret@127.0.0.1:{port}/studies"]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_ray_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", object())  # type: ignore[arg-type]  # it may not be installed
    port = free_port()
    assert main([*VPG, "--ray", f"127.0.0.1:{port}"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"sb3_pg.tune: error: no Ray cluster at '127.0.0.1:{port}'")
    assert (captured.out, (folder_of(tmp_path) / "study.log").read_text()) == ("", "")


def test_a_journal_can_be_read_line_by_line(finished: Path) -> None:
    lines = (folder_of(finished) / "study.log").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
