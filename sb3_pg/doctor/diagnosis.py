r"""The numbers of the doctor's page, from :class:`~sb3_pg.doctor.experience.Experience`.

The independent unit is an episode. Episodes are put together in groups of equal number, about as many steps as a batch
has where episodes are short, and what is said about a batch is scaled from the groups to its number of steps:
:math:`E|\hat g|^2 = |\mu|^2 + \mathrm{tr}\,\Sigma / n` with n the batch in episodes.

The reference, taken for the true gradient's estimate, is that of the Monte-Carlo returns of whole episodes minus V:
whatever V is, its expectation has no bias (but for the V that stands in after a time limit). Estimators with a critic
are computed as in training, with the critic's value at the end of every ``n_steps`` rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.utils import explained_variance

from sb3_pg.advantage.baselines import critic_free, get_baseline
from sb3_pg.advantage.estimators import Array, Trajectories, get_estimator, reward_to_go
from sb3_pg.advantage.gae_lambda import BATCHES
from sb3_pg.doctor.experience import Experience, Training
from sb3_pg.gradient.per_episode import gradients_from_factors
from sb3_pg.gradient.statistics import (
    Estimate,
    Moments,
    TimeProfile,
    explained_variance_by_time,
    jackknife,
    moments,
)

LAMBDAS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 1.0)
# Fewer groups would leave the standard errors to chance, more would only cost memory.
_GROUPS = (20, 100)
# Baselines that are means over episodes are taken over at least so many, as a batch of whole episodes would have.
_BASELINE_EPISODES = 8


class LambdaCurve(NamedTuple):
    """What each lambda does to the gradient; arrays of shape ``(n_lambdas,)``."""

    lambdas: Array
    cosine: Estimate
    """With the true gradient, for the mean of :data:`~sb3_pg.advantage.gae_lambda.BATCHES` batches: what is judged."""
    cosine_of_one: Estimate
    """For a single batch."""
    cosine_of_bias: Array
    """For an infinite batch: what bias alone leaves."""
    bias_squared: Array
    """In units of the true gradient's squared length."""
    variance: Array
    """Likewise."""
    best: int
    """Index of the highest cosine."""
    good: NDArray[np.bool_]
    """The lambdas that cannot be told from the best one: their difference is within two standard errors of zero."""


class EstimatorRow(NamedTuple):
    """One way of weighing the scores."""

    estimator: str
    baseline: str
    variance: float
    """Of a batch's gradient, in units of the true gradient's squared length."""
    snr: float
    snr_error: float
    cosine: float
    """With the true gradient, for a batch."""
    cosine_error: float


class Calibration(NamedTuple):
    """The critic's values against what followed, in bins of the values; arrays of shape ``(n_bins,)``."""

    values: Array
    returns: Array
    """Mean of the first-visit Monte-Carlo returns."""
    returns_error: Array
    """Standard error of that mean, with episodes as the independent units."""
    targets: Array
    """Mean of the TD(0) targets."""


class Critic(NamedTuple):
    """How good the critic is."""

    calibration: Calibration
    explained_by_returns: float
    """Explained variance of first-visit Monte-Carlo returns."""
    explained_by_targets: float
    """Explained variance of TD(0) targets."""
    bias: float
    """Mean of V - G, in standard deviations of G."""
    returns_profile: TimeProfile
    targets_profile: TimeProfile


