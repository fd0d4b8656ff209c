"""RLOO on the action tokens of a vision-language-action model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from vla_algos.common.losses import PolicyLoss, reinforce_loss
from vla_algos.common.type_aliases import TokenRolloutBufferSamples, UseBF16
from vla_algos.on_policy.groups import ONE_STEP, GroupAdvantageAlgorithm
from vla_algos.policies import VLAPolicy


class TokenRLOO(GroupAdvantageAlgorithm):
    """
    REINFORCE whose baseline is the mean return of the other episodes from the same start.

    Reference: Ahmadian et al. 2024 (https://arxiv.org/abs/2402.14740). Every decision of an episode has the episode's
    advantage. Deviation: the paper takes the KL off the reward, here it is a term of the loss.

    **One gradient step per roll-out**, over all its decisions. The objective has no ratio to the policy that sampled,
    so its gradient is right for that policy alone. In further steps nothing would limit how unlikely failures become;
    :class:`vla_algos.TokenGRPO` has a clipped ratio for that. The gradient adds up over micro-batches that are moved to
    the device one by one, so memory there does not grow with the roll-out.

    The default learning rate is three times TokenGRPO's, which takes about ten steps per roll-out: the noise of ten
    steps of Adam adds up to that of one about three times as large.

    :param policy: "VLAPolicy" or a subclass of it
    :param env: environment, vector environment or id; its ``reset`` takes ``task_id`` and ``init_state_id``
    :param learning_rate: a number or a function of the remaining progress
    :param group_size: episodes per start
    :param n_groups: starts per iteration; together a multiple of the number of environments
    :param gamma: discount per decision
    :param ent_coef: weight of the mean entropy per token
    :param kl_coef: weight of the mean KL to the policy that the run started from, exact over the bins, per action
    :param max_grad_norm: gradients are scaled down to this norm
    :param temperature: of sampling and of all log-probabilities
    :param micro_batch_size: decisions per backward pass, gradients add up to those of the whole roll-out; None: all
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
    :raises RemovedKeywordError: for keywords of minibatches
    :raises ValueError: if a number is out of range, or an argument is unknown
    :raises SpaceError: if the environment does not take action tokens, or does not show what the model reads
    :raises CheckpointError: if the model's checkpoint is missing or damaged
    """

    removed_keywords: ClassVar[dict[str, str]] = dict.fromkeys(("batch_size", "n_epochs"), ONE_STEP)
    # one step, nothing is clipped, and there are no ratios
    fixed_settings = GroupAdvantageAlgorithm.fixed_settings | {
        *("batch_size", "clip_range", "n_epochs", "ratio_level", "target_kl")
    }

    def __init__(
        self,
        policy: str | type[VLAPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 6e-5,
        *,
        group_size: int = 8,
        n_groups: int = 8,
        gamma: float = 1.0,
        ent_coef: float = 0.0,
        kl_coef: float = 0.0,
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
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            group_size=group_size,
            n_groups=n_groups,
            batch_size=1,  # not used: one step over all
            n_epochs=1,
            gamma=gamma,
            clip_range=1.0,
            ent_coef=ent_coef,
            kl_coef=kl_coef,
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

    def _advantages(self, returns: np.ndarray) -> np.ndarray:
        others = (returns.sum() - returns) / (len(returns) - 1)
        return returns - others

    def _minibatches(self) -> Iterator[TokenRolloutBufferSamples]:
        yield self.rollout_buffer.whole(self._rows)

    def _policy_loss(self, log_probs: th.Tensor, part: TokenRolloutBufferSamples, n_ratios: th.Tensor) -> PolicyLoss:
        return reinforce_loss(log_probs, part.old_log_prob, part.advantages, part.token_mask, n_ratios)
