"""What all algorithms share that improve a vision-language-action model by its own experience."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from stable_baselines3.common.utils import FloatSchedule, obs_as_tensor

import vla_gym  # noqa: F401 - registers the environment ids
from vla_algos.algorithms.resumable import ResumableAlgorithm
from vla_algos.algorithms.updates import Update
from vla_algos.common.buffers import TokenRolloutBuffer
from vla_algos.common.divergence import SkippedUpdates
from vla_algos.common.type_aliases import RatioLevel, UseBF16
from vla_algos.common.vec_env import announce_training, is_broken, seed_environments
from vla_algos.errors import ActorError, FixedSettingError, RandomWeightsWarning, SpaceError, UnknownNameError
from vla_algos.models.base import Sample, check_sample
from vla_algos.policies import ActorPolicy, VLAPolicy
from vla_algos.policies.reference import ReferenceWeights
from vla_algos.policies.saving import read_parameters

_NEEDED = {"ent_coef": ("has_entropy", "entropies"), "kl_coef": ("has_exact_kl", "distributions over all choices")}
"""Setting -> what a policy must have for it, and its name."""


class TokenAlgorithm(ResumableAlgorithm):
    """
    SB3's on-policy loop over action tokens, or whatever a policy has log-probabilities of. A subclass brings its
    roll-outs and ``train``.

    - Roll-outs keep the log-probability of every token at sampling time.
    - Gradients of a minibatch may be accumulated over micro-batches, in bfloat16.
    - An update whose loss or gradient is not finite is skipped and counted; three in a row end the run.
    - Runs are saved and go on as :class:`vla_algos.algorithms.resumable.ResumableAlgorithm` says.

    Keywords that all algorithms take:

    :param policy: "VLAPolicy", or a class of your own that derives from :class:`vla_algos.policies.ActorPolicy`
    :param env: environment, vector environment or id
    :param learning_rate: of the actor, a number or a function of the remaining progress
    :param max_grad_norm: gradients are scaled down to this norm
    :param temperature: of sampling and of all log-probabilities; greedy prediction does not depend on it
    :param micro_batch_size: decisions per backward pass, gradients add up to those of the whole minibatch; None: all
    :param use_bf16: run updates under autocast to bfloat16; weights and optimizer stay as they are; "auto":
        where the device has such arithmetic
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
    :raises SpaceError: if the environment does not take the model's actions, or does not show what the model reads
    :raises ActorError: if the policy lacks what a setting needs, such as entropies for ``ent_coef``
    :raises DiscountError: if a process reward in the environment has a ``gamma`` of its own, and it is another
    :raises CheckpointError: if the model's checkpoint is missing or damaged

    Keyword of those that can stay close to the policy that the run started from:

    :param kl_coef: weight of the mean KL(policy, that policy), exact over the bins, per token or summed over an
        action's tokens as the ratio is. Set to more than 0 later on, the policy of that moment is the one to stay close
        to. The roll-out then keeps the log-probabilities of all bins: 7 KiB per command in main memory, 57 MiB for 64
        environments with 128 decisions of one command
    """

    fixed_settings: ClassVar[frozenset[str]] = frozenset({"n_steps", "policy_kwargs", "seed"})
    """What cannot be changed once the algorithm is made; any other setting takes effect with the next roll-out."""
    unused_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings of SB3's loop or of related algorithms that this one does not use; setting them is refused."""
    schedules: ClassVar[frozenset[str]] = frozenset()
    """Settings beside the learning rate that may be numbers or functions of the remaining progress, or None."""
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"VLAPolicy": VLAPolicy}
    policy: ActorPolicy  # type: ignore[assignment]
    rollout_buffer: TokenRolloutBuffer

    def __init__(
        self,
        policy: str | type[ActorPolicy],
        env: GymEnv | str,
        *,
        temperature: float,
        kl_coef: float = 0.0,
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
        self.temperature = temperature
        self.kl_coef = kl_coef
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
        if not issubclass(self.policy_class, ActorPolicy):
            raise TypeError(
                f'{name} works on action tokens and needs "VLAPolicy", not {self.policy_class.__name__}. A policy of '
                "your own derives from vla_algos.policies.ActorPolicy."
            )
        if "temperature" in self.policy_kwargs:
            raise ValueError(f"Pass temperature to {name}, not in policy_kwargs: sampling and ratios share it.")
        if not isinstance(self.observation_space, spaces.Dict):
            raise SpaceError(
                f"Observation space is {self.observation_space}; expected the Dict of a vla_gym environment."
            )
        for setting in self.schedules:
            self._pass_on(setting)
        super()._setup_model()
        self.policy.temperature = self.temperature
        for setting in _NEEDED:
            self._check_setting(setting, getattr(self, setting))
        if self._has_reference:
            self.reference = ReferenceWeights(self.policy)
        if self.env is not None:
            self.policy.check_env(self.env)
            self._announce()

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
        """Set an attribute from now on, or refuse it; settings that others keep a copy of are passed on."""
        is_made = "policy" in vars(self)
        if is_made:
            if name in self.unused_settings:
                raise FixedSettingError(f"{name} is {value}, but {type(self).__name__} does not use it.")
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
        Make sure that a setting has an allowed value.

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
        if name in ("gamma", "time_limit") and "policy" in vars(self) and self.env is not None:
            self._announce(**{name: value})
        if name == "ratio_level" and value not in get_args(RatioLevel):
            raise UnknownNameError("ratio_level", value, get_args(RatioLevel))
        if name in _NEEDED and value and "policy" in vars(self):
            flag, what = _NEEDED[name]
            if not getattr(self.policy, flag):
                policy = type(self.policy).__name__
                raise ActorError(f"{name} is {value}, but {policy} has no {what} ({flag} is False). Set {name}=0.")

    def _pass_on(self, name: str) -> None:
        """Give a setting that was changed to those who keep a copy of it."""
        if name == "temperature":
            self.policy.temperature = self.temperature
        elif name == "learning_rate":
            self._setup_lr_schedule()
        elif name in self.schedules and not isinstance(getattr(self, name), FloatSchedule | None):
            setattr(self, name, FloatSchedule(getattr(self, name)))
        elif name in ("gamma", "gae_lambda") and isinstance(self.rollout_buffer, TokenRolloutBuffer):
            setattr(self.rollout_buffer, name, getattr(self, name))
        elif name == "kl_coef" and not self._has_reference:
            self.reference = None
        elif name == "kl_coef" and self.reference is None:
            self.reference = ReferenceWeights(self.policy)

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
            self.reference = ReferenceWeights(self.policy)

    def _start_anew(self) -> None:
        super()._start_anew()
        self._skipped_updates = SkippedUpdates()
        if self.reference is not None:
            self.reference = ReferenceWeights(self.policy)

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

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        setup = super()._setup_learn(*args, **kwargs)
        assert self.env is not None
        self.policy.record_training(self.env)
        # another algorithm may have trained in it meanwhile
        self._announce()
        return setup

    def _announce(self, **changed: Any) -> None:
        """
        Tell wrappers that make rewards the discount, and what a time limit is.

        :param changed: settings that are about to change
        """
        if "gamma" in self.unused_settings:
            return
        assert self.env is not None
        settings = {**vars(self), **changed}
        announce_training(self.env, settings["gamma"], settings.get("time_limit", "terminal") == "terminal")

    def _sample(self, obs: Mapping[str, np.ndarray]) -> tuple[TensorDict, Sample]:
        """Observations as tensors, and actions for them."""
        tensors: Any = obs_as_tensor(dict(obs), self.device)
        with th.no_grad():
            sample = self.policy.act(tensors, self.policy.temperature)
        check_sample(sample, len(next(iter(tensors.values()))))
        return tensors, sample

    def _executable(self, actions: np.ndarray) -> np.ndarray:
        """As in SB3, an action out of bounds is clipped for the environment, and learned from as it is."""
        if isinstance(self.action_space, spaces.Box):
            return np.clip(actions, self.action_space.low, self.action_space.high)
        return actions

    def _executed(self, log_prob: th.Tensor, infos: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """
        Tell which log-probabilities belong to what was carried out: none where the episode broke.

        :param log_prob: of the actions, (N, A)
        :param infos: of the step, N; ``executed_steps``: commands carried out (missing: all)
        :return: (N, A) bool
        """
        mask = np.ones(log_prob.shape, dtype=bool)
        told = [i for i, info in enumerate(infos) if info.get("executed_steps") is not None]
        if told:
            known = self.policy.action_mask(th.tensor([int(infos[i]["executed_steps"]) for i in told]))
            if known.shape != mask[told].shape:
                raise ActorError(
                    f"action_mask gave shape {tuple(known.shape)} for {len(told)} actions; act gave "
                    f"{mask.shape[1]} log-probabilities each. Expected {mask[told].shape}."
                )
            mask[told] = known.cpu().numpy()
        mask[[is_broken(info) for info in infos]] = False
        return mask

    @contextmanager
    def _update(self) -> Iterator[Update]:
        """
        What surrounds the gradient steps of an iteration: learning rate before, log and checkpoint after them.

        :return: context manager of the steps
        """
        start = time.perf_counter()
        # as in the roll-out: dropout in adapters would be a difference between the two that is none
        self.policy.set_training_mode(False)
        # what acting keeps on a GPU would be missing here
        self.policy.release_caches()
        self._update_learning_rate(self.policy.optimizer)
        update = Update(
            self.policy, self.max_grad_norm, self.micro_batch_size, self.use_bf16, skipped=self._skipped_updates
        )
        yield update
        for name, figures in update.history.items():
            # before the first step the two policies are one, and any deviation is an error of decoding or scoring
            self.logger.record(f"train/{name}", figures[0] if name == "ratio_deviation" else float(np.mean(figures)))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/skipped_updates", self._skipped_updates.total)
        self.logger.record("time/train_seconds", time.perf_counter() - start)
        self._finish_iteration()
