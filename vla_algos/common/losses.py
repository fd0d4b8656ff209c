"""Losses on action tokens, as pure functions: B samples, A tokens per action."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch as th
from torch.nn import functional as F

from vla_algos.common.type_aliases import RatioLevel
from vla_algos.errors import UnknownNameError

KLEstimator = Literal["k1", "k2", "k3"]
LengthHandling = Literal["sum", "mean", "windows"]


class PolicyLoss(NamedTuple):
    """
    Result of a policy's loss; scalars, all but ``loss`` without gradient.

    Sums over micro-batches that share one normalizer are the values of the whole minibatch (a maximum for
    ``ratio_deviation``).

    :param loss: to be minimised
    :param approx_kl: estimate of KL(behaviour policy, policy) per ratio, nats
    :param clip_fraction: share of ratios outside the clip range
    :param ratio_deviation: largest ``|ratio - 1|``
    """

    loss: th.Tensor
    approx_kl: th.Tensor
    clip_fraction: th.Tensor
    ratio_deviation: th.Tensor

    def figures(self) -> dict[str, th.Tensor]:
        """What is logged, by name."""
        return {
            "policy_gradient_loss": self.loss,
            "approx_kl": self.approx_kl,
            "clip_fraction": self.clip_fraction,
            "ratio_deviation": self.ratio_deviation,
        }


def masked_mean(values: th.Tensor, mask: th.Tensor, normalizer: th.Tensor | float | None = None) -> th.Tensor:
    """
    Mean over the entries that the mask keeps.

    :param values: any shape, float
    :param mask: same shape, True to keep
    :param normalizer: number to divide the sum by; None: the number of entries kept, at least 1. Give the count of the
        whole minibatch when accumulating gradients over micro-batches.
    :return: scalar
    """
    if normalizer is None:
        normalizer = mask.sum().clamp(min=1)
    # where, not a product: an entry that is masked out must not pass on a NaN
    return th.where(mask, values, th.zeros_like(values)).sum() / normalizer


def ratio_mask(token_mask: th.Tensor, ratio_level: RatioLevel) -> th.Tensor:
    """
    Which ratios of a batch count.

    :param token_mask: True for executed tokens, (B, A) bool
    :param ratio_level: "token": one ratio per token; "action": one per action, from the sum over its executed tokens
    :return: (B, A) bool for "token", (B, 1) bool for "action"
    :raises UnknownNameError: if the level is unknown
    """
    if ratio_level == "token":
        return token_mask
    if ratio_level == "action":
        return token_mask.any(dim=1, keepdim=True)
    raise UnknownNameError("ratio_level", ratio_level, get_args(RatioLevel))


def kl_estimate(log_ratio: th.Tensor, estimator: KLEstimator = "k3") -> th.Tensor:
    """
    Pointwise estimate of KL(old, new) from samples of the old policy.

    Reference: J. Schulman, http://joschu.net/blog/kl-approx.html. k1 and k3 are unbiased, k2 and k3 never negative.

    :param log_ratio: log new - log old, any shape, nats
    :param estimator: "k1", "k2" or "k3"
    :return: same shape, nats
    :raises UnknownNameError: if the estimator is unknown
    """
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    if estimator == "k3":
        return log_ratio.expm1() - log_ratio
    raise UnknownNameError("estimator", estimator, get_args(KLEstimator))


def exact_kl(
    log_probs: th.Tensor,
    reference_log_probs: th.Tensor,
    token_mask: th.Tensor,
    ratio_level: RatioLevel = "action",
    normalizer: th.Tensor | float | None = None,
) -> th.Tensor:
    """
    KL(policy, reference) of the distributions over the K bins of each token, with its gradient.

    The estimators of :func:`kl_estimate` have this value on average, but, taken as a loss on given samples, not this
    gradient. What earlier tokens of an action are is taken as given.

    :param log_probs: of the policy, (B, A, K) float32, nats
    :param reference_log_probs: (B, A, K) float32, nats
    :param token_mask: True for executed tokens, (B, A) bool
    :param ratio_level: "token": mean over tokens; "action": mean over actions of the sum over their tokens
    :param normalizer: number of ratios to average over; None: those of this batch
    :return: scalar, nats
    """
    kl = (log_probs.exp() * (log_probs - reference_log_probs)).sum(dim=-1)
    if ratio_level == "action":
        kl = th.where(token_mask, kl, th.zeros_like(kl)).sum(dim=1, keepdim=True)
    return masked_mean(kl, ratio_mask(token_mask, ratio_level), normalizer)


def token_ppo_loss(
    log_probs: th.Tensor,
    old_log_probs: th.Tensor,
    advantages: th.Tensor,
    token_mask: th.Tensor,
    clip_range: float,
    ratio_level: RatioLevel = "action",
    normalizer: th.Tensor | float | None = None,
    clip_range_high: float | None = None,
) -> PolicyLoss:
    """
    Clipped surrogate of PPO on action tokens.

    Reference: Schulman et al. 2017, equation 7 (https://arxiv.org/abs/1707.06347), with the action's probability the
    product over its tokens, or with one ratio per token, averaged over the executed tokens of the batch.

    :param log_probs: of the policy, (B, A) float32, nats
    :param old_log_probs: of the behaviour policy, (B, A) float32, nats
    :param advantages: one per action, (B,) float32
    :param token_mask: True for executed tokens, (B, A) bool
    :param clip_range: epsilon, ratios beyond 1 +- epsilon gain nothing
    :param ratio_level: "token" or "action"
    :param normalizer: number of ratios to average over; None: those of this batch
    :param clip_range_high: epsilon above 1, as in DAPO's "clip-higher" (https://arxiv.org/abs/2503.14476); None: the
        same as below
    :return: loss and figures for the log
    """
    low, high = 1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high)
    mask = ratio_mask(token_mask, ratio_level)
    log_ratio = th.where(token_mask, log_probs - old_log_probs, th.zeros_like(log_probs))
    if ratio_level == "action":
        log_ratio = log_ratio.sum(dim=1, keepdim=True)
    ratio = log_ratio.exp()
    gain = th.min(advantages[:, None] * ratio, advantages[:, None] * ratio.clamp(low, high))
    with th.no_grad():
        deviation = (ratio - 1).abs()
        approx_kl = masked_mean(kl_estimate(log_ratio), mask, normalizer)
        clip_fraction = masked_mean(((ratio < low) | (ratio > high)).float(), mask, normalizer)
    return PolicyLoss(-masked_mean(gain, mask, normalizer), approx_kl, clip_fraction, deviation.max())


def reinforce_loss(
    log_probs: th.Tensor,
    old_log_probs: th.Tensor,
    advantages: th.Tensor,
    token_mask: th.Tensor,
    normalizer: th.Tensor | float | None = None,
) -> PolicyLoss:
    """
    REINFORCE on action tokens: minus advantage times log-probability of the action.

    Reference: Williams 1992; Ahmadian et al. 2024 (https://arxiv.org/abs/2402.14740) for language models.

    :param log_probs: of the policy, (B, A) float32, nats
    :param old_log_probs: of the behaviour policy, for the figures alone, (B, A) float32, nats
    :param advantages: one per action, (B,) float32
    :param token_mask: True for executed tokens, (B, A) bool
    :param normalizer: number of actions to average over; None: those of this batch that have an executed token
    :return: loss and figures for the log; nothing is clipped
    """
    mask = ratio_mask(token_mask, "action")
    zeros = th.zeros_like(log_probs)
    log_prob = th.where(token_mask, log_probs, zeros).sum(dim=1, keepdim=True)
    with th.no_grad():
        log_ratio = th.where(token_mask, log_probs - old_log_probs, zeros).sum(dim=1, keepdim=True)
        approx_kl = masked_mean(kl_estimate(log_ratio), mask, normalizer)
    loss = -masked_mean(advantages[:, None] * log_prob, mask, normalizer)
    return PolicyLoss(loss, approx_kl, th.zeros(()), (log_ratio.exp() - 1).abs().max())


def preference_loss(log_ratio_success: th.Tensor, log_ratio_failure: th.Tensor, beta: float) -> th.Tensor:
    """
    How much less likely than its failure a policy makes a success, compared with a reference policy.

    Reference: the loss of GRAPE, Zhang et al. 2024 (https://arxiv.org/abs/2411.19309), which is DPO on trajectories.

    :param log_ratio_success: log policy - log reference, summed over a successful episode, (P,) float32, nats
    :param log_ratio_failure: likewise for the episode that failed from the same start, (P,)
    :param beta: how much a difference counts, above 0
    :return: (P,) float32, one per pair
    """
    return -F.logsigmoid(beta * (log_ratio_success - log_ratio_failure))


def episode_preference_loss(
    success: th.Tensor,
    failure: th.Tensor,
    beta: float,
    length_handling: LengthHandling = "sum",
    window_size: int = 8,
) -> th.Tensor:
    """
    Preference loss of one pair of episodes, from what each of their decisions adds.

    An episode that fails is longer than one that succeeds, so the sum of its log-ratios has more terms. Three ways to
    deal with that:

    - ``"sum"``: the equation of GRAPE (https://arxiv.org/abs/2411.19309), log-ratios summed over each whole episode.
    - ``"mean"``: the sum of each episode is divided by its number of decisions. ``beta`` then weighs a difference per
      decision, so the same strength needs one larger by the length of an episode.
    - ``"windows"``: what GRAPE's released code does (``TPO-Train/finetune.py`` of aiming-lab/GRAPE). Both episodes are
      cut into all windows of ``window_size`` consecutive decisions; window k of the success is compared with window k
      of the failure, for as many as the shorter episode has; each comparison has the loss of ``"sum"``. So both sides
      have the same length, and what the longer episode does later is not looked at. Deviations: the loss is the mean
      over the windows, where the code takes them one after the other; an episode shorter than a window is one window
      as long as itself, where the code leaves it out.

    :param success: log policy - log reference of each decision, summed over its tokens, (T,) float32, nats
    :param failure: the same for the episode that failed, (U,)
    :param beta: weight of a difference, above 0
    :param length_handling: "sum", "mean" or "windows"
    :param window_size: decisions per window, at least 1
    :return: scalar
    :raises UnknownNameError: if the handling is unknown
    """
    if length_handling == "sum":
        return preference_loss(success.sum(), failure.sum(), beta)
    if length_handling == "mean":
        return preference_loss(success.mean(), failure.mean(), beta)
    if length_handling == "windows":
        shorter = min(len(success), len(failure))
        size = min(window_size, shorter)
        windows = [episode[:shorter].unfold(0, size, 1).sum(dim=1) for episode in (success, failure)]
        return preference_loss(windows[0], windows[1], beta).mean()
    raise UnknownNameError("length_handling", length_handling, get_args(LengthHandling))


def clipped_value_loss(
    values: th.Tensor,
    old_values: th.Tensor,
    returns: th.Tensor,
    clip_range_vf: float | None = None,
    normalizer: th.Tensor | float | None = None,
) -> th.Tensor:
    """
    Squared error of the values, optionally held near their old ones.

    Reference: the PPO implementation of OpenAI Baselines: the larger of the clipped and the unclipped error.
    Deviation from SB3, which takes the clipped error alone: there a value that left the range on the wrong side gets no
    gradient back.

    :param values: (B,) float32
    :param old_values: at sampling time, (B,) float32
    :param returns: targets, (B,) float32
    :param clip_range_vf: largest useful change of a value, in units of the return; None: no limit
    :param normalizer: number of samples to average over; None: those of this batch
    :return: scalar
    """
    error = (values - returns).square()
    if clip_range_vf is not None:
        clipped = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
        error = th.max(error, (clipped - returns).square())
    return error.sum() / (len(values) if normalizer is None else normalizer)


def smoothing_table(n_bins: int, smoothing: float, width: float) -> th.Tensor:
    """
    Target distribution of each bin, with part of the mass on its neighbours.

    :param n_bins: K
    :param smoothing: share of the mass that is spread, in [0, 1)
    :param width: standard deviation of the spread, bins; it is a normal distribution cut off at the ends
    :return: (K, K) float32, row b = target for bin b, rows sum to 1
    """
    bins = th.arange(n_bins, dtype=th.float64)
    spread = (-0.5 * ((bins[None] - bins[:, None]) / width) ** 2).exp()
    spread /= spread.sum(dim=1, keepdim=True)
    return ((1 - smoothing) * th.eye(n_bins, dtype=th.float64) + smoothing * spread).float()


def soft_cross_entropy(
    logits: th.Tensor,
    targets: th.Tensor,
    mask: th.Tensor | None = None,
    normalizer: th.Tensor | float | None = None,
) -> th.Tensor:
    """
    Mean cross-entropy against target distributions.

    :param logits: (..., K)
    :param targets: (..., K), sums to 1 along K
    :param mask: (...) bool, True where the target counts; None: everywhere
    :param normalizer: as in :func:`masked_mean`
    :return: scalar, nats
    """
    losses = -(targets * F.log_softmax(logits.float(), dim=-1)).sum(dim=-1)
    return masked_mean(losses, th.ones_like(losses, dtype=th.bool) if mask is None else mask, normalizer)
