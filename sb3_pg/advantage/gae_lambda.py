r"""What lambda is at this update: rules that choose the lambda of GAE for a batch, from the batch.

Lambda trades bias for variance: 0 trusts the critic after one step, 1 never. A rule is an object with one method,
``choose(batch)``, that gives a number in [0, 1], or one for each step; it may remember what it saw. Its memory is saved
with the model. A rule by name is one class and one line in :data:`RULES`; users' own go in as objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sb3_pg.advantage.estimators import Array, Trajectories, gae, reward_to_go, segments


class GradientProducts(NamedTuple):
    r"""Scalar products of *expected* gradients, one for each of several choices of :math:`\Psi`, shape ``(n_psi,)``.

    All are for the gradient of a batch, without bias where its blocks (episodes, or what the rollout holds of them) are
    drawn independently.
    """

    cross: Array
    r""":math:`U = E[\hat g] \cdot E[\hat g_r]`, with the last choice as the reference r."""
    own: Array
    r""":math:`|E[\hat g]|^2`, squared length of the expected gradient."""
    noise: Array
    r""":math:`\mathrm{tr}\,\mathrm{Cov}[\hat g]`, expected squared length of the noise."""

    @property
    def square(self) -> Array:
        r""":math:`E|\hat g|^2`, expected squared length, noise included."""
        return self.own + self.noise


@dataclass(frozen=True)
class LambdaBatch:
    """What a rule is told of the batch that it chooses lambda for.

    :param trajectories: the experience, with the critic's values
    :param gamma: discount factor
    :param progress_remaining: 1 at the start of training, 0 at its end
    :param gradient_products: takes advantages of shape ``(n_psi, n_steps, n_envs)``, and compares the policy gradients
        of the last layer that they give; None where the batch holds fewer than two episodes
    :param log_probs: gives the log-probabilities of the actions, shape ``(batch,)``: valid steps in order of time
    :param log_probs_after: the same after one step of the actor's optimizer with a lambda and a factor of the learning
        rate; the policy stays what it was
    :param record: takes the key and the value of what is to be logged when the update is complete
    """

    trajectories: Trajectories
    gamma: float
    progress_remaining: float
    gradient_products: Callable[[Array], GradientProducts | None]
    log_probs: Callable[[], Array]
    log_probs_after: Callable[[float | Array, float], Array]
    record: Callable[[str, float], None]


class LambdaRule(Protocol):
    """The signature of every rule, ours or a user's.

    The algorithm copies a rule before it asks it (``copy.deepcopy``), and keeps the copy when the update is complete,
    so that what a rule learns belongs to one model and to updates that happened. A rule that judges policy gradients,
    which say nothing about the critic's target, has an attribute ``default``: lambda of that target where
    ``critic_gae_lambda`` is not given; without it the target follows the rule. An attribute ``learning_rate_factor``
    multiplies the actor's learning rate in the update that follows.
    """

    def choose(self, batch: LambdaBatch) -> float | Array:
        """Lambda for this batch: a number in [0, 1], or one for each step, shape ``(n_steps, n_envs)``.

        That of step t multiplies the advantage of step t + 1; see :func:`~sb3_pg.advantage.estimators.gae`.
        """
        ...


def check_lambda(value: Any, name: str, shape: tuple[int, ...]) -> float | Array:
    """Give back what a rule chose, as a float or an array, or raise ValueError.

    :param value: what ``choose()`` returned
    :param name: the parameter's name, for the error
    :param shape: ``(n_steps, n_envs)``; ``()`` where a number alone is meant
    """
    expected = "expected is a number in [0, 1]" + (f", or an array of shape {shape} of them" if shape else "")
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: the rule chose {value!r}; {expected}") from None
    if array.shape not in ((), shape):
        raise ValueError(f"{name}: the rule chose an array of shape {array.shape}; {expected}")
    wrong = array[~((array >= 0) & (array <= 1))]  # NaN too
    if wrong.size:
        got = wrong[0] if array.ndim else value
        raise ValueError(f"{name} is {got} at this point of the training; {expected}")
    return float(array) if array.ndim == 0 else array


# -- rules that look at numbers --------------------------------------------------------------------------------------


class Scheduled:
    """A number, or a function of the progress remaining.

    :param schedule: takes 1 at the start of training and 0 at its end
    """

    def __init__(self, schedule: Callable[[float], float]) -> None:
        self.schedule = schedule

    def choose(self, batch: LambdaBatch) -> float:
        """Lambda for this batch; see :class:`LambdaRule`."""
        return self.schedule(batch.progress_remaining)


class LengthAdaptive:
    r"""Longer episodes, higher lambda.

    .. math:: \lambda = 1 - \frac{1}{\alpha\, l}

    for every step of an episode of l steps, at least 0. GAE looks :math:`1/(1 - \lambda) = \alpha l` steps ahead: a
    fixed share of the episode, where gamma is 1. An episode that the rollout cuts counts with its length so far, which
    includes steps in earlier rollouts; it is the least that its length can be, and so lambda errs towards the critic.

    Source: VAPO, Yue et al. 2025, arXiv:2504.05118, where alpha is 0.05 and l the length of a text. Its critic has
    lambda 1, ``critic_gae_lambda=1.0`` in VPG; without it the critic's target follows the rule, and is that of TD(0)
    in episodes of at most 1 / alpha steps.

    :param alpha: share of the episode that is looked ahead, above 0
    :raises ValueError: for an alpha that is not
    """

    def __init__(self, alpha: float) -> None:
        if not (_are_numbers(alpha) and 0 < alpha < np.inf):
            raise ValueError(f"alpha={alpha!r} must be a number above 0")
        self.alpha = alpha

    def choose(self, batch: LambdaBatch) -> Array:
        """Lambda for this batch; see :class:`LambdaRule`."""
        lengths = episode_lengths(batch.trajectories)
        chosen: Array = np.maximum(0.0, 1.0 - 1.0 / (self.alpha * lengths))
        return chosen


def episode_lengths(trajectories: Trajectories) -> NDArray[np.int64]:
    """Length of every step's episode, as far as the rollout knows it, shape ``(n_steps, n_envs)``."""
    n_steps = len(trajectories.dones)
    rows = np.arange(n_steps)[:, None]
    ends = np.where(trajectories.dones, rows, n_steps - 1)
    last_rows = np.minimum.accumulate(ends[::-1], axis=0)[::-1]
    times = np.take_along_axis(trajectories.times, last_rows, axis=0)
    return times.astype(np.int64) + 1


