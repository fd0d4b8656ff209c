"""Trajectory-wise preference optimisation of a vision-language-action model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from vla_algos.common.losses import preference_loss
from vla_algos.common.type_aliases import UseBF16
from vla_algos.errors import UnknownNameError
from vla_algos.on_policy.algorithm import REFERENCE_LOG_PROB
from vla_algos.on_policy.episodes import SampledEpisode
from vla_algos.on_policy.groups import GroupAlgorithm
from vla_algos.policies import VLAPolicy

ReferencePolicy = Literal["behaviour", "start"]


class TPO(GroupAlgorithm):
    """
    Learn from pairs of a success and a failure from the same start: make the one likelier and the other less likely
    than a reference policy has them.

    Reference: GRAPE, Zhang et al. 2024 (https://arxiv.org/abs/2411.19309), which ranks episodes by cost, likelihood and
    success; here success alone decides. Each success is paired with one failure of its group, drawn at random.

    With ``reference_policy="start"`` the loss compares with the policy that the run started from, which serves for a
    few iterations: what a policy does becomes likelier than it was at the start, an episode the more so the longer it
    is, and as failures are long, in the end every pair counts as lost and nothing limits the steps. With
    ``reference_policy="behaviour"``, the policy that sampled the pair, every iteration starts at nought.

    :param policy: "VLAPolicy" or a subclass of it
    :param env: environment, vector environment or id; its ``reset`` takes ``task_id`` and ``init_state_id``
    :param learning_rate: a number or a function of the remaining progress
    :param group_size: episodes per start
    :param n_groups: starts per iteration; together a multiple of the number of environments
    :param pairs_per_step: pairs per gradient step
    :param n_epochs: passes over the pairs
    :param beta: how much a difference of the log-ratios counts
    :param reference_policy: "behaviour" or "start"
    :param max_grad_norm: gradients are scaled down to this norm
    :param temperature: of sampling and of all log-probabilities
    :param micro_batch_size: decisions per pass of the model; None: 64
    :param use_bf16: run updates under autocast to bfloat16; "auto": where the device has such arithmetic
    :param checkpoint_folder: where to save the run; None: nowhere
    :param checkpoint_interval: iterations between savings
    :param stats_window_size: episodes in the means of ``rollout/``
    :param tensorboard_log: folder for TensorBoard; None: none
    :param policy_kwargs: keywords of the policy, such as ``vla``
    :param verbose: 0 silent, 1 tables, 2 debug
    :param seed: of all generators
    :param device: of the model
    :param _init_setup_model: build the model now
    :raises ValueError: if a number is out of range, or an argument is unknown
    :raises SpaceError: if the environment does not take action tokens, or does not show what the model reads
    :raises CheckpointError: if the model's checkpoint is missing or damaged
    """

    def __init__(
        self,
        policy: str | type[VLAPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 2e-5,
        *,
        group_size: int = 8,
        n_groups: int = 8,
        pairs_per_step: int = 4,
        n_epochs: int = 1,
        beta: float = 0.1,
        reference_policy: ReferencePolicy = "behaviour",
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
    ) -> None:
        self.pairs_per_step = pairs_per_step
        self.beta = beta
        if reference_policy not in get_args(ReferencePolicy):
            raise UnknownNameError("reference_policy", reference_policy, get_args(ReferencePolicy))
        self.reference_policy = reference_policy
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            group_size=group_size,
            n_groups=n_groups,
            batch_size=pairs_per_step,
            n_epochs=n_epochs,
            gamma=1.0,
            clip_range=1.0,
            ent_coef=0.0,
            # the reference is part of the loss, not a penalty beside it
            kl_coef=0.0,
            max_grad_norm=max_grad_norm,
            target_kl=None,
            ratio_level="action",
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

    @property
    def _has_reference(self) -> bool:
        return self.reference_policy == "start"

    def _update(self) -> dict[str, list[float]]:
        pairs = self._pairs()
        self.logger.record("train/pairs", len(pairs))
        history: dict[str, list[float]] = defaultdict(list)
        if not pairs:
            return history
        # with "behaviour" too, as in bfloat16 the log-probabilities of sampling time would differ by more than rounding
        self._remember_scores(np.array([row for pair in pairs for episode in pair for row in episode.rows]))
        for _ in range(self.n_epochs):
            order = np.random.permutation(len(pairs))
            for start in range(0, len(order), self.pairs_per_step):
                self.policy.optimizer.zero_grad()
                figures = self._accumulate_pairs([pairs[i] for i in order[start : start + self.pairs_per_step]])
                for name, figure in figures.items():
                    history[name].append(figure)
                self._step(figures["loss"])
            self._n_updates += 1
        return history

    def _pairs(self) -> list[tuple[SampledEpisode, SampledEpisode]]:
        """Each success with a failure from the same start."""
        pairs = []
        for group in self._groups():
            failures = [episode for episode in group if not episode.is_success]
            if failures:
                successes = (episode for episode in group if episode.is_success)
                pairs += [(success, failures[np.random.randint(len(failures))]) for success in successes]
        return pairs

    def _accumulate_pairs(self, pairs: list[tuple[SampledEpisode, SampledEpisode]]) -> dict[str, float]:
        """
        Gradient of the mean loss of some pairs.

        The loss of a pair needs both episodes as a whole, and a backward pass has memory for parts of one. So the
        log-ratios are summed first; the derivative of the loss by them then weights the gradients of the parts.
        """
        episodes = [episode for pair in pairs for episode in pair]
        log_ratios = self._log_ratios(episodes).view(-1, 2).requires_grad_()
        losses = preference_loss(log_ratios[:, 0], log_ratios[:, 1], self.beta)
        (weights,) = th.autograd.grad(losses.mean(), log_ratios)
        self._log_ratios(episodes, weights.flatten())
        return {
            "loss": losses.mean().item(),
            "preference_accuracy": (log_ratios[:, 0] > log_ratios[:, 1]).float().mean().item(),
            "log_ratio_success": log_ratios[:, 0].mean().item(),
            "log_ratio_failure": log_ratios[:, 1].mean().item(),
        }

    def _log_ratios(self, episodes: Sequence[SampledEpisode], weights: th.Tensor | None = None) -> th.Tensor:
        """Log policy - log reference of each episode; with weights, the gradient of the weighted sum is accumulated."""
        rows = np.concatenate([episode.rows for episode in episodes])
        owners = th.arange(len(episodes)).repeat_interleave(th.tensor([len(episode.rows) for episode in episodes]))
        totals = th.zeros(len(episodes))
        for part_rows, part_owners in zip(
            np.split(rows, range(self._scoring_batch_size, len(rows), self._scoring_batch_size)),
            owners.split(self._scoring_batch_size),
            strict=True,
        ):
            part = self.rollout_buffer.samples(part_rows)
            with th.set_grad_enabled(weights is not None):
                log_probs = self._evaluate(part)[1]
                log_ratios = th.where(part.token_mask, log_probs - part.memory[REFERENCE_LOG_PROB], 0.0).sum(dim=1)
                if weights is not None:
                    (weights[part_owners].to(self.device) * log_ratios).sum().backward()
            totals.index_add_(0, part_owners, log_ratios.detach().cpu())
        return totals
