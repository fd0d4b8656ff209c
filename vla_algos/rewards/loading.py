"""Reward models by name."""

from __future__ import annotations

import os
from pathlib import Path

import torch as th

from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.rewards import compact
from vla_algos.rewards.model import REWARD_FILE, RewardModel, TrueProgress, read_reward_file

TRUE_PROGRESS = "true-progress"
CHECKPOINTS_FOLDER = Path(__file__).parent / "checkpoints"


def shipped_reward_models() -> dict[str, Path]:
    """Name -> folder of the trained models that are part of this library."""
    return {path.parent.name: path.parent for path in sorted(CHECKPOINTS_FOLDER.glob(f"*/{REWARD_FILE}"))}


def load_reward_model(name: str | Path, device: th.device | str = "cpu") -> RewardModel:
    """
    Find a reward model.

    :param name: ``"true-progress"``, one of :func:`shipped_reward_models`, or the folder of a trained model, such as
        ``best`` of a training; a ``Path`` is always a folder
    :param device: where a trained model goes
    :return: the model, of the class that its ``reward.json`` names
    :raises UnknownNameError: if there is none of that name
    :raises CheckpointError: if a folder is damaged
    :raises RewardModelError: if its answers are not single tokens, or its base cannot be loaded
    """
    shipped = shipped_reward_models()
    if name == TRUE_PROGRESS:
        return TrueProgress()
    folder = shipped.get(name, Path(name)) if isinstance(name, str) else name
    # unlike Path.is_file, it takes names that are too long, too; an empty one would be the current folder
    if name == "" or not os.path.isfile(folder / REWARD_FILE):
        remedy = f"Or name the folder of a trained model, which holds a {REWARD_FILE}."
        raise UnknownNameError("reward model", str(name), [TRUE_PROGRESS, *shipped], remedy)
    kind = read_reward_file(folder)["kind"]
    if kind == compact.KIND:
        return compact.CompactRewardModel.load(folder, device)
    # it brings transformers' models along, which a compact model does without
    from vla_algos.rewards import vlm

    if kind == vlm.KIND:
        return vlm.VLMRewardModel.load(folder, device)
    raise CheckpointError(
        f"{folder / REWARD_FILE} says kind {kind!r}; expected {compact.KIND!r} or {vlm.KIND!r}. Save it again, or load "
        "it with the version that has saved it."
    )
