"""Bring about everything that can go wrong, check what is left, and write the table into docs/reliability.md.

    python zoo_scripts/verify_faults.py                 # all faults, and 50 times kill -9: about five minutes
    python zoo_scripts/verify_faults.py --kills 3 --page /elsewhere/page.md

The faults are in tests/faults.py. The moments of the kills are drawn with a fixed seed, but what a process is at then
depends on the machine. A fault that loses what it must not lose is printed with its traceback, the page is left as it
was, and the exit status is 1.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch read it

import argparse
import json
import re
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sb3_pg.files import write_whole
from sb3_pg.pages import markdown_table, put_between_marks

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import faults

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
LONGEST_WAIT = 0.5
"""Seconds from a run's first checkpoint to its end: some twenty checkpoints."""

EMPTY_PAGE = "# Reliability\n\n## Faults\n\n<!-- faults -->\n<!-- /faults -->\n"

Results = dict[str, dict[str, Any]]


def run_scenarios(only: str) -> Results:
    """Report of every fault, or the traceback of its failure, by the fault's name."""
    chosen = {
        name: (kind, scenario)
        for kind, scenarios in faults.SCENARIOS.items()
        for name, scenario in scenarios.items()
        if only in name
    }
    results: Results = {}
    for name, (kind, scenario) in tqdm(chosen.items(), unit="fault"):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a killed run may still write
            try:
                report = scenario(Path(folder))
                seen = re.sub(r"\.\d+\.unfinished", ".PID.unfinished", report.seen)  # every run has another process
                results[name] = {"kind": kind, **report._replace(seen=seen)._asdict()}
            except (Exception, KeyboardInterrupt):
                results[name] = {"kind": kind, "failure": traceback.format_exc()}
    return results


def run_kills(times: int, seed: int) -> list[dict[str, Any]]:
    """One run, killed and taken up again so many times."""
    moments = np.random.default_rng(seed).uniform(0.0, LONGEST_WAIT, times)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a killed run may still write
        return [faults.kill_once(Path(folder), float(moment))._asdict() for moment in tqdm(moments, unit="kill")]


def cell(text: str) -> str:
    """Text as a cell of a table, which has to stay on one line; :func:`markdown_table` escapes its bars."""
    return text.replace("\n", "<br>")


def code(line: str) -> str:
    """A line as code, which may have single backticks in it."""
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def table(results: Results, kills: list[dict[str, Any]]) -> str:
    """The table of the page."""
    rows = []
    for kind in faults.SCENARIOS:
        rows.append([f"**{kind}**", "", "", ""])
        for name, result in results.items():
            if result["kind"] == kind:
                seen = "<br>".join(code(line) for line in result["seen"].splitlines())
                rows.append([name, seen, cell(result["outcome"]), cell(result["lost"])])
    if kills:
        rows.append(kill_row(kills))
    return markdown_table(["fault", "what the user sees", "what is left", "lost"], rows)


def kill_row(kills: list[dict[str, Any]]) -> list[str]:
    """What so many kills did."""
    lost, remains = [kill["lost"] for kill in kills], sum(kill["remains"] for kill in kills)
    amid = ", ".join(f"{count} amid {what}" for what, count in Counter(kill["amid"] for kill in kills).most_common())
    statistics, evaluations = (sum(kill[name] for kill in kills) for name in ("statistics", "evaluations"))
    return [
        f"kill -9 at {len(kills)} random moments of a run with a checkpoint every {faults.CHECKPOINT_EVERY} steps "
        f"({amid})",
        "`Killed` (exit status 137)",
        f"{len(kills)} times the latest checkpoint loads, and training goes on from it; the model that is written over "
        "and over loads, too. SB3's file of `VecNormalize`'s statistics beside the checkpoint was whole "
        f"{statistics} times, its `evaluations.npz` {evaluations} times",
        f"at most {max(lost)} steps, {np.mean(lost):.0f} in the mean; {remains} hidden `.NAME.PID.unfinished` files "
        "stay, which nothing reads",
    ]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how often a run is killed and taken up again")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--only", default="", help="faults whose name contains this, and no kills; writes no page")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the marks; made where there is none")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    arguments = parser.parse_args()
    # What a shell starts in the background ignores Ctrl-C, and so would everything that is started here
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faults.preload()
    results = run_scenarios(arguments.only)
    kills = [] if arguments.only else run_kills(arguments.kills, arguments.seed)
    if arguments.json:
        write_whole(arguments.json, json.dumps({"faults": results, "kills": kills}, indent=2))
    failures = {name: result["failure"] for name, result in results.items() if "failure" in result}
    for name, failure in failures.items():
        print(f"FAILED: {name}\n{failure}")
    if failures:
        return 1
    written = table(results, kills)
    print(written)
    if not arguments.only:
        if not arguments.page.exists():
            write_whole(arguments.page, EMPTY_PAGE)
        put_between_marks(arguments.page, "faults", written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
