"""What a study came to: one page that stands alone (HTML), and one with its figures beside it (Markdown)."""

from __future__ import annotations

import html
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, takewhile
from pathlib import Path
from urllib.parse import quote

import numpy as np

from sb3_pg.files import write_whole
from sb3_pg.pages import (
    Block,
    Code,
    Heading,
    Items,
    Page,
    Paragraph,
    Picture,
    Table,
    as_html,
    as_markdown,
    markdown_table,
    put_between_marks,
)  # fmt: skip
from sb3_pg.study.claims import NOT_TRAINED, Verdict, judge
from sb3_pg.study.commands import command
from sb3_pg.study.figures import NothingToDrawError, draw, fixed_curves, name_of, written
from sb3_pg.study.pictures import NoModelError, OtherSettingsError, film, kept_model
from sb3_pg.study.plan import FIGURES, FigurePlan, Study, is_of_the_project, page_name, path_from
from sb3_pg.study.reading import Section, read_document
from sb3_pg.study.regrets import Regrets, regrets
from sb3_pg.study.results import RunResult
from sb3_pg.study.runner import Key, Results
from sb3_pg.study.statistics import estimate, median_seconds, scores
from sb3_pg.tune.progress import clock

MADE_WITH = "How it was made"
"""Last heading of every page."""
_PLAN = re.compile(r"the plan is `([^`]+)`")
INDEX = "studies"
"""Mark of the list in docs/studies/README.md."""
_FIGURE_FILE = re.compile(rf"\d\d_({'|'.join(FIGURES)})\.png|agent\.gif")
_CAPTIONS = {
    "curves": "Learning curves",
    "seconds": "Return against seconds",
    "scores": "Scores",
    "against": "Score against a hyperparameter",
    "regret": "Regret to the best fixed lambda",
    "profile": "Performance profile",
    "improvement": "Probability of improvement",
    "walks": "Walks of the final policies",
}
"""Of figures that the plan gives no title."""

N_NAMED = 12


def write_report(
    study: Study,
    results: Results,
    docs: Path,
    logs: Path,
    options: Sequence[str] = (),
    root: Path = Path("results"),
) -> Path:
    """
    Write the pages of a study.

    :param study: the plan
    :param results: of its trainings
    :param docs: folder of the documentation: the Markdown page and its figures
    :param logs: folder of models; the HTML page goes to the study's folder in it
    :param options: of the command line that decide what is trained and shown
    :param root: folder of all studies' results
    :return: path of the Markdown page
    """
    page = docs / study.page
    folder = page.with_suffix("")
    plan = path_from(docs, study.path)
    made_with = _made_with(study, results, _how(study, options), root / study.name, plan)
    blocks = [*_blocks(study, results, folder, logs), *made_with]
    pictures = {block.name: block.content for block in blocks if isinstance(block, Picture)}
    for old in folder.glob("*.*"):
        if _FIGURE_FILE.fullmatch(old.name) and old.name not in pictures:
            old.unlink()
    for name, content in pictures.items():
        write_whole(folder / name, content)
    write_whole(page, as_markdown(blocks, folder.name))
    write_whole(logs / study.name / "report.html", as_html(study.title, blocks))
    for name, mark in study.put_into:
        target = docs / name
        if target.exists():
            relative = os.path.relpath(folder, target.parent).replace(os.sep, "/")
            put_between_marks(target, mark, as_markdown(list(_summary(study, blocks, page, target)), relative).strip())
    return page


def _blocks(study: Study, results: Results, folder: Path, logs: Path) -> Page:
    yield Heading(study.title, 1)
    yield Paragraph(study.question)
    if study.source:
        yield Paragraph(f"From: {study.source}")
    yield Paragraph(" ".join(_state(study, results)))
    if study.claims:
        yield Heading("What is claimed, and what came out")
        yield from _claims([judge(claim, study, results) for claim in study.claims], study)
    yield from _figures(study, results, folder, logs)
    yield Heading("Numbers")
    yield from _numbers(study, results)
    yield from _without_an_end(study, results)
    yield Heading("Commands")
    yield from _commands(study)
    if study.notes:
        yield Heading("What is not the same, and what was not said")
        yield Items(study.notes)


