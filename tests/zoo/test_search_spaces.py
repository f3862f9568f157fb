import inspect
from typing import Any

import gymnasium as gym
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from sb3_pg import REINFORCE, VPG, TunableA2C, TunablePPO, TunableTRPO
from sb3_pg.zoo import HOSTS, search_spaces
from sb3_pg.zoo.extend import extend_all
from sb3_pg.zoo.search_spaces import CONVERTERS, NET_ARCHS, SAMPLERS

extend_all()
from rl_zoo3 import hyperparams_opt  # noqa: E402 - after the extension

ALGORITHMS = {"vpg": VPG, "reinforce": REINFORCE}
NAMES = sorted(ALGORITHMS)
TUNABLE: dict[str, Any] = {"a2c_gae": TunableA2C, "ppo_gae": TunablePPO, "trpo_gae": TunableTRPO}
BATCHES = {"vpg": (128, 4096), "reinforce": (512, 8192)}

optuna.logging.set_verbosity(optuna.logging.ERROR)


def random_study(seed: int) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


def raw_values(name: str, **changes: Any) -> dict[str, Any]:
    """One point of the space, with some coordinates set by the test."""
    raw: dict[str, Any] = {
        "learning_rate": 1e-3,
        "one_minus_gamma": 0.01,
        "normalize_advantage": True,
        "ent_coef": 1e-4,
        "max_grad_norm": 0.5,
        "net_arch": "small",
        "activation_fn": "tanh",
        "n_steps_pow": 6,
    }
    if name == "vpg":
        raw |= {
            "one_minus_gae_lambda": 0.05,
            "lambda_rule": "constant",
            "vf_learning_rate": 1e-3,
            "n_critic_updates": 10,
            "critic_batch_size": 256,
            "estimator": "gae",
        }
    else:
        raw |= {"baseline": "none", "estimator": "reward_to_go"}
    return raw | changes


def test_an_estimator_of_the_table_is_searched_where_lambda_does_not_cover_it() -> None:
    assert search_spaces.vpg_estimators() == ["gae"]
    assert search_spaces.reinforce_estimators() == ["total_return", "reward_to_go"]


def test_every_algorithm_has_a_sampler_and_a_converter() -> None:
    assert set(SAMPLERS) == set(CONVERTERS) == {*ALGORITHMS, *TUNABLE}
    assert set(HOSTS) == set(TUNABLE)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**31), n_actions=st.integers(0, 17), n_envs=st.integers(1, 256))
@settings(max_examples=60, deadline=None)
def test_the_converter_rebuilds_the_sampler_from_the_raw_values(
    name: str, seed: int, n_actions: int, n_envs: int
) -> None:
    trial = random_study(seed).ask()
    sampled = SAMPLERS[name](trial, n_actions, n_envs, {})
    assert CONVERTERS[name](trial.params) == sampled


@pytest.mark.parametrize("name", NAMES)
def test_the_converter_leaves_the_trial_as_it_is(name: str) -> None:
    raw = raw_values(name, log_std_init=-1.0)
    before = dict(raw)
    CONVERTERS[name](raw)
    assert raw == before


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**31), n_actions=st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_every_sampled_name_is_a_constructor_argument(name: str, seed: int, n_actions: int) -> None:
    sampled = SAMPLERS[name](random_study(seed).ask(), n_actions, 8, {})
    # REINFORCE takes VPG's arguments, most of them as **kwargs.
    assert set(sampled) <= set(inspect.signature(VPG).parameters)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("env_id", "n_actions"), [("CartPole-v1", 0), ("Pendulum-v1", 1)])
def test_every_sampled_point_constructs_the_algorithm(name: str, env_id: str, n_actions: int) -> None:
    study = random_study(0)
    env = gym.make(env_id)
    for _ in range(15):
        sampled = SAMPLERS[name](study.ask(), n_actions, 1, {})
        model = ALGORITHMS[name]("MlpPolicy", env, **sampled)
        assert model.n_steps == sampled["n_steps"]
        assert model.gamma == sampled["gamma"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_envs", [1, 2, 4, 8, 16, 32])
def test_the_batch_covers_the_same_range_for_any_number_of_environments(name: str, n_envs: int) -> None:
    study = random_study(0)
    batches = {SAMPLERS[name](study.ask(), 0, n_envs, {})["n_steps"] * n_envs for _ in range(100)}
    smallest, largest = BATCHES[name]
    assert (min(batches), max(batches)) == (max(smallest, 8 * n_envs), largest)


@pytest.mark.parametrize("name", NAMES)
def test_hundreds_of_environments_still_play_some_steps_each(name: str) -> None:
    study = random_study(0)
    assert min(SAMPLERS[name](study.ask(), 0, 4096, {})["n_steps"] for _ in range(5)) == 8


def test_lambda_is_searched_from_zero_to_almost_one() -> None:
    study = random_study(0)
    values = []
    for _ in range(600):
        trial = study.ask()
        SAMPLERS["vpg"](trial, 0, 8, {})
        values.append(trial.user_attrs["gae_lambda"])
    assert min(values) >= 0
    assert max(values) < 1
    thirds = [sum(value < 0.9 for value in values), sum(value >= 0.99 for value in values)]
    assert all(150 < third < 250 for third in thirds)
    assert any(value < 0.2 for value in values)


def test_the_ends_of_the_lambda_range_are_zero_and_0_999() -> None:
    for one_minus, gae_lambda in ((1.0, 0.0), (1e-3, 0.999)):
        trial = FixedTrial(raw_values("vpg", one_minus_gae_lambda=one_minus))
        sampled = SAMPLERS["vpg"](trial, 0, 8, {})
        assert sampled["gae_lambda"] == pytest.approx(gae_lambda)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("constant", 0.75), ("explained_variance", "explained_variance:0.75_1"), ("auto", "auto:0.75")],
)
def test_the_kind_of_rule_says_what_the_sampled_lambda_is(rule: str, expected: Any) -> None:
    trial = FixedTrial(raw_values("vpg", lambda_rule=rule, one_minus_gae_lambda=0.25))
    assert SAMPLERS["vpg"](trial, 0, 8, {})["gae_lambda"] == expected
    assert trial.user_attrs["gae_lambda"] == 0.75


