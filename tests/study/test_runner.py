"""What is missing is trained, what is there is kept, and a killed study goes on."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import pytest
from rich.console import Console
from study.small_study import PLAN, result, results_of, study, write_plan

from sb3_pg.launch import InThisProcess, LocalProcesses
from sb3_pg.study.plan import read_study
from sb3_pg.study.reading import StudyError
from sb3_pg.study.results import RunResult, append_result, path_of, read_results
from sb3_pg.study.runner import Board, check, missing, read_all, run_study
from sb3_pg.study.training import RunTask, train

ROOT = Path(__file__).parents[2]


def pretend(task: RunTask) -> RunResult:
    """Train nothing."""
    return result(task.seed, settings=task.settings)


def fails_on_seed_2(task: RunTask) -> RunResult:
    """A mistake in a program."""
    if task.seed == 2:
        raise RuntimeError("the sky is green")
    return pretend(task)


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_what_is_there_is_not_trained_again(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = read_all(plan, tmp_path)
    tasks = missing(plan, results)
    assert len(tasks) == 6
    run_study(plan, results, tasks[:4], tmp_path, InThisProcess(), console(), pretend)
    again = read_all(plan, tmp_path)
    assert [(task.seed, task.curve) for task in missing(plan, again)] == [(2, "1"), (2, "auto")]
    assert [len(results.of("CartPole-v1", name)) for name in ("0.5", "1", "auto")] == [2, 1, 1]


def test_seeds_that_the_plan_has_not_are_counted_and_left_alone(tmp_path: Path) -> None:
    plan = study(tmp_path)
    path = path_of(tmp_path, "CartPole-v1", "1")
    settings = plan.settings(plan.curve("1"), "CartPole-v1")
    for seed in (1, 7, 8):
        append_result(path, result(seed, settings=settings))
    results = read_all(plan, tmp_path)
    assert [one.seed for one in results.of("CartPole-v1", "1")] == [1]
    assert results.n_others == 2
    assert len(read_results(path)) == 3


def test_results_of_other_settings_are_counted_and_left_alone(tmp_path: Path) -> None:
    plan = study(tmp_path)
    path = path_of(tmp_path, "CartPole-v1", "1")
    settings = plan.settings(plan.curve("1"), "CartPole-v1")
    other = replace(settings, block={**settings.block, "gamma": 0.5})
    for each in (other, settings):
        append_result(path, result(1, settings=each))
    path.write_text(path.read_text() + '{"seed": 2, "sett')  # an interruption
    results = read_all(plan, tmp_path)
    assert results.n_others == 1
    assert [one.seed for one in results.of("CartPole-v1", "1")] == [1]
    tasks = [task for task in missing(plan, results) if task.curve == "1"]
    assert [task.seed for task in tasks] == [2]
    run_study(plan, results, tasks, tmp_path, InThisProcess(), console(), pretend)
    assert [one.settings for one in read_results(path)] == [other, settings, settings]


def test_environments_of_another_package_are_trained_in_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_envs.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=20)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = PLAN.replace("  env: CartPole-v1", "  env: Mine-v0\n  block: CartPole-v1").replace(
        "env: CartPole-v1}", "env: Mine-v0}"
    )
    try:
        plan = study(tmp_path, text.replace("seeds: 2", "seeds: 2\ngym_packages: my_envs"))
        results = read_all(plan, tmp_path)
        tasks = missing(plan, results, ["auto"])[:1]
        check(plan, tasks)
        with LocalProcesses(1) as backend:
            run_study(plan, results, tasks, tmp_path, backend, console())
    finally:
        gym.registry.pop("Mine-v0", None)
        sys.modules.pop("my_envs", None)
    (found,) = results.of("Mine-v0", "auto")
    assert max(length for length in found.lengths if length) <= 20


def test_a_checkpoint_that_cannot_be_deleted_does_not_end_the_study(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = read_all(plan, tmp_path)
    (tmp_path / "file").write_text("in the way")
    tasks = missing(plan, results, logs=tmp_path / "file")
    run_study(plan, results, tasks, tmp_path, InThisProcess(), console(), pretend)
    assert missing(plan, read_all(plan, tmp_path)) == []


def test_two_commands_do_not_train_one_study(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = read_all(plan, tmp_path)

    def second(task: RunTask) -> RunResult:
        with pytest.raises(StudyError, match="another command is training this study"):
            run_study(plan, read_all(plan, tmp_path), [task], tmp_path, InThisProcess(), console(), pretend)
        return pretend(task)

    run_study(plan, results, missing(plan, results)[:1], tmp_path, InThisProcess(), console(), second)
    assert len(read_all(plan, tmp_path).of("CartPole-v1", "0.5")) == 1


def test_what_another_command_has_trained_meanwhile_is_not_trained_again(tmp_path: Path) -> None:
    plan = study(tmp_path)
    first, second = read_all(plan, tmp_path), read_all(plan, tmp_path)
    tasks = missing(plan, first)[:2]
    run_study(plan, first, tasks[:1], tmp_path, InThisProcess(), console(), pretend)
    trained = []

    def train(task: RunTask) -> RunResult:
        trained.append((task.curve, task.seed))
        return pretend(task)

    run_study(plan, second, tasks, tmp_path, InThisProcess(), console(), train)
    assert trained == [(tasks[1].curve, tasks[1].seed)]
    assert second == first or second.found == read_all(plan, tmp_path).found


def test_a_file_of_results_that_holds_something_else_is_named(tmp_path: Path) -> None:
    plan = study(tmp_path)
    (tmp_path / "CartPole-v1").mkdir()
    (tmp_path / "CartPole-v1" / "auto.jsonl").write_text("<<<<<<< HEAD\n")
    with pytest.raises(StudyError, match=r"auto.jsonl, line 1 is no result"):
        read_all(plan, tmp_path)


def test_a_program_s_mistake_ends_the_study_with_its_name_and_traceback(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = read_all(plan, tmp_path)
    with pytest.raises(StudyError, match=r"curve 0.5, seed 2 failed[\s\S]*the sky is green"):
        run_study(plan, results, missing(plan, results), tmp_path, InThisProcess(), console(), fails_on_seed_2)
    assert sum(len(read_all(plan, tmp_path).of("CartPole-v1", curve.name)) for curve in plan.curves) == 3


def fails_once(task: RunTask) -> RunResult:
    if (task.curve, task.seed) == ("1", 1):
        raise LookupError("the sky is green")
    return pretend(task)


def test_a_training_that_fails_does_not_keep_the_others_from_being_trained(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = read_all(plan, tmp_path)
    with pytest.raises(StudyError, match=r"curve 1, seed 1 failed[\s\S]*the sky is green[\s\S]*goes on with the rest"):
        run_study(plan, results, missing(plan, results), tmp_path, InThisProcess(), console(), fails_once)
    seeds = {curve.name: len(read_all(plan, tmp_path).of("CartPole-v1", curve.name)) for curve in plan.curves}
    assert seeds == {"0.5": 2, "1": 1, "auto": 2}


def test_only_some_are_trained_when_that_is_asked_for(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = read_all(plan, tmp_path)
    assert {task.curve for task in missing(plan, results, ["auto", "CartPole-v1/1"])} == {"auto", "1"}
    assert len(missing(plan, results, ["CartPole-v1"])) == 6
    with pytest.raises(StudyError, match=r"'CartPole-v1/2' is not in .*did you mean"):
        missing(plan, results, ["CartPole-v1/2"])


def test_only_the_first_seed_keeps_its_model_and_only_long_trainings_have_checkpoints(tmp_path: Path) -> None:
    plan = replace(study(tmp_path), checkpoint_every=100)
    tasks = missing(plan, read_all(plan, tmp_path), logs=tmp_path)
    assert [task.keep_model for task in tasks] == [True] * 3 + [False] * 3
    assert {task.checkpoint_every for task in tasks} == {100}
    longer = replace(plan, checkpoint_every=128)
    assert {task.checkpoint_every for task in missing(longer, read_all(plan, tmp_path), logs=tmp_path)} == {None}


def test_what_cannot_be_built_is_told_with_the_line_of_its_curve(tmp_path: Path) -> None:
    plan = study(tmp_path, PLAN.replace("auto:0.5", "auto:2"))
    with pytest.raises(StudyError, match=r"small.yml:16: curve 'auto': cannot make vpg .*gae_lambda"):
        check(plan, plan.tasks())


def test_the_board_says_what_is_left(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan, n_seeds=1)
    tasks = missing(plan, results)
    with Board(plan, tasks, results, 1, console()) as board:
        assert board.time_left() == "0:00:15"  # three more of 5 seconds
        board.started(tasks[0])
        text = io.StringIO()
        Console(file=text, width=200).print(board._table())
        assert "small: 0/3 trainings" in text.getvalue()
        assert "seed 2" in text.getvalue()
        board.ended(tasks[0], result(2))
        assert board.time_left() == "0:00:10"


LONG = (
    PLAN[: PLAN.index("curves:")].replace("n_timesteps: 128", "n_timesteps: 5_000\ncheckpoint_every: 256")
    + "curves:\n  - {name: one, hyperparams: {gae_lambda: 0.9}}\n"
)


def reproduce(path: Path, folder: Path) -> list[str]:
    script = ROOT / "zoo_scripts" / "reproduce.py"
    places = [word for name in ("results", "docs", "logs") for word in (f"--{name}", str(folder / name))]
    return [sys.executable, str(script), str(path), "--no-report", *places]


def test_a_study_that_is_killed_goes_on_to_the_same_results(tmp_path: Path) -> None:
    path = write_plan(tmp_path, LONG)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*reproduce(path, tmp_path), "--workers", "1"], env=environment, cwd=tmp_path, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    folder = tmp_path / "logs" / "small" / "CartPole-v1" / "one" / "1"
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint_*.pkl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    results = path_of(tmp_path / "results" / "small", "CartPole-v1", "one")
    assert read_results(results) == []
    assert list(folder.glob("checkpoint_*.pkl"))
    done = subprocess.run(
        [*reproduce(path, tmp_path), "--workers", "0"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = read_results(results)
    assert [one.seed for one in found] == [1, 2]
    assert not list(folder.glob("checkpoint_*.pkl"))
    never_killed = train(next(read_study(path).tasks()))
    assert found[0].returns == never_killed.returns
    assert found[0].n_episodes == never_killed.n_episodes
    assert found[0].evaluation == never_killed.evaluation