class Diagnosis(NamedTuple):
    """Everything that the page shows."""

    training: Training
    layers: str
    n_steps: int
    n_episodes: int
    n_groups: int
    mean_length: float
    mean_return: float
    """Undiscounted, of the rewards that the critic sees."""
    batch_steps: float
    batch_units: float
    """Episodes in a batch."""
    signal: Estimate
    """Squared length of the expected gradient of one episode, of the model's own estimator, as one-element arrays."""
    noise: float
    """Trace of the covariance of one episode's gradient."""
    cosine: Estimate
    """Cosine of the model's own gradient with the true one."""
    curve: LambdaCurve | None
    estimators: list[EstimatorRow]
    critic: Critic | None
    critic_gain: Estimate | None
    """Cosine of the best choice that uses the critic, minus that of the best one that does not."""

    @property
    def noise_scale(self) -> float:
        """Steps in a batch whose signal-to-noise ratio is 1."""
        return self._noise_scale(float(self.signal.value[0]))

    @property
    def noise_scale_range(self) -> tuple[float, float]:
        """The same for a signal two standard errors higher and lower."""
        signal, error = float(self.signal.value[0]), float(self.signal.standard_error[0])
        return self._noise_scale(signal + 2 * error), self._noise_scale(signal - 2 * error)

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio of a batch."""
        return float(self.signal.value[0]) * self.batch_units / self.noise if self.noise > 0 else float("nan")

    @property
    def signal_is_clear(self) -> bool:
        """Whether the signal is at least two standard errors above zero."""
        return bool(self.signal.value[0] > 2 * self.signal.standard_error[0])

    def _noise_scale(self, signal: float) -> float:
        return self.noise / signal * self.mean_length if signal > 0 else float("inf")


def diagnose(experience: Experience, training: Training) -> Diagnosis:
    """Compute everything that the page shows.

    :raises ValueError: for fewer than four episodes
    """
    episodes, valid = experience.episodes, experience.valid
    n_episodes, n_steps = int(episodes.max()) + 1, int(valid.sum())
    if n_episodes < 4:
        raise ValueError(f"{n_episodes} whole episodes were played; at least 4 are needed, so a larger --n-batches is")
    mean_length = n_steps / n_episodes
    units = max(training.batch_steps(mean_length) / mean_length, 1e-9)
    groups, size = _groups(episodes, n_episodes, units)

    together = -(-_BASELINE_EPISODES // size)
    n_baselines = max(1, (int(groups.max()) + 1) // together)
    baseline_groups = np.where(groups < 0, -1, np.minimum(groups // together, n_baselines - 1))
    psi, names, lambdas = _choices(experience, training, baseline_groups)
    flat_groups = groups.reshape(-1)
    gradients = gradients_from_factors(
        experience.factors, np.stack([each.reshape(-1) for each in psi]), flat_groups, int(groups.max()) + 1
    )
    counts = np.full(gradients.shape[1], size)
    whole, left_out = moments(gradients, counts), moments(gradients, counts, leave_one_out=True)
    own = _index_of_own(training, names, lambdas)
    return Diagnosis(
        training=training,
        layers=experience.layers,
        n_steps=n_steps,
        n_episodes=n_episodes,
        n_groups=gradients.shape[1],
        mean_length=mean_length,
        mean_return=float(experience.rewards[valid].sum()) / n_episodes,
        batch_steps=training.batch_steps(mean_length),
        batch_units=units,
        signal=_one(jackknife(lambda m: m.own, whole, left_out), own),
        noise=float(whole.noise[own]),
        cosine=_one(jackknife(lambda m: m.cosine(units), whole, left_out), own),
        curve=_curve(lambdas, whole, left_out, units) if lambdas else None,
        estimators=_rows(names, len(lambdas), whole, left_out, units),
        critic=examine_critic(experience, training.gamma) if training.uses_critic else None,
        critic_gain=_critic_gain(names, len(lambdas), whole, left_out, units) if training.uses_critic else None,
    )


def _one(estimate: Estimate, index: int) -> Estimate:
    return Estimate(estimate.value[index : index + 1], estimate.standard_error[index : index + 1])


def _groups(episodes: NDArray[np.int64], n_episodes: int, units: float) -> tuple[NDArray[np.int64], int]:
    """Number of each step's group, -1 for those in none, and the number of episodes in each group."""
    fewest, most = _GROUPS
    size = max(1, min(round(units), n_episodes // fewest), -(-n_episodes // most))
    n_groups = n_episodes // size
    groups = np.where(episodes < n_groups * size, episodes // size, -1)
    return np.where(episodes < 0, -1, groups), size


def _choices(
    experience: Experience, training: Training, groups: NDArray[np.int64]
) -> tuple[list[Array], list[tuple[str, str]], list[float]]:
    """Every Psi that is compared: first the lambdas, then the estimators, and at last the reference.

    :return: Psi of every step, names of those after the lambdas, and the lambdas
    """
    valid = experience.valid
    discounts = training.gamma**experience.times
    with_critic, without = _trajectories(experience, True), _trajectories(experience, False)
    lambdas = sorted({*LAMBDAS, round(training.gae_lambda, 6)}) if training.uses_critic else []
    psi = [_as_in_training("gae", with_critic, training, gae_lambda) for gae_lambda in lambdas]
    names: list[tuple[str, str]] = []
    for estimator in ("total_return", "reward_to_go"):
        found = get_estimator(estimator).function(without, gamma=training.gamma, gae_lambda=1.0)
        for baseline in critic_free():
            names.append((estimator, baseline))
            psi.append(found - _baseline_of_groups(baseline, found, without, groups))
    estimators = _critic_estimators(training) if training.uses_critic else []
    for name in estimators + ["q", "q_minus_v"] * (experience.q_values is not None):
        names.append((name, "value"))
        kind, gae_lambda = ("gae", training.gae_lambda) if name.startswith("gae") else (name, 1.0)
        psi.append(_as_in_training(kind, with_critic, training, gae_lambda))
    if training.centred:
        psi = [each - each[valid].mean() for each in psi]
    # The discounted total return has gamma^t in it: sum_t gamma^t r_t, whichever step it stands at
    own_discounts = [discounts if training.state_discount else 1.0] * len(psi)
    for number, (estimator, _) in enumerate(names, len(lambdas)):
        if estimator == "total_return":
            own_discounts[number] = 1.0
    # A constant leaves its expectation where it is, and its noise is no part of the comparison
    reference = reward_to_go(with_critic, gamma=training.gamma)
    psi.append(reference - reference[valid].mean())
    own_discounts.append(discounts if training.state_discount or training.estimator == "total_return" else 1.0)
    weighted = [np.where(valid, weight * each, 0.0) for weight, each in zip(own_discounts, psi, strict=True)]
    return weighted, names, lambdas


def _critic_estimators(training: Training) -> list[str]:
    names = ["reward_to_go", "td_residual", "n_step:5", f"gae, lambda {training.gae_lambda:g}"]
    of_its_own = training.estimator.startswith(("n_step", "total_return")) and training.estimator not in names
    return [*names, training.estimator] if of_its_own else names


def _trajectories(experience: Experience, with_critic: bool) -> Trajectories:
    nothing = np.zeros_like(experience.values)
    return Trajectories(
        rewards=experience.rewards,
        dones=experience.dones,
        values=experience.values if with_critic else nothing,
        next_values=experience.next_values if with_critic else nothing,
        times=experience.times,
        valid=experience.valid,
        q_values=experience.q_values,
    )


def _as_in_training(name: str, trajectories: Trajectories, training: Training, gae_lambda: float) -> Array:
    """An estimator that ends at the last row of every batch, where batches are cut."""
    function = get_estimator(name).function
    if training.whole_episodes:
        return function(trajectories, gamma=training.gamma, gae_lambda=gae_lambda)
    found = np.empty_like(trajectories.rewards)
    for first in range(0, len(found), training.n_steps):
        rows = slice(first, first + training.n_steps)
        part = Trajectories(
            trajectories.rewards[rows],
            trajectories.dones[rows],
            trajectories.values[rows],
            trajectories.next_values[rows],
            times=trajectories.times[rows],
            q_values=None if trajectories.q_values is None else trajectories.q_values[rows],
        )
        found[rows] = function(part, gamma=training.gamma, gae_lambda=gae_lambda)
    return found


def _baseline_of_groups(name: str, psi: Array, trajectories: Trajectories, groups: NDArray[np.int64]) -> Array:
    """A critic-free baseline from the episodes of the same group."""
    found = np.zeros_like(psi)
    function = get_baseline(name)
    for number in range(int(groups.max()) + 1):
        members = groups == number
        # The columns and rows that the group is in
        rows, columns = np.flatnonzero(members.any(axis=1)), members.any(axis=0)
        window = (slice(rows[0], rows[-1] + 1), columns)
        part = Trajectories(
            trajectories.rewards[window],
            trajectories.dones[window],
            times=trajectories.times[window],
            valid=members[window],
        )
        values = np.broadcast_to(function(psi[window], part), part.rewards.shape)
        found[window] = np.where(members[window], values, found[window])
    return found


def _index_of_own(training: Training, names: list[tuple[str, str]], lambdas: list[float]) -> int:
    """Which of the choices is what the model trains with, as nearly as there is one."""
    if training.uses_critic and training.estimator in ("gae", "td_residual", "reward_to_go"):
        own = {"gae": round(training.gae_lambda, 6), "td_residual": 0.0, "reward_to_go": 1.0}
        return lambdas.index(own[training.estimator])
    wanted = (training.estimator, training.baseline)
    if wanted in names:
        return len(lambdas) + names.index(wanted)
    # GAE without a critic has lambda 1; other estimators of a user's own are judged by the reference
    if not training.uses_critic:
        return len(lambdas) + names.index(("reward_to_go", training.baseline))
    return len(lambdas) + len(names)


def _curve(lambdas: list[float], whole: Moments, left_out: Moments, units: float) -> LambdaCurve:
    n = len(lambdas)

    def first(m: Moments) -> Moments:
        return Moments(*(array[:n] for array in m))

    part, without = first(whole), first(left_out)
    cosine = jackknife(lambda m: m.cosine(BATCHES * units), part, without)
    best = int(np.nanargmax(cosine.value)) if np.isfinite(cosine.value).any() else n - 1
    difference = jackknife(lambda m: m.cosine(BATCHES * units) - m.cosine(BATCHES * units)[best], part, without)
    square = float(whole.reference[0])
    length = square if square > 0 else np.nan
    return LambdaCurve(
        lambdas=np.array(lambdas),
        cosine=cosine,
        cosine_of_one=jackknife(lambda m: m.cosine(units), part, without),
        cosine_of_bias=part.cosine(np.inf),
        bias_squared=part.bias_squared / length,
        variance=part.variance(units) / length,
        best=best,
        # A standard error that is no number says that there is too little data to rule anything out
        good=np.isfinite(cosine.value) & ~(difference.value + 2 * difference.standard_error < 0),
    )


def _critic_gain(
    names: list[tuple[str, str]], n_lambdas: int, whole: Moments, left_out: Moments, units: float
) -> Estimate | None:
    baselines = ["value"] * n_lambdas + [baseline for _, baseline in names]
    with_critic = np.array([baseline == "value" for baseline in baselines])
    cosine = whole.cosine(units)[: len(baselines)]
    if not (np.isfinite(cosine[with_critic]).any() and np.isfinite(cosine[~with_critic]).any()):
        return None
    best = int(np.nanargmax(np.where(with_critic, cosine, np.nan)))
    best_without = int(np.nanargmax(np.where(with_critic, np.nan, cosine)))
    return jackknife(lambda m: (m.cosine(units)[best] - m.cosine(units)[best_without])[None], whole, left_out)


def _rows(
    names: list[tuple[str, str]], first: int, whole: Moments, left_out: Moments, units: float
) -> list[EstimatorRow]:
    snr = jackknife(lambda m: m.signal_to_noise(units), whole, left_out)
    cosine, square = jackknife(lambda m: m.cosine(units), whole, left_out), float(whole.reference[0])
    length = square if square > 0 else np.nan
    return [
        EstimatorRow(
            estimator,
            baseline,
            variance=float(whole.variance(units)[index] / length),
            snr=float(snr.value[index]),
            snr_error=float(snr.standard_error[index]),
            cosine=float(cosine.value[index]),
            cosine_error=float(cosine.standard_error[index]),
        )
        for index, (estimator, baseline) in enumerate(names, start=first)
    ]


def first_visits(experience: Experience) -> NDArray[np.bool_]:
    """Steps whose observation is met for the first time in their episode, shape ``(n_steps, n_envs)``.

    Source: Sutton and Barto 2018, sec. 5.1 (first-visit Monte-Carlo prediction).
    """
    episodes = experience.episodes.T.reshape(-1)
    keys = np.stack([episodes, experience.observations.T.reshape(-1)])
    _, first = np.unique(keys, axis=1, return_index=True)
    found = np.zeros(len(episodes), dtype=bool)
    found[first] = True
    return found.reshape(experience.episodes.T.shape).T & experience.valid


def examine_critic(experience: Experience, gamma: float, n_bins: int = 12) -> Critic:
    """Compare the critic's values with Monte-Carlo returns and with TD(0) targets."""
    trajectories = _trajectories(experience, True)
    returns = reward_to_go(trajectories, gamma=gamma) + experience.values
    targets = experience.rewards + gamma * experience.next_values
    chosen = first_visits(experience)
    v, g, td = experience.values[chosen], returns[chosen], targets[chosen]
    times, episodes = experience.times[chosen], experience.episodes[chosen]
    spread = float(g.std())
    return Critic(
        calibration=_calibrate(v, g, td, episodes, n_bins),
        explained_by_returns=explained_variance(v, g),
        explained_by_targets=explained_variance(v, td),
        bias=float((v - g).mean()) / spread if spread > 0 else float("nan"),
        returns_profile=explained_variance_by_time(g, v, times),
        targets_profile=explained_variance_by_time(td, v, times),
    )


def _calibrate(v: Array, g: Array, td: Array, episodes: NDArray[np.int64], n_bins: int) -> Calibration:
    """Bins of equally many values; returns of one episode hang together, and count as one in the standard error."""
    order = np.argsort(v, kind="stable")
    rows = []
    for part in np.array_split(order, min(n_bins, len(order))):
        _, which, counts = np.unique(episodes[part], return_inverse=True, return_counts=True)
        mean = float(g[part].mean())
        deviations = np.bincount(which, weights=g[part] - mean)
        n = len(counts)
        error = np.sqrt((deviations**2).sum() * n / max(n - 1, 1)) / len(part)
        rows.append((float(v[part].mean()), mean, float(error) if n > 1 else float("nan"), float(td[part].mean())))
    values, returns, errors, targets = (np.array(column) for column in zip(*rows, strict=True))
    return Calibration(values, returns, errors, targets)