_ROUNDED_AWAY = 1e-6
"""Differences below this share of the numbers are those of rounding."""


class ExplainedVariance:
    r"""The better the critic, the lower lambda.

    .. math:: \lambda = \lambda_{high} - (\lambda_{high} - \lambda_{low})\, \mathrm{clip}(\overline{EV}, 0, 1), \qquad
              EV = 1 - \frac{\mathrm{Var}(G - V)}{\mathrm{Var}(G)}

    with an exponential mean over the updates, and G the Monte-Carlo return: the lambda-return, which the critic is
    fitted to, would agree with any critic for low lambda. A heuristic: that V explains returns does not mean that it
    tells actions apart. In the spirit of Mohammadpour et al., "Proximal policy optimization with
    adaptive generalized advantage estimate: critic-aware refinements", Journal of Mathematical Modeling 14(1),
    doi:10.22124/jmm.2025.29704.2654.

    :param low: lambda for a perfect critic
    :param high: lambda for one no better than a constant
    :param memory: weight of the past in the mean, in [0, 1)
    :raises ValueError: for numbers that are not
    """

    def __init__(self, low: float = 0.8, high: float = 1.0, memory: float = 0.9) -> None:
        if not (_are_numbers(low, high) and 0 <= low <= high <= 1):
            raise ValueError(f"low={low!r}, high={high!r}: two numbers with 0 <= low <= high <= 1 are expected")
        if not (_are_numbers(memory) and 0 <= memory < 1):
            raise ValueError(f"memory={memory!r} must be a number in [0, 1)")
        self.low, self.high, self.memory = low, high, memory
        self._sum, self._weight = 0.0, 0.0

    def choose(self, batch: LambdaBatch) -> float:
        """Lambda for this batch; see :class:`LambdaRule`."""
        data = batch.trajectories
        errors = reward_to_go(data, gamma=batch.gamma)[data.valid].astype(np.float64)
        values = data.values[data.valid]
        spread = np.var(errors + values)
        # Equal returns differ by the rounding of 32-bit numbers, and say nothing of the critic
        if spread > (_ROUNDED_AWAY * max(np.abs(errors).max(), np.abs(values).max())) ** 2:
            self._sum = self.memory * self._sum + 1.0 - float(np.var(errors) / spread)
            self._weight = self.memory * self._weight + 1.0
        mean = self._sum / self._weight if self._weight else 0.0
        return self.high - (self.high - self.low) * float(np.clip(mean, 0.0, 1.0))


