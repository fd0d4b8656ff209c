"""Whether spaces are what a model can work with."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from vla_algos.errors import SpaceError
from vla_algos.models.openvla.config import OpenVLAConfig
from vla_gym.instructions import INSTRUCTION_BYTES
from vla_gym.spec import COMMAND_DIM, INSTRUCTION, N_BINS, PRIVILEGED, PROPRIO


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
    needed = [*cameras, INSTRUCTION] + ([PROPRIO] if dim else [])
    missing = [key for key in needed if key not in space.spaces]
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
    read = {*config.cameras, INSTRUCTION, *([PROPRIO] if config.proprio_dim else [])}
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
