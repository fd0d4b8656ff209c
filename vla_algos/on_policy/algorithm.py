"""What the algorithms share that improve a vision-language-action model by its own experience."""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule

import vla_gym  # noqa: F401 - registers the environment ids
from vla_algos.common.buffers import TokenRolloutBuffer
from vla_algos.common.devices import computes_in_bf16
from vla_algos.common.divergence import SkippedUpdates
from vla_algos.common.losses import PolicyLoss, exact_kl, masked_mean, ratio_mask, token_ppo_loss
from vla_algos.common.type_aliases import RatioLevel, TokenRolloutBufferSamples, UseBF16
from vla_algos.common.vec_env import is_broken, seed_environments
from vla_algos.errors import FixedSettingError, RandomWeightsWarning, SpaceError
from vla_algos.on_policy.loop import ResumableAlgorithm
from vla_algos.policies import VLAPolicy
from vla_algos.policies.reference import ReferenceWeights
from vla_algos.policies.saving import read_parameters
from vla_algos.policies.vla_policy import FEATURES
from vla_gym.actions.tokenizer import N_BINS

REFERENCE_LOG_PROB = "reference_log_prob"
"""Of each token that was chosen, (N, A)."""
REFERENCE_LOG_PROBS = "reference_log_probs"
"""Of every bin in the place of each token, (N, A, 256)."""


