"""What is left of a search: tables, the winner's file, figures, and a page that shows them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sb3_pg.files import write_whole
from sb3_pg.pages import Block, Code, Heading, Paragraph, Picture, Table, as_csv, as_html
from sb3_pg.tune.experiment import Experiment, SeedResult
from sb3_pg.tune.figures import draw_all
from sb3_pg.tune.final import Standing
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.search import Rules

FIGURES = {
    "history": "Value of each trial, and the best so far",
    "learning_curves": "Learning curves of the best trials",
    "importances": "What sets the best trials apart (PED-ANOVA)",
    "gae_lambda": "Lambda against score",
    "parallel_coordinates": "All complete trials",
}


def write_report(
    record: StudyRecord, experiment: Experiment, rules: Rules, standings: Sequence[Standing], winner: str, folder: Path
) -> Path:
    """
    Write ``report.html``, ``trials.csv``, ``curves.csv``, ``final.csv`` and the figures.

    :param record: the study
    :param experiment: what was trained
    :param rules: how it was searched
    :param standings: candidates on fresh seeds, the best one first; may be empty
    :param winner: the winner's file; empty if there is none
    :param folder: where the files go
    :return: path of the page
    """
    trials = list(_trial_rows(record, rules))
    final = [_standing_row(rank, standing) for rank, standing in enumerate(standings, 1)]
    write_whole(folder / "trials.csv", _csv(trials))
    write_whole(folder / "curves.csv", _csv(_curve_rows(record, experiment, standings)))
    if final or not (folder / "final.csv").exists():  # without a final, that of an earlier command stays
        write_whole(folder / "final.csv", _csv(final))
    problems = draw_all(record, experiment, rules, folder / "figures")
    page = folder / "report.html"
    write_whole(page, as_html(record.name, _page(record, trials, final, winner, problems, folder)))
    return page


def _trial_rows(record: StudyRecord, rules: Rules) -> Iterable[dict[str, Any]]:
    for trial in record.trials:
        results = record.results(trial.number)
        yield {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value if trial.state.name == "COMPLETE" else None,
            "seconds": round(sum(result.seconds for result in results), 1),
            **{f"seed {seed}": _score(rules, results, index) for index, seed in enumerate(rules.seeds)},
            **trial.params,
            "why": trial.user_attrs.get("why", ""),
        }


def _score(rules: Rules, results: Sequence[SeedResult], index: int) -> float | None:
    return rules.score(results[index]) if index < len(results) else None


def _curve_rows(record: StudyRecord, experiment: Experiment, standings: Sequence[Standing]) -> Iterable[dict[str, Any]]:
    found = [("search", trial.number, record.results(trial.number)) for trial in record.trials]
    found += [("final", standing.candidate.name, list(standing.results)) for standing in standings]  # type: ignore[misc]
    for phase, name, results in found:
        for result in results:
            for number, value in enumerate(result.curve, 1):
                steps = round(experiment.n_timesteps * number / experiment.n_evaluations)
                yield {"phase": phase, "candidate": name, "seed": result.seed, "steps": steps, "mean_return": value}


def _standing_row(rank: int, standing: Standing) -> dict[str, Any]:
    low, high = (None if math.isnan(end) else end for end in standing.interval)
    return {
        "rank": rank,
        "candidate": standing.candidate.title,
        "value in the search": standing.candidate.value,
        "IQM on fresh seeds": standing.iqm,
        "95 % from": low,
        "to": high,
        "seeds": len(standing.results),
        "diverged": standing.n_diverged,
        "scores": " ".join(f"{score:.6g}" for score in standing.scores),
    }


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return as_csv(columns, ([row.get(name) for name in columns] for row in rows))


def _page(
    record: StudyRecord,
    trials: Sequence[dict[str, Any]],
    final: Sequence[dict[str, Any]],
    winner: str,
    problems: dict[str, str],
    folder: Path,
) -> Iterator[Block]:
    yield Heading(record.name, 1)
    yield _table([{name: value for name, value in record.settings.items() if name not in ("block", "space")}])
    if final:
        yield Heading("On fresh seeds")
        yield _table(final)
    if winner:
        yield Heading("The winner")
        yield Code(winner)
    for name, title in FIGURES.items():
        yield Heading(title)
        if problems[name]:
            yield Paragraph(f"Not drawn: {problems[name]}.")
        else:
            yield Picture(f"{name}.png", title, (folder / "figures" / f"{name}.png").read_bytes())
    yield Heading("Trials")
    yield _table(trials)
    yield Paragraph("Beside this page: trials.csv (every trial), curves.csv (every evaluation), final.csv.")


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(columns, tuple(tuple(_shown(row.get(name)) for name in columns) for row in rows))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
