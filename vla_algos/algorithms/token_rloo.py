"""RLOO on the action tokens of a vision-language-action model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from vla_algos.algorithms.episodes import Credit
from vla_algos.algorithms.groups import ONE_STEP, GroupAlgorithm
from vla_algos.algorithms.updates import REFERENCE_LOG_PROBS, Update
from vla_algos.common.losses import exact_kl, masked_mean, reinforce_loss
from vla_algos.common.type_aliases import UseBF16
from vla_algos.policies import ActorPolicy


class TokenRLOO(GroupAlgorithm):
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

    Keywords that are not named here are those of :class:`vla_algos.algorithms.base.TokenAlgorithm`.

    :param group_size: episodes per start
    :param n_groups: starts per iteration; together a multiple of the number of environments
    :param gamma: discount per decision
    :param credit: "episode": an advantage per episode; "decision": one per decision, from its rewards to go, for dense
        rewards; see :class:`vla_algos.algorithms.groups.GroupAlgorithm`
    :param ent_coef: weight of the mean entropy per token
    :raises RemovedKeywordError: for keywords of minibatches
    """

    removed_keywords: ClassVar[dict[str, str]] = dict.fromkeys(("batch_size", "n_epochs"), ONE_STEP)
    # one step, nothing is clipped, and there are no ratios
    unused_settings = GroupAlgorithm.unused_settings | {
        *("batch_size", "clip_range", "n_epochs", "ratio_level", "target_kl")
    }

    def __init__(
        self,
        policy: str | type[ActorPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 6e-5,
        *,
        group_size: int = 8,
        n_groups: int = 8,
        gamma: float = 1.0,
        credit: Credit = "episode",
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
            gamma=gamma,
            credit=credit,
            ent_coef=ent_coef,
            kl_coef=kl_coef,
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

    def train(self) -> None:
        """Take one step from the current groups, and save the run if it is time to."""
        with self._update() as update:
            rows = self._set_advantages(self._advantages, self._decision_advantages)
            if len(rows):
                if self.reference is not None:
                    update.score_reference(self.reference, self.rollout_buffer, rows, all_choices=True)
                self._train_actor(update, rows)

    def _advantages(self, returns: np.ndarray) -> np.ndarray:
        """A_i = R_i - mean of the others' R, of the episodes of a group, (group_size,) each."""
        others = (returns.sum() - returns) / (len(returns) - 1)
        return returns - others

    def _decision_advantages(self, returns: np.ndarray) -> np.ndarray:
        """A_it = G_it - mean of the others' G_jt that run at t, (group_size, T) each."""
        n_running = np.isfinite(returns).sum(axis=0)
        others = (np.nansum(returns, axis=0) - returns) / (n_running - 1)
        return returns - others

    def _train_actor(self, update: Update, rows: np.ndarray) -> None:
        """
        One gradient step on all decisions ``rows``, with the loss of REINFORCE.

        L = - E[A log p] - c_e E[H] + c_kl KL(policy, start), with log p and the KL summed over an action's tokens
        """
        whole = self.rollout_buffer.whole(rows)
        # means of the roll-out divide by these
        n_tokens = whole.token_mask.sum().clamp(min=1)
        n_actions = whole.is_counted.sum().clamp(min=1)
        for part in whole.split(self.micro_batch_size):
            scores = update.evaluate(part)
            policy_loss = reinforce_loss(
                scores.log_prob, part.old_log_prob, part.advantages, part.token_mask, n_actions
            )
            loss, figures = policy_loss.loss, policy_loss.figures()
            if scores.entropy is not None:
                entropy_loss = -masked_mean(scores.entropy, part.token_mask, n_tokens)
                loss = loss + self.ent_coef * entropy_loss
                figures["entropy_loss"] = entropy_loss
            if self.kl_coef and scores.all_log_probs is not None:
                start = part.extras[REFERENCE_LOG_PROBS]
                kl = exact_kl(scores.all_log_probs, start, part.token_mask, "action", n_actions)
                loss = loss + self.kl_coef * kl
                figures["reference_kl"] = kl
            update.backward(loss, {**figures, "loss": loss})
        update.apply("actor")
        self._n_updates += 1
