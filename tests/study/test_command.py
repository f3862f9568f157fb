"""Every study of the project, from its file to its page, on a scale of seconds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from study.small_study import PLAN, write_plan

from sb3_pg.study import command
from sb3_pg.study.command import main
from sb3_pg.study.reading import StudyError
from sb3_pg.study.results import path_of, read_results
from sb3_pg.study.training import NotKeptWarning

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


def test_a_file_in_the_way_is_one_line_and_costs_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = write_plan(tmp_path), tmp_path / "file"
    file.write_text("in the way")
    line = [str(path), "--seeds", "1", "--only", "auto", "--workers", "0", *words(tmp_path), "--logs", str(file)]
    with pytest.warns(NotKeptWarning, match=r"model_\w+.pkl of curve 'auto', seed 1, is not kept"):
        assert main([*line, "--no-report"]) == 0
    assert len(read_results(path_of(tmp_path / "results" / "small", "CartPole-v1", "auto"))) == 1
    capsys.readouterr()
    for wrong in (["--logs"], ["--docs"]):
        assert main([str(path), "--report", *words(tmp_path), *wrong, str(file)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert str(file) in error
        assert error.count("\n") == 1
    assert main([*line, "--results", str(file)]) == 2
    assert str(file) in capsys.readouterr().err


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a study that has a page, and one of the user's with the same name."""
    monkeypatch.chdir(tmp_path)
    write_plan(Path("zoo_scripts", "studies"))
    assert main(["small", "--report"]) == 0
    return write_plan(Path("mine"), PLAN.replace("A small one", "Mine"))


def test_a_study_with_the_name_of_a_shipped_one_leaves_its_page_and_results_alone(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path("docs", "studies", "small.md").read_text()
    capsys.readouterr()
    for options in (["--report"], [], ["--docs", "other"], ["--results", "other"]):
        assert main([str(shipped), "--workers", "0", *options]) == 2
        assert capsys.readouterr().err.startswith("error: mine/small.yml: ")
    assert Path("docs", "studies", "small.md").read_text() == page
    assert not Path("results").exists()
    assert main([str(shipped), "--report", "--docs", "other"]) == 0
    assert "# Mine" in Path("other", "studies", "small.md").read_text()
    assert main(["zoo_scripts/studies/small.yml", "--report"]) == 0


def test_a_page_that_no_study_has_written_is_not_written_over(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path("other", "studies", "small.md")
    page.parent.mkdir(parents=True)
    page.write_text("# By hand\n")
    assert main([str(shipped), "--report", "--docs", "other"]) == 2
    assert f"{page} is there, and was not written by a study: give another `page`" in capsys.readouterr().err
    assert page.read_text() == "# By hand\n"
    page.unlink()
    for _ in range(2):
        assert main([str(shipped), "--report", "--docs", "other"]) == 0


def test_two_studies_of_ones_own_with_one_name_do_not_write_over_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (write_plan(Path(name), PLAN.replace("A small one", name)) for name in ("week1", "week2"))
    for _ in range(2):
        assert main([str(first), "--report"]) == 0
    page = Path("docs", "studies", "small.md")
    assert "the plan is `week1/small.yml`" in page.read_text()
    capsys.readouterr()
    assert main([str(second), "--workers", "0"]) == 2
    said = capsys.readouterr().err
    wanted = (
        "docs/studies/small.md is the page of week1/small.yml: rename your file, give it another `page`, or give --docs"
    )
    assert said == f"error: week2/small.yml: {wanted}\n"
    assert "# week1" in page.read_text()
    assert not Path("results").exists()
    first.unlink()  # where the file was moved, its page is its own
    assert main([str(second), "--report"]) == 0
    assert "# week2" in page.read_text()


def test_what_was_never_logged_and_a_page_that_is_not_there_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "seeds: 2\nrecord: [train/policy_loss, train/valueloss]\nput_into: nofile.md#mark"
    path = write_plan(tmp_path, PLAN.replace("record: train/gae_lambda\n", "").replace("seeds: 2", more))
    line = [str(path), "--only", "auto", "--workers", "0", *words(tmp_path)]
    assert main(line) == 0
    assert f"{tmp_path / 'docs' / 'nofile.md'} is not there, and nothing is put into it" in capsys.readouterr().out
    page = (tmp_path / "docs" / "studies" / "small.md").read_text()
    assert "Logged by none of them: `train/valueloss`." in page


def test_a_study_that_asks_for_the_page_of_a_shipped_one_is_refused(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shipped.read_text(encoding="utf-8").replace("seeds: 2", "seeds: 2\npage: studies/small.md", 1)
    other = shipped.with_name("other.yml")
    other.write_text(text, encoding="utf-8")
    assert main([str(other), "--report"]) == 2
    assert "docs/studies/small.md is the page of zoo_scripts/studies/small.yml" in capsys.readouterr().err
    other.write_text(text.replace("studies/small.md", "studies/other.md"), encoding="utf-8")
    assert main([str(other), "--report"]) == 0


def test_a_page_says_the_options_and_the_folder_that_it_was_made_with(shipped: Path) -> None:
    def said(*line: str) -> str:
        docs = "mine/docs" if str(shipped) in line else "other"
        assert main([*line, "--report", "--docs", docs]) == 0
        return Path(docs, "studies", "small.md").read_text().partition("## How it was made")[2]

    text = said("small")
    assert "`make reproduce STUDY=small` trains what is missing" in text
    assert "is in `results/small/`." in text
    text = said("small", "--full", "--seeds", "3")
    assert "`make reproduce STUDY=small 'STUDY_FLAGS=--seeds 3 --full'` trains" in text
    text = said(str(shipped), "--tiny", "--seeds", "1")
    assert "`python -m sb3_pg.study mine/small.yml --seeds 1 --tiny` trains" in text
    assert "is in `logs/studies/tiny/results/small/`." in text
    text = said(str(shipped), "--results", "my results")
    assert "`python -m sb3_pg.study mine/small.yml --results 'my results'` trains" in text
    assert "is in `my results/small/`." in text


def test_an_interrupt_is_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "reproduce", interrupted)
    assert main([str(write_plan(tmp_path)), *words(tmp_path)]) == 130


def test_all_are_the_files_of_the_folder_but_for_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = [path.stem for path in STUDIES]
    assert "benchmark" in names
    assert [path.stem for path in command.paths_of("all")] == [name for name in names if name != "benchmark"]
    assert command.paths_of("cartpole")[0].name == "cartpole.yml"
    with pytest.raises(StudyError, match="did you mean 'cartpole'"):
        command.paths_of("cartpool")


def test_of_all_the_shortest_study_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    named: list[str] = []
    monkeypatch.setattr(command, "reproduce", lambda study, _: named.append(study.name))
    assert main(["all"]) == 0
    assert sorted(named) == [path.stem for path in command.paths_of("all")]
    assert named.index("lineworld") < named.index("cartpole") < named.index("humanoid")


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--workers", "-1"], ["--workers", "1", "--ray", "auto"]])
def test_what_cannot_be_meant_is_refused_with_its_value(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(write_plan(tmp_path)), *wrong])
    assert re.search(rf"error: {wrong[0]}.* {wrong[1]}\b", capsys.readouterr().err)
