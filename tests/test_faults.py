"""Every fault of tests/faults.py is brought about, and some kills, by the script that writes docs/reliability.md."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import DICT, ScriptedEnv, tiny
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import VPG
from sb3_pg import faults as ours
from sb3_pg.rollout.vec_env import LeanVecEnv

ROOT = Path(__file__).resolve().parents[1]
KILLS = 3


def names() -> list[str]:
    """Names of all faults; the module itself is not imported here, since it is for a process of its own."""
    tree = ast.parse((ROOT / "tests" / "faults.py").read_text(encoding="utf-8"))
    table = next(
        node for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "SCENARIOS"
    )
    assert isinstance(table.value, ast.Dict)
    kinds = [kind for kind in table.value.values if isinstance(kind, ast.Dict)]
    return [str(ast.literal_eval(key)) for kind in kinds for key in kind.keys if key is not None]


class Verified(NamedTuple):
    faults: dict[str, dict[str, Any]]
    kills: list[dict[str, Any]]
    page: str


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Verified:
    folder = tmp_path_factory.mktemp("verified")
    (folder / "page.md").write_text("# Page\n\n<!-- faults -->\nyesterday's table\n<!-- /faults -->\n\nThe end.\n")
    command = [sys.executable, str(ROOT / "zoo_scripts" / "verify_faults.py"), "--kills", str(KILLS)]
    done = subprocess.run(
        [*command, "--page", "page.md", "--json", "results.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (folder / "results.json").exists(), done.stdout + done.stderr
    results = json.loads((folder / "results.json").read_text())
    return Verified(results["faults"], results["kills"], (folder / "page.md").read_text())


@pytest.mark.parametrize("name", names())
def test_a_fault_ends_with_a_clear_error_and_nothing_saved_is_lost(verified: Verified, name: str) -> None:
    result = verified.faults[name]
    assert "failure" not in result, result["failure"]
    first = result["seen"].splitlines()[0]
    assert f"| {name} | {f'`` {first} ``' if '`' in first else f'`{first}`'}" in verified.page


def test_a_killed_run_goes_on_from_its_latest_checkpoint(verified: Verified) -> None:
    assert len(verified.kills) == KILLS
    assert all(0 <= kill["lost"] <= 200 for kill in verified.kills)
    assert f"{KILLS} times the latest checkpoint loads" in verified.page


def test_the_script_writes_its_table_and_leaves_the_page_else_as_it_was(verified: Verified) -> None:
    assert verified.page.startswith("# Page\n\n<!-- faults -->\n| fault |")
    assert verified.page.endswith("<!-- /faults -->\n\nThe end.\n")
    assert "yesterday" not in verified.page


def test_the_page_has_every_fault() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [name for name in names() if f"\n| {name} |" not in page] == []
    assert "50 times the latest checkpoint loads" in page


# -- which environment -------------------------------------------------------------------------------------------------


class Fails(ScriptedEnv):
    def step(self, action: Any) -> Any:
        if self.all_steps == 17:
            raise ZeroDivisionError("division by zero")
        return super().step(action)


def raised_by(model: Any) -> str:
    """Message and notes of what stops training."""
    with pytest.raises(ZeroDivisionError) as error:
        model.learn(1000)
    return "\n".join([str(error.value), *getattr(error.value, "__notes__", [])])


@pytest.mark.parametrize("culprit", [0, 2])
@pytest.mark.parametrize("kind", [DummyVecEnv, LeanVecEnv])
def test_an_error_keeps_its_type_and_is_noted_with_environment_and_step(kind: Any, culprit: int) -> None:
    env = kind([lambda i=index: Monitor(Fails() if i == culprit else ScriptedEnv()) for index in range(3)])
    text = raised_by(tiny(env, n_steps=8))
    assert text.splitlines()[0] == "division by zero"
    assert f"from environment {culprit} at step 1 of the rollout, timestep 51; nothing was saved yet" in text


def test_an_error_of_a_callback_or_its_environment_is_not_blamed_on_the_training_environment() -> None:
    other = DummyVecEnv([ScriptedEnv, Fails])
    other.reset()

    class StepsAnother(BaseCallback):
        def _on_step(self) -> bool:
            other.step(np.zeros(2, int))
            return True

    model = tiny(DummyVecEnv([ScriptedEnv]), n_steps=8)
    with pytest.raises(ZeroDivisionError) as error:
        model.learn(1000, StepsAnother())
    assert error.value.__notes__ == ["sb3_pg: at step 1 of the rollout, timestep 18; nothing was saved yet"]


def test_without_notes_in_python_the_environment_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Python 3.10."""

    class OldError(ZeroDivisionError):
        add_note = property()

    class FailsOldly(Fails):
        def step(self, action: Any) -> Any:
            if self.all_steps == 17:
                raise OldError
            return super().step(action)

    with pytest.raises(OldError):
        tiny(DummyVecEnv([FailsOldly]), n_steps=8).learn(1000)
    assert "sb3_pg: from environment 0 at step 1 of the rollout" in capsys.readouterr().err


