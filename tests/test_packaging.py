"""The wheels, the start-up hook in them, and what an installation does to an environment.

Each wheel is installed into an environment of its own that sees the packages of this one but not its .pth files: so
these tests do not depend on how (or whether) the project is installed here.
"""

import base64
import configparser
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STARTUP_FILES = ("_sb3_pg_zoo_hook.py", "sb3_pg_zoo.pth", "sb3_pg_zoo.start")
SOURCES = ("build_backend", "hyperparams", "sb3_pg", "startup")

pytestmark = pytest.mark.xdist_group("packaging")  # one worker, one build of each wheel


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside the checkout, without this environment's Python settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SB3_PG_"))}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=inherited | environment, capture_output=True, text=True, timeout=300)


def run_well(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = run(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_of_the_sources(target: Path) -> Path:
    for name in SOURCES:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, target)
    return target


class Environment:
    """A virtual environment that imports the packages of this one."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.site = next((folder / "lib").glob("python*/site-packages"))
        ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (self.site / "outer_environment.pth").write_text("\n".join(ours))

    def install(self, *what: str | Path) -> None:
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
        pip = (sys.executable, "-m", "pip", "--python", self.python)
        run_well(*pip, "install", *offline, *what, cwd=self.folder)

    def uninstall(self) -> None:
        run_well(sys.executable, "-m", "pip", "--python", self.python, "uninstall", "-y", "sb3_pg", cwd=self.folder)

    def contents(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Build each kind of wheel once, with the backend functions that pip calls."""
    built: dict[str, Path] = {}

    def build_once(hook: str) -> Path:
        if hook not in built:
            source = copy_of_the_sources(tmp_path_factory.mktemp("source"))
            out = tmp_path_factory.mktemp("wheel")
            code = f"import sys; sys.path.insert(0, 'build_backend'); import _backend; _backend.{hook}({str(out)!r})"
            run_well(sys.executable, "-c", code, cwd=source)
            (built[hook],) = out.iterdir()
        return built[hook]

    return build_once


@pytest.fixture(scope="module")
def installed(build: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("venv"))
    environment.install(build("build_wheel"))
    return environment


@pytest.mark.parametrize("hook", ["build_wheel", "build_editable"])
def test_each_wheel_holds_the_start_up_files_in_its_root(build: Callable[[str], Path], hook: str) -> None:
    with zipfile.ZipFile(build(hook)) as wheel:
        for name in STARTUP_FILES:
            assert wheel.read(name) == (ROOT / "startup" / name).read_bytes()


@pytest.mark.parametrize("hook", ["build_wheel", "build_editable"])
def test_each_file_of_a_wheel_is_recorded_once_with_its_hash_and_size(build: Callable[[str], Path], hook: str) -> None:
    with zipfile.ZipFile(build(hook)) as wheel:
        names = wheel.namelist()
        (record_name,) = [name for name in names if name.endswith(".dist-info/RECORD")]
        record = [line.split(",") for line in wheel.read(record_name).decode().splitlines()]
        assert sorted(name for name, _, _ in record) == sorted(names)
        for name, digest, size in record:
            if name != record_name:
                data = wheel.read(name)
                hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                assert (digest, size) == (f"sha256={hashed}", str(len(data))), name


def test_the_wheel_holds_every_module_and_data_file(build: Callable[[str], Path]) -> None:
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "sb3_pg").rglob("*.py")}
    expected |= {"sb3_pg/py.typed", "sb3_pg/version.txt"}
    expected |= {f"sb3_pg/hyperparams/{path.name}" for path in (ROOT / "hyperparams").iterdir() if path.is_file()}
    with zipfile.ZipFile(build("build_wheel")) as wheel:
        packaged = {name for name in wheel.namelist() if name.startswith("sb3_pg/")}
    assert packaged == expected, "a new folder of sb3_pg has its line under 'packages' in setup.cfg"


def test_a_constraint_pins_every_declared_requirement() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    declared = {re.split(r"[^\w-]", line)[0] for lines in lists for line in lines.split("\n") if line}
    constraints = (ROOT / "constraints.txt").read_text()
    pinned = set(re.findall(r"^([\w.-]+)==[\w.]+", constraints, re.MULTILINE))
    same = str.maketrans("_", "-")
    assert {name.lower().translate(same) for name in declared} <= {name.lower().translate(same) for name in pinned}
    assert "torch==2.13.0\n" in constraints


def test_the_start_up_hook_imports_nothing_but_itself() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'startup')!r}); before = set(sys.modules);"
        "import _sb3_pg_zoo_hook; print(*set(sys.modules) - before)"
    )
    assert run_well(sys.executable, "-I", "-S", "-c", code, cwd=ROOT).split() == ["_sb3_pg_zoo_hook"]


def test_python_starts_with_the_hook_and_none_of_the_packages_it_serves(installed: Environment, tmp_path: Path) -> None:
    done = run(installed.python, "-X", "importtime", "-c", "pass", cwd=tmp_path)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "_sb3_pg_zoo_hook" in imported
    assert not {name.split(".")[0] for name in imported} & {"sb3_pg", "rl_zoo3", "torch", "numpy", "gymnasium"}


def test_installing_the_hook_twice_leaves_one_finder(installed: Environment, tmp_path: Path) -> None:
    code = (
        "import sys, _sb3_pg_zoo_hook as hook; hook.install(); hook.install();"
        "print(sum(type(finder).__name__ == 'ZooFinder' for finder in sys.meta_path))"
    )
    assert run_well(installed.python, "-c", code, cwd=tmp_path) == "1\n"


