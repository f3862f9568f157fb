"""A study's file: what it says, and the line of what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from study.small_study import PLAN, study, write_plan

from sb3_pg.study.plan import block_of_the_zoo, read_study, zoo_block
from sb3_pg.study.reading import StudyError

STUDIES = sorted((Path(__file__).parents[2] / "zoo_scripts" / "studies").glob("*.yml"))


def test_every_training_of_a_plan_is_there_with_first_seeds_first(tmp_path: Path) -> None:
    tasks = list(study(tmp_path).tasks())
    assert [(task.seed, task.curve) for task in tasks] == [(s, c) for s in (1, 2) for c in ("0.5", "1", "auto")]
    assert tasks[0].settings.block == {
        **zoo_block("vpg", "CartPole-v1", 128), "n_envs": 2, "n_steps": 16, "gae_lambda": 0.5
    }  # fmt: skip
    assert tasks[0].settings.n_timesteps == 128
    assert tasks[0].eval_episodes == 1


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("title: A small one", "titel: A small one", 1, "'titel' is unknown here; did you mean 'title'?"),
        ("title: A small one", "# none", 1, "'title' is missing"),
        ("seeds: 2", "seeds: 2\ngym_packages: no_such_package", 6, "No module named 'no_such_package'"),
        ("seeds: 2", "seeds: [1, 1]", 5, "seeds must be different whole numbers"),
        ("seeds: 2", "seeds: [1, 4294967296]", 5, "whole numbers below 2**32"),
        ("seeds: 2", "seeds: 0", 5, "seeds must be a whole number above 0, not 0"),
        ("n_timesteps: 128", "n_timesteps: 1e6", 6, "write 1_000_000"),
        ("n_timesteps: 128", "n_timesteps: {Acrobot-v1: 5}", 6, "says nothing of CartPole-v1"),
        ("algo: vpg", "algo: vgp", 9, "algo 'vgp' is not known; did you mean 'vpg'?"),
        ("env: CartPole-v1\n", "env: CartPole-v9\n", 10, "env 'CartPole-v9' is not known; did you mean 'CartPole-v1'?"),
        ("n_envs: 2", "n_env: 2", 13, "vpg has no 'n_env'; did you mean 'n_envs'?"),
        ("{name: auto, ", "{", 16, "'name' is missing in curves[2]"),
        ("{name: auto, ", "{name: a b, ", 16, "without blanks and slashes"),
        ("{name: auto, ", "{name: '1', ", 16, "names are unique"),
        ("- {name: auto, ", "- {name: 'a:b'}\n  - {name: a-b, ", 17, "names are unique, as names of files too"),
        ('name: "{gae_lambda}"', "name: one", 13, "add {gae_lambda}"),
        ("grid: {gae_lambda: [0.5, 1]}", "grid: {gae_lambda: 1}", 15, "gae_lambda must be a list of values"),
        ("{kind: seconds}", "{kind: second}", 19, "did you mean 'seconds'?"),
        ("{kind: seconds}", "{kind: seconds, y: returns}", 19, "'y' is unknown here"),
        ("{kind: seconds}", "{kind: seconds, curves: [auot]}", 19, "did you mean 'auto'?"),
        ('measure: "steps_to:20"', "measure: steps", 20, "measure 'steps' is not known"),
        ("> curve:0.5", "> curve:1", 26, "1 on CartPole-v1 can be compared with 0.5, auto"),
        ('measure: "steps_to:20"', "measure: equal_seconds", 20, "it is for claims with '>= curve:NAME'"),
        ("measure: best", "measure: equal_seconds", 27, "it is for claims with '>= curve:NAME'"),
        ("> curve:0.5", "> curve:0.6", 26, "holds_if '0.6' is not known; did you mean '0.5'?"),
        ("> curve:0.5", "better", 26, "write '>= 195' or '> curve:NAME'"),
        ("picture: {curve: auto", "picture: {curve: otto", 28, "did you mean 'auto'?"),
        ("question: Does it run?", "question: Does it: run?", 2, "no YAML"),
        ("eval_episodes: 1", "seeds: 3", 7, "'seeds' is there twice"),
        ("eval_episodes: 1", "eval_episodes: many", 7, "eval_episodes must be a whole number above 0, not 'many'"),
        ("n_timesteps: 128", "n_timesteps: .inf", 6, "n_timesteps must be a whole number above 0, not inf"),
        ("seeds: 2", "seeds: .inf", 5, "seeds must be a whole number above 0, not inf"),
        ("env: CartPole-v1\n", "envs: []\n", 10, "envs must name at least one environment"),
        ("{kind: curves, seeds: true}", "{kind: curves, seeds: 3}", 18, "seeds must be true or false, not 3"),
        ("{kind: curves, seeds: true}", "{kind: curves, share_y: x}", 18, "share_y must be true or false, not 'x'"),
        ("{kind: curves, seeds: true}", "{kind: curves, y: return}", 18, "did you mean 'returns'?"),
        ("{kind: against, parameter: gae_lambda}", "{kind: against}", 21, "'parameter' is missing in figures[4]"),
        ("parameter: gae_lambda", "parameter: gae_lamda", 21, "did you mean 'gae_lambda'?"),
        ('measure: "steps_to:20"', 'measure: "logged:train/loss"', 20, "add 'train/loss' to the study's record"),
        ("measure: best", 'measure: "early:train/loss"', 27, "add 'train/loss' to the study's record"),
        ("{kind: improvement}", "{kind: improvement, curves: [auto]}", 24, "name two or more"),
        ('label: "λ = {gae_lambda}"', 'label: "$x_1{{$ {gae_lambda}"', 14, "has no formula between its dollars"),
        ("{kind: regret}", "{kind: regret, title: '$a^$'}", 22, "has no formula between its dollars"),
        ("eval_episodes: 1", "page: ''", 7, "page must be the path of a Markdown file"),
        ("eval_episodes: 1", "page: /tmp/page.md", 7, "page must be the path of a Markdown file"),
        ("eval_episodes: 1", "put_into: lambda.md", 7, "put_into must be FILE#MARK"),
        ("eval_episodes: 1", "page: ../../page.md", 7, "page must be the path of a Markdown file"),
        ("eval_episodes: 1", "eval_episodes: -1", 7, "eval_episodes must be a whole number above 0, not -1"),
        ("{kind: seconds}", "{kind: walks}", 19, "walks are drawn of LineWorld-v0, not of CartPole-v1"),
        ("n_envs: 2", "1: 2", 13, "vpg has no 1"),
        ("claims:", "record: rollout/ep_rew_mean\nclaims:", 25, "record cannot hold 'rollout/ep_rew_mean'"),
        ("claims:", "record: [train/loss, time/fps]\nclaims:", 25, "record cannot hold 'time/fps'"),
        ("claims:", "record: [1]\nclaims:", 25, "record must be text or a list of texts"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    path = write_plan(tmp_path, PLAN.replace(old, new, 1))
    with pytest.raises(StudyError) as caught:
        list(read_study(path).tasks())
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert message in str(caught.value)


def test_a_missing_file_and_a_list_are_no_studies(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot read"):
        read_study(tmp_path / "none.yml")
    latin = tmp_path / "latin.yml"
    latin.write_bytes("title: Künstlich".encode("latin-1"))
    with pytest.raises(StudyError, match=r"latin.yml: it is not in UTF-8"):
        read_study(latin)
    with pytest.raises(StudyError, match="a study is a mapping"):
        read_study(write_plan(tmp_path, "- one\n"))


def test_a_curve_with_a_block_or_an_algorithm_of_its_own_has_none_of_the_defaults_hyperparams(tmp_path: Path) -> None:
    text = PLAN.replace("{name: auto, hyperparams", "{name: auto, block: none, hyperparams")
    curve = study(tmp_path, text).curves[2]
    assert curve.hyperparams == {"gae_lambda": "auto:0.5"}
    assert study(tmp_path, text).settings(curve, "CartPole-v1").block == {
        "policy": "MlpPolicy", "n_timesteps": 128, "gae_lambda": "auto:0.5"
    }  # fmt: skip


def test_without_a_block_the_one_of_the_newest_older_version_is_taken() -> None:
    assert block_of_the_zoo("a2c", "HalfCheetah-v5")[1]
    older, is_default = block_of_the_zoo("a2c", "HalfCheetah-v4")
    assert not is_default
    assert zoo_block("a2c", "HalfCheetah-v5", 7) == {**older, "n_timesteps": 7}


def test_full_and_tiny_change_steps_and_nothing_that_was_not_asked_for(tmp_path: Path) -> None:
    path = write_plan(tmp_path, PLAN.replace("n_timesteps: 128", "n_timesteps: 128\nfull_timesteps: 9000"))
    assert read_study(path).curves[0].n_timesteps == {"CartPole-v1": 128}
    assert read_study(path, full=True).curves[0].n_timesteps == {"CartPole-v1": 9000}
    own = PLAN.replace("- {name: auto,", "- {name: auto, n_timesteps: 64,")
    path = write_plan(tmp_path, own.replace("n_timesteps: 128", "n_timesteps: 128\nfull_timesteps: 9000"))
    assert read_study(path, full=True).curve("auto").n_timesteps == {"CartPole-v1": 64}
    tiny = read_study(path, tiny=True, seeds=1)
    assert tiny.curves[0].seeds == (1,)
    assert tiny.settings(tiny.curves[0], "CartPole-v1").block["critic_batch_size"] == 32


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("grid: {gae_lambda: [0.5, 1]}", "grid: {gae_lambda: [0.5, 1], n_timesteps: [64]}", 15),
        ('hyperparams: {gae_lambda: "auto:0.5"}', 'hyperparams: {gae_lambda: "auto:0.5", n_timesteps: 64}', 16),
        ("hyperparams: {n_envs: 2", "hyperparams: {n_timesteps: 64, n_envs: 2", None),
    ],
)
def test_steps_are_no_hyperparameter(old: str, new: str, line: int | None, tmp_path: Path) -> None:
    assert PLAN.count(old) == 1
    text = PLAN.replace(old, new)
    if "grid" in new:
        text = text.replace('name: "{gae_lambda}"', 'name: "{gae_lambda}_{n_timesteps}"')
    with pytest.raises(StudyError, match="n_timesteps is a key of the curve") as raised:
        read_study(write_plan(tmp_path, text))
    assert line is None or f"small.yml:{line}:" in str(raised.value)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_plans_of_the_project_are_right(path: Path) -> None:
    plan = read_study(path)
    assert re.match(r"[^.!?]+\?", plan.question), "its first sentence is no question"
    tasks = list(plan.tasks())
    assert tasks
    for task in tasks:
        assert task.settings.block["n_timesteps"] == task.settings.n_timesteps


def test_the_plans_of_the_project_are_all_there() -> None:
    names = "a2c_gae baselines benchmark cartpole cheetah humanoid lambda lander lineworld pendulum walker"
    assert {path.stem for path in STUDIES} >= set(names.split())