def _figures(study: Study, results: Results, folder: Path, logs: Path) -> Page:
    yield Heading("Figures")
    for number, plan in enumerate(study.figures, 1):
        name = f"{number:02d}_{plan.kind}.png"
        try:
            picture = draw(plan, study, results, logs)
        except NoModelError as error:
            keys = [(plan.envs[0], curve) for curve in plan.curves]
            picture, why_not = _kept(folder / name, study, results, keys, logs, str(error))
        except NothingToDrawError as error:
            picture, why_not = b"", str(error)
        if not picture:
            yield Paragraph(f"{plan.title or plan.kind}: not drawn, since {why_not}.")
            continue
        yield Picture(name, plan.title or _CAPTIONS[plan.kind], picture)
        if plan.kind == "regret":
            yield from _regret_tables(plan, study, results)
        if plan.kind == "scores" and len(plan.envs) > 1:
            yield _scores_table(plan, study, results)
    if study.picture is not None:
        gif, why_not = film(study, logs)
        if not gif:
            gif, why_not = _kept(folder / "agent.gif", study, results, [study.picture], logs, why_not)
        title = f"{study.curve(study.picture[1]).label} on {study.picture[0]}, the first seed's final policy"
        yield Picture("agent.gif", title, gif) if gif else Paragraph(f"No film of {title}: {why_not}.")


def _kept(
    picture: Path, study: Study, results: Results, keys: Iterable[Key], logs: Path, why_not: str
) -> tuple[bytes, str]:
    """
    What an earlier report drew with models that are not here: they are large, and not in the repository.

    Not what it may have drawn with models of other settings; then, or without an earlier picture, the reason.
    """
    for env, name in keys:
        seed = study.curve(name).seeds[0]
        result = results.found.get((env, name), {}).get(seed)
        if result is None:
            return b"", f"seed {seed} of {name} has not been trained with these settings"
        if result.failure:
            return b"", f"seed {seed} of {name} diverged and left no model"
        try:
            kept_model(study, env, name, logs)
        except OtherSettingsError as error:
            return b"", str(error)
        except NoModelError:
            pass
    return (picture.read_bytes(), "") if picture.exists() else (b"", why_not)


def _state(study: Study, results: Results) -> Iterator[str]:
    """How much of the plan has been trained, and what diverged."""
    planned = {(env, curve.name): len(curve.seeds) for curve in study.curves for env in curve.envs}
    there = {key: min(len(results.found.get(key, {})), n_seeds) for key, n_seeds in planned.items()}
    n_missing = sum(planned.values()) - sum(there.values())
    yield f"{sum(there.values())} of {sum(planned.values())} trainings are done."
    if n_missing:
        parts = []
        for _, same_line in groupby(study.curves, key=lambda curve: curve.line):
            curves = list(same_line)
            label = " ... ".join(dict.fromkeys(curve.label for curve in (curves[0], curves[-1])))
            keys = [(env, curve.name) for curve in curves for env in curve.envs]
            n_there, n_planned = sum(there[key] for key in keys), sum(planned[key] for key in keys)
            parts += [f"{label}: {n_there} of {n_planned}"] if n_there < n_planned else []
        yield f"In part: {'; '.join(parts)}."
    if silent := _never_logged(study, results):
        yield f"Logged by none of them: {', '.join(f'`{key}`' for key in silent)}."
    failed = [
        f"{curve} on {env}, seed {result.seed} ({result.failure})"
        for env, curve in planned
        for result in results.of(env, curve)
        if result.failure
    ]
    if failed:
        yield f"Diverged, and counted as the worst of their environment: {'; '.join(failed[:N_NAMED])}."
    if study.tiny:
        yield "This is the tiny scale: it shows that the study runs, and nothing else."