def test_every_kind_of_rule_is_tried() -> None:
    study = random_study(0)
    kinds = {str(SAMPLERS["vpg"](study.ask(), 0, 8, {})["gae_lambda"]).split(":")[0] for _ in range(40)}
    assert {"explained_variance", "auto"} < kinds
    assert len(kinds) > 10, "the others are numbers"


def test_a_trial_from_before_there_were_rules_is_a_constant_lambda() -> None:
    raw = raw_values("vpg")
    del raw["lambda_rule"]
    assert CONVERTERS["vpg"](raw)["gae_lambda"] == pytest.approx(0.95)


@pytest.mark.parametrize("name", NAMES)
def test_the_standard_deviation_is_sampled_for_continuous_actions_only(name: str) -> None:
    discrete = SAMPLERS[name](FixedTrial(raw_values(name)), 0, 8, {})
    continuous = SAMPLERS[name](FixedTrial(raw_values(name, log_std_init=-1.5)), 3, 8, {})
    assert "log_std_init" not in discrete["policy_kwargs"]
    assert continuous["policy_kwargs"]["log_std_init"] == -1.5


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_shows_the_real_values_beside_the_raw_ones(name: str) -> None:
    trial = FixedTrial(raw_values(name))
    SAMPLERS[name](trial, 0, 8, {})
    assert trial.user_attrs["gamma"] == pytest.approx(0.99)
    assert trial.user_attrs["n_steps"] == 64
    assert trial.user_attrs["rollout_size"] == 512
    if name == "vpg":
        assert trial.user_attrs["gae_lambda"] == pytest.approx(0.95)


def test_two_conversions_share_no_layer_list() -> None:
    first = CONVERTERS["vpg"](raw_values("vpg"))["policy_kwargs"]["net_arch"]
    first["pi"].append(1)
    second = CONVERTERS["vpg"](raw_values("vpg"))["policy_kwargs"]["net_arch"]
    assert second == {"pi": [64, 64], "vf": [64, 64]}
    assert NET_ARCHS["small"] == [64, 64]


@pytest.mark.parametrize("name", NAMES)
def test_the_space_is_the_same_in_every_trial_of_a_study(name: str) -> None:
    study = random_study(0)
    spaces = []
    for _ in range(20):
        trial = study.ask()
        SAMPLERS[name](trial, 2, 8, {})
        spaces.append(trial.distributions)
    assert all(space == spaces[0] for space in spaces)


# -- RL Zoo's algorithms with our lambda -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TUNABLE)
def test_but_for_lambda_the_space_is_the_hosts(name: str) -> None:
    ours, theirs = random_study(0).ask(), random_study(0).ask()
    SAMPLERS[name](ours, 2, 8, {})
    hyperparams_opt.HYPERPARAMS_SAMPLER[HOSTS[name]](theirs, 2, 8, {})
    found = dict(ours.distributions)
    assert found.pop("lambda_rule") == optuna.distributions.CategoricalDistribution(
        ["constant", "explained_variance", "auto"]
    )
    assert found.pop("one_minus_gae_lambda") == optuna.distributions.FloatDistribution(1e-3, 1.0, log=True)
    assert found == {key: each for key, each in theirs.distributions.items() if key != "one_minus_gae_lambda"}
    assert theirs.user_attrs.items() <= ours.user_attrs.items()


@pytest.mark.parametrize("name", TUNABLE)
def test_the_hosts_converter_and_the_rule_rebuild_every_trial(name: str) -> None:
    study, kinds = random_study(1), set()
    for _ in range(30):
        trial = study.ask()
        sampled = SAMPLERS[name](trial, 0, 8, {})
        raw = dict(trial.params)
        assert CONVERTERS[name](raw) == sampled
        assert raw == trial.params, "the trial is left as it is"
        kind, _, number = str(sampled["gae_lambda"]).rpartition(":")
        kinds.add(kind)
        assert float(number.split("_")[0]) == trial.user_attrs["gae_lambda"] == 1 - raw["one_minus_gae_lambda"]
        assert set(sampled) <= set(inspect.signature(TUNABLE[name]).parameters)
        theirs = hyperparams_opt.HYPERPARAMS_CONVERTER[HOSTS[name]](raw)
        assert {**theirs, "gae_lambda": 0} == {**sampled, "gae_lambda": 0, "lambda_rule": raw["lambda_rule"]}
    assert kinds == {"", "auto", "explained_variance"}


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")
@pytest.mark.parametrize("name", TUNABLE)
def test_every_sampled_point_constructs_the_hosts_algorithm(name: str) -> None:
    study, env = random_study(0), gym.make("CartPole-v1")
    for _ in range(6):
        sampled = SAMPLERS[name](study.ask(), 0, 1, {})
        assert TUNABLE[name]("MlpPolicy", env, **sampled).gae_lambda == sampled["gae_lambda"]
