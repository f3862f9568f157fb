"""The winner as a block in the form of RL Zoo's files, with where its numbers come from."""

from __future__ import annotations

import contextlib
import datetime
import reprlib
import shlex
import textwrap
from collections.abc import Mapping, Sequence

import yaml

from sb3_pg.tune.blocks import as_text, environment_flags
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.experiment import Block, Experiment
from sb3_pg.tune.final import Standing
from sb3_pg.tune.packages import version_of
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.scores import say_interval
from sb3_pg.tune.search import Rules


def winner_file(
    record: StudyRecord, experiment: Experiment, rules: Rules, standings: Sequence[Standing], today: datetime.date
) -> str:
    """
    Write the first of the standings as a YAML file for ``-conf``, or a block for ``hyperparams/``.

    :param record: the study
    :param experiment: what was trained
    :param rules: how it was searched
    :param standings: ranked candidates, at least one
    :param today: date of the comment
    """
    words = ["python", "-m", "rl_zoo3.train", "--algo", experiment.algo, "--env", experiment.env, "-conf", "THIS_FILE"]
    words += environment_flags(experiment.gym_packages, experiment.env_kwargs, experiment.eval_env_kwargs)
    lines = [
        f"# Hyperparameters of {experiment.algo} for RL Zoo, searched by sb3_pg.tune:",
        f"#   {shlex.join(words)}",
        "",
        *textwrap.wrap(
            provenance(record, experiment, rules, standings, today),
            width=120,
            initial_indent="# ",
            subsequent_indent="# ",
            break_on_hyphens=False,
        ),
    ]
    block = standings[0].candidate.block
    plain, others = _as_plain(block)
    lines += [f"# {name} is {shown}: no plain value, and has to be given in another way" for name, shown in others]
    return "\n".join(lines) + "\n" + yaml.safe_dump({experiment.env: plain}, sort_keys=False, width=100)


def _as_plain(block: Block) -> tuple[Block, list[tuple[str, str]]]:
    """
    What a file can hold of a block, and names and values of the rest.

    Arguments of the policy become text, which RL Zoo evaluates, where one of them is an object.
    """
    plain: Block = {}
    others = []
    for key, value in block.items():
        if _is_plain(value):
            plain[key] = value
        elif key == "policy_kwargs" and isinstance(value, Mapping):
            parts = {name: part for name, part in value.items() if _has_text(part)}
            plain[key] = as_text(parts)
            others += [(f"{key}'s {name}", reprlib.repr(part)) for name, part in value.items() if name not in parts]
        else:
            others.append((key, reprlib.repr(value)))
    return plain, others


def _is_plain(value: object) -> bool:
    try:
        yaml.safe_dump(value)
    except yaml.YAMLError:
        return False
    return True


def _has_text(value: object) -> bool:
    with contextlib.suppress(TuneError):
        return bool(as_text(value))
    return False


def provenance(
    record: StudyRecord, experiment: Experiment, rules: Rules, standings: Sequence[Standing], today: datetime.date
) -> str:
    """In words, where the numbers of the winner come from."""
    best = standings[0]
    measure = "mean of all evaluations" if rules.objective == "auc" else f"mean of the last {rules.last_k} evaluations"
    which = f"{best.candidate.title} of"
    if best.candidate.value is None:
        which = "the block of the file, which no trial beat in"
    parts = [
        f"Provenance: {which} study {record.name}, {today.isoformat()}: {len(record.trials)} trials "
        f"({rules.sampler}, seed {rules.seed}), seeds {', '.join(map(str, rules.seeds))}, {experiment.n_timesteps} "
        f"steps each, {experiment.n_evaluations} evaluations of {experiment.eval_episodes} episodes; a seed's score is "
        f"the {measure}."
    ]
    if best.candidate.value is not None:
        parts.append(f"In the search its IQM was {best.candidate.value:.6g}.")
    if best.scores:
        seeds = ", ".join(str(result.seed) for result in best.results)
        parts.append(f"On fresh seeds {seeds}: IQM {best.iqm:.6g}, 95% interval {say_interval(best.interval)}.")
    others = [other for other in standings[1:] if other.scores]
    if others:
        named = "; ".join(f"{other.candidate.title} {other.iqm:.6g}" for other in others)
        parts.append(f"On the same seeds: {named}.")
    packages = ", ".join(f"{name} {version_of(name)}" for name in ("sb3_pg", "stable_baselines3", "rl_zoo3", "torch"))
    return " ".join([*parts, f"({packages}.)"])