def _never_logged(study: Study, results: Results) -> list[str]:
    """What was recorded of trainings, and none has logged: misspelt, or of an algorithm that is not in the plan."""
    everything = [result for env, name in results.found for result in results.of(env, name)]
    silent = []
    for key in study.record:
        recorded = [result.logged[key] for result in everything if key in result.logged]
        if recorded and all(value is None for values in recorded for value in values):
            silent.append(key)
    return silent


def _claims(verdicts: list[Verdict], study: Study) -> Page:
    rows, waiting = [], []
    for verdict in verdicts:
        claim = verdict.claim
        if verdict.holds == NOT_TRAINED:
            waiting.append(claim.claim)
            continue
        shown = written(verdict.measured, verdict.measure)
        if verdict.other is not None:
            label = study.curve(str(claim.than)).label
            shown += f"; {label}: {written(verdict.other, verdict.measure)}"
        of = f"{study.curve(claim.curve).label}: {name_of(verdict.measure)}"
        bar = _bar(verdict, study)
        claimed = f"{claim.claimed} ({bar})" if claim.claimed and bar not in claim.claimed else claim.claimed or bar
        rows.append((claim.claim, claimed, of, shown, verdict.holds, claim.why))
    if rows:
        number = "its number, or the goal (holds if)"
        yield Table(("claim", number, "measured is", "measured", "holds?", "why"), tuple(rows))
    if waiting:
        yield Paragraph(f"Not trained yet: {'; '.join(waiting)}.")
    yield Paragraph(
        "Interquartile means over seeds (means for shares, medians where a number can be infinite) with 95 % "
        "intervals: bootstrap over seeds, Jeffreys' for a share of the seeds, none for fewer than three. Yes and no "
        "are said where the interval, of the number or of the difference, lies on one side. Alike (~) are two numbers "
        "that differ by a fifth of the larger one at most."
    )


def _bar(verdict: Verdict, study: Study) -> str:
    claim = verdict.claim
    if not claim.sign:
        return ""
    than = f"{claim.than:g}" if isinstance(claim.than, float) else study.curve(claim.than).label
    return f"{claim.sign} {than}"


def _numbers(study: Study, results: Results) -> Page:
    headings = {"final": "last tenth of the steps", "area": "whole training", "evaluation": "final policy"}
    for env in study.envs:
        curves = [curve for curve in study.curves if env in curve.envs and results.of(env, curve.name)]
        # An evaluation of some of the seeds would stand beside returns of all
        evaluated = {
            curve.name for curve in curves if all(one.evaluation or one.failure for one in results.of(env, curve.name))
        }
        measures = [each for each in headings if each != "evaluation" or evaluated]
        rows = []
        for curve in curves:
            found = results.of(env, curve.name)
            columns = [
                _score(study, results, env, curve.name, each) if each != "evaluation" or curve.name in evaluated else ""
                for each in measures
            ]
            seconds = f"{median_seconds(found)[-1]:.0f}"
            rows.append((curve.label, f"{curve.n_timesteps[env]:,}", str(len(found)), *columns, seconds))
        if rows:
            yield Heading(env, 3)
            named = (headings[each] for each in measures)
            yield Table(("curve", "steps", "seeds", *named, "median seconds"), tuple(rows))


def _without_an_end(study: Study, results: Results) -> Page:
    """Where the last tenth of the steps is that of no episode."""
    earlier: list[str] = []
    never: list[str] = []
    for curve in study.curves:
        for env in curve.envs:
            trained = [result for result in results.of(env, curve.name) if not result.failure]
            n_without = sum(not np.isfinite(result.final) for result in trained)
            n_never = sum(not np.isfinite(result.curve()).any() for result in trained)
            for n_seeds, where in ((n_without - n_never, earlier), (n_never, never)):
                if n_seeds:
                    where.append(f"{curve.label} on {env}, {n_seeds} of {len(trained)} seeds")
    if earlier:
        yield Paragraph(
            "No episode ended in the last tenth of the steps; what is given is the return of the last ones before: "
            f"{'; '.join(earlier)}."
        )
    if never:
        yield Paragraph(f"No episode ended in the whole training, so there is no return: {'; '.join(never)}.")


