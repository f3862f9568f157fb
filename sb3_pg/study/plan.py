"""A study as its YAML file says it: read, checked, and taken apart into trainings."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from rl_zoo3.utils import ALGOS

from sb3_pg.study.reading import Document, Section, StudyError, read_document
from sb3_pg.study.results import RunSettings, file_name
from sb3_pg.study.training import RunTask
from sb3_pg.tune.blocks import BlockManager, accepted_hyperparams, merged, prepare, registered_envs, silence
from sb3_pg.tune.errors import suggestion
from sb3_pg.tune.experiment import Block, Experiment
from sb3_pg.zoo.extend import older_versions

STUDIES = Path("zoo_scripts", "studies")
"""The project's own studies, in its checkout."""
OF_A_CURVE = ("algo", "block", "env_kwargs", "envs", "full_timesteps", "hyperparams", "n_timesteps", "seeds")
OF_A_STUDY = (
    "title", "question", "source", "notes", "seeds", "n_timesteps", "full_timesteps", "eval_episodes", "record",
    "checkpoint_every", "gym_packages", "defaults", "curves", "figures", "claims", "picture", "page", "put_into",
)  # fmt: skip
FIGURES: dict[str, tuple[str, ...]] = {
    "curves": ("y", "seeds", "share_y"),
    "seconds": ("seeds",),
    "scores": ("measure",),
    "against": ("parameter", "measure"),
    "regret": (),
    "profile": (),
    "improvement": (),
    "walks": (),
}
"""Kinds of figures, and what can be said of each besides its curves, environments and title."""
WALKED = ("LineWorld-v0",)
"""Environments that ``walks`` draws."""

MEASURES = (
    "final", "area", "best", "evaluation", "success", "wobble", "steps_to:X", "above:X", "until:X", "logged:KEY",
    "early:KEY",
)  # fmt: skip
OF_TWO_CURVES = "equal_seconds"
"""Measure of a claim that compares two curves after the same time."""
HOLDS_IF = re.compile(r"(?P<sign>>=|<=|>|<|~)\s*(?:curve:(?P<curve>\S.*)|(?P<number>-?\d+(?:\.\d+)?))")
_MEASURE = re.compile("|".join(each.replace("X", r"-?\d+(?:\.\d+)?").replace("KEY", r"\S+") for each in MEASURES))

