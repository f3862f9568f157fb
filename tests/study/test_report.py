"""The pages: figures, tables, commands, films."""

from __future__ import annotations

import importlib
import io
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from PIL import Image
from study.small_study import PLAN, result, results_of, study, write_plan

from sb3_pg.pages import put_between_marks
from sb3_pg.study import figures, report
from sb3_pg.study.commands import command
from sb3_pg.study.figures import NothingToDrawError, draw
from sb3_pg.study.pictures import as_gif, film, shadow
from sb3_pg.study.plan import Study, read_study
from sb3_pg.study.report import write_index, write_report
from sb3_pg.study.runner import Results, missing, read_all
from sb3_pg.study.training import model_path, quiet_mujoco, train

STUDIES = sorted((Path(__file__).parents[2] / "zoo_scripts" / "studies").glob("*.yml"))


def test_a_page_has_claims_figures_numbers_and_commands(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    page = write_report(plan, results, tmp_path / "docs", tmp_path / "logs")
    text = page.read_text()
    assert "6 of 6 trainings are done." in text
    assert "| One is better than a half | > λ = 0.5 | λ = 1: return in the last tenth" in text
    assert "| yes | It is not. |" in text
    assert "| λ = 0.5 | 128 | 3 | 49.9 [49, 50.9] |" in text
    assert "| `auto` |" in text
    assert "--algo vpg --env CartPole-v1 -n 128 --seed 1" in text
    assert "No film of auto on CartPole-v1" in text
    assert "- Nothing of it means anything." in text
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 7
    for picture in pictures:
        assert (page.parent / picture).read_bytes().startswith(b"\x89PNG")
    whole = (tmp_path / "logs" / "small" / "report.html").read_text()
    assert whole.count("data:image/png;base64,") == 7
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]+", "", whole)