def _score(study: Study, results: Results, env: str, curve: str, measure: str) -> str:
    return written(estimate(scores(study, results, env, curve, measure), measure), measure)


def _scores_table(plan: FigurePlan, study: Study, results: Results) -> Table:
    """The numbers of a figure of scores: a row for each environment, a column for each curve."""
    measure = plan.options.get("measure", "final")
    rows = []
    for env in plan.envs:
        cells, steps = [], set()
        for name in plan.curves:
            curve = study.curve(name)
            n_seeds = len(results.of(env, name)) if env in curve.envs else 0
            if n_seeds:
                steps.add(curve.n_timesteps[env])
                score = _score(study, results, env, name, measure)
                cells.append(f"{score}, {n_seeds} seed{'s' if n_seeds > 1 else ''}")
            else:
                cells.append("")
        if steps:
            rows.append((env, " / ".join(f"{n:,}" for n in sorted(steps)), *cells))
    return Table(("environment", "steps", *(study.curve(name).label for name in plan.curves)), tuple(rows))


def _commands(study: Study) -> Page:
    yield Paragraph("Each curve through RL Zoo's own command, for one seed:")
    parts = []
    for curve in study.curves:
        first, last = curve.seeds[0], curve.seeds[-1]
        in_order = curve.seeds == tuple(range(first, last + 1))
        listed = f"{first} to {last}" if in_order and last > first else ", ".join(map(str, curve.seeds))
        seeds = f"seeds {listed}" if len(curve.seeds) > 1 else f"seed {listed}"
        shown = "\n".join(command(study, curve, env) for env in curve.envs)
        parts.append(f"# {curve.label}; {seeds}\n{shown}")
    yield Code("\n\n".join(parts))


def _how(study: Study, options: Sequence[str]) -> str:
    """The command of a page."""
    if not is_of_the_project(study.path):
        return shlex.join(["python", "-m", "sb3_pg.study", str(study.path), *options])
    flags = [f"STUDY_FLAGS={shlex.join(options)}"] if options else []
    return shlex.join(["make", "reproduce", f"STUDY={study.name}", *flags])


def plan_named_on(page: str) -> str:
    """Path of the study that wrote a page, as :func:`~sb3_pg.study.plan.path_from` gave it; empty if it is not said."""
    found = _PLAN.search(page)
    return found[1] if found else ""


def _made_with(study: Study, results: Results, how: str, folder: Path, plan: str) -> Page:
    yield Heading(MADE_WITH)
    everything = [result for env, name in results.found for result in results.of(env, name)]
    total = sum(result.seconds[-1] for result in everything)
    versions: dict[str, set[str]] = {}
    for result in everything:
        for name, version in result.versions.items():
            versions.setdefault(name, set()).add(version)
    listed = ", ".join(f"{name} {'/'.join(sorted(found))}" for name, found in versions.items())
    yield Paragraph(
        f"`{how}` trains what is missing and writes this page; the plan is `{plan}`, every training's learning curve "
        f"is in `{folder.as_posix()}/`. {len(everything)} trainings took {clock(total)} (hours, minutes, seconds), "
        f"each with one thread.{_left_alone(study, results, everything)}"
    )
    if listed:
        yield Paragraph(f"Versions: {listed}.")


def _left_alone(study: Study, results: Results, everything: list[RunResult]) -> str:
    """What in the files is not what the plan says now."""
    text = ""
    if results.n_others:
        text = f" Results of other settings or seeds in the same files, which are left alone: {results.n_others}."
    for key in study.record:
        n_older = sum(key not in result.logged for result in everything)
        if n_older:
            text += f" Trainings from before the plan's record of `{key}`, which have no such numbers: {n_older}."
    return text


# -- lambda ----------------------------------------------------------------------------------------------------------