# -- rules that look at gradients ------------------------------------------------------------------------------------

LAMBDAS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
"""Candidates: nearly even steps in the logarithm of the horizon 1 / (1 - lambda), where they make a difference."""
BATCHES = 4.0
"""Lambda is judged by the mean gradient of so many batches: more than one, since the optimizer averages noise away."""


class GradientAgreement:
    r"""The lambda whose gradient agrees best with the true one, told from the batches themselves. Experimental.

    What one would like to know is the cosine between a gradient :math:`\hat g_\lambda` and the true gradient G. That of
    :math:`\lambda = 1` is unbiased (up to the rollout's cut ends, where the critic stands in), so

    .. math:: s(\lambda) = \frac{U(\lambda)}{\sqrt{q(\lambda)\, q(1)}}, \qquad
              U(\lambda) = E[\hat g_\lambda] \cdot E[\hat g_1], \qquad
              q(\lambda) = |E[\hat g_\lambda]|^2 + \frac{\mathrm{tr}\,\mathrm{Cov}[\hat g_\lambda]}{M}

    is the cosine of the mean gradient of M batches up to a factor that is the same for every lambda. Bias stays from
    one batch to the next, while the optimizer averages noise away; how much of it counts is M (``batches``). The score
    does not change with the length of a gradient: the mean squared error does, and prefers a gradient of length zero
    where noise prevails. Every batch gives unbiased estimates of :math:`U` and :math:`q` (:class:`GradientProducts`),
    of the policy's last layer. Both are averaged over the updates with weights :math:`\beta^k` for k updates ago, in
    units of an average of :math:`E|\hat g_1|^2` over earlier updates (a unit that knew this batch would bias the
    choice), and s is the quotient of averages, not the average of quotients.

    **Standard errors** come from the scatter between updates. With x = (U, q), its weighted mean and covariance
    C, n effective updates, and J the Jacobian of s (delta method),

    .. math:: \mathrm{cov}[s] = \frac{J C J^T}{n - 1}, \qquad
              SE(\lambda, \lambda')^2 = \mathrm{var}[s(\lambda)] + \mathrm{var}[s(\lambda')] - 2\,\mathrm{cov}

    and are widened by 1 + 3/n, which is about what Student's distribution asks for.

    **Choice.** Lambda stays where it is, on the default at first, until another one is better by more than ``caution``
    standard errors of the difference, *and* the other one's own score is more than ``gate`` standard errors above
    zero. Without a measurable gradient every lambda is as good as another, and nothing moves; what was learned while
    there was one is kept. Of several that qualify it takes the one that is surely better by most.

    The first ``warm_up`` updates only watch. In problems whose gradient is known exactly (tests/advantage) this finds
    lambda; that it makes deep networks learn better is not shown: see docs/lambda.md.

    :param default: lambda to begin with, in [0, 1]; also the critic's, where ``critic_gae_lambda`` is not given
    :param lambdas: candidates besides it and 1
    :param memory: beta, in (0.5, 1). 0.98 weighs the last hundred updates; 0.5 three, which are too few
    :param caution: standard errors by which another lambda has to be better
    :param gate: standard errors by which its score has to be above zero
    :param warm_up: updates before the first choice, at least 10: with fewer the standard errors are too small
    :param batches: M, at least 1, which is the gradient of one batch, as plain SGD follows it. The mean that Adam keeps
        (beta_1 = 0.9) is worth (1 + beta_1) / (1 - beta_1) = 19 of them; 4 is in between (docs/lambda.md, the study)
    :raises ValueError: for numbers that are not in their range
    """

    def __init__(
        self,
        default: float = 0.97,
        lambdas: Sequence[float] = LAMBDAS,
        memory: float = 0.98,
        caution: float = 2.0,
        gate: float = 3.0,
        warm_up: int = 10,
        batches: float = BATCHES,
    ) -> None:
        self.default, self.lambdas = default, _candidates(default, lambdas, also=(1.0,))  # the last is the reference
        if not (_are_numbers(memory) and 0.5 < memory < 1):
            raise ValueError(f"memory={memory!r} must be a number between 0.5 and 1")
        if not (_are_numbers(caution, gate) and caution >= 0 and gate >= 0):
            raise ValueError(f"caution={caution!r}, gate={gate!r}: numbers of at least 0 are expected")
        if not (_are_numbers(warm_up) and warm_up >= 10 and warm_up % 1 == 0):
            raise ValueError(f"warm_up={warm_up!r} must be a whole number of at least 10")
        if not (_are_numbers(batches) and 1 <= batches < np.inf):
            raise ValueError(f"batches={batches!r} must be a number of at least 1")
        self.memory, self.caution, self.gate, self.warm_up, self.batches = memory, caution, gate, warm_up, batches
        self.n_updates = 0
        self._chosen = int(np.flatnonzero(self.lambdas == default)[0])
        size = 2 * len(self.lambdas)
        self._weight, self._squared_weight, self._unit, self._unit_weight = 0.0, 0.0, 0.0, 0.0
        self._sum, self._products = np.zeros(size), np.zeros((size, size))

    def choose(self, batch: LambdaBatch) -> float:
        """Lambda for this batch; see :class:`LambdaRule`."""
        each = self.lambdas.astype(batch.trajectories.rewards.dtype)[:, None, None]
        products = batch.gradient_products(gae(batch.trajectories, gamma=batch.gamma, gae_lambda=each))
        if products is not None:
            self.remember(products)
            self._decide(batch.record)
        return float(self.lambdas[self._chosen])

    def remember(self, products: GradientProducts) -> None:
        """Take one update's U and q into the averages."""
        unit = self._unit / self._unit_weight if self._unit_weight else 0.0
        reference = float(products.square[-1])
        if not np.isfinite(reference):
            return
        self._unit = self.memory * self._unit + reference
        self._unit_weight = self.memory * self._unit_weight + 1.0
        if unit > 0:
            x = np.concatenate([products.cross, products.own + products.noise / self.batches]) / unit
            self._sum = self.memory * self._sum + x
            self._products = self.memory * self._products + np.outer(x, x)
            self._weight = self.memory * self._weight + 1.0
            self._squared_weight = self.memory**2 * self._squared_weight + 1.0
            self.n_updates += 1

    def scores(self) -> tuple[Array, Array]:
        """Score s of every candidate, shape ``(n_lambdas,)``, zero for one without a gradient; and their covariance.

        q(1) in it is a unit that all candidates share, and taken as known.
        """
        size = len(self.lambdas)
        n = self._weight**2 / self._squared_weight
        mean = self._sum / self._weight
        covariance = (self._products / self._weight - np.outer(mean, mean)) / (n - 1.0) * (1.0 + 3.0 / n) ** 2
        cross, square = mean[:size], mean[size:]
        # Where V is zero and rewards come late, lambda = 0 gives none
        has_gradient = square > 1e-12 * square.max()
        square = np.where(has_gradient, square, 1.0)
        slope = np.where(has_gradient, 1.0 / np.sqrt(square * square[-1]), 0.0)
        score: Array = cross * slope
        jacobian = np.hstack([np.diag(slope), np.diag(-0.5 * score / square)])
        return score, jacobian @ covariance @ jacobian.T

    def _decide(self, record: Callable[[str, float], None]) -> None:
        if self.n_updates < 3:
            return
        score, covariance = self.scores()
        variance, now = np.maximum(np.diagonal(covariance), 0.0), self._chosen
        error = np.sqrt(variance)
        difference = np.sqrt(np.maximum(variance + variance[now] - 2.0 * covariance[now], 0.0))
        gain = np.where(score > self.gate * error, score - score[now] - self.caution * difference, 0.0)
        if self.n_updates >= self.warm_up and gain.max() > _ROUNDING:
            self._chosen = int(gain.argmax())
        if error[self._chosen] > 0:
            record("gradient/lambda_score", float(score[self._chosen]))
            record("gradient/lambda_se", float(error[self._chosen]))
            record("gradient/lambda_signal", float(score[self._chosen] / error[self._chosen]))


