"""From an observation of the environment to what a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from vla_algos.errors import ModelInputError
from vla_algos.models.openvla.config import OpenVLAConfig
from vla_algos.policies.spaces import check_observation_space
from vla_gym.instructions import decode_instruction
from vla_gym.spec import INSTRUCTION, PROPRIO


class ObservationReader:
    """
    Reads the entries of an observation that a model acts by.

    :param space: of the environment, images (H, W, 3) or (3, H, W)
    :param config: of the model
    :raises SpaceError: if the space lacks what the model reads
    """

    def __init__(self, space: spaces.Space, config: OpenVLAConfig) -> None:
        self.config = config
        self._is_channels_last = check_observation_space(space, config)

    def select(self, observation: Any) -> dict[str, np.ndarray]:
        """
        Leave out what the model does not read, such as entries of a robot or a critic.

        :param observation: one observation or N of them, per key
        :return: per key of ``config.observation_keys``
        :raises ModelInputError: if it is no dictionary or lacks an entry
        """
        needed = self.config.observation_keys
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
        return {key: observation[key] for key in needed}

    def images(self, obs: Mapping[str, th.Tensor]) -> th.Tensor:
        """
        Join the images of all cameras.

        :param obs: per key (N, ...)
        :return: (N, 3 * cameras, H, W) uint8
        """
        views = [obs[camera] for camera in self.config.cameras]
        if self._is_channels_last:
            views = [view.permute(0, 3, 1, 2) for view in views]
        return views[0] if len(views) == 1 else th.cat(views, dim=1)

    def inputs(self, obs: Mapping[str, th.Tensor], features: th.Tensor | None = None) -> dict[str, Any]:
        """
        Make the model's keyword arguments.

        :param obs: per key (N, ...)
        :param features: encoded images (N, patches, channels), to spare encoding them again; None: there are none
        :return: ``images`` as :meth:`images` gives them, or ``features``; ``instructions`` N texts; ``proprio``
            (N, dim) float32 or None
        """
        rows = obs[INSTRUCTION].to("cpu", th.uint8).numpy()
        return {
            "images": self.images(obs) if features is None else features,
            "instructions": [_decode(row.tobytes()) for row in rows],
            "proprio": obs[PROPRIO].float() if self.config.proprio_dim else None,
        }


@lru_cache(maxsize=1024)
def _decode(raw: bytes) -> str:
    return decode_instruction(np.frombuffer(raw, dtype=np.uint8))