def _regret_tables(plan: FigurePlan, study: Study, results: Results) -> Page:
    found: dict[str, Regrets] = {}
    fixed: set[str] = set()
    for env in plan.envs:
        names = fixed_curves(study, env, plan.curves)
        one = regrets({name: results.of(env, name) for name in plan.curves}, names)
        if one is not None:
            found[env], fixed = one, {*fixed, *names}
    rows = [
        (f"`{name}`", *(_regret_cell(one, name, name in fixed) for one in found.values()))
        for name in plan.curves
        if any(name in one.curves for one in found.values())
    ]
    yield Table(("λ", *found), tuple(rows))
    counts = ", ".join(f"{env} {one.areas.shape[1]}" for env, one in found.items())
    yield Paragraph(
        "Mean return over the training (area under the learning curve), and in brackets the regret to the best fixed λ "
        "(bold), as a share of the difference between the best and the worst, with a 95 % bootstrap interval over the "
        f"seeds in which best and worst are chosen anew. For rules, the mean λ in use. Seeds: {counts}."
    )
    gains = []
    for name in plan.curves:
        cells = [_gain_cell(one, name) for one in found.values()]
        if any(cells):
            gains.append((f"`{name}`", *cells))
    if gains:
        yield Table(("gain over its default, held fixed", *found), tuple(gains))
        yield Paragraph("What a rule gains over its default, seed by seed, in the same unit.")


def _regret_cell(one: Regrets, name: str, is_fixed: bool) -> str:
    if name not in one.curves:
        return ""
    row = one.curves.index(name)
    mean, low, high = 100 * one.regrets[row]
    value = f"{one.areas[row].mean():.4g}"
    value = f"**{value}**" if name == one.best else value
    used = "" if is_fixed or not np.isfinite(one.lambdas[row]) else f", λ {one.lambdas[row]:.2f}"
    return f"{value} ({mean:.0f} %, {low:.0f} to {high:.0f}{used})"


def _gain_cell(one: Regrets, name: str) -> str:
    gain = one.gains.get(name)
    return "" if gain is None else "{:+.0f} % ({:+.0f} to {:+.0f})".format(*(100 * gain))


# -- other pages -----------------------------------------------------------------------------------------------------


def _summary(study: Study, blocks: list[Block], page: Path, target: Path) -> Page:
    """What another page shows of a study: its first figure, and the first tables that belong to a figure."""
    link = _link(page, target.parent)
    pictures = [number for number, block in enumerate(blocks) if isinstance(block, Picture)]
    below = (list(takewhile(lambda block: isinstance(block, (Table, Paragraph)), blocks[n + 1 :])) for n in pictures)
    yield from (blocks[number] for number in pictures[:1])
    yield from next((found for found in below if any(isinstance(block, Table) for block in found)), [])
    yield Paragraph(f"All figures, numbers and commands: [{study.title}]({link}).")


def _link(path: Path, folder: Path) -> str:
    """A path as a link in a page of a folder."""
    return quote(os.path.relpath(path, folder).replace(os.sep, "/"))


def write_index(docs: Path, studies: Path) -> None:
    """
    Write the list of all studies that have a page into ``docs/studies/README.md``.

    :param docs: folder of the documentation
    :param studies: folder of the YAML files
    """
    index = docs / "studies" / "README.md"
    if not index.exists():
        write_whole(index, f"# Studies\n\n<!-- {INDEX} -->\n<!-- /{INDEX} -->\n")
    rows = []
    for path in sorted(studies.glob("*.yml")):
        values = Section(read_document(path), (), None)
        page = docs / page_name(values)
        if not page.exists():
            continue
        link = _link(page, index.parent)
        pictures = sorted(page.with_suffix("").glob("*.png"))
        shown = ""
        if pictures:
            source = _link(pictures[0], index.parent)
            shown = f'<img src="{source}" width="260" alt="{html.escape(path.stem)}">'
        rows.append((f"[{values.get('title', str)}]({link})", " ".join(values.get("question", str).split()), shown))
    table = markdown_table(("study", "question", ""), rows) if rows else "None has been reproduced yet."
    put_between_marks(index, INDEX, table)