CHECKPOINT_EVERY = 1_000_000
TINY_TIMESTEPS, TINY_EPISODES = 256, 50
_TINY_CAPS = {
    "n_steps": 32, "n_envs": 4, "n_episodes": 1, "n_critic_updates": 2, "n_epochs": 2, "batch_size": 32,
    "critic_batch_size": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """
    One way to train, on one environment or several.

    :param name: also of its file
    :param label: in figures and tables
    :param algo: RL Zoo's key of the algorithm
    :param envs: ids of the environments
    :param block: ``"zoo"`` for RL Zoo's hyperparameters of the environment, ``"none"`` for the algorithm's defaults, or
        the name of the environment whose hyperparameters are taken
    :param hyperparams: what is put over the block
    :param n_timesteps: by environment
    :param seeds: to train
    :param line: where it stands in the file
    :param env_kwargs: arguments of the environment
    """

    name: str
    label: str
    algo: str
    envs: tuple[str, ...]
    block: str
    hyperparams: Block
    n_timesteps: dict[str, int]
    seeds: tuple[int, ...]
    line: int
    env_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FigurePlan:
    """A figure: its kind, what it is of, and what else is said about it."""

    kind: str
    title: str
    envs: tuple[str, ...]
    curves: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """
    What a document says, and how it is checked.

    :param claim: in words
    :param curve: what is measured
    :param env: where
    :param measure: one of :data:`MEASURES`, or :data:`OF_TWO_CURVES`
    :param claimed: the document's number or word
    :param sign: of the comparison; empty if nothing is compared
    :param than: a number, or the name of another curve
    :param why: why it came out as it did
    """

    claim: str
    curve: str
    env: str
    measure: str
    claimed: str
    sign: str = ""
    than: float | str = 0.0
    why: str = ""


@dataclass(frozen=True)
class Study:
    """What a study's file says; see docs/studies/README.md."""

    name: str
    path: Path
    title: str
    question: str
    source: str
    notes: tuple[str, ...]
    curves: tuple[Curve, ...]
    figures: tuple[FigurePlan, ...]
    claims: tuple[Claim, ...]
    record: tuple[str, ...] = ()
    eval_episodes: int = 20
    checkpoint_every: int | None = CHECKPOINT_EVERY
    picture: tuple[str, str] | None = None
    page: str = ""
    put_into: tuple[tuple[str, str], ...] = ()
    tiny: bool = False
    gym_packages: tuple[str, ...] = ()
    _blocks: dict[tuple[str, str], Block] = field(default_factory=dict, compare=False)

    @cached_property
    def envs(self) -> tuple[str, ...]:
        """Environments of all curves, in the order in which they are named."""
        return tuple(dict.fromkeys(env for curve in self.curves for env in curve.envs))

    def curve(self, name: str) -> Curve:
        """The curve of a name."""
        return next(curve for curve in self.curves if curve.name == name)

    def error(self, curve: Curve, message: str) -> StudyError:
        """Build the error for what is wrong with a curve."""
        return StudyError(f"{self.path}:{curve.line}: curve {curve.name!r}: {message}")

    def settings(self, curve: Curve, env: str) -> RunSettings:
        """
        Say what is trained.

        :raises StudyError: when there are no such hyperparameters
        """
        key = curve.name, env
        if key not in self._blocks:
            self._blocks[key] = self._block(curve, env)
        env_kwargs = {"max_episode_steps": TINY_EPISODES, **curve.env_kwargs} if self.tiny else curve.env_kwargs
        return RunSettings(curve.algo, env, curve.n_timesteps[env], self._blocks[key], env_kwargs)

    def _block(self, curve: Curve, env: str) -> Block:
        n_timesteps = curve.n_timesteps[env]
        try:
            block = zoo_block(curve.algo, env if curve.block == "zoo" else curve.block, n_timesteps)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise self.error(curve, f"no hyperparameters: {error}") from error
        block = merged(block, curve.hyperparams)
        accepted = accepted_hyperparams(ALGOS[curve.algo])
        for name in sorted(set(block) - accepted, key=str):
            raise self.error(curve, f"{curve.algo} has no {name!r}{suggestion(str(name), accepted)}")
        return shrunk(block) if self.tiny else block

    def tasks(self) -> Iterator[RunTask]:
        """Every training. The first seed of all curves comes first, so that an unfinished study has all of them."""
        for index in range(max(len(curve.seeds) for curve in self.curves)):
            for env in self.envs:
                for curve in self.curves:
                    if env in curve.envs and index < len(curve.seeds):
                        settings, seed = self.settings(curve, env), curve.seeds[index]
                        yield RunTask(curve.name, settings, seed, self.eval_episodes, self.record, self.gym_packages)

    def pairs(self, wanted: Iterable[str] = ()) -> set[tuple[str, str]]:
        """
        Environment and name of every curve, or of those that are wanted.

        :param wanted: ``ENV``, ``CURVE``, or ``ENV/CURVE``; empty for all
        :raises StudyError: for a name that is not in the study
        """
        pairs = {(env, curve.name) for curve in self.curves for env in curve.envs}
        chosen = set()
        for word in wanted:
            found = {pair for pair in pairs if word in (*pair, "/".join(pair))}
            if not found:
                raise StudyError(f"--only {word!r} is not in {self.path}{suggestion(word, {*sum(pairs, ())})}")
            chosen |= found
        return chosen or pairs


def zoo_block(algo: str, env: str, n_timesteps: int) -> Block:
    """
    Hyperparameters of an environment as RL Zoo's files have them.

    :param algo: RL Zoo's key of the algorithm
    :param env: id of the environment; ``"none"`` for a block with nothing but the stock policy
    :param n_timesteps: written over those of the file
    """
    block = {"policy": "MlpPolicy"} if env == "none" else deepcopy(_block_of_the_file(algo, env))
    return {**block, "n_timesteps": n_timesteps}


@cache
def _block_of_the_file(algo: str, env: str) -> Block:
    """The environment's own; without one that of its newest older version; without one the file's default."""
    block, is_default = block_of_the_zoo(algo, env)
    for older in older_versions(env) if is_default else ():
        if older in registered_envs():
            other, is_default = block_of_the_zoo(algo, older)
            if not is_default:
                return other
    return block


def block_of_the_zoo(algo: str, env: str) -> tuple[Block, bool]:
    """What ``rl_zoo3.train`` would take, and whether that is the file's default."""
    with silence() as text:
        _, saved = BlockManager(Experiment(algo, env, 1)).read_hyperparameters()
    return dict(saved), "Using 'default'" in text.getvalue()


def shrunk(block: Block) -> Block:
    """The same on a scale that is through in a second: smaller batches, fewer passes."""
    return {key: min(value, _TINY_CAPS[key]) if key in _TINY_CAPS and value else value for key, value in block.items()}


def read_study(path: Path, seeds: int | None = None, full: bool = False, tiny: bool = False) -> Study:
    """
    Read a study's file.

    :param path: of the file
    :param seeds: train seeds 1 to this number, instead of what the file says
    :param full: the long trainings, where the file has them
    :param tiny: everything on a scale of seconds, to see that it runs
    :raises StudyError: with the line that is wrong
    """
    document = read_document(path)
    top = Section(document, (), OF_A_STUDY)
    gym_packages = top.texts("gym_packages")
    try:
        prepare(gym_packages)
    except ImportError as error:
        raise top.error("gym_packages", f"gym_packages: {error}") from error
    study_seeds = _seeds(top, (1, 2, 3, 4, 5))
    curves = tuple(
        replace(curve, seeds=tuple(range(1, seeds + 1)) if seeds else curve.seeds[:2] if tiny else curve.seeds)
        for curve in _curves(document, top, study_seeds, "full_timesteps" if full else "n_timesteps")
    )
    if tiny:
        curves = tuple(replace(each, n_timesteps=dict.fromkeys(each.envs, TINY_TIMESTEPS)) for each in curves)
    every = top.count("checkpoint_every") if top.values.get("checkpoint_every") is not None else None
    default_every = None if "checkpoint_every" in top else CHECKPOINT_EVERY
    return Study(
        name=path.stem,
        path=path,
        title=top.get("title", str),
        question=top.get("question", str),
        source=top.get("source", str, ""),
        notes=top.texts("notes"),
        curves=curves,
        figures=tuple(_figures(document, top, curves)),
        claims=tuple(_claims(document, top, curves)),
        record=_record(top),
        eval_episodes=1 if tiny else _count_or_none(top, "eval_episodes", 20),
        checkpoint_every=every or default_every,
        picture=_picture(document, top, curves),
        page=_page(top),
        put_into=_places(top),
        tiny=tiny,
        gym_packages=gym_packages,
    )


def _seeds(section: Section, default: tuple[int, ...]) -> tuple[int, ...]:
    value = section.values.get("seeds", list(default))
    if isinstance(value, list):
        whole = [isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in value]
        if not value or not all(whole) or len(set(value)) < len(value):
            raise section.error(
                "seeds", f"seeds must be different whole numbers below 2**32, or how many there are; not {value!r}"
            )
        return tuple(value)
    return tuple(range(1, section.count("seeds") + 1))


def _curves(document: Document, top: Section, seeds: tuple[int, ...], steps: str) -> Iterator[Curve]:
    defaults = Section(document, ("defaults",), (*OF_A_CURVE, "env")) if "defaults" in top else None
    names: set[str] = set()
    if not top.get("curves", list):
        raise top.error("curves", "a study needs at least one curve")
    for index in range(len(top.values["curves"])):
        section = Section(document, ("curves", index), (*OF_A_CURVE, "env", "name", "label", "grid"))
        for name, label, grid in _of_a_grid(section):
            if file_name(name) in names or not re.fullmatch(r"[^/\\\s]+", name):
                message = f"curve {name!r}: names are unique, as names of files too, without blanks and slashes"
                raise section.error("name", message)
            names.add(file_name(name))
            _check_math(section, "label" if "label" in section else "name", label)
            yield _curve(name, label, grid, section, defaults, top, seeds, steps)


def _check_math(section: Section, key: str, text: str) -> None:
    """What is between two dollars is a formula in figures; one that cannot be read would end the report."""
    if "$" not in text:
        return
    with contextlib.suppress(ImportError):  # without the extra `plots` there are no figures
        from matplotlib.cbook import is_math_text
        from matplotlib.mathtext import MathTextParser

        try:
            if is_math_text(text):
                MathTextParser("path").parse(text)
        except ValueError as error:
            raise section.error(key, f"{key} {text!r} has no formula between its dollars: {error}") from error


def _of_a_grid(section: Section) -> Iterator[tuple[str, str, Block]]:
    """Name, label and hyperparameters of every curve that a section stands for."""
    name, grid = section.get("name", str), section.get("grid", dict, {})
    label = section.get("label", str, name)
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise section.error("grid", f"grid: {key} must be a list of values, not {values!r}")
        if "{" + str(key) + "}" not in name:
            raise section.error("name", f"name {name!r} must say which it is of the grid: add {{{key}}}")
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        try:
            yield (name.format(**point), label.format(**point), point) if grid else (name, label, {})
        except (KeyError, IndexError, ValueError) as error:
            raise section.error("name", f"name and label of a grid can hold {{KEY}} of its keys: {error}") from error


def _curve(
    name: str,
    label: str,
    grid: Block,
    section: Section,
    defaults: Section | None,
    top: Section,
    seeds: tuple[int, ...],
    steps: str,
) -> Curve:
    def where(*keys: str) -> Section | None:
        found = (each for each in (section, defaults) if each is not None and any(key in each for key in keys))
        return next(found, None)

    algo = where("algo")
    if algo is None:
        raise section.document.error(section.place, f"curve {name!r} has no algo, and defaults has none")
    place = where("env", "envs")
    if place is None:
        raise section.document.error(section.place, f"curve {name!r} has no env, and defaults has none")
    key = "envs" if "envs" in place else "env"
    envs = tuple(dict.fromkeys(place.texts(key)))
    if not envs:
        raise place.error(key, f"{key} must name at least one environment")
    for env in envs:
        place.known(key, env, registered_envs())
    block = where("block")
    block_name = block.get("block", str) if block else "zoo"
    if block and block_name not in ("zoo", "none"):
        block.known("block", block_name, registered_envs())
    # Hyperparameters belong to an algorithm and to what they are put over
    is_its_own = "algo" in section or "block" in section
    by_default = defaults.get("hyperparams", dict, {}) if defaults and not is_its_own else {}
    kwargs = where("env_kwargs")
    timesteps = where(steps, "n_timesteps") or top
    steps = steps if steps in timesteps else "n_timesteps"
    if steps not in timesteps:
        raise section.document.error(section.place, f"curve {name!r}: nothing says its n_timesteps")
    return Curve(
        name,
        label,
        algo.known("algo", algo.get("algo", str), ALGOS),
        envs,
        block_name,
        _without_steps(section, {**by_default, **section.get("hyperparams", dict, {}), **grid}),
        _timesteps(timesteps, steps, envs),
        _seeds(where("seeds") or top, seeds),
        section.document.line(section.place),
        kwargs.get("env_kwargs", dict) if kwargs else {},
    )


def _without_steps(section: Section, hyperparams: Block) -> Block:
    if "n_timesteps" in hyperparams:
        its_own = [key for key in ("grid", "hyperparams") if "n_timesteps" in section.get(key, dict, {})]
        message = "n_timesteps is a key of the curve, and not one of its hyperparams or its grid"
        raise section.document.error((*section.place, *its_own), message)
    return hyperparams


def _timesteps(section: Section, key: str, envs: Iterable[str]) -> dict[str, int]:
    value = section.values[key]
    if not isinstance(value, dict):
        return dict.fromkeys(envs, section.count(key))
    missing = [env for env in envs if env not in value]
    if missing:
        raise section.error(key, f"{key} says nothing of {missing[0]}")
    return {env: section.count(key, value[env]) for env in envs}


def _figures(document: Document, top: Section, curves: tuple[Curve, ...]) -> Iterator[FigurePlan]:
    if "figures" not in top:
        yield FigurePlan("curves", "", _envs_of(curves), tuple(curve.name for curve in curves), {})
        return
    for index in range(len(top.get("figures", list))):
        place = ("figures", index)
        kind = Section(document, place, None).get("kind", str)
        Section(document, place, None).known("kind", kind, FIGURES)
        section = Section(document, place, ("kind", "title", "envs", "curves", *FIGURES[kind]))
        names = _names(section, "curves", [curve.name for curve in curves])
        envs = _names(section, "envs", _envs_of([curve for curve in curves if curve.name in names]))
        shown = [curve for curve in curves if curve.name in names]
        options = _options(section, kind, shown, top.texts("record"))
        if kind == "walks" and any(env not in WALKED for env in envs):
            raise section.error("envs", f"walks are drawn of {' and '.join(WALKED)}, not of {', '.join(envs)}")
        if kind == "improvement" and len(names) < 2:
            raise section.error("curves", "improvement compares the first of its curves with others: name two or more")
        title = section.get("title", str, "")
        _check_math(section, "title", title)
        yield FigurePlan(kind, title, envs, names, options)


def _options(section: Section, kind: str, curves: Iterable[Curve], recorded: tuple[str, ...]) -> dict[str, Any]:
    """What a figure's section says besides its curves, environments and title."""
    options = {key: section.values[key] for key in FIGURES[kind] if key in section}
    for key in options.keys() & {"seeds", "share_y"}:
        section.get(key, bool)
    if "y" in options:
        section.known("y", section.get("y", str), ("returns", "lengths", "successes", *recorded))
    if "measure" in options:
        _check_measure(section, options["measure"], recorded)
    if kind == "against":
        known = set().union(*(accepted_hyperparams(ALGOS[curve.algo]) for curve in curves))
        section.known("parameter", section.get("parameter", str), known)
    return options


def _envs_of(curves: Iterable[Curve]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(env for curve in curves for env in curve.envs))


def _names(section: Section, key: str, known: Iterable[str]) -> tuple[str, ...]:
    """Names of a list, whose ``grid_*`` stands for all that begin so; all names where there is no list."""
    known, chosen = tuple(known), []
    for name in section.texts(key):
        alike = fnmatch.filter(known, name) if name.endswith("*") else []
        chosen += alike or [section.known(key, name, known)]
    return tuple(dict.fromkeys(chosen)) or known


def _check_measure(section: Section, measure: Any, recorded: tuple[str, ...], two_curves: bool = False) -> str:
    if measure == OF_TWO_CURVES:
        if not two_curves:
            raise section.error("measure", f"{measure} compares two curves: it is for claims with '>= curve:NAME'")
        return OF_TWO_CURVES
    if not isinstance(measure, str) or not _MEASURE.fullmatch(measure):
        raise section.error(
            "measure", f"measure {measure!r} is not known. Accepted are {', '.join([*MEASURES, OF_TWO_CURVES])}"
        )
    kind, _, key = measure.partition(":")
    if kind in ("logged", "early") and key not in recorded:
        raise section.error("measure", f"measure {measure!r}: add {key!r} to the study's record")
    return measure


def _claims(document: Document, top: Section, curves: tuple[Curve, ...]) -> Iterator[Claim]:
    names = {curve.name: curve for curve in curves}
    for index in range(len(top.get("claims", list, []))):
        accepted = ("claim", "curve", "env", "measure", "claimed", "holds_if", "why")
        section = Section(document, ("claims", index), accepted)
        curve = names[section.known("curve", section.get("curve", str), names)]
        env = section.known("env", section.get("env", str, curve.envs[0]), curve.envs)
        claimed = str(section.values.get("claimed", ""))
        sign, than = _comparison(section, names)
        asked = section.get("measure", str, "final")
        measure = _check_measure(section, asked, top.texts("record"), two_curves=isinstance(than, str))
        if isinstance(than, str) and (than == curve.name or env not in names[than].envs):
            others = [name for name, each in names.items() if env in each.envs and each is not curve]
            raise section.error("holds_if", f"{curve.name} on {env} can be compared with {', '.join(others) or 'none'}")
        text, why = section.get("claim", str), section.get("why", str, "")
        yield Claim(text, curve.name, env, measure, claimed, sign, than, why)


def _comparison(section: Section, names: Collection[str]) -> tuple[str, float | str]:
    """Sign of the comparison and what is compared with; an empty sign where there is none."""
    if "holds_if" not in section:
        return "", 0.0
    value = section.values["holds_if"]
    found = HOLDS_IF.fullmatch(str(value))
    if not found:
        raise section.error("holds_if", f"holds_if {value!r}: write '>= 195' or '> curve:NAME' (>=, >, <=, <, ~)")
    than = float(found["number"]) if found["number"] else section.known("holds_if", found["curve"], names)
    return found["sign"], than


def _count_or_none(top: Section, key: str, default: int) -> int:
    """A number of something, 0 for none."""
    if key not in top:
        return default
    return 0 if top.values[key] == 0 else top.count(key)


def _record(top: Section) -> tuple[str, ...]:
    """Keys of the log; not those that SB3 logs only where it prints a table, which no training of a study does."""
    keys = top.texts("record")
    for key in keys:
        if key.startswith(("rollout/", "time/")):
            message = "returns, lengths, successes and seconds are kept of every training, without being recorded"
            raise top.error("record", f"record cannot hold {key!r}, nor any rollout/ or time/ key: {message}")
    return keys


def is_of_the_project(path: Path) -> bool:
    """Whether a study is one of the project's own, seen from the folder that a command is given in."""
    return path.resolve().parent == STUDIES.resolve()


def path_from(docs: Path, path: Path) -> str:
    """Path of a study as its page names it: seen from the folder that the documentation is in."""
    if is_of_the_project(path):
        return (STUDIES / path.name).as_posix()
    try:
        return Path(os.path.relpath(path, docs.resolve().parent)).as_posix()
    except ValueError:  # on another drive
        return path.resolve().as_posix()


def page_name(top: Section) -> str:
    """Page of a study within the documentation, as its file says or by the name of the file."""
    return top.get("page", str, f"studies/{top.document.path.stem}.md")


def page_of(path: Path) -> str:
    """Page of the study in a file, of which nothing else is checked."""
    return page_name(Section(read_document(path), (), None))


def _page(top: Section) -> str:
    page = page_name(top)
    path = PurePosixPath(page)
    if path.suffix != ".md" or path.is_absolute() or ".." in path.parts:
        raise top.error("page", f"page must be the path of a Markdown file within the documentation, not {page!r}")
    return page


def _places(top: Section) -> tuple[tuple[str, str], ...]:
    """Files, seen from the documentation, and marks in them."""
    places = []
    for place in top.texts("put_into"):
        found = re.fullmatch(r"([^#]+)#([^#\s]+)", place)
        if not found:
            raise top.error("put_into", f"put_into must be FILE#MARK, such as lambda.md#study, not {place!r}")
        places.append((found[1], found[2]))
    return tuple(places)


def _picture(document: Document, top: Section, curves: tuple[Curve, ...]) -> tuple[str, str] | None:
    if "picture" not in top:
        return None
    section = Section(document, ("picture",), ("env", "curve"))
    names = {curve.name: curve for curve in curves}
    curve = names[section.known("curve", section.get("curve", str), names)]
    return section.known("env", section.get("env", str, curve.envs[0]), curve.envs), curve.name
