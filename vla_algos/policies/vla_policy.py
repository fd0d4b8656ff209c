"""A vision-language-action model as an SB3 policy: for TokenPPO, and for SB3's own PPO and A2C."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule, TensorDict
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from vla_algos.errors import CheckpointError, ModelInputError, SpaceError, UnknownNameError
from vla_algos.models.decoding import DecodedActions
from vla_algos.models.hub import load_vla
from vla_algos.models.lora import add_lora, is_merged
from vla_algos.models.openvla.config import PRESETS
from vla_algos.models.openvla.model import OpenVLA
from vla_algos.policies.critics import PrivilegedCritic
from vla_algos.policies.spaces import (
    check_not_normalized,
    check_observation_space,
    chunk_size_of,
    privileged_dim,
    spaces_of,
)
from vla_gym.actions.statistics import choose_data_set
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.instructions import decode_instruction
from vla_gym.spec import INSTRUCTION, PRIVILEGED, PROPRIO

FEATURES = "vision_features"
"""Encoded images, where a roll-out remembers them."""
CRITIC_INPUTS = "critic_inputs"
"""What the critic reads: hidden states or privileged observations."""

CriticInput = Literal["shared", "privileged"]


class VLAPolicy(BasePolicy):
    """
    Actor and critic: in one model, or with a critic of its own.

    ``critic="shared"`` reads values from the model's hidden state, and is what a real robot can have. With
    ``critic="privileged"`` a small network reads the observation's ``privileged`` entry, which only a simulator has
    (``gym.make(..., privileged_obs=True)``); the actor never sees it. ``TokenPPO`` normalises its inputs, SB3's own
    algorithms take them as they are.

    Observations are dictionaries with the images of the model's cameras, ``agentview`` as a rule (uint8, channels first
    or last), ``instruction`` (UTF-8 bytes) and, if the model takes it, ``proprio``; other keys are ignored. N rows, A
    tokens per action.

    Log-probabilities and entropies are sums over an action's tokens, (N,), as SB3's algorithms expect. An algorithm
    that works on tokens sets ``token_level = True`` and gets them per token, (N, A).

    The optimizer has two parameter groups, ``name`` "actor" and "value". SB3's own algorithms give both the same
    learning rate.

    :param observation_space: see above
    :param action_space: ``MultiDiscrete([256] * 7 * chunk_size)``
    :param lr_schedule: learning rate as a function of the remaining progress
    :param use_sde: must be False; SB3's algorithms pass it
    :param vla: preset, checkpoint folder or Hugging Face id; a preset takes the action space's chunk size, a checkpoint
        must match it
    :param vla_kwargs: further keywords of :func:`vla_algos.models.load_vla`
    :param temperature: of sampled actions and of all log-probabilities; greedy actions do not depend on it
    :param critic: "shared" or "privileged"
    :param critic_kwargs: keywords of :class:`vla_algos.policies.critics.PrivilegedCritic`
    :param detach_value: whether the shared value's gradient stops before the backbone; None: as the model says
    :param freeze_vision: leave the vision towers as they are; an algorithm may then encode each image once
    :param gradient_checkpointing: compute activations again in backward passes: more time, less memory
    :param seed: makes the fresh weights of a preset reproducible; None: torch's generator decides
    :param norm_stats: action statistics of the data that the model is trained on; None: those of the checkpoint
    :param unnorm_key: data set of the statistics that hold; None: the only one, or that of the environment's suite
    :param lora: train adapters instead of the model: keywords of :func:`vla_algos.models.lora.add_lora`, which may be
        empty; None: train the model
    :param optimizer_class: the optimizer
    :param optimizer_kwargs: its keywords without the learning rate; None: epsilon 1e-5 and no weight decay for AdamW
    :raises SpaceError: if a space does not fit the model, or ``use_sde`` is asked for
    :raises UnknownNameError: if there is no such model, critic, field of a preset or target of adapters
    :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture, or shall be changed
    :raises DeviceError: if the device that ``vla_kwargs`` names is not there, or has too little memory
    :raises MissingPackageError: if adapters are asked for and peft is not installed
    """

    observation_space: spaces.Dict

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        use_sde: bool = False,
        vla: str | Path = "compact",
        vla_kwargs: dict[str, Any] | None = None,
        temperature: float = 1.0,
        critic: CriticInput = "shared",
        critic_kwargs: dict[str, Any] | None = None,
        detach_value: bool | None = None,
        freeze_vision: bool = False,
        gradient_checkpointing: bool = False,
        seed: int | None = None,
        norm_stats: dict[str, Any] | None = None,
        unnorm_key: str | None = None,
        lora: dict[str, Any] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if use_sde:
            raise SpaceError("use_sde=True needs continuous actions; action tokens are discrete. Pass use_sde=False.")
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 1e-5, "weight_decay": 0.0} if optimizer_class is th.optim.AdamW else {}
        super().__init__(
            observation_space,
            action_space,
            normalize_images=False,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        if critic not in get_args(CriticInput):
            raise UnknownNameError("critic", critic, get_args(CriticInput))
        chunk_size = chunk_size_of(action_space)
        self._init_kwargs = {
            "vla": vla,
            "vla_kwargs": vla_kwargs,
            "critic": critic,
            "critic_kwargs": critic_kwargs,
            "detach_value": detach_value,
            "freeze_vision": freeze_vision,
            "gradient_checkpointing": gradient_checkpointing,
            "seed": seed,
            "norm_stats": norm_stats,
            "unnorm_key": unnorm_key,
            "lora": lora,
        }
        self.unnorm_key = unnorm_key
        self.temperature = temperature
        self.token_level = False
        self.decoded_at = self.decoding_seconds = 0.0
        """When the last ``forward`` ended, as ``time.perf_counter`` counts, and what it took (s)."""
        self.memory: dict[str, th.Tensor] = {}
        """What the last ``forward`` computed that training can use again: ``FEATURES``, ``CRITIC_INPUTS``; (N, ...)."""
        self.vla = _load_vla(
            vla,
            {"seed": seed, **(vla_kwargs or {})},
            chunk_size,
            detach_value=detach_value,
            norm_stats=norm_stats,
            lora=lora,
        )
        self.vla.gradient_checkpointing = gradient_checkpointing
        self.freeze_vision = freeze_vision
        if freeze_vision:
            self.vla.vision_backbone.requires_grad_(False)
        self._is_channels_last = check_observation_space(self.observation_space, self.vla.config)
        self.critic: PrivilegedCritic | None = None
        if critic == "privileged":
            self.vla.value_head.requires_grad_(False)
            self.critic = PrivilegedCritic(privileged_dim(self.observation_space), **(critic_kwargs or {})).to(
                self.vla.device
            )
        self.setup_optimizer(lr_schedule(1))
        _warn_of_rounding(self.parameters())

    @classmethod
    def from_checkpoint(cls, vla: str | Path, env: gym.Env | VecEnv | None = None, **kwargs: Any) -> VLAPolicy:
        """
        Make a policy that acts and does not learn: to ``predict``, to be evaluated or filmed.

        :param vla: shipped checkpoint, checkpoint folder, Hugging Face id or preset
        :param env: where it acts, made with ``**env_kwargs(vla)``; only its spaces and its tokenizer are read. None:
            the spaces of the checkpoint, see :func:`vla_algos.policies.spaces_of`
        :param kwargs: further keywords of the policy, such as ``unnorm_key``, and ``temperature``: by default, and for
            None, that of the checkpoint's training
        :return: the policy, on the CPU unless ``vla_kwargs`` names a device
        :raises SpaceError: if the environment does not fit the model, or decodes bins by other action statistics
        :raises UnknownNameError: if there is no such model or no such data set, or several and none is named
        :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture
        :raises DeviceError: if the device is not there, or has too little memory
        """
        temperature = kwargs.pop("temperature", None)
        venv = DummyVecEnv([lambda: env]) if isinstance(env, gym.Env) else env
        if venv is None:
            vla_kwargs = kwargs.get("vla_kwargs") or {}
            changes = {key: vla_kwargs[key] for key in ("revision", "config_changes") if key in vla_kwargs}
            own_spaces: tuple[spaces.Space, spaces.Space] = spaces_of(vla, **changes)
        else:
            own_spaces = (venv.observation_space, venv.action_space)
        policy = cls(*own_spaces, cls._dummy_schedule, vla=vla, **kwargs)
        policy.temperature = policy.vla.record.temperature if temperature is None else temperature
        if venv is not None:
            policy.check_env(venv)
        return policy

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """
        As torch's. Adapters that are merged would be added once more where it is loaded.

        :param args: as torch's
        :param kwargs: as torch's
        :return: name -> tensor
        :raises CheckpointError: if adapters are merged into the model
        """
        self._check_unmerged()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """
        As torch's.

        :param args: as torch's
        :param kwargs: as torch's
        :return: as torch's
        :raises CheckpointError: if adapters are merged into the model
        """
        self._check_unmerged()
        return super().load_state_dict(*args, **kwargs)

    def _check_unmerged(self) -> None:
        if is_merged(self.vla):
            raise CheckpointError(
                "The adapters are merged into the model. Call unmerge_adapters(policy.vla) before saving or loading."
            )

    def setup_optimizer(self, learning_rate: float) -> None:
        """
        Make a new optimizer for the parameters that learn. Call it after wrapping the model, such as by adapters or
        FSDP2's ``fully_shard``, which replace parameters.

        :param learning_rate: of both parameter groups
        """
        groups: dict[str, list[th.nn.Parameter]] = {"actor": [], "value": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["value" if name.startswith(("vla.value_head.", "critic.")) else "actor"].append(parameter)
        self.optimizer: th.optim.Optimizer = self.optimizer_class(  # type: ignore[call-arg]
            [{"params": parameters, "name": name} for name, parameters in groups.items()],
            lr=learning_rate,
            **self.optimizer_kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            # as in SB3, a schedule may not be picklable and is not needed to predict
            "lr_schedule": self._dummy_schedule,
            "temperature": self.temperature,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            **self._init_kwargs,
        }

    @property
    def vla_name(self) -> str:
        """Preset, shipped checkpoint, folder or Hugging Face id that the policy was made from."""
        return str(self._init_kwargs["vla"])

    @property
    def action_tokenizer(self) -> ActionTokenizer:
        """What the bins mean: by the model's action statistics, else over the controller's whole range."""
        record = self.vla.record
        return ActionTokenizer.from_checkpoint_stats(
            record.norm_stats, self.unnorm_key, source=record.statistics_file or ""
        )

    def check_env(self, env: VecEnv) -> None:
        """
        Make sure that an environment means by bins and observations what the model means.

        Of several action statistics those of the environment's suite hold from here on, unless ``unnorm_key`` is given.

        :param env: with all wrappers; environments without an ``action_tokenizer`` pass
        :raises SpaceError: if they decode bins by other statistics, or normalise what the model reads
        :raises UnknownNameError: if the model has several action statistics and none are the suite's
        """
        check_not_normalized(env, self.vla.config)
        if not env.has_attr("action_tokenizer"):
            return
        if self.unnorm_key is None and env.has_attr("suite"):
            suite = getattr(env.get_attr("suite")[0], "env_id", None)
            self.unnorm_key = choose_data_set(self.vla.record.norm_stats, suite=suite)
            self._init_kwargs["unnorm_key"] = self.unnorm_key
        if not self.action_tokenizer.agrees_with(env.get_attr("action_tokenizer")[0]):
            raise SpaceError(
                "The environment decodes bins by other action statistics than the model was trained with. "
                "Make it with action_tokenizer=ActionTokenizer.from_checkpoint(<folder of the model>)."
            )

    def model_inputs(self, obs: TensorDict) -> dict[str, Any]:
        """
        Observations as the model's keyword arguments.

        :param obs: per key (N, ...)
        :return: ``images`` (N, 3 * cameras, H, W) uint8, or (N, patches, channels) where ``obs`` has ``FEATURES``;
            ``instructions`` N texts; ``proprio`` (N, dim) float32 or None
        """
        images = obs[FEATURES] if FEATURES in obs else self._images(obs)
        rows = obs[INSTRUCTION].to("cpu", th.uint8).numpy()
        return {
            "images": images,
            "instructions": [_decode(row.tobytes()) for row in rows],
            "proprio": obs[PROPRIO].float() if self.vla.config.proprio_dim else None,
        }

    def _images(self, obs: TensorDict) -> th.Tensor:
        views = [obs[camera] for camera in self.vla.config.cameras]
        if self._is_channels_last:
            views = [view.permute(0, 3, 1, 2) for view in views]
        return views[0] if len(views) == 1 else th.cat(views, dim=1)

    @property
    def is_preset(self) -> bool:
        """Whether the model was made with random weights, not loaded from a checkpoint."""
        return str(self._init_kwargs["vla"]) in PRESETS

    @property
    def has_own_critic(self) -> bool:
        """Whether values can be learned without the actor: they share no gradient."""
        return self.critic is not None or self.vla.detach_value

    def critic_values(self, inputs: th.Tensor) -> th.Tensor:
        """
        Values from what the critic reads, with gradients.

        :param inputs: (N, D): privileged observations or hidden states, see :attr:`memory`
        :return: (N,) float32
        """
        return self.vla.values_of(inputs) if self.critic is None else self.critic(inputs)

    def forward(self, obs: TensorDict, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Choose actions.

        :param obs: per key (N, ...)
        :param deterministic: greedy instead of sampled
        :return: bins (N, A) int64, values (N, 1), log-probabilities (N,), or (N, A) if ``token_level``
        """
        start = time.perf_counter()
        self.memory = {}
        if self.freeze_vision:
            obs = {**obs, FEATURES: self.vla.encode_images(self._images(obs))}
            self.memory[FEATURES] = obs[FEATURES]
        decoded = self._decode(obs, deterministic)
        values = decoded.values
        self.memory[CRITIC_INPUTS] = decoded.hidden if self.critic is None else obs[PRIVILEGED].float()
        if self.has_own_critic:
            values = self.critic_values(self.memory[CRITIC_INPUTS])
        self.decoded_at = time.perf_counter()
        self.decoding_seconds = self.decoded_at - start
        return decoded.bins, values.unsqueeze(1), self._per_action(decoded.log_probs)

    def evaluate_actions(self, obs: TensorDict, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Judge actions that were taken, with gradients.

        :param obs: per key (N, ...)
        :param actions: bins (N, A), any number type
        :return: values (N, 1), log-probabilities and entropies (N,), or (N, A) if ``token_level``
        """
        return self.evaluate_bins(obs, actions)[:3]

    def evaluate_bins(self, obs: TensorDict, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """
        Judge actions that were taken, and what could have been taken in their place, with gradients.

        :param obs: per key (N, ...)
        :param actions: bins (N, A), any number type
        :return: as ``evaluate_actions``, and log-probabilities of all bins in the place of each token (N, A, 256)
        """
        scored = self.vla.score_actions(**self.model_inputs(obs), bins=actions.long(), temperature=self.temperature)
        values = scored.values if self.critic is None else self.critic(obs[PRIVILEGED])
        log_probs, entropy = self._per_action(scored.log_probs), self._per_action(scored.entropy)
        return values.unsqueeze(1), log_probs, entropy, scored.bin_log_probs

    def predict_values(self, obs: TensorDict) -> th.Tensor:
        """
        Values of observations, with gradients.

        :param obs: per key (N, ...)
        :return: (N, 1) float32
        """
        if self.critic is not None:
            return self.critic(obs[PRIVILEGED]).unsqueeze(1)
        return self.vla.predict_values(**self.model_inputs(obs)).unsqueeze(1)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        As SB3's, from the entries that the actor reads; others are ignored, such as those of a robot or a critic.

        :param observation: one observation or N of them, per key
        :param state: as SB3's; not used
        :param episode_start: as SB3's; not used
        :param deterministic: greedy instead of sampled
        :return: bins (A,) or (N, A), and ``state``
        :raises ModelInputError: if the observation is no dictionary or lacks an entry that the model reads
        """
        needed = self.actor_keys
        if not isinstance(observation, dict):
            raise ModelInputError(
                f"The observation is a {type(observation).__name__}; expected a dictionary with {', '.join(needed)}."
            )
        missing = [key for key in needed if key not in observation]
        if missing:
            raise ModelInputError(
                f"The observation lacks {', '.join(missing)}; it has {', '.join(map(str, observation)) or 'nothing'}. "
                f"The model reads {', '.join(needed)}."
            )
        return super().predict({key: observation[key] for key in needed}, state, episode_start, deterministic)

    @property
    def actor_keys(self) -> list[str]:
        """Entries of an observation that the model reads to act."""
        config = self.vla.config
        return [*config.cameras, INSTRUCTION, *([PROPRIO] if config.proprio_dim else [])]

    def _predict(  # type: ignore[override]
        self, observation: TensorDict, deterministic: bool = False
    ) -> th.Tensor:
        # not by forward: where a policy acts there need be nothing for a critic
        return self._decode(observation, deterministic).bins

    def _decode(self, obs: TensorDict, deterministic: bool) -> DecodedActions:
        return self.vla.decode_actions(
            **self.model_inputs(obs), temperature=self.temperature, deterministic=deterministic
        )

    def _per_action(self, per_token: th.Tensor) -> th.Tensor:
        return per_token if self.token_level else per_token.sum(dim=1)


@lru_cache(maxsize=1024)
def _decode(raw: bytes) -> str:
    return decode_instruction(np.frombuffer(raw, dtype=np.uint8))


def _load_vla(
    vla: str | Path,
    vla_kwargs: dict[str, Any],
    chunk_size: int,
    *,
    detach_value: bool | None = None,
    norm_stats: dict[str, Any] | None = None,
    lora: dict[str, Any] | None = None,
) -> OpenVLA:
    """
    Load a model that chooses ``chunk_size`` commands per action and has a value head.

    :param vla: preset, which takes the chunk size, or a checkpoint, which must match it
    :param vla_kwargs: further keywords of :func:`vla_algos.models.load_vla`
    :param chunk_size: commands per action
    :param detach_value: whether the value's gradient stops before the backbone; None: as the model says
    :param norm_stats: action statistics; None: those of the checkpoint
    :param lora: keywords of :func:`vla_algos.models.add_lora`; None: no adapters
    :return: the model
    :raises SpaceError: if a checkpoint chooses another number of commands
    """
    if str(vla) in PRESETS:
        changes = {**(vla_kwargs.get("config_changes") or {}), "chunk_size": chunk_size}
        vla_kwargs = {**vla_kwargs, "config_changes": changes}
    model = load_vla(vla, **vla_kwargs)
    config = model.config
    if config.chunk_size != chunk_size:
        raise SpaceError(
            f"{vla} chooses {config.chunk_size} commands per action, the action space holds {chunk_size}. "
            f"Make the environment with chunk_size={config.chunk_size}."
        )
    if not config.value_head_width:
        # released checkpoints are actors only
        model.add_value_head()
    if detach_value is not None:
        model.detach_value = detach_value
    if norm_stats is not None:
        model.record = dataclasses.replace(model.record, norm_stats=norm_stats, statistics_file=None)
    if lora is not None:
        add_lora(model, **lora)
    return model


def _warn_of_rounding(parameters: Iterable[th.nn.Parameter]) -> None:
    """
    Warn where weights are trained in 16 bits.

    :param parameters: of a policy
    """
    for dtype in {p.dtype for p in parameters if p.requires_grad} & {th.bfloat16, th.float16}:
        warnings.warn(
            f"Weights that can learn are {dtype}, where most steps of a small learning rate round to nothing. Train "
            "adapters (lora={}), or load the model in float32 and let the algorithm compute in bfloat16 "
            "(use_bf16=True).",
            stacklevel=3,
        )
