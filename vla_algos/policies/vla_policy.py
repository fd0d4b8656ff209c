"""A vision-language-action model as an SB3 policy: for TokenPPO, and for SB3's own PPO and A2C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.vec_env import VecEnv

from vla_algos.errors import SpaceError
from vla_algos.models import load_vla
from vla_algos.models.lora import add_lora
from vla_algos.models.openvla.config import PRESETS
from vla_algos.models.openvla.heads import ValueHead
from vla_gym.actions.tokenizer import N_BINS, ActionTokenizer
from vla_gym.instructions import INSTRUCTION_BYTES, decode_instruction
from vla_gym.tasks.registry import COMMAND_DIM

NEW_VALUE_HEAD_WIDTH = 256


class VLAPolicy(BasePolicy):
    """
    Actor and critic in one model.

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
    :param detach_value: whether the value's gradient stops before the backbone; None: as the model says
    :param seed: makes the fresh weights of a preset reproducible; None: torch's generator decides
    :param norm_stats: action statistics of the data that the model is trained on; None: those of the checkpoint
    :param unnorm_key: data set of the statistics that hold; None: the only one
    :param lora: train adapters instead of the model: keywords of :func:`vla_algos.models.lora.add_lora`, which may be
        empty; None: train the model
    :param optimizer_class: the optimizer
    :param optimizer_kwargs: its keywords without the learning rate; None: epsilon 1e-5 and no weight decay for AdamW
    :raises SpaceError: if a space does not fit the model
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
        detach_value: bool | None = None,
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
        chunk_size = _chunk_size(action_space)
        self._init_kwargs = {
            "vla": vla,
            "vla_kwargs": vla_kwargs,
            "detach_value": detach_value,
            "seed": seed,
            "norm_stats": norm_stats,
            "unnorm_key": unnorm_key,
            "lora": lora,
        }
        self.unnorm_key = unnorm_key
        self.temperature = temperature
        self.token_level = False
        self.vla = load_vla(vla, seed=seed, **(vla_kwargs or {}))
        if str(vla) in PRESETS:
            self.vla.config.chunk_size = chunk_size
        elif self.vla.config.chunk_size != chunk_size:
            raise SpaceError(
                f"{vla} chooses {self.vla.config.chunk_size} commands per action, the action space holds {chunk_size}. "
                f"Make the environment with chunk_size={self.vla.config.chunk_size}."
            )
        if not self.vla.config.value_head_width:
            # released checkpoints are actors only
            self.vla.config.value_head_width = NEW_VALUE_HEAD_WIDTH
            head = ValueHead(self.vla.config.llm.hidden, NEW_VALUE_HEAD_WIDTH)
            self.vla.value_head = head.to(self.vla.device, self.vla.dtype)
        if detach_value is not None:
            self.vla.detach_value = detach_value
        if norm_stats is not None:
            self.vla.config.norm_stats = norm_stats
        if lora is not None:
            add_lora(self.vla, **lora)
        self._check_observation_space()
        self.optimizer = self._make_optimizer(lr_schedule(1))

    def _make_optimizer(self, learning_rate: float) -> th.optim.Optimizer:
        groups: dict[str, list[th.nn.Parameter]] = {"actor": [], "value": []}
        for name, parameter in self.vla.named_parameters():
            if parameter.requires_grad:
                groups["value" if name.startswith("value_head.") else "actor"].append(parameter)
        return self.optimizer_class(  # type: ignore[call-arg]
            [{"params": parameters, "name": name} for name, parameters in groups.items()],
            lr=learning_rate,
            **self.optimizer_kwargs,
        )

    def _check_observation_space(self) -> None:
        space = self.observation_space
        if not isinstance(space, spaces.Dict):
            raise SpaceError(f"Observation space is {space}; expected a Dict with agentview and instruction.")
        cameras = self.vla.config.cameras
        needed = [*cameras, "instruction"] + (["proprio"] if self.vla.config.proprio_dim else [])
        missing = [key for key in needed if key not in space.spaces]
        if missing:
            raise SpaceError(
                f"Observation space lacks {', '.join(missing)}; it has {', '.join(space.spaces)}. "
                "Use a vla_gym environment without wrappers that drop keys."
            )
        shape = space[cameras[0]].shape
        for camera in cameras:
            is_image = len(space[camera].shape or ()) == 3 and space[camera].dtype == np.uint8
            if not is_image or 3 not in (space[camera].shape[0], space[camera].shape[-1]):
                raise SpaceError(f"{camera} is {space[camera]}; expected a uint8 image (H, W, 3) or (3, H, W).")
            if space[camera].shape != shape:
                raise SpaceError(f"{camera} is {space[camera].shape}, {cameras[0]} {shape}; expected equal shapes.")
        self._is_channels_last = shape[0] != 3
        if space["instruction"].shape != (INSTRUCTION_BYTES,):
            raise SpaceError(f"instruction is {space['instruction']}; expected ({INSTRUCTION_BYTES},) uint8.")
        dim = self.vla.config.proprio_dim
        if dim and space["proprio"].shape != (dim,):
            raise SpaceError(f"proprio is {space['proprio']}; the model takes ({dim},) float32.")

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
    def action_tokenizer(self) -> ActionTokenizer:
        """What the bins mean: by the model's action statistics, else over the controller's whole range."""
        return ActionTokenizer.from_checkpoint_stats(self.vla.config.norm_stats, self.unnorm_key)

    def check_env(self, env: VecEnv) -> None:
        """
        Make sure that an environment means by its bins what the model means.

        :param env: environments without an ``action_tokenizer`` pass
        :raises SpaceError: if they decode bins by other statistics
        """
        if env.has_attr("action_tokenizer") and not self.action_tokenizer.agrees_with(
            env.get_attr("action_tokenizer")[0]
        ):
            raise SpaceError(
                "The environment decodes bins by other action statistics than the model was trained with. "
                "Make it with action_tokenizer=ActionTokenizer.from_checkpoint(<folder of the model>)."
            )

    def model_inputs(self, obs: PyTorchObs) -> dict[str, Any]:
        """
        Observations as the model's keyword arguments.

        :param obs: per key (N, ...)
        :return: ``images`` (N, 3 * cameras, H, W) uint8, ``instructions`` N texts, ``proprio`` (N, dim) float32 or None
        """
        views = [obs[camera] for camera in self.vla.config.cameras]
        if self._is_channels_last:
            views = [view.permute(0, 3, 1, 2) for view in views]
        images = views[0] if len(views) == 1 else th.cat(views, dim=1)
        rows = obs["instruction"].to("cpu", th.uint8).numpy()
        return {
            "images": images,
            "instructions": [_decode(row.tobytes()) for row in rows],
            "proprio": obs["proprio"].float() if self.vla.config.proprio_dim else None,
        }

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Choose actions.

        :param obs: per key (N, ...)
        :param deterministic: greedy instead of sampled
        :return: bins (N, A) int64, values (N, 1), log-probabilities (N,), or (N, A) if ``token_level``
        """
        decoded = self.vla.decode_actions(
            **self.model_inputs(obs), temperature=self.temperature, deterministic=deterministic
        )
        return decoded.bins, decoded.values.unsqueeze(1), self._per_action(decoded.log_probs)

    def evaluate_actions(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Judge actions that were taken, with gradients.

        :param obs: per key (N, ...)
        :param actions: bins (N, A), any number type
        :return: values (N, 1), log-probabilities and entropies (N,), or (N, A) if ``token_level``
        """
        scored = self.vla.score_actions(**self.model_inputs(obs), bins=actions.long(), temperature=self.temperature)
        return scored.values.unsqueeze(1), self._per_action(scored.log_probs), self._per_action(scored.entropy)

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        Values of observations, with gradients.

        :param obs: per key (N, ...)
        :return: (N, 1) float32
        """
        return self.vla.predict_values(**self.model_inputs(obs)).unsqueeze(1)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)[0]

    def _per_action(self, per_token: th.Tensor) -> th.Tensor:
        return per_token if self.token_level else per_token.sum(dim=1)

    @contextmanager
    def frozen_actor(self) -> Iterator[None]:
        """Let nothing but the value head learn inside the block; activations of the backbone are not kept."""
        actor = [p for group in self.optimizer.param_groups if group["name"] == "actor" for p in group["params"]]
        for parameter in actor:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in actor:
                parameter.requires_grad_(True)


@lru_cache(maxsize=1024)
def _decode(raw: bytes) -> str:
    return decode_instruction(np.frombuffer(raw, dtype=np.uint8))


def _chunk_size(action_space: spaces.Space) -> int:
    """Commands per action of a space of bins."""
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
        n_tokens = len(action_space.nvec)
        if (action_space.nvec == N_BINS).all() and n_tokens % COMMAND_DIM == 0:
            return n_tokens // COMMAND_DIM
    raise SpaceError(
        f"Action space is {action_space}; expected MultiDiscrete([{N_BINS}] * {COMMAND_DIM} * chunk_size). "
        'Make the environment with action_type="tokens".'
    )
