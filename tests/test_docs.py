"""The documentation keeps up with the code: keys, parameters, examples, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger

import sb3_pg
from sb3_pg import REINFORCE, VPG
from sb3_pg.advantage import estimators
from sb3_pg.advantage.baselines import BASELINES
from sb3_pg.advantage.estimators import ESTIMATORS
from sb3_pg.gradient.callbacks import GradientStatisticsCallback

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
METRIC = re.compile(r"^\| `([a-z]+/[a-z_]+)` \|", re.MULTILINE)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


class Recorder(KVWriter):
    """Keeps the keys of everything that is logged."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def write(self, key_values: dict[str, Any], *_: Any, **__: Any) -> None:
        self.keys |= set(key_values)

    def close(self) -> None:
        pass


def logged_keys(env_id: str, algorithm: Any = VPG, **kwargs: Any) -> set[str]:
    """Keys that five updates and two evaluations log."""
    model = tiny(make_vec_env(env_id, n_envs=2, seed=0), algorithm=algorithm, **kwargs)
    recorder = Recorder()
    model.set_logger(Logger(None, [recorder]))
    evaluation = EvalCallback(make_vec_env(env_id, seed=1), n_eval_episodes=1, eval_freq=40, verbose=0)
    callbacks = [evaluation, GradientStatisticsCallback(every=1)]
    model.learn(5 * 2 * model.n_steps, callbacks, log_interval=1)
    return recorder.keys


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("LineWorld-v0", {}),
    ("LineWorld-v0", dict(algorithm=REINFORCE)),
    ("LineWorld-v0", dict(joint_optimizer=True)),
    ("LineWorld-v0", dict(gae_lambda="auto")),
    ("LineWorld-v0", dict(gae_lambda="hoof")),
    ("LineWorld-v0", dict(estimator="q_minus_v")),
    ("CartPoleSwingUp-v0", dict(policy_loss="clipped", n_epochs=3, batch_size=8, target_kl=0.01)),
]


@pytest.fixture(scope="module")
def all_logged_keys() -> set[str]:
    return set().union(*(logged_keys(env_id, **kwargs) for env_id, kwargs in RUNS))


def test_every_logged_key_is_explained(all_logged_keys: set[str]) -> None:
    assert {"train/policy_loss", "train/std", "train/approx_kl", "eval/success_rate"} <= all_logged_keys
    assert all_logged_keys - set(METRIC.findall(page("docs/metrics.md"))) == set()


def test_every_explained_key_is_logged(all_logged_keys: set[str]) -> None:
    assert set(METRIC.findall(page("docs/metrics.md"))) - all_logged_keys == set()


def test_every_parameter_of_vpg_is_in_its_docstring() -> None:
    documented = re.findall(r":param (\w+):", VPG.__doc__ or "")
    assert documented == list(signature(VPG).parameters)


@pytest.mark.parametrize("key", [*ESTIMATORS, "n_step:N", *BASELINES])
def test_every_estimator_and_baseline_has_its_row(key: str) -> None:
    assert f"\n| `{key}` |" in page("docs/algorithms.md")


def test_the_design_page_names_every_module() -> None:
    design = page("docs/design.md")
    modules = [path for path in (ROOT / "sb3_pg").rglob("*.py") if path.name != "__init__.py"]
    assert modules
    assert [path.name for path in modules if not re.search(rf"(?<!\w){re.escape(path.name)}", design)] == []


def python_blocks() -> Iterator[tuple[str, str]]:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in PYTHON_BLOCK.finditer(text):
            line = text[: block.start()].count("\n") + 1
            name = f"{path.relative_to(ROOT).as_posix()}:{line}"
            yield name, block[1]


def test_the_pages_have_examples() -> None:
    pages = {name.split(":")[0] for name, _ in python_blocks()}
    assert {"README.md", "docs/algorithms.md"} <= pages


@pytest.mark.parametrize(("name", "code"), [pytest.param(*block, id=block[0]) for block in python_blocks()])
def test_every_example_runs(name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimators, "ESTIMATORS", dict(ESTIMATORS))  # an example may add to it
    exec(compile(code, name, "exec"), {"__name__": "example"})


def slugs(text: str) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    broken = []
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        other = path.parent / file if file else path
        # A link that leaves the repository works on nobody else's machine
        inside = other.resolve().is_relative_to(ROOT)
        if not (inside and other.exists()) or (anchor and anchor not in slugs(other.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    assert broken_links(path) == []


def test_a_broken_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text("# Here\n[a](page.md#here) [b](#there) [c](none.md) [d](https://example.org)")
    monkeypatch.setitem(globals(), "ROOT", tmp_path.resolve())
    assert broken_links(tmp_path / "page.md") == ["#there", "none.md"]


def test_the_citation_is_of_this_version() -> None:
    version = re.escape(sb3_pg.__version__)
    assert re.search(rf"^version: {version}$", page("CITATION.cff"), re.MULTILINE)
    assert re.search(rf"version = {{{version}}}", page("CITATION.bib"))
    assert re.search(rf"^## Release {version}\b", page("CHANGELOG.md"), re.MULTILINE)


PLACES = {
    "README.md": ["results", "benchmark"],
    "docs/correctness.md": ["arrays", "pipeline", "counted", "variances"],
    "docs/gradients.md": ["cost"],
    "docs/lambda.md": ["judged", "cost", "doctor", "study"],
    "docs/performance.md": ["benchmark"],
    "docs/reliability.md": ["faults"],
    "docs/scaling.md": ["storage"],
    "docs/studies/README.md": ["studies"],
    "docs/tuning.md": ["simulation", "check"],
}
"""Where scripts write tables, between ``<!-- mark -->`` and ``<!-- /mark -->``, in the order of each page."""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_has_the_places_that_scripts_write_to_and_no_others(path: Path) -> None:
    found = re.findall(r"^<!-- (/?\w+) -->$", path.read_text(encoding="utf-8"), re.MULTILINE)
    marks = PLACES.get(path.relative_to(ROOT).as_posix(), [])
    assert found == [each for mark in marks for each in (mark, f"/{mark}")]


def test_the_pages_that_scripts_write_to_are_there() -> None:
    assert set(PLACES) <= {path.relative_to(ROOT).as_posix() for path in PAGES}
