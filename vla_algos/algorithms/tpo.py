"""Trajectory-wise preference optimisation of a vision-language-action model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from vla_algos.algorithms.episodes import SampledEpisode
from vla_algos.algorithms.groups import ONE_STEP, GroupAlgorithm
from vla_algos.algorithms.updates import REFERENCE_LOG_PROB, Update
from vla_algos.common.losses import LengthHandling, episode_preference_loss
from vla_algos.common.type_aliases import UseBF16
from vla_algos.errors import UnknownNameError
from vla_algos.policies import ActorPolicy

ReferencePolicy = Literal["behaviour", "start"]
Pair = tuple[SampledEpisode, SampledEpisode]
"""A success and a failure from the same start."""
LOG_2 = math.log(2.0)


class TPO(GroupAlgorithm):
    """
    Learn from pairs of a success and a failure from the same start: make the one likelier and the other less likely
    than a reference policy has them.

    Reference: GRAPE, Zhang et al. 2024 (https://arxiv.org/abs/2411.19309), which ranks episodes by cost, likelihood and
    success; here success alone decides. Each success is paired with one failure of its group, drawn at random.

    **One gradient step per roll-out**, over all its pairs. The pairs come from the policy that sampled, and no ratio
    corrects for another one. In further steps nothing would limit how unlikely failures become. The gradient adds up
    over micro-batches, so memory on the device does not grow with the roll-out. The default learning rate is as in
    :class:`vla_algos.TokenRLOO`.

    **Reference.** ``reference_policy="behaviour"`` compares with the policy that sampled the pairs. It is the current
    one when the step is taken: all log-ratios are 0, the loss is log 2, and its gradient is ``beta / 2`` times that of
    the failure's log-probability minus the success's. ``"start"`` compares with the policy that the run started from,
    as GRAPE does; pairs that are well apart then count less.

    **Length.** Failures last until the horizon, so their sums of log-ratios have more terms. A policy makes its own
    episodes likelier than they were at the start, and the longer an episode, the larger its sum. So with ``"start"``
    and ``"sum"`` every pair counts as lost after a few iterations. ``length_handling``: "sum" is GRAPE's equation,
    "mean" divides by the number of decisions, "windows" compares windows of equal length as GRAPE's code does; see
    :func:`vla_algos.common.losses.episode_preference_loss`.

    Keywords that are not named here are those of :class:`vla_algos.algorithms.base.TokenAlgorithm`.

    :param group_size: episodes per start
    :param n_groups: starts per iteration; together a multiple of the number of environments
    :param beta: weight of a difference of log-ratios; with "mean", which compares per decision, a larger one is needed
    :param reference_policy: "behaviour" or "start"
    :param length_handling: "sum", "mean" or "windows"
    :param window_size: decisions per window, for "windows"
    :raises RemovedKeywordError: for keywords of minibatches
    """

    removed_keywords: ClassVar[dict[str, str]] = dict.fromkeys(("pairs_per_step", "batch_size", "n_epochs"), ONE_STEP)
    fixed_settings = GroupAlgorithm.fixed_settings | {"reference_policy"}
    # its loss has no place for them
    unused_settings = GroupAlgorithm.unused_settings | {
        *("batch_size", "clip_range", "credit", "ent_coef", "gamma", "kl_coef", "n_epochs", "ratio_level", "target_kl")
    }

    def __init__(
        self,
        policy: str | type[ActorPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 6e-5,
        *,
        group_size: int = 8,
        n_groups: int = 8,
        beta: float = 0.1,
        reference_policy: ReferencePolicy = "behaviour",
        length_handling: LengthHandling = "sum",
        window_size: int = 8,
        max_grad_norm: float = 1.0,
        temperature: float = 1.0,
        micro_batch_size: int | None = 64,
        use_bf16: UseBF16 = False,
        checkpoint_folder: str | Path | None = None,
        checkpoint_interval: int = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        **removed: Any,
    ) -> None:
        self._refuse(removed)
        self.beta = beta
        self.reference_policy = reference_policy
        self.length_handling = length_handling
        self.window_size = window_size
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            group_size=group_size,
            n_groups=n_groups,
            gamma=1.0,
            ent_coef=0.0,
            max_grad_norm=max_grad_norm,
            temperature=temperature,
            micro_batch_size=micro_batch_size,
            use_bf16=use_bf16,
            checkpoint_folder=checkpoint_folder,
            checkpoint_interval=checkpoint_interval,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _check_setting(self, name: str, value: Any) -> None:
        super()._check_setting(name, value)
        choices = {"reference_policy": get_args(ReferencePolicy), "length_handling": get_args(LengthHandling)}
        if name in choices and value not in choices[name]:
            raise UnknownNameError(name, value, choices[name])
        if name == "window_size" and value < 1:
            raise ValueError(f"window_size is {value}; expected at least 1 decision.")

    @property
    def _has_reference(self) -> bool:
        return self.reference_policy == "start"

    def train(self) -> None:
        """Take one step from the current pairs, and save the run if it is time to."""
        with self._update() as update:
            pairs = self._pairs()
            self.logger.record("train/pairs", len(pairs))
            if pairs:
                if self.reference is not None:
                    update.score_reference(self.reference, self.rollout_buffer, _rows_of(pairs))
                self._train_actor(update, pairs)

    def _pairs(self) -> list[Pair]:
        """Each success with a failure from the same start."""
        pairs = []
        for group in self._comparable_groups():
            failures = [episode for episode in group if not episode.is_success]
            if failures:
                successes = (episode for episode in group if episode.is_success)
                pairs += [(success, failures[np.random.randint(len(failures))]) for success in successes]
        return pairs

    def _train_actor(self, update: Update, pairs: list[Pair]) -> None:
        """
        One gradient step on the mean loss of all pairs, L = - E[log sigmoid(beta (g_success - g_failure))].

        g is the sum over an episode's decisions of log policy - log reference. The loss of a pair needs both episodes
        as a whole, and a backward pass has memory for parts of one. So the log-ratios come first; the derivative of the
        loss by them, w = dL/dg, then weights the gradients of the parts: dL = sum of w d(log policy).
        """
        rows = _rows_of(pairs)
        # the reference "behaviour" is the policy itself, and rounding of the roll-out's scores is kept out
        log_ratios = th.zeros(len(rows)) if self.reference is None else self._log_ratios(update, rows)
        log_ratios.requires_grad_()
        losses, sums = [], []
        for pair in pairs:
            success, failure = (log_ratios[np.searchsorted(rows, episode.rows)] for episode in pair)
            sums.append((success.sum().item(), failure.sum().item()))
            losses.append(episode_preference_loss(success, failure, self.beta, self.length_handling, self.window_size))
        loss = th.stack(losses).mean()
        (weights,) = th.autograd.grad(loss, log_ratios)
        size = update.scored_at_once
        whole = self.rollout_buffer.whole(rows)
        for part, weight in zip(whole.split(size), th.split(weights, size), strict=True):
            log_probs = update.evaluate(part).log_prob
            log_prob = th.where(part.token_mask, log_probs, 0.0).sum(dim=1)
            sampled = th.where(part.token_mask, part.old_log_prob, 0.0).sum(dim=1)
            deviation = ((log_prob.detach() - sampled).exp() - 1).abs().max()
            update.backward((weight.to(self.device) * log_prob).sum(), {"ratio_deviation": deviation})
        # the loss of the pairs, not the weighted sum that has its gradient
        update.loss = update.figures["loss"] = loss.item()
        if self.reference is not None:
            update.figures["preference_accuracy"] = float(np.mean([loss.item() < LOG_2 for loss in losses]))
            names = ("log_ratio_success", "log_ratio_failure")
            update.figures.update(zip(names, np.mean(sums, axis=0).tolist(), strict=True))
        update.apply("actor")
        self._n_updates += 1

    def _log_ratios(self, update: Update, rows: np.ndarray) -> th.Tensor:
        """Log policy - log reference of each decision, summed over its tokens."""
        sums = []
        with th.no_grad():
            for part in self.rollout_buffer.whole(rows).split(update.scored_at_once):
                log_probs = update.evaluate(part).log_prob - part.extras[REFERENCE_LOG_PROB]
                sums.append(th.where(part.token_mask, log_probs, 0.0).sum(dim=1).cpu())
        return th.cat(sums)


def _rows_of(pairs: list[Pair]) -> np.ndarray:
    """All decisions of some pairs, each once, in order."""
    return np.unique(np.concatenate([episode.rows for pair in pairs for episode in pair]))
