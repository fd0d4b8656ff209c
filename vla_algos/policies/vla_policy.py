"""A vision-language-action model as an SB3 policy: for TokenPPO, and for SB3's own PPO and A2C."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule, TensorDict
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from vla_algos.errors import CheckpointError, SpaceError, UnknownNameError
from vla_algos.models.base import CRITIC_INPUTS, Sample, Scores
from vla_algos.models.decoding import DecodedActions
from vla_algos.models.loading import load_vla
from vla_algos.models.lora import add_lora, is_merged
from vla_algos.models.openvla.config import PRESETS
from vla_algos.models.openvla.model import OpenVLA
from vla_algos.policies.actor_policy import ActorPolicy
from vla_algos.policies.critics import PrivilegedCritic
from vla_algos.policies.observations import ObservationReader
from vla_algos.policies.spaces import (
    check_not_normalized,
    chunk_size_of,
    privileged_dim,
    spaces_of,
)
from vla_gym.actions.statistics import choose_data_set
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.spec import COMMAND_DIM, PRIVILEGED

FEATURES = "vision_features"
"""Name of encoded images in the extras of a sample."""

CriticInput = Literal["shared", "privileged"]


class VLAPolicy(ActorPolicy):
    """
    OpenVLA as an actor, and its critic: in one model, or with a network of its own.

    ``critic="shared"`` reads values from the model's hidden state, and is what a real robot can have. With
    ``critic="privileged"`` a small network reads the observation's ``privileged`` entry, which only a simulator has
    (``gym.make(..., privileged_obs=True)``); the actor never sees it. ``TokenPPO`` normalises its inputs, SB3's own
    algorithms take them as they are.

    Observations are dictionaries with the images of the model's cameras, ``agentview`` as a rule (uint8, channels first
    or last), ``instruction`` (UTF-8 bytes) and, if the model takes it, ``proprio``; other keys are ignored. An action
    has A tokens, each with a log-probability of its own; SB3's own algorithms get their sum.

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
    :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture, or is to be changed
    :raises DeviceError: if the device that ``vla_kwargs`` names is not there, or has too little memory
    :raises MissingPackageError: if adapters are asked for and peft is not installed
    """

    observation_space: spaces.Dict
    has_entropy = True
    has_exact_kl = True
    value_parts = ("vla.value_head", "critic")

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
        super().__init__(
            observation_space,
            action_space,
            use_sde=use_sde,
            temperature=temperature,
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
        self.reader = ObservationReader(self.observation_space, self.vla.config)
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
        :param env: where it acts, made with ``**env_kwargs_for(vla)``; only its spaces and its tokenizer are read.
            None: the spaces of the checkpoint, see :func:`vla_algos.policies.spaces_of`
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

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self._init_kwargs}

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

    def record_training(self, env: VecEnv) -> None:
        """
        Note temperature and rendering of the training in the model's record.

        :param env: of the training
        """
        changes: dict[str, Any] = {"trained_temperature": self.temperature}
        if env.has_attr("render_quality"):
            changes["trained_render_quality"] = env.get_attr("render_quality", 0)[0]
        self.vla.record = dataclasses.replace(self.vla.record, **changes)

    def release_caches(self) -> None:
        """Give back what decoding keeps on a GPU between calls."""
        self.vla.release_steps()

    @property
    def is_preset(self) -> bool:
        """Whether the model was made with random weights, not loaded from a checkpoint."""
        return str(self._init_kwargs["vla"]) in PRESETS

    @property
    def has_own_critic(self) -> bool:
        """Whether values can be learned without the actor: they share no gradient."""
        return self.critic is not None or self.vla.detach_value

    def encode(self, obs: TensorDict) -> dict[str, th.Tensor]:
        """
        Encode the images, if the vision towers are frozen.

        :param obs: per key (N, ...)
        :return: ``FEATURES`` (N, patches, channels), or nothing
        """
        return {FEATURES: self.vla.encode_images(self.reader.images(obs))} if self.freeze_vision else {}

    def act(self, obs: TensorDict, temperature: float = 1.0, deterministic: bool = False) -> Sample:
        """
        Choose actions.

        :param obs: per key (N, ...)
        :param temperature: divides the logits, above 0
        :param deterministic: greedy instead of sampled
        :return: bins (N, A) int64, log-probabilities of the tokens (N, A), values, and in the extras ``CRITIC_INPUTS``
            and what :meth:`encode` gives
        """
        extras = self.encode(obs)
        decoded = self._decode(obs, temperature, deterministic, extras)
        inputs = decoded.hidden if self.critic is None else obs[PRIVILEGED].float()
        values = self.values_of(inputs) if self.has_own_critic else decoded.values
        return Sample(decoded.bins, decoded.log_probs, values, {**extras, CRITIC_INPUTS: inputs})

    def score(
        self, obs: TensorDict, action: th.Tensor, extras: Mapping[str, th.Tensor], temperature: float = 1.0
    ) -> Scores:
        """
        Judge actions that were taken, with gradients.

        :param obs: per key (N, ...)
        :param action: bins (N, A), any number type
        :param extras: as :meth:`act` gave them, or empty
        :param temperature: divides the logits, above 0
        :return: the scores, with entropies and the log-probabilities of all bins
        """
        inputs = self.reader.inputs(obs, extras.get(FEATURES))
        scored = self.vla.score_actions(**inputs, bins=action.long(), temperature=temperature)
        values = scored.values if self.critic is None else self.critic(obs[PRIVILEGED])
        return Scores(scored.log_probs, values, scored.entropy, scored.bin_log_probs)

    def critic_inputs(self, obs: TensorDict) -> th.Tensor:
        """
        What the critic reads, with gradients.

        :param obs: per key (N, ...)
        :return: (N, D) float32: privileged observations or hidden states
        """
        return self.vla.prompt_hidden(**self.reader.inputs(obs)) if self.critic is None else obs[PRIVILEGED].float()

    def observe_critic_inputs(self, inputs: th.Tensor) -> None:
        """
        Take privileged observations into the means by which they are normalised.

        :param inputs: (N, D), of one roll-out
        """
        if self.critic is not None:
            self.critic.observe(inputs)

    def values_of(self, inputs: th.Tensor) -> th.Tensor:
        """
        Values from what the critic reads, with gradients.

        :param inputs: (N, D), see :meth:`critic_inputs`
        :return: (N,) float32
        """
        return self.vla.values_of(inputs) if self.critic is None else self.critic(inputs)

    def action_mask(self, executed: th.Tensor) -> th.Tensor:
        """
        Tell which tokens belong to commands that were carried out.

        :param executed: commands of each action, (N,) int64
        :return: (N, A) bool
        """
        return th.arange(self.vla.config.action_tokens) < COMMAND_DIM * executed.unsqueeze(1)

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
        return super().predict(self.reader.select(observation), state, episode_start, deterministic)

    def _predict(  # type: ignore[override]
        self, observation: TensorDict, deterministic: bool = False
    ) -> th.Tensor:
        # not by act: where a policy acts there need be nothing for a critic
        return self._decode(observation, self.temperature, deterministic, {}).bins

    def _decode(
        self, obs: TensorDict, temperature: float, deterministic: bool, extras: Mapping[str, th.Tensor]
    ) -> DecodedActions:
        return self.vla.decode_actions(
            **self.reader.inputs(obs, extras.get(FEATURES)), temperature=temperature, deterministic=deterministic
        )


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
