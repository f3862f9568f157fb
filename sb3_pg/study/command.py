"""``python -m sb3_pg.study`` and ``zoo_scripts/reproduce.py``: from the YAML file to the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rich.console import Console

from sb3_pg.files import accept_any_text
from sb3_pg.launch import backend_for
from sb3_pg.pages import NoMarksError
from sb3_pg.study.plan import STUDIES, Study, is_of_the_project, page_of, read_study
from sb3_pg.study.reading import StudyError
from sb3_pg.study.report import MADE_WITH, plan_named_on, write_index, write_report
from sb3_pg.study.runner import check, missing, read_all, run_study
from sb3_pg.tune.errors import suggestion

DESCRIPTION = """
Train what a study is missing, and write its report. Results that are there are reused; the same command goes on after
an interrupt.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    result = argparse.ArgumentParser("python -m sb3_pg.study", description=DESCRIPTION)
    result.add_argument("study", help=f"YAML file; or, in a checkout, the name of one in {STUDIES}, or 'all'")
    result.add_argument("--seeds", type=int, metavar="N", help="seeds 1 to N (those of the file)")
    result.add_argument("--only", nargs="+", default=[], metavar="WHAT", help="train these: ENV, CURVE, or ENV/CURVE")
    result.add_argument("--full", action="store_true", help="the long trainings (full_timesteps), where there are")
    result.add_argument("--tiny", action="store_true", help="see in seconds that it runs; writes to logs/studies/tiny")
    result.add_argument("--report", action="store_true", help="train nothing, only write the report")
    result.add_argument("--no-report", action="store_true", help="only train")
    result.add_argument("--workers", type=int, metavar="N", help="processes of this machine; 0 for this one itself (1)")
    result.add_argument("--ray", metavar="ADDRESS", help="instead: host:port of a Ray cluster, 'auto', or 'local'")
    result.add_argument("--results", type=Path, help="where results are kept (results)")
    result.add_argument("--docs", type=Path, help="where pages are written (docs)")
    result.add_argument("--logs", type=Path, help="where checkpoints and models are kept (logs/studies)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """
    Train and report.

    :param argv: the words of the command line; None for those of this process
    :return: exit code: 0, 2 for an error, 130 after an interrupt
    """
    accept_any_text()
    arguments = parser()
    args = arguments.parse_args(argv)
    if args.seeds is not None and args.seeds < 1:
        arguments.error(f"--seeds must be at least 1, not {args.seeds}")
    if args.workers is not None and args.workers < 0:
        arguments.error(f"--workers {args.workers}: a whole number of at least 0 is expected")
    if args.workers is not None and args.ray:
        arguments.error(f"--workers {args.workers} and --ray {args.ray}: Ray has workers of its own; give one of them")
    for name, default in _places(args.tiny).items():
        setattr(args, name, getattr(args, name) or default)
    try:
        studies = [read_study(path, args.seeds, args.full, args.tiny) for path in paths_of(args.study)]
        for study in sorted(studies, key=_steps):  # a page after minutes
            reproduce(study, args)
    except (StudyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted. What is finished is kept; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _steps(study: Study) -> int:
    """Environment steps of all of a study's trainings."""
    return sum(task.settings.n_timesteps for task in study.tasks())


def _places(tiny: bool) -> dict[str, Path]:
    """Where everything is kept unless the command line says otherwise."""
    root = Path("logs", "studies")
    usual = {"results": Path("results"), "docs": Path("docs"), "logs": root}
    return {name: root / "tiny" / name for name in usual} if tiny else usual


def _options(args: argparse.Namespace) -> list[str]:
    """What decides about the numbers of a page, as words; where the page itself goes does not."""
    words = ["--seeds", str(args.seeds)] if args.seeds else []
    words += [f"--{name}" for name in ("full", "tiny") if getattr(args, name)]
    return words + (["--results", str(args.results)] if args.results != _places(args.tiny)["results"] else [])


def paths_of(name: str) -> list[Path]:
    """
    Find the files that a word of the command line means.

    :param name: a path, the name of a study, or ``"all"``: those with a page among the studies, and not the benchmark,
        which is trained for days
    :raises StudyError: for what is none of them
    """
    known = {path.stem: path for path in sorted(STUDIES.glob("*.yml"))}
    if name == "all" and known:
        return [path for path in known.values() if PurePosixPath(page_of(path)).parent.name == "studies"]
    if name in known:
        return [known[name]]
    if Path(name).is_file():
        return [Path(name)]
    if not known:
        raise StudyError(f"there is no file {name!r}, and no {STUDIES} here: give the path of a YAML file")
    raise StudyError(f"there is no study {name!r}{suggestion(name, {*known, 'all'})}")


def _check_places(study: Study, args: argparse.Namespace) -> None:
    """
    Keep a study from pages that no study has written, and one of one's own from what belongs to another.

    :raises StudyError: when it would replace such a page, or another study's, or write into the project's results
    """
    page = args.docs / study.page
    there = page.read_text(encoding="utf-8", errors="replace") if page.exists() and not args.no_report else ""
    if there and f"# {MADE_WITH}" not in there:
        message = f"{page} is there, and was not written by a study: give another `page`, or give --docs"
        raise StudyError(f"{study.path}: {message}")
    if is_of_the_project(study.path):
        return
    home = _places(tiny=False)
    for path in sorted(STUDIES.glob("*.yml")):
        same_results = path.stem == study.name and args.results.resolve() == home["results"].resolve()
        if same_results and not args.report:
            message = f"{path} keeps its results in {args.results / study.name}: rename your file, or give --results"
            raise StudyError(f"{study.path}: {message}")
        theirs = home["docs"] / page_of(path)
        if not args.no_report and page.resolve() == theirs.resolve():
            raise StudyError(f"{study.path}: {_belongs(page, path)}")
    named = plan_named_on(there)
    other = args.docs.resolve().parent / named
    if other.is_file() and not other.samefile(study.path):
        raise StudyError(f"{study.path}: {_belongs(page, named)}")


def _belongs(page: Path, plan: str | Path) -> str:
    return f"{page} is the page of {plan}: rename your file, give it another `page`, or give --docs"


def reproduce(study: Study, args: argparse.Namespace) -> None:
    """
    Train what a study is missing, and write its report.

    :param study: the plan
    :param args: the command line
    :raises StudyError: when it would write over what belongs to another study, or a training fails
    """
    _check_places(study, args)
    console = Console(highlight=False, soft_wrap=True)
    folder = args.results / study.name
    results = read_all(study, folder)
    if results.n_others:
        console.print(f"{study.name}: results of other settings or seeds, left alone: {results.n_others}", markup=False)
    tasks = [] if args.report else missing(study, results, args.only, args.logs)
    n_there = sum(map(len, results.found.values()))
    console.print(f"{study.name}: {n_there} results are there, {len(tasks)} to train", markup=False)
    if tasks:
        check(study, tasks)
        try:
            with backend_for(args.workers, args.ray) as backend:
                run_study(study, results, tasks, folder, backend, console)
        except (ConnectionError, ImportError) as error:
            raise StudyError(str(error)) from error
    if not args.no_report:
        try:
            page = write_report(study, results, args.docs, args.logs, _options(args), args.results)
            if STUDIES.is_dir():
                write_index(args.docs, STUDIES)
        except NoMarksError as error:
            raise StudyError(str(error)) from error
        for name, _ in study.put_into:
            target = args.docs / name
            if not (study.tiny or target.exists()):
                console.print(f"{study.name}: {target} is not there, and nothing is put into it", markup=False)
        console.print(f"{study.name}: {page}, {args.logs / study.name / 'report.html'}", markup=False)
