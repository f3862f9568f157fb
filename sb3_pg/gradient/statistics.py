r"""What the gradients of independent parts of a batch say about bias, variance and the size of a batch.

Let :math:`c_b(\ell)` be the gradient of block b for the choice :math:`\ell` of :math:`\Psi` (a lambda, an estimator),
and let block b hold :math:`k_b` units, K in all; a unit is what is drawn independently, an episode. With
:math:`m(\ell) = \sum_b c_b(\ell)`, the mean :math:`\mu(\ell)` and the covariance :math:`\Sigma(\ell)` of one unit,

.. math:: E[c_b] = k_b\, \mu, \quad \mathrm{cov}[c_b] = k_b \Sigma, \qquad
          E\Big[m(\ell) \cdot m(\ell') - \sum_b c_b(\ell) \cdot c_b(\ell')\Big]
          = \Big(K^2 - \sum_b k_b^2\Big)\, \mu(\ell) \cdot \mu(\ell')

since two different blocks are independent. So products of *expected* gradients can be estimated without bias from one
batch, while the square of a mean gradient, :math:`|m|^2`, is too large by its own variance. For blocks of one unit each
the factor is N(N-1), and the left side is the mean over all pairs of blocks, which is also what the jackknife gives.
Everything here follows from these products:

.. math:: \text{bias}^2 = |\mu(\ell) - \mu(r)|^2, \qquad \text{variance} = \frac{\mathrm{tr}\, \Sigma(\ell)}{n}, \qquad
          \text{noise scale} = \frac{\mathrm{tr}\, \Sigma}{|\mu|^2}

for a batch of n units and an unbiased choice r. The products are those of McCandlish et al. 2018, "An empirical model
of large-batch training", arXiv:1812.06162, appendix A.1, with blocks of any size in place of two sizes of batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.utils import explained_variance

from sb3_pg.advantage.estimators import Array


class Moments(NamedTuple):
    r"""Unbiased estimates for one unit, by choice of :math:`\Psi`.

    Each array has the shape ``(n_psi,)``, or ``(n_psi, n_blocks)`` where each column leaves one block out.

    :ivar own: :math:`|\mu(\ell)|^2`; can be below zero by chance
    :ivar cross: :math:`\mu(\ell) \cdot \mu(r)`
    :ivar reference: :math:`|\mu(r)|^2`, the same for every choice
    :ivar noise: :math:`\mathrm{tr}\, \Sigma(\ell)`
    """

    own: Array
    cross: Array
    reference: Array
    noise: Array

    @property
    def bias_squared(self) -> Array:
        r"""Estimate of :math:`|\mu(\ell) - \mu(r)|^2`, unbiased; below zero where there is hardly any bias."""
        bias: Array = self.own - 2.0 * self.cross + self.reference
        return bias

    def variance(self, units: float) -> Array:
        r"""Total variance :math:`E|\hat g - E \hat g|^2` of the mean gradient of a batch of so many units."""
        variance: Array = self.noise / units
        return variance

    def mean_squared_error(self, units: float) -> Array:
        """Bias and variance together: expected squared distance of a batch's gradient to the reference's mean."""
        return self.bias_squared + self.variance(units)

    def signal_to_noise(self, units: float) -> Array:
        r""":math:`|\mu|^2` over the variance of the gradient of a batch of so many units."""
        return _ratio(self.own, self.variance(units))

    def noise_scale(self) -> Array:
        r""":math:`\mathrm{tr}\, \Sigma / |\mu|^2`, in units: the batch whose signal-to-noise ratio is 1.

        McCandlish et al. 2018, eq. 2.9 (B_simple). Much smaller batches make steps that are mostly noise and average
        out over many of them; much larger ones repeat what the batch knows already. Infinite where no gradient was
        found above the noise.
        """
        return np.where(self.own > 0, _ratio(self.noise, self.own), np.inf)

    def cosine(self, units: float) -> Array:
        r"""Cosine between a batch's gradient and the reference's mean, as a ratio of expectations.

        .. math:: \frac{\mu(\ell) \cdot \mu(r)}{|\mu(r)| \sqrt{E|\hat g(\ell)|^2}}, \qquad
                  E|\hat g|^2 = |\mu(\ell)|^2 + \mathrm{tr}\,\Sigma(\ell) / n

        Does not change with the length of the gradient, and so, unlike the mean squared error, does not prefer a
        gradient of length zero where noise prevails. For n towards infinity it is the cosine that bias leaves.
        NaN where the reference's gradient, or the batch's, was not found above the noise.
        """
        square = self.reference * (self.own + self.variance(units))
        found = (self.reference > 0) & (square > 0)
        return np.where(found, self.cross / np.sqrt(np.where(found, square, 1.0)), np.nan)

    def cosine_squared(self, units: float) -> Array:
        r"""Squared cosine of a batch's gradient with its own mean, :math:`U/q = |\mu|^2 / E|\hat g|^2`."""
        return _ratio(self.own, self.own + self.variance(units))


