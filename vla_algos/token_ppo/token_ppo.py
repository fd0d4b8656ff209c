"""PPO on the action tokens of a vision-language-action model."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance

import vla_gym  # noqa: F401 - registers the environment ids
from vla_algos.common.buffers import TokenRolloutBuffer
from vla_algos.common.callbacks import TokenRolloutCallback
from vla_algos.common.losses import clipped_value_loss, masked_mean, ratio_mask, token_ppo_loss
from vla_algos.common.saving import SavedWithoutFrozenWeights
from vla_algos.common.type_aliases import RatioLevel, TokenRolloutBufferSamples
from vla_algos.errors import SpaceError
from vla_algos.policies import VLAPolicy


class _Clipping(NamedTuple):
    """Clip ranges of one call of ``train``."""

    policy: float
    value: float | None


class TokenPPO(SavedWithoutFrozenWeights, OnPolicyAlgorithm):
    """
    PPO on action tokens, as in VLA-RL, on SB3's own roll-outs.

    Reference: Lu et al. 2025 (https://arxiv.org/abs/2505.18719); defaults are the paper's where it gives them, else
    those of its released code.

    What differs from SB3's PPO: the buffer keeps one log-probability per token, the ratio acts on actions or on tokens,
    tokens of commands that were not executed do not count, the value head learns alone at first, a minibatch may be
    worked off in micro-batches, and an update with a non-finite loss or gradient is skipped and counted.

    Deviation from the released code: log-probabilities of the behaviour policy are those of sampling time, and time
    limits are bootstrapped, not treated as terminal.

    :param policy: "VLAPolicy" or a subclass of it
    :param env: environment, vector environment or id
    :param learning_rate: of the actor, a number or a function of the remaining progress
    :param value_learning_rate: of the value head, likewise; None: as the actor
    :param n_steps: decisions per environment and roll-out
    :param batch_size: decisions per gradient step
    :param n_epochs: passes over a roll-out
    :param gamma: discount per decision
    :param gae_lambda: lambda of GAE
    :param clip_range: of the ratio, a number or a function of the remaining progress
    :param clip_range_vf: of the value, likewise, in units of the return; None: no clipping
    :param normalize_advantage: zero mean and unit standard deviation within a minibatch
    :param ent_coef: weight of the mean entropy per token
    :param vf_coef: weight of the value loss
    :param max_grad_norm: gradients are scaled down to this norm
    :param target_kl: ends a ``train`` call before the step at which the estimate per ratio exceeds 1.5 times this
    :param ratio_level: "action" (product over the tokens) or "token"
    :param temperature: of sampling and of every ratio; greedy prediction does not depend on it
    :param critic_warmup_iterations: roll-outs at the start that train the value head only
    :param micro_batch_size: decisions per backward pass, gradients add up to those of the whole minibatch; None: all
    :param stats_window_size: episodes in the means of ``rollout/``
    :param tensorboard_log: folder for TensorBoard; None: none
    :param policy_kwargs: keywords of the policy, such as ``vla``
    :param verbose: 0 silent, 1 tables, 2 debug
    :param seed: of all generators
    :param device: of the model
    :param _init_setup_model: build the model now
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"VLAPolicy": VLAPolicy}
    policy: VLAPolicy  # type: ignore[assignment]
    rollout_buffer: TokenRolloutBuffer

    def __init__(
        self,
        policy: str | type[VLAPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 2e-5,
        value_learning_rate: float | Schedule | None = None,
        n_steps: int = 128,
        batch_size: int = 64,
        n_epochs: int = 1,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = 0.2,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 1.0,
        target_kl: float | None = None,
        ratio_level: RatioLevel = "action",
        temperature: float = 1.5,
        critic_warmup_iterations: int = 5,
        micro_batch_size: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=TokenRolloutBuffer,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.value_learning_rate = value_learning_rate
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.ratio_level = ratio_level
        self.temperature = temperature
        self.critic_warmup_iterations = critic_warmup_iterations
        self.micro_batch_size = micro_batch_size
        self._n_iterations = 0
        self._n_skipped_updates = 0
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        ratio_mask(
            th.ones(1, 1, dtype=th.bool), self.ratio_level
        )  # an unknown level is named here, not after a roll-out
        if not issubclass(self.policy_class, VLAPolicy):
            raise TypeError(f'TokenPPO works on action tokens and needs "VLAPolicy", not {self.policy_class.__name__}.')
        if "temperature" in self.policy_kwargs:
            raise ValueError("Pass temperature to TokenPPO, not in policy_kwargs: sampling and ratios share it.")
        if not isinstance(self.observation_space, spaces.Dict):
            raise SpaceError(
                f"Observation space is {self.observation_space}; expected the Dict of a vla_gym environment."
            )
        super()._setup_model()
        self.policy.temperature = self.temperature
        self.policy.token_level = True
        if self.env is not None:
            self.policy.check_env(self.env)
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callbacks = callback if isinstance(callback, list) else [callback]
        callbacks = [c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in callbacks]
        return super()._init_callback([TokenRolloutCallback(), *callbacks], progress_bar)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        if self.value_learning_rate is None:
            return
        learning_rate = FloatSchedule(self.value_learning_rate)(self._current_progress_remaining)
        for group in self.policy.optimizer.param_groups:
            if group["name"] == "value":
                group["lr"] = learning_rate
        self.logger.record("train/value_learning_rate", learning_rate)

    def train(self) -> None:
        """Update the policy from the current roll-out."""
        start = time.perf_counter()
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clipping = _Clipping(
            self.clip_range(progress),  # type: ignore[operator]
            None if self.clip_range_vf is None else self.clip_range_vf(progress),  # type: ignore[operator]
        )
        is_warmup = self._n_iterations < self.critic_warmup_iterations
        with self.policy.frozen_actor() if is_warmup else nullcontext():
            history = self._run_epochs(clipping, is_warmup)
        self._n_iterations += 1
        self._log_training(history, clipping, is_warmup)
        self.logger.record("time/train_seconds", time.perf_counter() - start)

    def _run_epochs(self, clipping: _Clipping, is_warmup: bool) -> dict[str, list[float]]:
        """All gradient steps of one ``train`` call; returns the figures of each minibatch."""
        history: dict[str, list[float]] = defaultdict(list)
        for epoch in range(self.n_epochs):
            for minibatch in self.rollout_buffer.get(self.batch_size):
                self.policy.optimizer.zero_grad()
                figures = self._accumulate_gradients(minibatch, clipping, is_warmup)
                for name, figure in figures.items():
                    history[name].append(figure)
                if self.target_kl is not None and figures.get("approx_kl", 0.0) > 1.5 * self.target_kl:
                    self.logger.record("train/early_stop_epoch", epoch)
                    self.policy.optimizer.zero_grad()
                    return history
                self._step(figures["loss"])
            self._n_updates += 1
        return history

    def _accumulate_gradients(
        self, minibatch: TokenRolloutBufferSamples, clipping: _Clipping, is_warmup: bool
    ) -> dict[str, float]:
        """Backward passes over the micro-batches, whose losses are weighted to add up to that of the minibatch."""
        advantages = minibatch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            minibatch = minibatch._replace(advantages=(advantages - advantages.mean()) / (advantages.std() + 1e-8))
        n_samples = len(minibatch.actions)
        n_tokens = minibatch.token_mask.sum()
        n_ratios = ratio_mask(minibatch.token_mask, self.ratio_level).sum()
        figures: dict[str, float] = defaultdict(float)
        for part in minibatch.split(self.micro_batch_size):
            if is_warmup:
                loss = th.zeros((), device=self.device)
                values = self.policy.predict_values(part.observations)
            else:
                values, log_probs, entropy = self.policy.evaluate_actions(part.observations, part.actions)
                policy_loss = token_ppo_loss(
                    log_probs,
                    part.old_log_prob,
                    part.advantages,
                    part.token_mask,
                    clipping.policy,
                    self.ratio_level,
                    n_ratios,
                )
                entropy_loss = -masked_mean(entropy, part.token_mask, n_tokens)
                loss = policy_loss.loss + self.ent_coef * entropy_loss
                figures["policy_gradient_loss"] += policy_loss.loss.item()
                figures["entropy_loss"] += entropy_loss.item()
                figures["approx_kl"] += policy_loss.approx_kl.item()
                figures["clip_fraction"] += policy_loss.clip_fraction.item()
                figures["ratio_deviation"] = max(figures["ratio_deviation"], policy_loss.ratio_deviation.item())
            value_loss = clipped_value_loss(values.flatten(), part.old_values, part.returns, clipping.value, n_samples)
            loss = loss + self.vf_coef * value_loss
            loss.backward()
            figures["value_loss"] += value_loss.item()
            figures["loss"] += loss.item()
        return figures

    def _step(self, loss: float) -> None:
        """Clip and apply the gradients, or drop them if anything is not finite."""
        grad_norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        if np.isfinite(loss) and th.isfinite(grad_norm):
            self.policy.optimizer.step()
        else:
            self.policy.optimizer.zero_grad()
            self._n_skipped_updates += 1

    def _log_training(self, history: dict[str, list[float]], clipping: _Clipping, is_warmup: bool) -> None:
        for name, figures in history.items():
            # before the first step the two policies are one, and any deviation is an error of decoding or scoring
            self.logger.record(f"train/{name}", figures[0] if name == "ratio_deviation" else float(np.mean(figures)))
        values, returns = self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten()
        self.logger.record("train/explained_variance", explained_variance(values, returns))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/skipped_updates", self._n_skipped_updates)
        self.logger.record("train/is_critic_warmup", int(is_warmup))
        self.logger.record("train/clip_range", clipping.policy)
        if clipping.value is not None:
            self.logger.record("train/clip_range_vf", clipping.value)

    def learn(  # noqa: D102 - inherited
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "TokenPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> TokenPPO:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