_ROUNDING = 1e-5
"""Scores, which are at most 1, that differ by less are the same but for rounding."""


class Hoof:
    r"""Hyperparameter optimisation on the fly: the candidate whose next policy does best on this very batch.

    Every candidate, a lambda and a factor of the learning rate, takes one step of the actor's optimizer from the
    present policy, and the policy :math:`\pi'` that comes out is scored on the episodes at hand by weighted importance
    sampling:

    .. math:: \hat J(\pi') = \frac{\sum_i w_i R_i}{\sum_i w_i}, \qquad
              w_i = \prod_{t \in i} \frac{\pi'(a_t|s_t)}{\pi(a_t|s_t)}, \qquad ESS = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}

    R is an episode's discounted return minus V of its first state, which is the same for all candidates; where the
    rollout cuts an episode its parts are scored, the critic standing for the rest. Candidates whose KL divergence from
    the present policy exceeds ``max_kl``, or whose effective sample size is below ``min_ess`` of the number of
    episodes, are out. Where the default is out, nothing can be compared with it, and it is taken. Experimental. The
    same batch makes the step and judges it, which favours long steps; hence the bound on the KL divergence. Each
    candidate costs about as much as the actor's update.

    Source: Paul, Kurin and Whiteson 2019, "Fast efficient hyperparameter tuning for policy gradient methods",
    NeurIPS, arXiv:1902.06583, sec. 3 (there with random candidates, and a critic that is told lambda).

    :param default: lambda that is taken where the batch cannot tell, in [0, 1]; also the critic's, where
        ``critic_gae_lambda`` is not given
    :param lambdas: candidates besides it
    :param learning_rates: factors of ``learning_rate``, all combined with all lambdas; 1 is always among them
    :param max_kl: nats
    :param min_ess: share of the episodes, in [0, 1]
    :raises ValueError: for numbers that are not in their range
    """

    def __init__(
        self,
        default: float = 0.97,
        lambdas: Sequence[float] = LAMBDAS,
        learning_rates: Sequence[float] = (1.0,),
        max_kl: float = 0.02,
        min_ess: float = 0.5,
    ) -> None:
        self.default, self.lambdas = default, _candidates(default, lambdas)
        if not (
            np.iterable(learning_rates)
            and _are_numbers(*learning_rates)
            and all(0 < each < np.inf for each in learning_rates)
        ):
            raise ValueError(f"learning_rates={learning_rates!r} must be a list of numbers above 0")
        if not (_are_numbers(max_kl) and max_kl > 0):
            raise ValueError(f"max_kl={max_kl!r} must be a number above 0")
        if not (_are_numbers(min_ess) and 0 <= min_ess <= 1):
            raise ValueError(f"min_ess={min_ess!r} must be a number in [0, 1]")
        self.max_kl, self.min_ess = max_kl, min_ess
        pairs = [(float(each), float(factor)) for each in self.lambdas for factor in sorted({*learning_rates, 1.0})]
        self.candidates = [(default, 1.0), *(pair for pair in pairs if pair != (default, 1.0))]
        self.learning_rate_factor = 1.0

    def choose(self, batch: LambdaBatch) -> float:
        """Lambda for this batch; see :class:`LambdaRule`."""
        episodes, returns = segment_returns(batch.trajectories, batch.gamma)
        before = batch.log_probs()
        best: tuple[float, float, float, float] | None = None
        for gae_lambda, factor in self.candidates:
            log_ratios = batch.log_probs_after(gae_lambda, factor).astype(np.float64) - before
            score, effective = weighted_importance_sampling(log_ratios, episodes, returns)
            out = mean_kl(log_ratios) > self.max_kl or effective < self.min_ess * len(returns)
            if best is None:
                best = score, effective, gae_lambda, factor
                if out:
                    break
            elif not out and score > best[0] + _ROUNDING * abs(best[0]):
                best = score, effective, gae_lambda, factor
        assert best is not None
        _, effective, gae_lambda, self.learning_rate_factor = best
        batch.record("gradient/hoof_ess", effective)
        return gae_lambda


