"""Every study of the project, from its file to its page, on a scale of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from study.small_study import PLAN, write_plan

from sb3_pg.study import command
from sb3_pg.study.command import main
from sb3_pg.study.reading import StudyError

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "zoo_scripts" / "studies").glob("*.yml"))
# Of the large ones some curves of each kind
ONLY = {
    "benchmark": ["CartPole-v1", "HalfCheetah-v5/a2c_network"],
    "lambda": ["CartPole-v1/0", "CartPole-v1/1", "CartPole-v1/auto:0.97", "CartPole-v1/hoof:0.97", "Hopper-v5/0.97"],
    "a2c_gae": ["cartpole", "cartpole_a2c", "swingup", "ours", "grid_0.1_0.1_0.99_0.9"],
    "walker": ["ppo_lecture", "a2c_lecture", "reinforce", "trpo"],
}


def words(folder: Path) -> list[str]:
    places = {name: str(folder / name) for name in ("results", "docs", "logs")}
    return [word for name, place in places.items() for word in (f"--{name}", place)]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_of_the_project_runs_to_its_page(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    only = ["--only", *ONLY[path.stem]] if path.stem in ONLY else []
    line = [str(path), "--tiny", "--seeds", "1", "--workers", "0", *only, *words(tmp_path)]
    assert main(line) == 0, capsys.readouterr().err
    page = next((tmp_path / "docs").rglob(f"{path.stem}.md"))
    text = page.read_text()
    assert "This is the tiny scale" in text
    assert "Diverged" not in text
    assert list(page.with_suffix("").glob("01_*.png"))
    assert "results are there, 0 to train" not in capsys.readouterr().out
    assert main([*line, "--no-report"]) == 0
    assert ", 0 to train" in capsys.readouterr().out


def test_errors_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_plan(tmp_path, PLAN.replace("algo: vpg", "algo: vgp"))
    assert main([str(path), *words(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}:9: algo 'vgp' is not known; did you mean 'vpg'?")
    assert main(["cartpol", *words(tmp_path)]) == 2
    assert "there is no study 'cartpol'" in capsys.readouterr().err


def test_a_page_without_marks_and_a_broken_neighbour_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_plan(tmp_path, PLAN.replace("seeds: 2", "seeds: 2\nput_into: other.md#here"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("no marks\n")
    line = [str(path), "--report", *words(tmp_path)]
    assert main(line) == 2
    assert "other.md has no place for the table: <!-- here -->" in capsys.readouterr().err
    (tmp_path / "docs" / "other.md").write_text("<!-- here -->\n<!-- /here -->\n")
    assert main(line) == 0
    write_plan(tmp_path / "zoo_scripts" / "studies", "title: [")
    assert main(line) == 2
    assert capsys.readouterr().err.startswith("error: zoo_scripts/studies/small.yml:1: no YAML")


def test_an_interrupt_is_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "reproduce", interrupted)
    assert main([str(write_plan(tmp_path)), *words(tmp_path)]) == 130


def test_all_are_the_files_of_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert [path.stem for path in command.paths_of("all")] == [path.stem for path in STUDIES]
    assert command.paths_of("cartpole")[0].name == "cartpole.yml"
    with pytest.raises(StudyError, match="did you mean 'cartpole'"):
        command.paths_of("cartpool")


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--workers", "-1"], ["--workers", "1", "--ray", "auto"]])
def test_what_cannot_be_meant_is_refused(wrong: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(write_plan(tmp_path)), *wrong])
