"""Observation and action spaces: those of a checkpoint, and checks of those of an environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from vla_algos.errors import SpaceError
from vla_algos.models.loading import load_info
from vla_algos.models.openvla.config import OpenVLAConfig
from vla_gym.instructions import INSTRUCTION_BYTES
from vla_gym.spec import COMMAND_DIM, INSTRUCTION, N_BINS, PRIVILEGED, PROPRIO


def spaces_of(
    vla: str | Path, *, revision: str | None = None, config_changes: dict[str, Any] | None = None
) -> tuple[spaces.Dict, spaces.MultiDiscrete]:
    """
    Read the observation and action space of a model from its configuration, without weights and environment.

    :param vla: preset, shipped checkpoint, checkpoint folder, or Hugging Face id
    :param revision: of a model on the Hub, see :func:`vla_algos.models.load_vla`
    :param config_changes: as for :func:`vla_algos.models.load_vla`, which checks them
    :return: spaces as :func:`make_spaces` gives them, images of the size that the model was trained on
    :raises UnknownNameError: if there is no such model
    :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture
    """
    info = load_info(vla, revision)
    fields = {field.name for field in dataclasses.fields(info.config)}
    known = {key: value for key, value in (config_changes or {}).items() if key in fields}
    config = dataclasses.replace(info.config, **known)
    size = dataclasses.replace(info, config=config).camera_size
    return make_spaces(config.cameras, (size, size), config.proprio_dim, config.action_tokens)


def make_spaces(
    cameras: Sequence[str], camera_size: tuple[int, int], proprio_dim: int, n_tokens: int
) -> tuple[spaces.Dict, spaces.MultiDiscrete]:
    """
    Make the spaces of an environment for a model, with images as SB3 transposes them.

    :param cameras: keys of the images
    :param camera_size: height and width, pixels
    :param proprio_dim: numbers of proprioception; 0 for none
    :param n_tokens: tokens per action, 7 per command
    :return: per camera (3, H, W) uint8, ``instruction`` as UTF-8 bytes and ``proprio`` (proprio_dim,) float32; and
        ``MultiDiscrete([256] * n_tokens)``
    """
    entries: dict[str, spaces.Space] = {camera: spaces.Box(0, 255, (3, *camera_size), np.uint8) for camera in cameras}
    if proprio_dim:
        entries["proprio"] = spaces.Box(-np.inf, np.inf, (proprio_dim,), np.float32)
    entries["instruction"] = spaces.Box(0, 255, (INSTRUCTION_BYTES,), np.uint8)
    return spaces.Dict(entries), spaces.MultiDiscrete([N_BINS] * n_tokens)


def check_observation_space(space: spaces.Space, config: OpenVLAConfig) -> bool:
    """
    Make sure that observations have what a model reads.

    :param space: of the environment
    :param config: of the model
    :return: whether images are (H, W, 3), not (3, H, W)
    :raises SpaceError: if they do not
    """
    if not isinstance(space, spaces.Dict):
        raise SpaceError(f"Observation space is {space}; expected a Dict with agentview and instruction.")
    cameras, dim = config.cameras, config.proprio_dim
    missing = [key for key in config.observation_keys if key not in space.spaces]
    if missing:
        raise SpaceError(
            f"Observation space lacks {', '.join(missing)}; it has {', '.join(space.spaces)}. "
            "Use a vla_gym environment without wrappers that drop keys."
        )
    shape = space[cameras[0]].shape or ()
    for camera in cameras:
        camera_shape = space[camera].shape or ()
        is_image = len(camera_shape) == 3 and space[camera].dtype == np.uint8
        if not is_image or 3 not in (camera_shape[0], camera_shape[-1]):
            raise SpaceError(f"{camera} is {space[camera]}; expected a uint8 image (H, W, 3) or (3, H, W).")
        if space[camera].shape != shape:
            raise SpaceError(f"{camera} is {space[camera].shape}, {cameras[0]} {shape}; expected equal shapes.")
    if space[INSTRUCTION].shape != (INSTRUCTION_BYTES,):
        raise SpaceError(f"instruction is {space['instruction']}; expected ({INSTRUCTION_BYTES},) uint8.")
    if dim and space[PROPRIO].shape != (dim,):
        raise SpaceError(f"proprio is {space['proprio']}; the model takes ({dim},) float32.")
    return shape[0] != 3


def check_not_normalized(env: VecEnv, config: OpenVLAConfig) -> None:
    """
    Make sure that observations reach a model as they are; wrappers that normalise them leave no trace in the space.

    :param env: with all wrappers
    :param config: of the model
    :raises SpaceError: if something that the model reads is normalised
    """
    read = set(config.observation_keys)
    layer: Any = env
    while isinstance(layer, VecEnvWrapper):
        changed = read.intersection(layer.norm_obs_keys or ()) if isinstance(layer, VecNormalize) else set()
        if changed and layer.norm_obs:
            raise SpaceError(
                f"VecNormalize changes {', '.join(sorted(changed))} by statistics of its own; the model reads metres, "
                "radians and bytes. Make it with norm_obs=False; rewards may be normalised."
            )
        layer = layer.venv
    # Gymnasium's wrapper for vectors cannot be there: it refuses environments that reset in the step that ends one
    if any(env.env_is_wrapped(NormalizeObservation)):
        raise SpaceError(
            "NormalizeObservation changes observations by statistics of its own; the model reads metres, radians and "
            "bytes. Make the environment without it; NormalizeReward may stay."
        )


def privileged_dim(space: spaces.Dict) -> int:
    """
    Numbers in the privileged observation.

    :param space: of the environment
    :raises SpaceError: if there is none
    """
    privileged = space.spaces.get(PRIVILEGED)
    if not isinstance(privileged, spaces.Box) or len(privileged.shape) != 1:
        raise SpaceError(
            f"A privileged critic needs a flat {PRIVILEGED!r} in the observation, which has "
            f"{', '.join(space.spaces)}. Make the environment with privileged_obs=True."
        )
    return privileged.shape[0]


def chunk_size_of(action_space: spaces.Space) -> int:
    """
    Commands per action.

    :param action_space: ``MultiDiscrete([256] * 7 * chunk_size)``
    :raises SpaceError: if it is another
    """
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
        n_tokens = len(action_space.nvec)
        if (action_space.nvec == N_BINS).all() and n_tokens % COMMAND_DIM == 0:
            return n_tokens // COMMAND_DIM
    raise SpaceError(
        f"Action space is {action_space}; expected MultiDiscrete([{N_BINS}] * {COMMAND_DIM} * chunk_size). "
        'Make the environment with action_type="tokens".'
    )
