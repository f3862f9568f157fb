"""What sb3_pg adds to RL Zoo's modules, and what it leaves alone."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest

from sb3_pg import REINFORCE, VPG, enjoy, train
from sb3_pg.zoo.extend import ALGORITHMS, EXTENSIONS, extend, extend_all, hyperparams_path
from sb3_pg.zoo.search_spaces import CONVERTERS, SAMPLERS

extend_all()
from rl_zoo3 import exp_manager, hyperparams_opt, utils  # noqa: E402 - as sb3_pg.train does, after the extension


def manager(algo: str, **arguments: Any) -> exp_manager.ExperimentManager:
    return exp_manager.ExperimentManager(argparse.Namespace(), algo, "CartPole-v1", "logs", **arguments)


def test_every_algorithm_is_in_each_of_the_zoos_tables_and_has_its_hyperparameters() -> None:
    assert ALGORITHMS == {"vpg": VPG, "reinforce": REINFORCE}
    assert set(SAMPLERS) == set(CONVERTERS) == set(ALGORITHMS)
    for key, algorithm in ALGORITHMS.items():
        assert utils.ALGOS[key] is algorithm
        assert hyperparams_opt.HYPERPARAMS_SAMPLER[key] is SAMPLERS[key]
        assert hyperparams_opt.HYPERPARAMS_CONVERTER[key] is CONVERTERS[key]
        assert hyperparams_path(key).is_file()


@pytest.mark.parametrize(
    ("name", "tables"),
    [("rl_zoo3.utils", ["ALGOS"]), ("rl_zoo3.hyperparams_opt", ["HYPERPARAMS_SAMPLER", "HYPERPARAMS_CONVERTER"])],
)
def test_an_entry_that_upstream_has_under_our_key_wins(name: str, tables: list[str]) -> None:
    module = ModuleType(name)
    for table in tables:
        setattr(module, table, {"vpg": "upstream's"})
    extend(module)
    for table in tables:
        entries = getattr(module, table)
        assert entries["vpg"] == "upstream's"
        assert set(entries) == set(ALGORITHMS)


def test_extending_twice_changes_nothing() -> None:
    method = exp_manager.ExperimentManager.read_hyperparameters
    algorithms = dict(utils.ALGOS)
    extend_all()
    assert exp_manager.ExperimentManager.read_hyperparameters is method
    assert algorithms == utils.ALGOS


def test_the_start_up_hook_and_the_table_name_the_same_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "startup")
    import _sb3_pg_zoo_hook as hook

    assert set(EXTENSIONS) == hook.EXTENDED_MODULES


def test_the_algorithms_read_our_hyperparameters_and_a_stock_one_the_zoos() -> None:
    for algo in ALGORITHMS:
        ours = manager(algo)
        ours.read_hyperparameters()
        assert ours.config == str(hyperparams_path(algo))
    stock = manager("a2c")
    stock.read_hyperparameters()
    assert stock.config == str(Path(exp_manager.__file__).parent / "hyperparams" / "a2c.yml")


def test_a_config_file_that_the_user_names_is_used_or_missed_under_its_own_name(tmp_path: Path) -> None:
    mine = tmp_path / "hyperparams" / "vpg.yml"
    with pytest.raises(FileNotFoundError, match=str(mine)):
        manager("vpg", config=str(mine)).read_hyperparameters()
    mine.parent.mkdir()
    mine.write_text("CartPole-v1: {n_timesteps: 7.0}")
    assert manager("vpg", config=str(mine)).read_hyperparameters()[0] == {"n_timesteps": 7.0}


def test_hyperparameters_of_an_unknown_algorithm_are_refused_by_name() -> None:
    with pytest.raises(FileNotFoundError, match=r"algorithm 'vgp': vgp\.yml is not in .*hyperparams"):
        hyperparams_path("vgp")


@pytest.fixture
def two_trials(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Make a journal with two trials of an algorithm; returns the manager's arguments for it."""

    def make(algo: str) -> dict[str, Any]:
        path = str(tmp_path / "study.log")
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
        study = optuna.create_study(storage=storage, study_name="s", sampler=optuna.samplers.RandomSampler(seed=1))
        for _ in range(2):
            trial = study.ask()
            hyperparams_opt.HYPERPARAMS_SAMPLER[algo](trial, 2, 1, {})
            study.tell(trial, 1.0)
        return {"storage": path, "study_name": "s"}

    return make


@pytest.mark.parametrize("trial_id", [0, 1])
@pytest.mark.parametrize("algo", list(ALGORITHMS))
def test_the_hyperparameters_of_any_trial_are_loaded(
    two_trials: Callable[[str], dict[str, Any]], algo: str, trial_id: int
) -> None:
    study = two_trials(algo)
    params = optuna.load_study(
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(study["storage"])),
        study_name="s",
    ).trials[trial_id]
    read, _ = manager(algo, trial_id=trial_id, **study).read_hyperparameters()
    sampled = CONVERTERS[algo](params.params)
    assert {name: read[name] for name in sampled} == sampled
    assert "n_timesteps" in read, "what the trial did not sample comes from the file"


def test_the_command_line_overrides_trial_zero(two_trials: Callable[[str], dict[str, Any]]) -> None:
    overridden = manager("vpg", trial_id=0, hyperparams={"learning_rate": 0.5}, **two_trials("vpg"))
    assert overridden.read_hyperparameters()[0]["learning_rate"] == 0.5


def test_what_the_zoo_does_with_a_stock_algorithms_trial_zero_stays(
    two_trials: Callable[[str], dict[str, Any]],
) -> None:
    without, _ = manager("a2c").read_hyperparameters()
    assert manager("a2c", trial_id=0, **two_trials("a2c")).read_hyperparameters()[0] == without


def test_the_fallback_commands_train_and_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--algo", "reinforce", "--env", "CartPole-v1", "-f", "logs", "-n", "64"]
    monkeypatch.setattr("sys.argv", ["train", *common, "--eval-freq", "-1"])
    train.main()
    assert (tmp_path / "logs" / "reinforce" / "CartPole-v1_1" / "CartPole-v1.zip").is_file()
    monkeypatch.setattr("sys.argv", ["enjoy", *common, "--no-render"])
    enjoy.main()
