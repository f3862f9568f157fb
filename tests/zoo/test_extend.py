"""What sb3_pg adds to RL Zoo's modules, and what it leaves alone."""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
import yaml
from helpers import same, weights

from sb3_pg import REINFORCE, VPG, TunableA2C, TunablePPO, TunableTRPO, enjoy, train
from sb3_pg.zoo import HOSTS
from sb3_pg.zoo.extend import ALGORITHMS, EXTENSIONS, _find_block, extend, extend_all, hyperparams_path, older_versions
from sb3_pg.zoo.search_spaces import CONVERTERS, SAMPLERS

extend_all()
from rl_zoo3 import exp_manager, hyperparams_opt, utils  # noqa: E402 - as sb3_pg.train does, after the extension


def manager(algo: str, env_id: str = "CartPole-v1", **arguments: Any) -> exp_manager.ExperimentManager:
    return exp_manager.ExperimentManager(argparse.Namespace(), algo, env_id, "logs", **arguments)


def test_every_algorithm_is_in_each_of_the_zoos_tables_and_has_its_hyperparameters() -> None:
    tunable = {"a2c_gae": TunableA2C, "ppo_gae": TunablePPO, "trpo_gae": TunableTRPO}
    assert {"vpg": VPG, "reinforce": REINFORCE, **tunable} == ALGORITHMS
    assert set(HOSTS) == set(tunable)
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
    for algo in ("vpg", "reinforce"):
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


def test_older_versions_come_newest_first() -> None:
    assert older_versions("Hopper-v3") == ["Hopper-v2", "Hopper-v1", "Hopper-v0"]
    assert older_versions("ALE/Pong-v1") == ["ALE/Pong-v0"]
    assert older_versions("Hopper-v0") == older_versions("Hopper") == older_versions("Hopper-very") == []


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


# -- RL Zoo's algorithms with our lambda -----------------------------------------------------------------------------

THEIRS = Path(exp_manager.__file__).parent / "hyperparams"