def moments(
    gradients: Array, counts: NDArray[np.int64] | None = None, reference: int = -1, *, leave_one_out: bool = False
) -> Moments:
    """Products of expected gradients, from the gradients of blocks.

    :param gradients: sums over the steps of each block, shape ``(n_psi, n_blocks, n_parameters)``
    :param counts: units in each block, shape ``(n_blocks,)``; 1 when not given
    :param reference: number of the choice that is taken for unbiased; the last one when not given
    :param leave_one_out: once for each block, as if it were not there
    :raises ValueError: for fewer than two blocks, or three to leave one out
    """
    n_blocks = gradients.shape[1]
    least = 3 if leave_one_out else 2
    if n_blocks < least:
        raise ValueError(f"gradients has {n_blocks} blocks; at least {least} are needed to tell signal from noise")
    k = np.ones(n_blocks) if counts is None else np.asarray(counts, dtype=np.float64)
    units, squares = k.sum(), (k * k).sum()
    # In float64: what is left of |m|^2 after the subtraction can be a thousandth of it
    r = gradients[reference].astype(np.float64)
    if not leave_one_out:
        rows = [_totals(each.astype(np.float64, copy=False), r) for each in gradients]
        m_own, m_cross, own, cross = (np.array(column) for column in zip(*rows, strict=True))
        return _from_sums((m_own, m_cross, m_own[reference]), (own, cross, own[reference]), units, squares)
    pieces = [_products(each.astype(np.float64, copy=False), r) for each in gradients]
    own, cross, along, both, total_own, total_cross = (np.stack(column) for column in zip(*pieces, strict=True))
    base, total_base = own[reference], total_own[reference]
    left_own = total_own[:, None] - 2 * along + own
    left_base = total_base - 2 * along[reference] + base
    left_cross = total_cross[:, None] - both + cross
    rest = own.sum(axis=1, keepdims=True) - own, cross.sum(axis=1, keepdims=True) - cross, base.sum() - base
    return _from_sums((left_own, left_cross, left_base), rest, units - k, squares - k * k)


def _totals(c: Array, r: Array) -> tuple[float, ...]:
    r"""Inner products of all of the blocks c at once, with themselves and with those of the reference r.

    :return: :math:`|m|^2, m \cdot m_r, \sum_b |c_b|^2, \sum_b c_b \cdot r_b`
    """
    m = c.sum(axis=0)
    return float(m @ m), float(m @ r.sum(axis=0)), float(np.vdot(c, c)), float(np.vdot(c, r))


def _products(c: Array, r: Array) -> tuple[Array, ...]:
    r"""Inner products of blocks c with themselves, with those of the reference r, and with the sums m of both.

    :return: :math:`|c_b|^2, c_b \cdot r_b, c_b \cdot m, c_b \cdot m_r + r_b \cdot m, |m|^2, m \cdot m_r`
    """
    m, m_r = c.sum(axis=0), r.sum(axis=0)
    return np.einsum("bp,bp->b", c, c), np.einsum("bp,bp->b", c, r), c @ m, c @ m_r + r @ m, m @ m, m @ m_r


def _from_sums(
    totals: tuple[Array, Array, Array], sums: tuple[Array, Array, Array], units: Array, squares: Array
) -> Moments:
    r"""From :math:`m \cdot m'` and :math:`\sum_b c_b \cdot c_b'` of (own, cross, reference)."""
    pairs = units**2 - squares
    own, cross, reference = ((total - each) / pairs for total, each in zip(totals, sums, strict=True))
    noise = (totals[0] - units**2 * own) / units
    return Moments(own, cross, np.broadcast_to(reference, own.shape), noise)


class Estimate(NamedTuple):
    """A number for each choice of Psi, and its standard error."""

    value: Array
    standard_error: Array