class TokenOnPolicyAlgorithm(ResumableAlgorithm):
    """
    SB3's on-policy loop over action tokens; what a subclass adds is where advantages come from.

    - Roll-outs keep the log-probability of every token at sampling time.
    - Gradients of a minibatch may be accumulated over micro-batches, in bfloat16.
    - An update whose loss or gradient is not finite is skipped and counted; three in a row end the run.
    - Runs are saved and go on as :class:`vla_algos.on_policy.loop.ResumableAlgorithm` says.

    :param ratio_level: "action" (product over the tokens) or "token"
    :param clip_range: of the ratio
    :param kl_coef: weight of KL(policy, policy that the run started from), exact over the bins, per token or summed
        over an action's tokens as the ratio is. Set to more than 0 later on, the policy of that moment is the one to
        stay close to. The roll-out then keeps the log-probabilities of all bins: 7 KiB per
        command in main memory, 57 MiB for 64 environments with 128 decisions of one command
    """

    fixed_settings: ClassVar[frozenset[str]] = frozenset({"n_steps", "policy_kwargs", "seed"})
    """What cannot be changed once the algorithm is made; any other setting takes effect with the next roll-out."""
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"VLAPolicy": VLAPolicy}
    policy: VLAPolicy  # type: ignore[assignment]
    rollout_buffer: TokenRolloutBuffer

    def __init__(
        self,
        policy: str | type[VLAPolicy],
        env: GymEnv | str,
        *,
        batch_size: int,
        n_epochs: int,
        clip_range: float | Schedule,
        ratio_level: RatioLevel,
        temperature: float,
        kl_coef: float,
        target_kl: float | None,
        micro_batch_size: int | None,
        use_bf16: UseBF16,
        checkpoint_folder: str | Path | None,
        checkpoint_interval: int,
        buffer_class: type = TokenRolloutBuffer,
        _init_setup_model: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=buffer_class,
            checkpoint_folder=checkpoint_folder,
            checkpoint_interval=checkpoint_interval,
            _init_setup_model=False,
            **kwargs,
        )
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.ratio_level = ratio_level
        self.temperature = temperature
        self.kl_coef = kl_coef
        self.target_kl = target_kl
        self.micro_batch_size = micro_batch_size
        self.use_bf16 = use_bf16
        self.reference: ReferenceWeights | None = None
        self._skipped_updates = SkippedUpdates()
        if _init_setup_model:
            self._setup_model()
            # not where a saved run is loaded, whose weights come later
            self._warn_of_random_weights()

    def _warn_of_random_weights(self) -> None:
        if self.policy.is_preset:
            warnings.warn(
                f"{type(self).__name__} trains the preset {self.policy_kwargs.get('vla', 'compact')!r} from random "
                "weights, which hardly ever succeed. Begin with a checkpoint, such as "
                "policy_kwargs={'vla': 'compact-libero-goal'} or what BC has trained; where random weights are meant, "
                "say warnings.simplefilter('ignore', vla_algos.errors.RandomWeightsWarning).",
                RandomWeightsWarning,
                stacklevel=4,
            )

    def _setup_model(self) -> None:
        name = type(self).__name__
        for setting, value in list(vars(self).items()):
            self._check_setting(setting, value)
        if not issubclass(self.policy_class, VLAPolicy):
            raise TypeError(f'{name} works on action tokens and needs "VLAPolicy", not {self.policy_class.__name__}.')
        if "temperature" in self.policy_kwargs:
            raise ValueError(f"Pass temperature to {name}, not in policy_kwargs: sampling and ratios share it.")
        if not isinstance(self.observation_space, spaces.Dict):
            raise SpaceError(
                f"Observation space is {self.observation_space}; expected the Dict of a vla_gym environment."
            )
        self.clip_range = FloatSchedule(self.clip_range)
        super()._setup_model()
        self.policy.temperature = self.temperature
        self.policy.token_level = True
        if self._has_reference:
            self.reference = ReferenceWeights(self.policy.vla)
        if self.env is not None:
            self.policy.check_env(self.env)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        As SB3's; environments that do not fit the model are refused here, too.

        :param env: environment or vector environment
        :param force_reset: whether the next roll-out resets it
        :raises SpaceError: if they do not fit
        """
        wrapped = self._wrap_env(env, self.verbose)
        self.policy.check_env(wrapped)
        super().set_env(wrapped, force_reset)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what is to hold from now on, or refuse it; what others keep a copy of is passed on."""
        is_made = "policy" in vars(self)
        if is_made:
            if name in self.fixed_settings:
                raise FixedSettingError(
                    f"{name} of {type(self).__name__} cannot be changed to {value}: it is {getattr(self, name, None)} "
                    f"since the model was made. Make a new one, or save it and call load(path, env, {name}={value})."
                )
            self._check_setting(name, value)
        super().__setattr__(name, value)
        if is_made:
            self._pass_on(name)

    def _check_setting(self, name: str, value: Any) -> None:
        """
        Make sure that a setting can be what it shall be.

        :param name: of any attribute
        :param value: its value
        :raises ValueError: if it cannot
        """
        if name in ("checkpoint_interval", "n_epochs", "batch_size") and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1.")
        if name == "temperature" and not 0.0 < value < float("inf"):
            raise ValueError(f"temperature is {value}; expected a number above 0.")
        if name == "kl_coef" and not 0.0 <= value < float("inf"):
            raise ValueError(f"kl_coef is {value}; expected a number from 0 on.")
        if name == "ratio_level":
            # an unknown level is named here, not after a roll-out
            ratio_mask(th.ones(1, 1, dtype=th.bool), value)

    def _pass_on(self, name: str) -> None:
        """Give a setting that was changed to those who keep a copy of it."""
        if name == "temperature":
            self.policy.temperature = self.temperature
        elif name == "learning_rate":
            self._setup_lr_schedule()
        elif name == "clip_range" and not isinstance(self.clip_range, FloatSchedule):
            self.clip_range = FloatSchedule(self.clip_range)
        elif name in ("gamma", "gae_lambda") and isinstance(self.rollout_buffer, TokenRolloutBuffer):
            setattr(self.rollout_buffer, name, getattr(self, name))
        elif name == "kl_coef" and not self._has_reference:
            self.reference = None
        elif name == "kl_coef" and self.reference is None:
            self.reference = ReferenceWeights(self.policy.vla)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "reference"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return [*state_dicts, *(["reference"] if self._has_reference else [])], tensors

    def set_parameters(  # type: ignore[override]  # noqa: D102 - inherited
        self,
        load_path_or_dict: str | dict[str, dict[str, Any]],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        parameters = read_parameters(load_path_or_dict, device)
        is_missing = "reference" not in parameters
        if self.reference is not None and is_missing:
            # a run that was saved without one gets the policy that it goes on from
            parameters = {**parameters, "reference": self.reference.state_dict()}
        if self.reference is None:
            # nor does a run that needs none take one
            parameters = {name: part for name, part in parameters.items() if name != "reference"}
        super().set_parameters(parameters, exact_match, device)
        if self.reference is not None and is_missing:
            self.reference = ReferenceWeights(self.policy.vla)

    def _start_anew(self) -> None:
        super()._start_anew()
        self._skipped_updates = SkippedUpdates()
        if self.reference is not None:
            self.reference = ReferenceWeights(self.policy.vla)

    @property
    def _has_reference(self) -> bool:
        """Whether the policy that the run started from is part of the loss."""
        return self.kl_coef > 0.0

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        As SB3's; but environments of different seeds have nothing in common.

        :param seed: of all generators; None: leave them
        """
        super().set_random_seed(seed)
        if seed is not None and self.env is not None:
            seed_environments(self.env, seed)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # the last iteration may go beyond the end; a schedule would make negative learning rates of that
        self._current_progress_remaining = max(0.0, self._current_progress_remaining)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        # a broken episode is no failure, so it does not count in the success rate
        whole = [{**info, "is_success": None} if is_broken(info) else info for info in infos]
        super()._update_info_buffer(whole, dones)

    def train(self) -> None:
        """Update the policy from the current roll-out, and save the run if it is time to."""
        start = time.perf_counter()
        # as in the roll-out: dropout in adapters would be a difference between the two that is none
        self.policy.set_training_mode(False)
        # what decoding keeps on a GPU would be missing here
        self.policy.vla.release_steps()
        self._update_learning_rate(self.policy.optimizer)
        history = self._update()
        for name, figures in history.items():
            if not figures:
                continue
            # before the first step the two policies are one, and any deviation is an error of decoding or scoring
            self.logger.record(f"train/{name}", figures[0] if name == "ratio_deviation" else float(np.mean(figures)))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/skipped_updates", self._skipped_updates.total)
        self.logger.record("time/train_seconds", time.perf_counter() - start)
        self._finish_iteration()

    @abstractmethod
    def _update(self) -> dict[str, list[float]]:
        """All gradient steps of one iteration; returns the figures of each minibatch."""

    def _minibatches(self) -> Iterator[TokenRolloutBufferSamples]:
        yield from self.rollout_buffer.get(self.batch_size)

    def _run_epochs(self) -> dict[str, list[float]]:
        """Passes over the roll-out that train the actor, and the critic if it shares the actor's gradient."""
        history: dict[str, list[float]] = defaultdict(list)
        for epoch in range(self.n_epochs):
            for minibatch in self._minibatches():
                self.policy.optimizer.zero_grad()
                figures = self._accumulate_gradients(minibatch)
                for name, figure in figures.items():
                    history[name].append(figure)
                # a loss that is not finite is counted, not taken for a KL that is too large
                is_finite = np.isfinite(figures["loss"])
                if is_finite and self.target_kl is not None and figures.get("approx_kl", 0.0) > 1.5 * self.target_kl:
                    self.logger.record("train/early_stop_epoch", epoch)
                    self.policy.optimizer.zero_grad()
                    # as in SB3, the pass that was broken off counts
                    self._n_updates += 1
                    return history
                self._step(figures["loss"])
            self._n_updates += 1
        return history

    def _accumulate_gradients(self, minibatch: TokenRolloutBufferSamples) -> dict[str, float]:
        """Backward passes over the micro-batches, whose losses are weighted to add up to that of the minibatch."""
        n_samples = minibatch.is_counted.sum().clamp(min=1)
        # a small minibatch may hold nothing but broken decisions
        n_tokens = minibatch.token_mask.sum().clamp(min=1)
        n_ratios = ratio_mask(minibatch.token_mask, self.ratio_level).sum().clamp(min=1)
        figures: dict[str, float] = defaultdict(float)
        for part in minibatch.split(self.micro_batch_size):
            values, log_probs, entropy, *bin_log_probs = self._evaluate(part)
            policy_loss = self._policy_loss(log_probs, part, n_ratios)
            entropy_loss = -masked_mean(entropy, part.token_mask, n_tokens)
            loss = policy_loss.loss + self.ent_coef * entropy_loss
            if self.kl_coef:
                reference = part.memory[REFERENCE_LOG_PROBS]
                kl_loss = exact_kl(bin_log_probs[0], reference, part.token_mask, self.ratio_level, n_ratios)
                loss = loss + self.kl_coef * kl_loss
                figures["reference_kl"] += kl_loss.item()
            value_loss = self._value_loss(part, values.flatten(), n_samples)
            if value_loss is not None:
                loss = loss + self.vf_coef * value_loss
                figures["value_loss"] += value_loss.item()
            loss.backward()  # type: ignore[no-untyped-call]
            figures["policy_gradient_loss"] += policy_loss.loss.item()
            figures["entropy_loss"] += entropy_loss.item()
            figures["approx_kl"] += policy_loss.approx_kl.item()
            figures["clip_fraction"] += policy_loss.clip_fraction.item()
            figures["ratio_deviation"] = max(figures["ratio_deviation"], policy_loss.ratio_deviation.item())
            figures["loss"] += loss.item()
        return figures

    def _policy_loss(self, log_probs: th.Tensor, part: TokenRolloutBufferSamples, n_ratios: th.Tensor) -> PolicyLoss:
        """Share of a micro-batch in the loss of ``n_ratios`` ratios."""
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        return token_ppo_loss(
            log_probs, part.old_log_prob, part.advantages, part.token_mask, clip_range, self.ratio_level, n_ratios
        )

    def _value_loss(self, part: TokenRolloutBufferSamples, values: th.Tensor, n_samples: th.Tensor) -> th.Tensor | None:
        """Share of a micro-batch in the value loss of ``n_samples``; None where values are not learned with it."""
        return None

    def _evaluate(self, part: TokenRolloutBufferSamples) -> tuple[th.Tensor, ...]:
        """Values, log-probabilities and entropies; with a weight on the KL those of all bins, too."""
        evaluate = self.policy.evaluate_bins if self.kl_coef else self.policy.evaluate_actions
        with self._autocast():
            return evaluate(_observations(part), part.actions)

    def _autocast(self) -> th.autocast:
        return th.autocast(self.device.type, th.bfloat16, enabled=computes_in_bf16(self.use_bf16, self.device))

    @property
    def _scoring_batch_size(self) -> int:
        """Decisions per pass where the loss does not set it."""
        return self.micro_batch_size or 64

    def _remember_reference(self, rows: np.ndarray | None = None) -> None:
        """Score all bins by the policy that the run started from, of all samples by default, if the loss needs it."""
        if self.reference is not None:
            self._remember_output(REFERENCE_LOG_PROBS, 3, rows)

    def _remember_scores(self, rows: np.ndarray | None = None) -> None:
        """Score samples, all by default, by the policy that the run started from, or without it by the current one."""
        self._remember_output(REFERENCE_LOG_PROB, 1, rows)

    def _remember_output(self, name: str, which: int, rows: np.ndarray | None) -> None:
        """Keep one of the outputs of ``_evaluate``."""
        buffer = self.rollout_buffer
        buffer.flatten()
        rows = np.arange(len(buffer.actions)) if rows is None else np.unique(rows)
        shape = (*buffer.actions.shape, N_BINS) if name == REFERENCE_LOG_PROBS else buffer.actions.shape
        log_probs = th.zeros(shape, dtype=th.float32)
        size = self._scoring_batch_size
        with th.no_grad() if self.reference is None else self.reference.put_into(self.policy.vla):
            for start in range(0, len(rows), size):
                chosen = rows[start : start + size]
                log_probs[th.from_numpy(chosen)] = self._evaluate(buffer.samples(chosen))[which].cpu()
        buffer.memory[name] = log_probs

    def _step(self, loss: float, what: str = "actor") -> None:
        """Clip and apply the gradients, or drop them if anything is not finite; three times in a row is too often."""
        grad_norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        if self._skipped_updates.accepts(loss, grad_norm.item(), what):
            self.policy.optimizer.step()
        else:
            self.policy.optimizer.zero_grad()


def _observations(part: TokenRolloutBufferSamples) -> Any:
    """What the policy is to look at: encoded images where they were remembered."""
    return {**part.observations, **{key: part.memory[key] for key in (FEATURES,) if key in part.memory}}