def test_the_literal_zoo_command_trains_with_the_wheels_own_hyperparameters(
    installed: Environment, tmp_path: Path
) -> None:
    command = ("-m", "rl_zoo3.train", "--algo", "vpg", "--env", "CartPole-v1", "-f", "logs", "-n", "64")
    printed = run_well(installed.python, *command, "--eval-freq", "32", cwd=tmp_path)
    assert f"Loading hyperparameters from: {installed.site / 'sb3_pg' / 'hyperparams' / 'vpg.yml'}" in printed
    run_folder = tmp_path / "logs" / "vpg" / "CartPole-v1_1"
    for name in ("CartPole-v1.zip", "best_model.zip", "evaluations.npz", "0.monitor.csv"):
        assert (run_folder / name).is_file(), name


def test_the_zoo_gains_our_algorithms_and_keeps_its_own(installed: Environment, tmp_path: Path) -> None:
    code = """if True:
        import importlib, inspect
        import sb3_pg.zoo.search_spaces  # importing our side first is no other order of events
        import rl_zoo3, rl_zoo3.exp_manager, rl_zoo3.hyperparams_opt as opt
        from stable_baselines3 import A2C
        ours = {"vpg", "reinforce", "a2c_gae", "ppo_gae", "trpo_gae"}
        for table in (rl_zoo3.ALGOS, opt.HYPERPARAMS_SAMPLER, opt.HYPERPARAMS_CONVERTER):
            assert ours < set(table), table
            assert {value.__module__.split(".")[0] for key, value in table.items() if key not in ours} <= {
                "rl_zoo3", "stable_baselines3", "sb3_contrib"}
        assert rl_zoo3.ALGOS["a2c"] is A2C
        assert inspect.getfile(rl_zoo3.utils).endswith("utils.py")
        assert ours < set(importlib.reload(rl_zoo3.utils).ALGOS)
        print("done")
    """
    assert run_well(installed.python, "-W", "error::UserWarning", "-c", code, cwd=tmp_path) == "done\n"


def test_the_off_switch_leaves_the_zoo_as_it_is(installed: Environment, tmp_path: Path) -> None:
    code = "import sys, rl_zoo3; print('vpg' in rl_zoo3.ALGOS, 'sb3_pg' in sys.modules)"
    assert run_well(installed.python, "-c", code, cwd=tmp_path, SB3_PG_ZOO="0") == "False False\n"


def test_a_broken_installation_costs_one_warning_and_no_stock_algorithm(installed: Environment, tmp_path: Path) -> None:
    code = """if True:
        import sys
        sys.modules["sb3_pg"] = None  # what an import of a deleted checkout meets: ModuleNotFoundError
        sys.argv = ["train", "--algo", "ppo", "--env", "CartPole-v1", "-n", "64", "--eval-freq", "-1", "-f", "logs",
                    "-params", "n_steps:32", "n_envs:1"]
        from rl_zoo3.train import train
        train()
    """
    done = run(installed.python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("sb3_pg could not add its algorithms to rl_zoo3.utils (ModuleNotFoundError") == 1
    assert done.stderr.count("sb3_pg could not add") == 1
    assert (tmp_path / "logs" / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip").is_file()


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_uninstalling_leaves_nothing_behind(build: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    environment = Environment(tmp_path / "venv")
    before = environment.contents()
    if kind == "wheel":
        environment.install(build("build_wheel"))
    else:
        source = tmp_path / "checkout"
        source.mkdir()
        environment.install("-e", copy_of_the_sources(source))
    assert set(STARTUP_FILES) <= {path.name for path in environment.site.iterdir()}
    environment.uninstall()
    assert environment.contents() == before


@pytest.mark.parametrize(
    "mode", ["strict", *(pytest.param(mode, marks=pytest.mark.expensive) for mode in ("lenient", "compat"))]
)
def test_every_editable_mode_finds_the_hyperparameters(tmp_path: Path, mode: str) -> None:
    source = tmp_path / "checkout"
    source.mkdir()
    environment = Environment(tmp_path / "venv")
    environment.install("-e", copy_of_the_sources(source), f"--config-settings=editable_mode={mode}")
    code = "from sb3_pg.zoo.extend import ALGORITHMS, hyperparams_path; print(*map(hyperparams_path, ALGORITHMS))"
    paths = [Path(path) for path in run_well(environment.python, "-c", code, cwd=tmp_path).split()]
    assert [path.stem for path in paths] == ["vpg", "reinforce", "a2c_gae", "ppo_gae", "trpo_gae"]
    assert all(path.resolve().is_relative_to(source.resolve()) for path in paths)

    source.rename(tmp_path / "moved")
    done = run(environment.python, "-c", "import numpy", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), "a checkout that is gone must not disturb other programs"


@pytest.mark.skipif(shutil.which("make") is None, reason="the Makefile needs make")
@pytest.mark.parametrize("target", ["train", "test"])
def test_a_second_make_installs_nothing(tmp_path: Path, target: str) -> None:
    copy_of_the_sources(tmp_path)
    plan = ("make", "-n", target)
    assert "pip install" in run_well(*plan, cwd=tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", ".installed", ".installed-tests"):
        (tmp_path / ".venv" / name).touch()
    assert "pip install" not in run_well(*plan, cwd=tmp_path)
    later = (tmp_path / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(tmp_path / "setup.cfg", (later, later))
    assert "pip install" in run_well(*plan, cwd=tmp_path)


def test_the_backend_leaves_setuptools_other_hooks_alone() -> None:
    path = ROOT / "build_backend" / "_backend.py"
    spec = importlib.util.spec_from_file_location("_backend", path)
    assert spec is not None
    assert spec.loader is not None
    backend = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    from setuptools import build_meta

    for hook in ("get_requires_for_build_wheel", "prepare_metadata_for_build_wheel", "build_sdist"):
        assert getattr(backend, hook) == getattr(build_meta, hook)
