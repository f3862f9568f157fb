"""What is left of a search: tables, the winner's file, figures, and a page that shows them."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
    folder.mkdir(parents=True, exist_ok=True)
    trials = list(_trial_rows(record, rules))
    final = [_standing_row(rank, standing) for rank, standing in enumerate(standings, 1)]
    (folder / "trials.csv").write_text(_csv(trials))
    (folder / "curves.csv").write_text(_csv(_curve_rows(record, experiment, standings)))
    (folder / "final.csv").write_text(_csv(final))
    problems = draw_all(record, experiment, rules, folder / "figures")
    page = folder / "report.html"
    page.write_text(_page(record, trials, final, winner, problems, folder), encoding="utf-8")
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
    low, high = standing.interval
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
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _page(
    record: StudyRecord,
    trials: Sequence[dict[str, Any]],
    final: Sequence[dict[str, Any]],
    winner: str,
    problems: dict[str, str],
    folder: Path,
) -> str:
    parts = [f"<h1>{html.escape(record.name)}</h1>", _table([record.settings], skip={"block", "space"})]
    if final:
        parts += ["<h2>On fresh seeds</h2>", _table(final)]
    if winner:
        parts += ["<h2>The winner</h2>", f"<pre>{html.escape(winner)}</pre>"]
    for name, title in FIGURES.items():
        parts.append(f"<h2>{html.escape(title)}</h2>")
        if problems[name]:
            parts.append(f"<p>Not drawn: {html.escape(problems[name])}.</p>")
        else:
            picture = base64.b64encode((folder / "figures" / f"{name}.png").read_bytes()).decode()
            parts.append(f'<img alt="{html.escape(title)}" src="data:image/png;base64,{picture}">')
    numbers = "trials.csv (every trial), curves.csv (every evaluation), final.csv"
    parts += ["<h2>Trials</h2>", _table(trials), f"<p>The numbers: {numbers}, beside this page.</p>"]
    style = (
        "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:75em;padding:0 1em}"
        "div{overflow-x:auto}table{border-collapse:collapse;font-size:13px}"
        "td,th{border:1px solid #ccc;padding:.2em .5em;text-align:right}"
        "img{max-width:100%}pre{background:#f4f4f4;padding:1em;overflow-x:auto}"
    )
    title = html.escape(record.name)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{style}</style>'
    return f"<!doctype html>\n<html><head>{head}</head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _table(rows: Sequence[dict[str, Any]], skip: Iterable[str] = ()) -> str:
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in skip]
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in columns)
    lines = ["".join(f"<td>{html.escape(_shown(row.get(name)))}</td>" for name in columns) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div><table><tr>{head}</tr>\n{body}</table></div>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
