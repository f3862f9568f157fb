"""The doctor's command line, on runs in RL Zoo's folders and on files."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg import REINFORCE, VPG
from sb3_pg.doctor import page
from sb3_pg.doctor.__main__ import main

ENV = "LineWorld-v0"


def save_run(folder: Path, algorithm: Any = VPG, normalize: bool = False, number: int = 1, **kwargs: Any) -> Path:
    """A run as RL Zoo leaves it behind."""
    algo = algorithm.__name__.lower()
    run = folder / algo / f"{ENV}_{number}"
    (run / ENV).mkdir(parents=True)
    env: Any = make_vec_env(ENV, n_envs=2, seed=0)
    config: dict[str, Any] = {"n_envs": 2, "policy": "MlpPolicy"}
    if normalize:
        env = VecNormalize(env, gamma=0.9)
        config |= {"normalize": True, "normalize_kwargs": {"gamma": 0.9}}
    model = algorithm("MlpPolicy", env, seed=0, **{"policy_kwargs": dict(net_arch=[8]), **kwargs})
    if algorithm is not DQN:
        model.learn(2 * model.n_steps * 2)
    model.save(run / f"{ENV}.zip")
    if normalize:
        env.save(str(run / ENV / "vecnormalize.pkl"))
    (run / ENV / "config.yml").write_text(yaml.dump(config))
    (run / ENV / "args.yml").write_text(yaml.dump({"env_kwargs": None}))
    return run


def numbers_of(folder: Path) -> dict[tuple[str, str], str]:
    with (folder / "doctor.csv").open(encoding="utf-8") as file:
        return {(row["quantity"], row["of"]): row["value"] for row in csv.DictReader(file)}


def doctor(folder: Path, *arguments: str, algo: str = "vpg", n_batches: int = 4) -> int:
    return main(["--algo", algo, "--env", ENV, "-f", str(folder), "--n-batches", str(n_batches), *arguments])


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert "Examining" not in said.out
    return said.err.replace("\n", " ")


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than everything else, and have their own tests."""
    monkeypatch.setattr(page, "draw_panels", lambda _: {})


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three algorithms."""
    folder = tmp_path_factory.mktemp("logs")
    save_run(folder, n_steps=32)
    save_run(folder, n_steps=16, number=2, gae_lambda=0.5)
    save_run(folder, REINFORCE, n_steps=16)
    save_run(folder, A2C, n_steps=8)
    save_run(folder, DQN)
    return folder


def test_the_command_as_it_is_typed(logs: Path, tmp_path: Path) -> None:
    where = ["--algo", "vpg", "--env", ENV, "-f", str(logs)]
    command = [sys.executable, "-m", "sb3_pg.doctor", *where, "--n-batches", "3", "-o", "out"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["doctor.csv", "doctor.html", "doctor.png"]
    assert str(Path("out", "doctor.html")) in done.stdout
    assert "Playing" not in done.stderr  # no bar where there is no terminal


def test_the_latest_run_is_examined_into_its_folder(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(logs) == 0
    printed = capsys.readouterr().out
    assert f"Examining {logs / 'vpg' / f'{ENV}_2' / f'{ENV}.zip'}" in printed
    found = numbers_of(logs / "vpg" / f"{ENV}_2" / "doctor")
    assert float(found["batch", "steps"]) == 32
    assert ("lambda_cosine", "0.5") in found


def test_flags_mean_what_they_mean_to_enjoy(logs: Path, tmp_path: Path) -> None:
    assert (
        doctor(logs, "--exp-id", "1", "--gae-lambda", "0.77", "--last-layer", "--n-envs", "3", "-o", str(tmp_path)) == 0
    )
    found = numbers_of(tmp_path)
    assert float(found["batch", "steps"]) == 64  # of training, whatever it is examined in
    assert ("lambda_cosine", "0.77") in found
    assert "the last layer" in (tmp_path / "doctor.html").read_text(encoding="utf-8")


def test_the_same_seed_gives_the_same_numbers(logs: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert doctor(logs, "-o", str(tmp_path / name), "--seed", seed) == 0
    one, same, other = (numbers_of(tmp_path / name) for name in "abc")
    assert one == same
    assert one != other


@pytest.mark.parametrize("algo", ["reinforce", "a2c"])
def test_other_algorithms_are_examined(algo: str, logs: Path, tmp_path: Path) -> None:
    assert doctor(logs, "-o", str(tmp_path), algo=algo) == 0
    assert (("lambda_cosine", "1") in numbers_of(tmp_path)) == (algo == "a2c")


def test_rewards_are_normalised_as_in_training(tmp_path: Path) -> None:
    save_run(tmp_path / "logs", normalize=True, n_steps=32)
    with np.errstate(all="raise"):
        assert doctor(tmp_path / "logs", "-o", str(tmp_path / "out")) == 0
    plain = save_run(tmp_path / "plain", n_steps=32)
    assert doctor(tmp_path / "plain") == 0
    texts = [(folder / "doctor.html").read_text(encoding="utf-8") for folder in (tmp_path / "out", plain / "doctor")]
    normalised, raw = (float(text.split("mean return ")[1].split(". ")[0]) for text in texts)
    assert normalised != raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(algo="vgp"), "--algo vgp: unknown; accepted are"),
        (dict(env="LineWorld-v1"), "Runs: "),
        (dict(folder="nowhere"), "has none"),
        (dict(algo="dqn"), "DQN with DQNPolicy cannot be examined; accepted are on-policy"),
        (dict(more=["--gym-packages", "no_such_package"]), "No module named 'no_such_package'"),
        (dict(more=["--exp-id", "9"]), f"has {ENV}_1, {ENV}_2"),
        (dict(more=["--load-best"]), "No model found for vpg"),
        (dict(more=["--load-checkpoint", "77"]), "rl_model_77_steps.zip"),
        (dict(more=["--load-last-checkpoint"]), "No checkpoint found for vpg"),
        (dict(more=["--n-batches", "0"]), "--n-batches 0: at least 1 is expected"),
        (dict(more=["--n-envs", "0"]), "--n-envs 0: at least 1 is expected"),
        (dict(more=["--gae-lambda", "1.5"]), "--gae-lambda 1.5: expected is a number in [0, 1]"),
        (
            dict(more=["--env-kwargs", "grid_size"]),
            "--env-kwargs: KEY:VALUE is expected, with a VALUE as Python writes it, not grid_size",
        ),
        (dict(more=["--env-kwargs", "no_such:3"]), "environment with --env-kwargs cannot be loaded (TypeError"),
        (dict(more=["--device", "nope"]), "--device nope: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_there_is_named(
    change: dict[str, Any], message: str, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = logs if "folder" not in change else logs / change["folder"]
    arguments = ["--algo", change.get("algo", "vpg"), "--env", change.get("env", ENV), "-f", str(folder)]
    assert message in error_of(capsys, [*arguments, *change.get("more", [])])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{ENV}.zip", "{}.zip cannot be loaded"),
        (f"{ENV}/config.yml", "settings in"),
        (f"{ENV}/args.yml", "settings in"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"a: [1"])
def test_a_file_that_is_damaged_is_named(
    name: str, said: str, content: bytes, logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(logs / "vpg" / f"{ENV}_1", tmp_path / "vpg" / f"{ENV}_1")
    damaged = tmp_path / "vpg" / f"{ENV}_1" / name
    assert damaged.exists()
    damaged.write_bytes(content)
    assert said.format(ENV) in error_of(capsys, ["--algo", "vpg", "--env", ENV, "-f", str(tmp_path)])


def test_an_environment_that_nobody_registered_is_named(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = tmp_path / "vpg" / "Strange-v0_1"
    shutil.copytree(logs / "vpg" / f"{ENV}_1", strange)
    (strange / f"{ENV}.zip").rename(strange / "Strange-v0.zip")
    found = error_of(capsys, ["--algo", "vpg", "--env", "Strange-v0", "-f", str(tmp_path)])
    assert "Strange" in found
    assert "--gym-packages names modules that register environments" in found


def test_a_run_or_a_rollout_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--algo and --env are needed, or --rollout with an .npz file" in error_of(capsys, [])


def test_keywords_of_the_environment_are_passed_on(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(logs, "-o", str(tmp_path), "--env-kwargs", "episode_length:4") == 0
    assert "mean length 4" in (tmp_path / "doctor.html").read_text(encoding="utf-8")
    capsys.readouterr()


# -- rollouts --------------------------------------------------------------------------------------------------------


def save_rollout(path: Path, advantages: Any) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 2))
    rewards = rng.normal(size=(30, 2))
    np.savez(path, rewards=rewards, dones=np.zeros((30, 2)), values=values, last_values=np.zeros(2), gamma=0.0,
             gae_lambda=1.0, advantages=advantages(rewards - values))  # fmt: skip


def test_a_right_rollout_ends_with_status_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_rollout(tmp_path / "mine.npz", lambda advantages: advantages)
    assert main(["--rollout", str(tmp_path / "mine.npz")]) == 0
    assert "[ok] Advantages are right" in capsys.readouterr().out
    assert (tmp_path / "mine_doctor" / "doctor.html").is_file()


def test_a_mistake_ends_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_rollout(tmp_path / "mine.npz", lambda advantages: -advantages)
    assert main(["--rollout", str(tmp_path / "mine.npz"), "-o", str(tmp_path / "out")]) == 1
    assert "[BAD] Advantages have the wrong sign" in capsys.readouterr().out
    assert (tmp_path / "out" / "doctor.html").is_file()


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_played(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rollout(tmp_path / "mine.npz", lambda advantages: advantages)
    (tmp_path / "taken").touch()
    hint = "; -o names another folder"
    for arguments in (
        ["--rollout", str(tmp_path / "mine.npz")],
        ["--algo", "vpg", "--env", ENV, "-f", str(logs)],
    ):
        said = error_of(capsys, [*arguments, "-o", str(tmp_path / "taken")])
        assert "taken cannot be written to (File exists)" in said
        assert hint in said
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert f"out cannot be written to (Permission denied){hint}" in error_of(
        capsys, [*arguments, "-o", str(tmp_path / "out")]
    )


def test_a_file_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none.npz: there is no such file" in error_of(capsys, ["--rollout", str(tmp_path / "none.npz")])
    np.savez(tmp_path / "mine.npz", rewards=np.zeros(20), dones=np.zeros(20), value=np.zeros(20))
    assert "has the key 'value'; accepted are" in error_of(capsys, ["--rollout", str(tmp_path / "mine.npz")])


def test_rl_zoo_is_not_imported_for_a_rollout(tmp_path: Path) -> None:
    save_rollout(tmp_path / "mine.npz", lambda advantages: advantages)
    code = (
        "import sys\nfrom sb3_pg.doctor.__main__ import main\n"
        f"main(['--rollout', {str(tmp_path / 'mine.npz')!r}])\n"
        "assert 'rl_zoo3' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