def segment_returns(trajectories: Trajectories, gamma: float) -> tuple[NDArray[np.int64], Array]:
    """Returns minus V of what the rollout holds of each episode.

    :return: number of each valid step's episode, in order of time, shape ``(batch,)``, and one return for each episode
    """
    begins, numbers = segments(trajectories.dones, trajectories.valid)
    returns = reward_to_go(trajectories, gamma=gamma).T[begins.T]
    return numbers[trajectories.valid].astype(np.int64), returns.astype(np.float64)


def weighted_importance_sampling(log_ratios: Array, episodes: NDArray[np.int64], returns: Array) -> tuple[float, float]:
    """Mean return under another policy, and the effective number of episodes; see :class:`Hoof`.

    :param log_ratios: log-probability under the other policy minus that under the one that acted, shape ``(batch,)``
    :param episodes: number of each step's episode, shape ``(batch,)``
    :param returns: shape ``(n_episodes,)``
    """
    sums = np.bincount(episodes, weights=log_ratios, minlength=len(returns))
    weights = np.exp(sums - sums.max())
    total = weights.sum()
    return float(weights @ returns / total), float(total**2 / (weights @ weights))


def mean_kl(log_ratios: Array) -> float:
    r"""Estimate of KL(old || new) a step: the mean of :math:`\rho - 1 - \log \rho` (Schulman 2020, estimator k3)."""
    with np.errstate(over="ignore"):
        return float(np.mean(np.expm1(log_ratios) - log_ratios))


