"""PPO on the action tokens of a vision-language-action model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from vla_algos.algorithms.base import TokenAlgorithm
from vla_algos.algorithms.clock import RolloutClock
from vla_algos.algorithms.updates import REFERENCE_LOG_PROBS, Update
from vla_algos.common.buffers import learned_rewards
from vla_algos.common.losses import clipped_value_loss, exact_kl, masked_mean, ratio_mask, token_ppo_loss
from vla_algos.common.type_aliases import RatioLevel, TimeLimit, UseBF16
from vla_algos.common.vec_env import is_broken
from vla_algos.errors import ActorError, UnknownNameError
from vla_algos.models.base import CRITIC_INPUTS
from vla_algos.policies import ActorPolicy


class TokenPPO(TokenAlgorithm):
    """
    PPO on action tokens, as in VLA-RL, or on whatever a policy has log-probabilities of.

    Reference: Lu et al. 2025 (https://arxiv.org/abs/2505.18719); defaults are the paper's where it gives them, else
    those of its released code, but for the critic's: there it has a learning rate of 5e-5, and its values are clipped.

    Arguments by position are those of SB3's PPO. What differs from it: the buffer keeps one log-probability per token,
    the ratio acts on actions or on tokens, tokens of commands that were not executed do not count, the critic learns
    alone at first, a minibatch may be worked off in micro-batches, and an update with a non-finite loss or gradient is
    skipped and counted.

    In warm-up the critic learns in ``critic_epochs`` cheap passes over what it read during the roll-out. One that
    shares no gradient with the actor (``policy_kwargs`` with ``critic="privileged"`` or ``detach_value=True``) goes on
    like that. Any other then learns along with the actor, weighted by ``vf_coef``.

    Deviation from the released code: log-probabilities of the behaviour policy are those of sampling time, and time
    limits are bootstrapped, not treated as terminal, unless ``time_limit`` says so.

    Keywords that are not named here are those of :class:`vla_algos.algorithms.base.TokenAlgorithm`.

    :param n_steps: decisions per environment and roll-out
    :param batch_size: decisions per gradient step
    :param n_epochs: passes over a roll-out
    :param gamma: discount per decision
    :param gae_lambda: lambda of GAE
    :param clip_range: of the ratio, a number or a function of the remaining progress
    :param clip_range_vf: of the value, likewise, in units of the return; None: no clipping
    :param normalize_advantage: zero mean and unit standard deviation over a roll-out
    :param ent_coef: weight of the mean entropy per token
    :param vf_coef: weight of the value loss
    :param min_advantage_std: least standard deviation that normalised advantages are divided by, in units of the
        reward; below it the actor's learning rate falls in proportion, too, as Adam does not mind how large gradients
        are. Where no episode succeeds, advantages are nothing but errors of the critic, which must not pass for
        lessons. Roll-outs with successes have 0.1 to 0.2 on LIBERO, and one success among 3,500 decisions makes 0.05
    :param time_limit: what the end of an episode at its time limit is worth: "bootstrap": the value of what is seen
        there; "terminal": nothing. Where success counts only within the limit and the critic sees the clock
        (``critic="privileged"``), "terminal" is what is asked for, and "bootstrap" feeds on the critic's own
        extrapolation; watch ``rollout/value_at_limit``
    :param value_learning_rate: of the critic, likewise; None: as the actor
    :param target_kl: ends a ``train`` call before the step at which the estimate per ratio exceeds 1.5 times this
    :param ratio_level: "action" (product over the tokens) or "token"
    :param critic_warmup_iterations: roll-outs at the start that train the critic only
    :param critic_epochs: passes over what the critic read, of every critic in warm-up, then of one of its own
    """

    schedules = frozenset({"clip_range", "clip_range_vf"})

    def __init__(
        self,
        policy: str | type[ActorPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 2e-5,
        n_steps: int = 128,
        batch_size: int = 64,
        n_epochs: int = 1,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 1.0,
        *,
        min_advantage_std: float = 0.05,
        time_limit: TimeLimit = "bootstrap",
        value_learning_rate: float | Schedule | None = 1e-3,
        kl_coef: float = 0.0,
        target_kl: float | None = None,
        ratio_level: RatioLevel = "action",
        temperature: float = 1.5,
        critic_warmup_iterations: int = 5,
        critic_epochs: int = 10,
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
        self.value_learning_rate = value_learning_rate
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.min_advantage_std = min_advantage_std
        self.time_limit = time_limit
        self.critic_warmup_iterations = critic_warmup_iterations
        self.critic_epochs = critic_epochs
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
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

    def _check_setting(self, name: str, value: Any) -> None:
        super()._check_setting(name, value)
        if name == "critic_epochs" and value < 1:
            raise ValueError(f"critic_epochs is {value}; expected at least 1.")
        if name == "min_advantage_std" and not 0.0 <= value < float("inf"):
            raise ValueError(f"min_advantage_std is {value}; expected a number from 0 on.")
        if name == "time_limit" and value not in get_args(TimeLimit):
            raise UnknownNameError("time_limit", value, get_args(TimeLimit))

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        learning_rate = self.value_learning_rate
        if learning_rate is None:
            return
        current = FloatSchedule(learning_rate)(self._current_progress_remaining)
        for group in self.policy.optimizer.param_groups:
            if group["name"] == "value":
                group["lr"] = current
        self.logger.record("train/value_learning_rate", current)

    def _collect(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As SB3's; mask and extras of a sample go to the buffer with it, and ``time_limit`` says what limits are."""
        buffer = self.rollout_buffer
        self.policy.set_training_mode(False)
        buffer.reset()
        callback.on_rollout_start()
        clock, values_at_limits = RolloutClock(env), []
        for _ in range(n_rollout_steps):
            with clock.decoding():
                _, sample = self._sample(self._last_obs)  # type: ignore[arg-type]
                actions = sample.action.cpu().numpy()
            if CRITIC_INPUTS not in sample.extras:
                raise ActorError(
                    f"act gave the extras {list(sample.extras)}; {type(self).__name__} has a critic and needs "
                    f"{CRITIC_INPUTS!r} among them, what values are read from. Add critic_inputs(obs) to them."
                )
            with clock.stepping():
                new_obs, rewards, dones, infos = env.step(self._executable(actions))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            values_at_limit = self._values_at_limit(infos, dones)
            values_at_limits += [value.item() for value in values_at_limit.values()]
            buffer.add(
                self._last_obs,  # type: ignore[arg-type]
                actions,
                learned_rewards(rewards, infos, sample.values, values_at_limit, self.gamma, self.time_limit),
                self._last_episode_starts,  # type: ignore[arg-type]
                sample.values,
                sample.log_prob,
                self._executed(sample.log_prob, infos),
                sample.extras,
            )
            self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
        with th.no_grad():
            last_values = self.policy.predict_values(obs_as_tensor(new_obs, self.device))  # type: ignore[arg-type]
        buffer.compute_returns_and_advantage(last_values, dones)
        if values_at_limits:
            self.logger.record("rollout/value_at_limit", float(np.mean(values_at_limits)))
        clock.log(self.logger)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _values_at_limit(self, infos: list[dict[str, Any]], dones: np.ndarray) -> dict[int, th.Tensor]:
        """Environment -> value of what is seen where its episode is cut off, (1,); broken episodes have none."""
        values = {}
        for i, info in enumerate(infos):
            if dones[i] and info.get("TimeLimit.truncated") and not is_broken(info):
                with th.no_grad():
                    obs = self.policy.obs_to_tensor(info["terminal_observation"])[0]
                    values[i] = self.policy.predict_values(obs)[0]  # type: ignore[arg-type]
        return values

    def train(self) -> None:
        """Update critic and actor from the current roll-out, and save the run if it is time to."""
        is_warmup = self._n_iterations < self.critic_warmup_iterations
        self._log_iteration(is_warmup)
        with self._update() as update:
            if is_warmup:
                # counted as SB3 does it: n_epochs per roll-out
                self._n_updates += self.n_epochs
            else:
                if self.reference is not None:
                    update.score_reference(self.reference, self.rollout_buffer, all_choices=True)
                self._train_actor(update)
            if is_warmup or self.policy.has_own_critic:
                self._train_critic(update)

    def _train_actor(self, update: Update) -> None:
        """
        Passes over the roll-out with the loss of PPO; a critic that shares the actor's gradient learns along.

        L = - E[min(r A, clip(r, 1 - epsilon, 1 + epsilon) A)] + c_v E[(V - R)^2] - c_e E[H] + c_kl KL(policy, start)
        """
        progress = self._current_progress_remaining
        clip_range, clip_range_vf = self.clip_range(progress), self._clip_range_vf  # type: ignore[operator]
        mean, std = self._advantage_moments()
        for epoch in range(self.n_epochs):
            for minibatch in self.rollout_buffer.get(self.batch_size):
                # means of the minibatch divide by these; it may hold nothing but broken decisions
                n_samples = minibatch.is_counted.sum().clamp(min=1)
                n_tokens = minibatch.token_mask.sum().clamp(min=1)
                n_ratios = ratio_mask(minibatch.token_mask, self.ratio_level).sum().clamp(min=1)
                for part in minibatch.split(self.micro_batch_size):
                    scores = update.evaluate(part)
                    policy_loss = token_ppo_loss(
                        scores.log_prob,
                        part.old_log_prob,
                        (part.advantages - mean) / std,
                        part.token_mask,
                        clip_range,
                        self.ratio_level,
                        n_ratios,
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
                    if not self.policy.has_own_critic:
                        rows = part.is_counted
                        value_loss = clipped_value_loss(
                            scores.values[rows], part.old_values[rows], part.returns[rows], clip_range_vf, n_samples
                        )
                        loss = loss + self.vf_coef * value_loss
                        figures["value_loss"] = value_loss
                    update.backward(loss, {**figures, "loss": loss})
                if update.exceeds(self.target_kl):
                    update.drop()
                    self.logger.record("train/early_stop_epoch", epoch)
                    # as in SB3, the pass that was broken off counts
                    self._n_updates += 1
                    return
                update.apply("actor")
            self._n_updates += 1

    def _train_critic(self, update: Update) -> None:
        """Passes over what the critic read during the roll-out, with L = E[(V - R)^2]; the model is not run again."""
        buffer, policy = self.rollout_buffer, self.policy
        buffer.flatten()
        is_counted = buffer.is_counted
        inputs = buffer.extras[CRITIC_INPUTS][th.from_numpy(is_counted)].to(self.device).float()
        old_values, returns = (
            buffer.to_torch(array[is_counted]).flatten() for array in (buffer.values, buffer.returns)
        )
        if not len(inputs):
            return
        policy.observe_critic_inputs(inputs)
        for _ in range(self.critic_epochs):
            order = np.random.permutation(len(inputs))
            for start in range(0, len(order), self.batch_size):
                rows = th.as_tensor(order[start : start + self.batch_size], device=self.device)
                loss = clipped_value_loss(
                    policy.values_of(inputs[rows]), old_values[rows], returns[rows], self._clip_range_vf
                )
                update.backward(loss, {"value_loss": loss})
                update.apply("critic")

    def _advantage_moments(self) -> tuple[float, float]:
        """
        Mean and divisor of the advantages in the roll-out that are learned from.

        The divisor is their standard deviation, but at least ``min_advantage_std``. Where they vary less, the actor's
        learning rate falls in proportion, too, as Adam would make full steps of the smallest gradients.
        """
        advantages = self.rollout_buffer.advantages[self.rollout_buffer.is_counted]
        std = float(advantages.std(ddof=1)) if len(advantages) > 1 else 0.0
        self.logger.record("train/advantage_std", std)
        if not (self.normalize_advantage and len(advantages) > 1):
            return 0.0, 1.0
        if std < self.min_advantage_std:
            for group in self.policy.optimizer.param_groups:
                if group["name"] == "actor":
                    group["lr"] *= std / self.min_advantage_std
                    self.logger.record("train/learning_rate", group["lr"])
        return float(advantages.mean()), max(std, self.min_advantage_std, 1e-8)

    @property
    def _clip_range_vf(self) -> float | None:
        return None if self.clip_range_vf is None else self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]

    def _log_iteration(self, is_warmup: bool) -> None:
        is_counted = self.rollout_buffer.is_counted
        values = self.rollout_buffer.values[is_counted].flatten()
        returns = self.rollout_buffer.returns[is_counted].flatten()
        if len(values):
            self.logger.record("train/explained_variance", explained_variance(values, returns))
        self.logger.record("train/is_critic_warmup", int(is_warmup))
        self.logger.record("train/clip_range", self.clip_range(self._current_progress_remaining))  # type: ignore[operator]
        if self._clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", self._clip_range_vf)
