"""Reward models by name."""

from __future__ import annotations

from pathlib import Path

import torch as th

from vla_algos.errors import UnknownNameError
from vla_algos.rewards.compact import REWARD_FILE, CompactRewardModel
from vla_algos.rewards.model import RewardModel, TrueProgress

TRUE_PROGRESS = "true-progress"


def load_reward_model(name: str | Path, device: th.device | str = "cpu") -> RewardModel:
    """
    Find a reward model.

    :param name: ``"true-progress"``, or the folder of a trained compact model; for a transformers model, see
        :meth:`vla_algos.rewards.vlm.VLMRewardModel.load`
    :param device: where a trained model goes
    :return: the model
    :raises UnknownNameError: if there is none of that name
    :raises CheckpointError: if a folder is damaged
    """
    if str(name) == TRUE_PROGRESS:
        return TrueProgress()
    if (Path(name) / REWARD_FILE).is_file():
        return CompactRewardModel.load(name, device)
    remedy = f"Or name the folder of a trained model, which holds a {REWARD_FILE}."
    raise UnknownNameError("reward model", str(name), [TRUE_PROGRESS], remedy)