@pytest.mark.parametrize(
    ("env_id", "block"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("HalfCheetah-v5", "HalfCheetah-v4"),
        ("Swimmer-v5", "Swimmer-v4"),
        ("LunarLanderContinuous-v3", "LunarLanderContinuous-v3"),
        ("FrozenLake-v1", "default"),
        ("LineWorld-v0", "default"),
    ],
)
@pytest.mark.parametrize("algo", HOSTS)
def test_where_we_have_no_block_it_is_the_hosts(
    algo: str, env_id: str, block: str, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = manager(algo, env_id)
    read, saved = experiment.read_hyperparameters()
    file = THEIRS / f"{HOSTS[algo]}.yml"
    assert read == dict(saved) == yaml.safe_load(file.read_text())[block]
    assert experiment.env_name.gym_id == env_id
    assert experiment.config == str(file)
    said = f"{file} has no block for {env_id}: taking that of {block}" in capsys.readouterr().out
    assert said == (block.endswith("-v4"))


def test_where_the_host_has_no_block_for_an_atari_game_it_is_the_one_for_all_of_them(tmp_path: Path) -> None:
    for algo in ("a2c_gae", "ppo_gae"):
        path, block = _find_block(THEIRS / f"{algo}.yml", algo, "ALE/Pong-v5", True)
        assert (path, block) == (THEIRS / f"{HOSTS[algo]}.yml", "ALE/Pong-v5")
        assert "atari" in yaml.safe_load(path.read_text())
    for name in ("trpo.yml", "ppo.yml"):
        (tmp_path / name).write_text("Thing-v2: {}\nThing-v3: {}\nThing-v7: {}")
    assert _find_block(tmp_path / "trpo_gae.yml", "trpo_gae", "Thing-v5", False)[1] == "Thing-v3"
    assert _find_block(tmp_path / "ppo_gae.yml", "ppo_gae", "Thing-v5", True)[1] == "Thing-v5", "then it is `atari`"
    assert _find_block(tmp_path / "ppo_gae.yml", "ppo_gae", "Thing-v1", False)[1] == "Thing-v1", "never a newer one"
    assert _find_block(tmp_path / "ppo_gae.yml", "ppo_gae", "Other-v1", False)[1] == "Other-v1"
    assert _find_block(tmp_path / "ppo_gae.yml", "ppo_gae", "Thing-vx", False)[1] == "Thing-vx"


@pytest.mark.parametrize(
    ("algo", "env_id"), [("a2c_gae", "CartPole-v0"), ("a2c_gae", "CartPoleSwingUp-v0"), ("ppo_gae", "Walker2d-v5")]
)
def test_a_block_of_ours_goes_before_the_hosts_and_makes_a_model(
    algo: str, env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the current folder
    experiment = manager(algo, env_id, device="cpu", eval_freq=-1, verbose=0)
    experiment.args = argparse.Namespace()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*out of date", DeprecationWarning)
        model, saved = experiment.setup_experiment()
    assert experiment.config == str(hyperparams_path(algo))
    blocks = yaml.safe_load(hyperparams_path(algo).read_text())
    assert dict(saved) == blocks[env_id]
    assert isinstance(model, ALGORITHMS[algo])
    for name in ("n_steps", "n_envs", "gamma", "gae_lambda"):
        assert getattr(model, name) == blocks[env_id][name]
    model.env.close()


def test_the_lectures_walker_has_its_numbers() -> None:
    block = yaml.safe_load(hyperparams_path("ppo_gae").read_text())["Walker2d-v5"]
    assert (block["n_steps"] * block["n_envs"], block["batch_size"], block["n_epochs"]) == (20480, 2048, 3)
    assert (block["gamma"], block["gae_lambda"], block["ent_coef"], block["clip_range"]) == (0.995, 0.95, 0.005, 0.2)
    assert (block["learning_rate"], block["n_timesteps"]) == ("lin_0.0003", 3e7)
    assert eval(block["policy_kwargs"]) == {"net_arch": [512, 512, 512]}
    assert eval(block["normalize"]) == {"norm_obs": True, "norm_reward": False}


def test_a_file_of_the_users_is_read_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yml"
    mine.write_text("CartPole-v1: {n_timesteps: 7.0}")
    assert manager("ppo_gae", config=str(mine)).read_hyperparameters()[0] == {"n_timesteps": 7.0}
    with pytest.raises(ValueError, match=r"not found for ppo_gae-HalfCheetah-v5 in .*mine\.yml"):
        manager("ppo_gae", "HalfCheetah-v5", config=str(mine)).read_hyperparameters()


SMALL = ("-params", "n_envs:2", "n_steps:32")


def train_here(monkeypatch: pytest.MonkeyPatch, algo: str, *more: str) -> None:
    command = ("train", "--algo", algo, "--env", "CartPole-v1", "-f", "logs", "--seed", "1", "--device", "cpu")
    monkeypatch.setattr("sys.argv", [*command, *more])
    train.main()


@pytest.mark.parametrize(
    ("algo", "rule"), [("a2c_gae", "lin_0.9_0.5"), ("ppo_gae", "auto:0.9"), ("trpo_gae", "length:0.05")]
)
def test_a_run_of_the_zoo_is_trained_resumed_and_played(
    algo: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = (*SMALL, f"gae_lambda:'{rule}'", *([] if algo == "a2c_gae" else ["batch_size:32"]))
    train_here(monkeypatch, algo, "-n", "256", "--eval-freq", "-1", "--save-freq", "128", *settings)
    runs = tmp_path / "logs" / algo
    checkpoint = runs / "CartPole-v1_1" / "rl_model_128_steps.zip"
    train_here(monkeypatch, algo, "-n", "128", "--eval-freq", "-1", "-i", str(checkpoint), *settings)
    whole, resumed = (
        ALGORITHMS[algo].load(runs / f"CartPole-v1_{number}" / "CartPole-v1.zip", device="cpu") for number in (1, 2)
    )
    assert whole.num_timesteps == resumed.num_timesteps == 256
    assert whole.gae_lambda == resumed.gae_lambda == rule
    assert same(weights(whole), weights(resumed))
    play = ("enjoy", "--algo", algo, "--env", "CartPole-v1", "-f", "logs", "-n", "64", "--no-render", "--exp-id", "2")
    monkeypatch.setattr("sys.argv", [*play, "--device", "cpu"])
    enjoy.main()


@pytest.mark.filterwarnings("ignore")
def test_a_host_with_our_lambda_is_optimized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = ("--storage", "./study.log", "--study-name", "s")
    train_here(
        monkeypatch, "a2c_gae", "-optimize", "-n", "64", "--n-trials", "2", "--eval-episodes", "1", "--no-optim-plots",
        *study,
    )  # fmt: skip
    report = next((tmp_path / "logs" / "a2c_gae").glob("report_CartPole-v1_*.csv")).read_text()
    assert "params_lambda_rule" in report.splitlines()[0]
    read, _ = manager("a2c_gae", storage="study.log", study_name="s", trial_id=0).read_hyperparameters()
    assert read["ent_coef"] != 0.0, "from the trial"
    assert read["n_timesteps"] == 5e5, "from the host's file"


@pytest.mark.filterwarnings("ignore")
def test_a_block_with_gsde_is_optimized_without_the_rule_that_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("-params", "n_envs:2", "use_sde:True", "normalize:False")
    train_here(
        monkeypatch, "vpg", "--env", "Pendulum-v1", "-optimize", "-n", "64", "--n-trials", "1", "--eval-episodes", "1",
        "--no-optim-plots", "--storage", "./study.log", "--study-name", "s", *small,
    )  # fmt: skip
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("study.log"))
    (trial,) = optuna.load_study(study_name="s", storage=storage).trials
    assert trial.state == optuna.trial.TrialState.COMPLETE
    assert trial.distributions["lambda_rule"].choices == ("constant", "explained_variance")


@pytest.mark.parametrize("name", ["learning_rate", "clip_range", "clip_range_vf"])
def test_schedules_with_two_ends_are_read_wherever_the_zoo_reads_schedules(name: str) -> None:
    read = exp_manager.ExperimentManager._preprocess_schedules({name: "lin_0.2_0.1", "gamma": 0.9})
    assert [read[name](progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([0.2, 0.15, 0.1])
    assert read["gamma"] == 0.9