def _candidates(default: float, lambdas: Sequence[float], also: Sequence[float] = ()) -> Array:
    """Default, the others and ``also``, in order."""
    are_numbers = np.iterable(lambdas) and _are_numbers(default, *lambdas)
    if not (are_numbers and all(0 <= each <= 1 for each in (default, *lambdas))):
        raise ValueError(
            f"default={default!r}, lambdas={lambdas!r}: a number in [0, 1] and a list of such numbers are expected"
        )
    found: Array = np.unique(np.array([default, *lambdas, *also], dtype=np.float64))
    return found


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, Real) and not isinstance(value, bool) for value in values)


# -- rules by name ---------------------------------------------------------------------------------------------------


class RuleEntry(NamedTuple):
    """A rule that a string can name, ``"NAME"`` or ``"NAME:NUMBERS"``."""

    build: Callable[..., LambdaRule]
    """Takes the numbers."""
    numbers: tuple[int, ...]
    """How many numbers may follow, separated by ``_``."""
    form: str
    """For messages."""


def _gradient_agreement(*numbers: float) -> GradientAgreement:
    given: dict[str, Any] = dict(zip(("default", "batches"), numbers, strict=False))
    return GradientAgreement(**given)


RULES: dict[str, RuleEntry] = {
    "length": RuleEntry(LengthAdaptive, (1,), "'length:ALPHA'"),
    "explained_variance": RuleEntry(ExplainedVariance, (0, 2), "'explained_variance', 'explained_variance:LOW_HIGH'"),
    "auto": RuleEntry(_gradient_agreement, (0, 1, 2), "'auto', 'auto:DEFAULT', 'auto:DEFAULT_BATCHES'"),
    "hoof": RuleEntry(Hoof, (0, 1), "'hoof', 'hoof:DEFAULT'"),
}


def rule_from_text(text: str) -> LambdaRule | None:
    """Build the rule that a string names.

    :param text: a key of :data:`RULES`, with numbers after a colon: ``"auto:0.95"``, ``"explained_variance:0.8_1"``
    :return: None where it names none
    :raises ValueError: where it names one with numbers that cannot be meant
    """
    name, colon, rest = text.partition(":")
    entry = RULES.get(name)
    if entry is None:
        return None
    try:
        numbers = [float(number) for number in rest.split("_")] if colon else []
    except ValueError:
        raise ValueError(f"{rest!r} is not a number; accepted are {entry.form}") from None
    if len(numbers) not in entry.numbers:
        raise ValueError(f"{len(numbers)} numbers follow; accepted are {entry.form}")
    return entry.build(*numbers)