def test_after_an_error_the_environments_are_reset_when_training_goes_on(tmp_path: Path) -> None:
    """Environment 0 has taken a step that environment 1 has not."""
    env = DummyVecEnv([ScriptedEnv, Fails])
    model = tiny(env, n_steps=8)
    raised_by(model)
    model.save(tmp_path / "model")
    for each in env.envs:
        each.unwrapped.all_steps = 100
    model.learn(16, reset_num_timesteps=False)
    assert model.rollout_buffer.observations[0, :, 0].tolist() == [0.0, 0.0]
    assert model._n_updates == 3
    assert VPG.load(tmp_path / "model", device="cpu")._n_updates == 2


@pytest.mark.parametrize(
    ("space", "right", "wrong"),
    [
        (spaces.Box(-1, 1, (2,)), np.zeros(2), np.zeros(3)),
        (spaces.Box(-1, 1, (2,)), [0.5, 7.0], 0.0),
        (spaces.Box(-1, 1, (2, 2)), np.zeros((2, 2)), [[1.0], [1.0, 2.0]]),
        (spaces.Discrete(4), 3, 4),
        (spaces.Discrete(4), np.int32(0), "left"),
        (spaces.MultiDiscrete([2, 3]), [1, 2], [2, 0]),
        (spaces.MultiBinary(2), [1, 0], [1, 0, 1]),
        (DICT, DICT.sample(), {"flat": np.zeros(3)}),
        (DICT, {**DICT.sample(), "more": 1}, {**DICT.sample(), "kind": 9}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_observations_are_told_from_what_is_none(space: spaces.Space[Any], right: Any, wrong: Any) -> None:
    assert ours.fits(space, right)
    assert not ours.fits(space, wrong)
    assert not ours.fits(space, None)


class Stretched(ScriptedEnv):
    """One number where the space has two: NumPy stretches it, and DummyVecEnv does not notice."""

    def _observation(self) -> Any:
        return super()._observation()[:1]


def test_observations_that_numpy_stretches_are_found_at_a_time_limit() -> None:
    model = tiny(lambda: Stretched([6, 9], truncated=True), n_steps=8)
    with pytest.raises(ours.TrainingError, match=r"last observation of environment 0 is .* at step 5 .*Box.*2,"):
        model.learn(64)
    assert model._n_updates == 0


@pytest.mark.filterwarnings("ignore:.*can be passed `options`:DeprecationWarning")
def test_gymnasium_warns_of_them_at_the_first_step() -> None:
    gym.register("Stretched-v0", Stretched)
    try:
        with pytest.warns(UserWarning, match="not within the observation space"):
            gym.make("Stretched-v0").reset()
    finally:
        del gym.registry["Stretched-v0"]