def jackknife(function: Callable[[Moments], Array], whole: Moments, left_out: Moments) -> Estimate:
    r"""Standard error of any smooth function of :class:`Moments`.

    .. math:: SE^2 = \frac{N-1}{N} \sum_j (f_{(j)} - \bar f)^2

    with :math:`f_{(j)}` computed without block j (Efron and Stein 1981). NaN where one of them is.

    :param function: takes moments, gives an array whose first axis is that of the choices
    :param whole: ``moments(...)``
    :param left_out: ``moments(..., leave_one_out=True)`` of the same gradients
    """
    replicates = function(left_out)
    n_blocks = replicates.shape[-1]
    spread = replicates - replicates.mean(axis=-1, keepdims=True)
    return Estimate(function(whole), np.sqrt((n_blocks - 1) / n_blocks * (spread**2).sum(axis=-1)))


class GradientStatistics(NamedTuple):
    """What a batch says about the gradient that was computed from it; a step is one of the environment."""

    mean: Array
    r"""Gradient of the batch, :math:`\frac{1}{n} \sum_t \Psi_t \nabla \log \pi(a_t|s_t)`, shape ``(n_parameters,)``."""
    signal: float
    """Squared length of its expectation; below zero where it cannot be told from noise."""
    variance: float
    """Its total variance."""
    snr: float
    """Signal over variance."""
    cosine_squared: float
    """Squared cosine between it and its expectation, ``snr / (1 + snr)``."""
    half_cosine: float
    """Cosine between the gradients of the even and of the odd blocks."""
    noise_scale: float
    """Steps in a batch whose snr would be 1; infinite where there is no signal."""
    n_steps: int
    """Steps in this batch."""
    n_blocks: int
    """Blocks that this was told from."""


def gradient_statistics(gradients: Array, n_steps: int, counts: NDArray[np.int64] | None = None) -> GradientStatistics:
    r"""Statistics of one batch's gradient from those of its blocks.

    :param gradients: sums over the steps of each block, shape ``(n_blocks, n_parameters)``
    :param n_steps: steps in the batch
    :param counts: see :func:`moments`
    :raises ValueError: for fewer than two blocks
    """
    found = moments(gradients[None], counts)
    units = float(len(gradients) if counts is None else counts.sum())
    scale = (units / n_steps) ** 2
    halves = gradients[0::2].sum(axis=0), gradients[1::2].sum(axis=0)
    return GradientStatistics(
        mean=gradients.sum(axis=0) / n_steps,
        signal=float(found.own[0] * scale),
        variance=float(found.variance(units)[0] * scale),
        snr=float(found.signal_to_noise(units)[0]),
        cosine_squared=float(found.cosine_squared(units)[0]),
        half_cosine=cosine(*halves),
        noise_scale=float(found.noise_scale()[0]) * n_steps / units,
        n_steps=n_steps,
        n_blocks=len(gradients),
    )


def cosine(one: Array, other: Array) -> float:
    """Cosine between two vectors; NaN if one is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths > 0 else float("nan")


class TimeProfile(NamedTuple):
    """How well a baseline explains returns, by the time in the episode; arrays of shape ``(n_bins,)``."""

    times: Array
    """Mean number of steps since the episode began."""
    explained_variance: Array
    r""":math:`1 - \mathrm{Var}(G - b) / \mathrm{Var}(G)` among the steps of the bin; NaN where G is constant."""
    n_steps: NDArray[np.int64]
    """Steps in the bin."""


def explained_variance_by_time(
    returns: Array, baseline: Array, times: NDArray[np.int64], n_bins: int = 10
) -> TimeProfile:
    """Explained variance of a baseline in bins of the time in the episode, each with about as many steps.

    Within a bin, so that a baseline gets no credit for knowing the clock alone. A critic that is only good early, or
    only late, leaves the advantages of the other steps as noisy as without it.

    :param returns: Monte-Carlo returns, shape ``(batch,)``
    :param baseline: what is subtracted from them, same shape
    :param times: steps since the episode began, same shape
    :param n_bins: at most so many; equal times are never divided
    """
    _, which, counts = np.unique(times, return_inverse=True, return_counts=True)
    earlier = np.cumsum(counts) - counts
    numbers = (earlier * n_bins // len(times))[which]
    bins = [numbers == number for number in np.unique(numbers)]
    return TimeProfile(
        np.array([times[chosen].mean() for chosen in bins]),
        np.array([explained_variance(baseline[chosen], returns[chosen]) for chosen in bins]),
        np.array([chosen.sum() for chosen in bins]),
    )


def _ratio(one: Array, other: Array) -> Array:
    """A quotient that is NaN where it has no value."""
    zero = other == 0
    return np.where(zero, np.nan, one / np.where(zero, 1.0, other))
