"""Imports run downwards only, and each room knows no more of the outside than it needs."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sb3_pg"

# From the top down: a room imports from its own line and from the lines below. "sb3_pg" is __init__.py.
LAYERS = (
    {"train", "enjoy"},
    {"study"},
    {"tune", "doctor"},
    {"launch", "zoo", "drawing", "pages"},
    {"sb3_pg"},
    {"reinforce", "tunable", "vpg", "checks", "lambda_rules"},
    {
        "gradient",
        "rollout",
        "policies",
        "losses",
        "schedules",
        "threads",
        "numpy_critic",
        "optimizer_steps",
        "faults",
        "saving",
        "training_state",
        "hoof",
    },
    {"envs"},
    {"advantage", "exact", "hyperparams", "files"},
)
HEIGHT = {room: -line for line, rooms in enumerate(LAYERS) for room in rooms}

# What these rooms import from other distributions.
OUTSIDE = {
    "advantage": {"numpy"},
    "exact": {"numpy"},
    "envs": {"numpy", "gymnasium"},
    "hyperparams": set(),
    "files": set(),
    "losses": {"torch"},
    "pages": set(),
}
ONLY_IN = {
    "rl_zoo3": {"zoo", "train", "enjoy", "study", "tune", "doctor"},
    "optuna": {"zoo", "tune"},
    "ray": {"launch"},
}


def room_of(module: str) -> str:
    """Room of a module of ours: ``sb3_pg.rollout.buffer`` is in ``rollout``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


class WithoutTypeChecking(ast.NodeTransformer):
    """Leaves out what only a type checker imports."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Modules that a source imports, anywhere in it; ``from sb3_pg import losses`` imports ``sb3_pg.losses``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                submodule = node.module == "sb3_pg" and alias.name in HEIGHT
                yield f"sb3_pg.{alias.name}" if submodule else node.module


def wrong_imports(module: str, source: str) -> list[str]:
    """What a module of ours imports and should not."""
    room = room_of(module)
    assert room in HEIGHT, f"{module}: give the room its line in LAYERS, and in docs"
    wrong = []
    for imported in imports_of(ast.parse(source)):
        top = imported.split(".")[0]
        if top == "sb3_pg":
            other = room_of(imported)
            assert other in HEIGHT, f"{imported}: give the room its line in LAYERS, and in docs"
            if other != room and (HEIGHT[other] > HEIGHT[room] or HEIGHT[room] == min(HEIGHT.values())):
                wrong.append(f"{module} imports {imported}, which stands above or beside it")
        elif top not in sys.stdlib_module_names:
            if top not in OUTSIDE.get(room, {top}):
                wrong.append(f"{module} imports {imported}; allowed are {sorted(OUTSIDE[room])}")
            if room not in ONLY_IN.get(top, {room}):
                wrong.append(f"{module} imports {imported}, which belongs to {sorted(ONLY_IN[top])}")
    return wrong


def modules() -> dict[str, str]:
    """Name and source of every module of the library."""
    sources = {}
    for folder, prefix in ((PACKAGE, "sb3_pg"), (ROOT / "hyperparams", "sb3_pg.hyperparams")):
        for path in sorted(folder.rglob("*.py")):
            parts = (prefix, *path.relative_to(folder).with_suffix("").parts)
            sources[".".join(parts).removesuffix(".__init__")] = path.read_text()
    return sources


@pytest.mark.parametrize("module", list(modules()))
def test_every_import_runs_downwards(module: str) -> None:
    assert wrong_imports(module, modules()[module]) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sb3_pg.advantage.estimators", "import torch"),
        ("sb3_pg.advantage.estimators", "from sb3_pg.exact import mdp"),
        ("sb3_pg.envs.line_world", "from stable_baselines3.common.env_checker import check_env"),
        ("sb3_pg.losses", "from sb3_pg.vpg import VPG"),
        ("sb3_pg.rollout.buffer", "def f():\n    from sb3_pg import vpg"),
        ("sb3_pg.vpg", "import sb3_pg.zoo.extend"),
        ("sb3_pg.vpg", "from sb3_pg import __version__"),
        ("sb3_pg.vpg", "from rl_zoo3.utils import ALGOS"),
        ("sb3_pg.policies", "import optuna"),
        ("sb3_pg", "from sb3_pg.tune import objective"),
    ],
)
def test_an_import_that_runs_up_or_out_is_found(module: str, source: str) -> None:
    assert len(wrong_imports(module, source)) == 1


def test_a_room_without_a_line_is_found() -> None:
    with pytest.raises(AssertionError, match="give the room its line"):
        wrong_imports("sb3_pg.utils", "")


def test_the_page_has_the_rooms_in_this_order() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    rows = text.partition("| from the top down |")[2].partition("\n\n")[0].splitlines()[2:]
    firsts = [re.findall(r"`([^`]+)`", row.split(" | ")[0].partition(", which")[0]) for row in rows]
    assert [{name.removesuffix("/__init__.py") for name in names} for names in firsts] == list(LAYERS)


def test_no_modules_import_each_other_in_a_circle() -> None:
    trees = {name: WithoutTypeChecking().visit(ast.parse(source)) for name, source in modules().items()}
    waiting = {name: {found for found in imports_of(tree) if found in trees} for name, tree in trees.items()}
    while ready := {name for name, needed in waiting.items() if not needed & set(waiting)}:
        waiting = {name: needed for name, needed in waiting.items() if name not in ready}
    assert waiting == {}, "these modules import each other"


def test_importing_the_library_imports_neither_the_zoo_nor_tuning_nor_clusters() -> None:
    code = "import sys, sb3_pg; print(*{name.split('.')[0] for name in sys.modules})"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "sb3_pg" in imported
    assert not imported & {"rl_zoo3", "optuna", "ray", "pandas", "matplotlib"}
