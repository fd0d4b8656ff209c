"""GRPO on the action tokens of a vision-language-action model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from vla_algos.algorithms.episodes import Credit
from vla_algos.algorithms.groups import GroupAlgorithm
from vla_algos.algorithms.updates import REFERENCE_LOG_PROBS, Update
from vla_algos.common.losses import exact_kl, masked_mean, ratio_mask, token_ppo_loss
from vla_algos.common.type_aliases import RatioLevel, UseBF16
from vla_algos.policies import ActorPolicy


class TokenGRPO(GroupAlgorithm):
    """
    PPO's clipped loss without a critic: the advantage of an episode is its return minus its group's mean return.

    Reference: Shao et al. 2024 (https://arxiv.org/abs/2402.03300); for VLAs SimpleVLA-RL
    (https://arxiv.org/abs/2509.09674), with DAPO's changes (https://arxiv.org/abs/2503.14476):

    - **Groups whose returns are all alike** say nothing. They are replaced by groups from new starts, at most
      ``resampling_rounds`` times per iteration; those that are left are not learned from. SimpleVLA-RL keeps groups
      with a success rate in 0.1..0.9 and draws until its batch is full. With fewer than ten episodes per group its
      condition is the same. The bound is ours, as a policy may always fail. Two rounds fill the batch of a policy that
      succeeds in nine of ten episodes to 92 % on average (without them 57 %, in groups of 8). Where there is nothing to
      learn they cost three times the decisions.
    - **Clip higher.** A symmetric range lets a token of probability 0.01 reach 0.012 at most, so that rare tokens can
      hardly be reinforced and entropy collapses. Both papers allow 0.28 above 1 and 0.2 below; this is the default.
    - **No mean over each episode's length**: every executed token counts alike.

    Deviation: the divisor of the advantages has a floor. A group whose returns differ by noise alone, as those of dense
    rewards may, would otherwise be scaled up to the advantages of a success against a failure.

    Keywords that are not named here are those of :class:`vla_algos.algorithms.base.TokenAlgorithm`.

    :param group_size: episodes per start
    :param n_groups: starts per iteration; together a multiple of the number of environments
    :param batch_size: decisions per gradient step
    :param n_epochs: passes over the episodes
    :param gamma: discount per decision
    :param credit: "episode": an advantage per episode; "decision": one per decision, from its rewards to go, for dense
        rewards; see :class:`vla_algos.algorithms.groups.GroupAlgorithm`
    :param clip_range: of the ratio below 1, a number or a function of the remaining progress
    :param clip_range_high: the same above 1; None: as below
    :param normalize_advantage: divide by the group's standard deviation, as the paper does
    :param std_floor: smallest divisor of the advantages, in units of the return. The default leaves sparse rewards of 1
        alone: there groups of up to 90 episodes have standard deviations above 0.1
    :param resampling_rounds: times per iteration that groups without spread are replaced, at most; 0: never
    :param ent_coef: weight of the mean entropy per token
    :param target_kl: ends a ``train`` call before the step at which the estimate per ratio exceeds 1.5 times this
    :param ratio_level: "action" (product over the tokens) or "token"
    """

    schedules = frozenset({"clip_range", "clip_range_high"})

    def __init__(
        self,
        policy: str | type[ActorPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 2e-5,
        *,
        group_size: int = 8,
        n_groups: int = 8,
        batch_size: int = 64,
        n_epochs: int = 1,
        gamma: float = 1.0,
        credit: Credit = "episode",
        clip_range: float | Schedule = 0.2,
        clip_range_high: float | Schedule | None = 0.28,
        normalize_advantage: bool = True,
        std_floor: float = 0.1,
        resampling_rounds: int = 2,
        ent_coef: float = 0.0,
        kl_coef: float = 0.0,
        max_grad_norm: float = 1.0,
        target_kl: float | None = None,
        ratio_level: RatioLevel = "token",
        temperature: float = 1.0,
        micro_batch_size: int | None = None,
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
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.ratio_level = ratio_level
        self.target_kl = target_kl
        self.normalize_advantage = normalize_advantage
        self.std_floor = std_floor
        self.clip_range_high = clip_range_high
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            group_size=group_size,
            n_groups=n_groups,
            resampling_rounds=resampling_rounds,
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

    def _setup_model(self) -> None:
        # zero would divide by zero for groups that differ by less than the smallest number
        if not self.std_floor > 0.0:
            raise ValueError(f"std_floor is {self.std_floor}; expected a number above 0, in units of the return.")
        if isinstance(self.clip_range_high, (int, float)) and not self.clip_range_high > 0.0:
            raise ValueError(
                f"clip_range_high is {self.clip_range_high}; expected a number above 0, or None for clip_range."
            )
        super()._setup_model()

    def train(self) -> None:
        """Update the policy from the current groups, and save the run if it is time to."""
        with self._update() as update:
            rows = self._set_advantages(self._advantages, self._decision_advantages)
            if len(rows):
                if self.reference is not None:
                    update.score_reference(self.reference, self.rollout_buffer, rows, all_choices=True)
                self._train_actor(update, rows)

    def _advantages(self, returns: np.ndarray) -> np.ndarray:
        """A_i = (R_i - mean(R)) / max(std(R), floor), of the episodes of a group, (group_size,) each."""
        advantages = returns - returns.mean()
        return advantages / max(returns.std(), self.std_floor) if self.normalize_advantage else advantages

    def _decision_advantages(self, returns: np.ndarray) -> np.ndarray:
        """
        A_it = (G_it - mean_j(G_jt)) / max(std, floor), (group_size, T) each.

        Means are over the episodes that run at t. One standard deviation serves the whole group, as that of a single t
        would scale noise up: the root mean square of the differences.
        """
        advantages = returns - np.nanmean(returns, axis=0)
        std = np.sqrt(np.nanmean(np.square(advantages)))
        return advantages / max(std, self.std_floor) if self.normalize_advantage else advantages

    def _train_actor(self, update: Update, rows: np.ndarray) -> None:
        """
        Passes over the decisions ``rows`` with the loss of PPO, whose clip range may be wider above 1.

        L = - E[min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A)] - c_e E[H] + c_kl KL(policy, start)
        """
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        clip_range_high = None if self.clip_range_high is None else self.clip_range_high(progress)  # type: ignore[operator]
        for epoch in range(self.n_epochs):
            for minibatch in self.rollout_buffer.get(self.batch_size, rows):
                # means of the minibatch divide by these; it may hold nothing but broken decisions
                n_tokens = minibatch.token_mask.sum().clamp(min=1)
                n_ratios = ratio_mask(minibatch.token_mask, self.ratio_level).sum().clamp(min=1)
                for part in minibatch.split(self.micro_batch_size):
                    scores = update.evaluate(part)
                    policy_loss = token_ppo_loss(
                        scores.log_prob,
                        part.old_log_prob,
                        part.advantages,
                        part.token_mask,
                        clip_range,
                        self.ratio_level,
                        n_ratios,
                        clip_range_high,
                    )
                    loss, figures = policy_loss.loss, policy_loss.figures()
                    if scores.entropy is not None:
                        entropy_loss = -masked_mean(scores.entropy, part.token_mask, n_tokens)
                        loss = loss + self.ent_coef * entropy_loss
                        figures["entropy_loss"] = entropy_loss
                    if self.kl_coef and scores.all_log_probs is not None:
                        start = part.extras[REFERENCE_LOG_PROBS]
                        kl = exact_kl(scores.all_log_probs, start, part.token_mask, self.ratio_level, n_ratios)
                        loss = loss + self.kl_coef * kl
                        figures["reference_kl"] = kl
                    update.backward(loss, {**figures, "loss": loss})
                if update.exceeds(self.target_kl):
                    update.drop()
                    self.logger.record("train/early_stop_epoch", epoch)
                    # as in SB3, the pass that was broken off counts
                    self._n_updates += 1
                    return
                update.apply("actor")
            self._n_updates += 1