def test_what_is_missing_and_what_diverged_is_said(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    results.found["CartPole-v1", "0.5"] = {1: result(1, failure="NaN in the weights")}
    del results.found["CartPole-v1", "auto"]
    text = write_report(plan, results, tmp_path / "docs", tmp_path / "logs").read_text()
    assert "3 of 6 trainings are done. In part: λ = 0.5 ... λ = 1: 3 of 4; auto: 0 of 2." in text
    assert "0.5 on CartPole-v1, seed 1 (NaN in the weights)" in text
    assert "Not trained yet: It reaches ten." in text
    assert "One is better than a half |" in text


def test_an_evaluation_of_some_of_the_seeds_is_not_shown(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    results.found["CartPole-v1", "0.5"][2] = replace(results.found["CartPole-v1", "0.5"][2], evaluation=[])
    text = write_report(plan, results, tmp_path / "docs", tmp_path / "logs").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| λ = 0.5 | 128 |")]
    assert row.split(" | ")[-2].strip() == ""
    (row,) = [line for line in text.splitlines() if line.startswith("| auto | 128 |")]
    assert row.split(" | ")[-2].strip()


def test_a_record_that_came_later_and_a_study_elsewhere_are_said(tmp_path: Path) -> None:
    plan = replace(study(tmp_path), record=("train/loss",), path=Path("my plans", "small.yml"))
    text = write_report(plan, results_of(plan), tmp_path / "docs", tmp_path / "logs").read_text()
    assert "Trainings from before the plan's record of `train/loss`, which have no such numbers: 9." in text
    assert "`python -m sb3_pg.study 'my plans/small.yml'` trains what is missing and writes this page" in text
    assert f"the plan is `{os.path.relpath(Path('my plans', 'small.yml'), tmp_path)}`" in text


def test_points_that_are_never_reached_are_said_in_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = study(tmp_path, PLAN.replace("parameter: gae_lambda", 'parameter: gae_lambda, measure: "steps_to:60"'))
    results = results_of(plan)
    shown: list[Any] = []
    monkeypatch.setattr(figures, "to_png", lambda figure, *_, **__: shown.append(figure))
    draw(plan.figures[3], plan, results)
    (axes,) = shown[0].axes
    assert [text.get_text() for text in axes.texts] == ["never"]  # "0.5" ends at 51 to 53
    assert axes.texts[0].get_position()[0] == 0
    assert len(axes.containers) == 1


def test_curves_that_share_a_value_stand_at_one_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = study(tmp_path, PLAN.replace("auto:0.5", "1").replace('"1"}}', "1}}"))
    shown: list[Any] = []
    monkeypatch.setattr(figures, "to_png", lambda figure, *_, **__: shown.append(figure))
    for each in (plan, study(tmp_path)):
        draw(each.figures[3], each, results_of(each))
    (axes,), (alone,) = shown[0].axes, shown[1].axes
    for one in (axes, alone):
        assert [tick.get_text() for tick in one.get_xticklabels()] == ["0.5", "1"]
    estimates, unshared = axes.containers[0][0], alone.containers[0][0]
    assert list(estimates.get_xdata()) == [0, 1, 1]
    assert estimates.get_linestyle() == "None"
    assert list(unshared.get_xdata()) == [0, 1]
    assert unshared.get_linestyle() == "-"


def test_seconds_are_the_clock_of_the_seeds_and_three_decades_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    found = results.found["CartPole-v1", "auto"]
    found[1].seconds[0] = found[2].seconds[0] = 1e-4
    found[3].seconds[:] = [100 * second for second in found[3].seconds]  # had to wait for the machine
    shown: list[Any] = []
    monkeypatch.setattr(figures, "to_png", lambda figure, *_, **__: shown.append(figure))
    draw(plan.figures[1], plan, results)
    (axes,) = shown[0].axes
    *_, line = axes.get_lines()
    assert line.get_label() == "auto"
    assert line.get_xdata()[[0, 1, -1]].tolist() == [1e-4, 0.2, 5.0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlim()[0] == pytest.approx(0.005)


def test_the_table_has_the_median_of_the_seeds_seconds(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    results.found["CartPole-v1", "auto"][3].seconds[-1] = 500.0
    text = write_report(plan, results, tmp_path / "docs", tmp_path / "logs").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| auto | 128 |"))
    assert row.endswith("| 5 |")


def test_two_seeds_have_no_interval_and_make_no_profile(tmp_path: Path) -> None:
    plan = study(tmp_path)
    text = write_report(plan, results_of(plan, n_seeds=2), tmp_path / "docs", tmp_path / "logs").read_text()
    assert re.search(r"\| λ = 0\.5 \| 128 \| 2 \| 49\.\d \| [\d.]+ \| 51.5 \| 5 \|", text)
    assert "profile: not drawn, since no environment has been trained with 3 seeds of all of its curves yet." in text


def test_a_curve_without_numbers_leaves_the_figure_to_the_others(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    without = {key: each for key, each in results.found.items() if key[1] != "auto"}
    at_once = result(1, returns=[None] * 50, n_episodes=[0] * 50, failure="NaN in the weights")
    both = Results({**without, ("CartPole-v1", "auto"): {1: at_once}})
    assert draw(plan.figures[0], plan, both) == draw(plan.figures[0], plan, Results(without))
    unknown = replace(plan.figures[0], options={"y": "train/never"})
    with pytest.raises(NothingToDrawError, match="train/never was not recorded"):
        draw(unknown, plan, results)


def test_seeds_that_never_end_an_episode_make_no_profile_and_a_page(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    for seed in results.found["CartPole-v1", "auto"]:
        nothing: dict[str, Any] = dict(returns=[None] * 50, n_episodes=[0] * 50)
        results.found["CartPole-v1", "auto"][seed] = result(seed, **nothing)
    for name in ("0.5", "1"):
        for seed in results.found["CartPole-v1", name]:
            results.found["CartPole-v1", name][seed] = result(seed, failure="NaN in the weights", **nothing)
    text = write_report(plan, results, tmp_path / "docs", tmp_path / "logs").read_text()
    assert "profile: not drawn, since no environment has been trained with 3 seeds" in text
    assert "in the whole training, so there is no return: auto on CartPole-v1, 3 of 3 seeds." in text
    assert "return of the last ones before" not in text


def test_where_no_episode_ended_in_the_last_tenth_that_is_said(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    page = (tmp_path / "docs", tmp_path / "logs")
    assert "No episode ended" not in write_report(plan, results, *page).read_text()
    long: dict[str, Any] = dict(n_episodes=[2] * 40 + [0] * 10)
    one = results.found["CartPole-v1", "auto"][2]
    results.found["CartPole-v1", "auto"][2] = replace(one, returns=[*one.returns[:40], *[None] * 10], **long)
    text = write_report(plan, results, *page).read_text()
    assert "the return of the last ones before: auto on CartPole-v1, 1 of 3 seeds." in text


def test_pictures_of_the_users_beside_a_page_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "studies" / "small"
    folder.mkdir(parents=True)
    for name in ("holiday.png", "01_holiday.png", "holiday.gif", "99_curves.png"):
        (folder / name).write_bytes(b"mine")
    plan = study(tmp_path)
    write_report(plan, results_of(plan), tmp_path / "docs", tmp_path / "logs")
    assert {path.name for path in folder.iterdir() if path.read_bytes() == b"mine"} == {
        "holiday.png", "01_holiday.png", "holiday.gif"
    }  # fmt: skip


def test_nothing_trained_is_a_page_too(tmp_path: Path) -> None:
    text = write_report(study(tmp_path), Results(), tmp_path / "docs", tmp_path / "logs").read_text()
    assert "0 of 6 trainings are done." in text
    assert text.count("not drawn, since") == 7


@pytest.mark.parametrize("number", range(7))
def test_each_kind_of_figure_shows_other_results_otherwise(number: int, tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    one = draw(plan.figures[number], plan, results)
    assert one == draw(plan.figures[number], plan, results)
    changed = {key: dict(reversed(list(each.items()))) for key, each in results.found.items()}
    changed["CartPole-v1", "auto"] = {seed: result(seed, 5.0 * seed) for seed in (1, 2, 3)}
    other = draw(plan.figures[number], plan, Results(changed))
    assert one != other
    assert Image.open(io.BytesIO(one)).size[0] > 600
    with pytest.raises(NothingToDrawError):
        draw(plan.figures[number], plan, Results())


def test_the_index_lists_the_studies_that_have_a_page(tmp_path: Path) -> None:
    plans, docs = tmp_path / "plans", tmp_path / "docs"
    write_plan(plans, PLAN)
    (plans / "other.yml").write_text(PLAN)
    write_index(docs, plans)
    index = docs / "studies" / "README.md"
    assert "None has been reproduced yet." in index.read_text()
    index.write_text(index.read_text().replace("# Studies", "# Studies\n\nMy own words."))
    plan = read_study(plans / "small.yml")
    write_report(plan, results_of(plan), docs, tmp_path / "logs")
    write_index(docs, plans)
    text = index.read_text()
    assert "My own words." in text
    assert '| [A small one](small.md) | Does it run? | <img src="small/01_curves.png"' in text
    assert "other" not in text


def test_links_of_a_file_with_a_blank_in_its_name_are_links(tmp_path: Path) -> None:
    plans, docs = tmp_path / "plans", tmp_path / "docs"
    path = write_plan(plans, PLAN.replace("seeds: 2", "seeds: 2\nput_into: there.md#mark"))
    plan = read_study(path.rename(plans / "my study.yml"))
    docs.mkdir()
    (docs / "there.md").write_text("<!-- mark -->\n<!-- /mark -->\n")
    text = write_report(plan, results_of(plan), docs, tmp_path / "logs").read_text()
    assert "![Learning curves](my%20study/01_curves.png)" in text
    assert (docs / "studies" / "my study" / "01_curves.png").exists()
    write_index(docs, plans)
    index = (docs / "studies" / "README.md").read_text()
    assert '[A small one](my%20study.md) | Does it run? | <img src="my%20study/01_curves.png"' in index
    there = (docs / "there.md").read_text()
    assert "(studies/my%20study/01_curves.png)" in there
    assert "(studies/my%20study.md)" in there


def test_a_study_may_put_its_first_figure_into_another_page(tmp_path: Path) -> None:
    plan = study(tmp_path, PLAN.replace("seeds: 2", "seeds: 2\nput_into: there.md#mark"))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "there.md").write_text("before\n<!-- mark -->\nformer words\n<!-- /mark -->\nafter\n")
    write_report(plan, results_of(plan), docs, tmp_path / "logs")
    text = (docs / "there.md").read_text()
    assert "(studies/small/01_curves.png)" in text
    assert "(studies/small.md)" in text
    assert "former words" not in text
    with pytest.raises(ValueError, match="has no place for the table"):
        put_between_marks(docs / "there.md", "elsewhere", "")


def test_the_scores_of_several_environments_are_a_table_too(tmp_path: Path) -> None:
    text = PLAN.replace("  env: CartPole-v1", "  envs: [CartPole-v1, Acrobot-v1]")
    plan = study(tmp_path, text.replace("seeds: 2", "seeds: 2\nput_into: there.md#mark"))
    there = tmp_path / "docs" / "there.md"
    there.parent.mkdir()
    there.write_text("<!-- mark -->\n<!-- /mark -->\n")
    results = results_of(plan)
    del results.found["Acrobot-v1", "auto"]
    text = write_report(plan, results, tmp_path / "docs", tmp_path / "logs").read_text()
    one = "| environment | steps | λ = 0.5 | λ = 1 | auto |"
    assert one in text
    rows = text[text.index(one) :].splitlines()[2:4]
    assert [row.count("3 seeds") for row in rows] == [3, 2]
    assert rows[1].startswith("| Acrobot-v1 | 128 | ")
    assert "01_curves.png" in there.read_text()
    assert one in there.read_text()
    assert one not in write_report(study(tmp_path), results, tmp_path / "docs", tmp_path / "logs").read_text()


class Caught(Exception):  # noqa: N818 (nothing went wrong)
    """Stops RL Zoo once its command line has been read."""


def read_by_the_zoo(line: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Hyperparameters, environment and steps that RL Zoo trains after a command."""
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "rl_zoo3.train"]
    monkeypatch.setattr(sys, "argv", words[2:])
    zoo = importlib.import_module("rl_zoo3.train")
    found: dict[str, Any] = {}

    class Manager(zoo.ExperimentManager):  # type: ignore[misc,name-defined]
        def setup_experiment(self) -> Any:
            _, found["block"] = self.read_hyperparameters()
            found.update(env=str(self.env_name.gym_id), n=self.n_timesteps, seed=self.seed, algo=self.algo)
            raise Caught

    with monkeypatch.context() as patch:
        patch.setattr(zoo, "ExperimentManager", Manager)
        with pytest.raises(Caught):
            zoo.train()
    return found


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_command_of_each_curve_trains_what_the_study_trains(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = read_study(path)
    for curve in [*plan.curves[:9], plan.curves[-1]]:
        for env in (curve.envs[0], curve.envs[-1]):
            found = read_by_the_zoo(command(plan, curve, env), monkeypatch)
            block = {**found["block"], "n_timesteps": found["n"]}
            wanted = dict(plan.settings(curve, env).block)
            assert (found["algo"], found["env"], found["seed"]) == (curve.algo, env, curve.seeds[0])
            assert {key: block[key] for key in wanted} == wanted
            # Whatever else the Zoo's block has is set back to what it is by default
            assert all(block[key] in (None, False, True, 1, "none", "value", "bootstrap", "gae", 0.0)
                       or key not in wanted for key in set(block) - set(wanted))  # fmt: skip


def test_the_command_imports_packages_and_writes_infinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PLAN.replace('hyperparams: {gae_lambda: "auto:0.5"}', "hyperparams: {max_grad_norm: .inf}")
    plan = study(tmp_path, text.replace("seeds: 2", "seeds: 2\ngym_packages: [sb3_pg.envs]"))
    line = command(plan, plan.curve("auto"), "CartPole-v1")
    assert "--gym-packages sb3_pg.envs" in line
    assert read_by_the_zoo(line, monkeypatch)["block"]["max_grad_norm"] == float("inf")


def test_the_first_seed_s_model_makes_a_film(tmp_path: Path) -> None:
    plan = study(tmp_path)
    (task,) = [one for one in missing(plan, read_all(plan, tmp_path), ["auto"], tmp_path / "logs") if one.keep_model]
    train(task)
    gif, why_not = film(plan, tmp_path / "logs")
    assert why_not == ""
    with Image.open(io.BytesIO(gif)) as image:
        assert (image.format, image.n_frames > 1, image.width) == ("GIF", True, 300)
    docs = tmp_path / "docs"
    page = write_report(plan, results_of(plan), docs, tmp_path / "logs")
    old = docs / "studies" / "small" / "08_walks.png"
    old.write_bytes(b"")
    # Without the model, as in a fresh clone, the film stays; what no figure draws any more does not
    assert write_report(plan, results_of(plan), docs, tmp_path / "elsewhere") == page
    assert (docs / "studies" / "small" / "agent.gif").read_bytes() == gif
    assert "(small/agent.gif)" in page.read_text()
    assert not old.exists()
    changed = with_steps(plan, 9)
    assert "other settings" in film(changed, tmp_path / "logs")[1]


def with_steps(plan: Study, n_timesteps: int) -> Study:
    """The same study, trained for another number of steps."""
    curves = tuple(replace(curve, n_timesteps=dict.fromkeys(curve.envs, n_timesteps)) for curve in plan.curves)
    return replace(plan, curves=curves, _blocks={})


WALKS = """\
title: Walks
question: Where to?
seeds: 1
n_timesteps: 128
eval_episodes: 0
defaults: {algo: vpg, env: LineWorld-v0, hyperparams: {n_envs: 2, n_steps: 16}}
curves: [{name: one}]
figures: [{kind: walks}]
picture: {curve: one}
"""


def shown(plan: Study, results: Results, docs: Path, logs: Path) -> tuple[str, set[str]]:
    """The page's text, and its pictures."""
    page = write_report(plan, results, docs, logs)
    return page.read_text(), {path.name for path in page.with_suffix("").glob("*")}


def test_pictures_of_other_settings_do_not_stay_on_the_page(tmp_path: Path) -> None:
    plan, docs, logs = study(tmp_path, WALKS), tmp_path / "docs", tmp_path / "logs"
    (task,) = missing(plan, read_all(plan, tmp_path), logs=logs)
    train(task)
    drawn = shown(plan, results_of(plan), docs, logs)[1]
    assert drawn == {"01_walks.png", "agent.gif"}
    other = with_steps(plan, 64)
    text, left = shown(other, Results(), docs, tmp_path / "nologs")
    assert left == set()
    assert text.count("seed 1 of one has not been trained with these settings") == 2
    assert shown(plan, results_of(plan), docs, logs)[1] == drawn
    # It may have been drawn with this model, and so not by these settings
    (of_these,) = missing(other, read_all(other, tmp_path), logs=logs)
    text, left = shown(other, results_of(other), docs, logs)
    assert left == set()
    assert text.count("the model of one that is kept here was trained with other settings") == 2
    # Each has a model of its own: neither takes the place of the other's
    train(of_these)
    assert shown(other, results_of(other), docs, logs)[1] == drawn
    assert shown(plan, results_of(plan), docs, logs)[1] == drawn
    # Where a version before this one has left its model under a name without settings
    model_path(task.folder, of_these.settings).unlink()
    model_path(task.folder, task.settings).rename(Path(task.folder, "model.pkl"))
    assert shown(plan, results_of(plan), docs, logs)[1] == drawn


def test_where_the_first_seed_diverged_the_page_says_why_there_is_no_film(tmp_path: Path) -> None:
    plan = study(tmp_path, WALKS)
    results = results_of(plan)
    results.found["LineWorld-v0", "one"][1] = result(1, failure="NaN in the weights")
    text, left = shown(plan, results, tmp_path / "docs", tmp_path / "logs")
    assert left == set()
    assert text.count("since seed 1 of one diverged and left no model") == 1
    assert text.count("policy: seed 1 of one diverged and left no model") == 1


def test_a_model_that_cannot_be_read_leaves_the_pictures_there_are(tmp_path: Path) -> None:
    plan, docs, logs = study(tmp_path, WALKS), tmp_path / "docs", tmp_path / "logs"
    (task,) = missing(plan, read_all(plan, tmp_path), logs=logs)
    Path(task.folder).mkdir(parents=True)
    model_path(task.folder, task.settings).write_bytes(b"cut")
    assert f"{model_path(task.folder, task.settings)} cannot be read as a model" in film(plan, logs)[1]
    for name in ("01_walks.png", "agent.gif"):
        put = docs / "studies" / "small" / name
        put.parent.mkdir(parents=True, exist_ok=True)
        put.write_bytes(b"there")
    assert shown(plan, results_of(plan), docs, logs)[1] == {"01_walks.png", "agent.gif"}


def test_a_film_is_made_as_small_as_it_has_to_be() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 30, 40, 3)).astype(np.uint8)
    frames = list(noise)
    assert len(as_gif(frames, 0.1, max_bytes=100_000)) <= 100_000
    assert len(as_gif(frames, 0.1, max_bytes=10**8)) > 100_000


def test_mujoco_s_bodies_have_a_shadow_without_a_screen() -> None:
    quiet_mujoco()
    env = gym.make("HalfCheetah-v5")
    env.reset(seed=1)
    one = shadow(env.unwrapped.model, env.unwrapped.data)  # type: ignore[attr-defined]
    for _ in range(20):
        env.step(np.ones(6))
    other = shadow(env.unwrapped.model, env.unwrapped.data)  # type: ignore[attr-defined]
    env.close()
    blue = (one == (38, 84, 164)).all(axis=-1)
    assert 0.01 < blue.mean() < 0.2
    assert (one != other).any()


def test_the_plans_titles_and_questions_are_fit_for_the_index() -> None:
    for path in STUDIES:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert "|" not in values["title"] + values["question"]
        assert report.INDEX == "studies"
