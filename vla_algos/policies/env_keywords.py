"""What an environment must be like for a model to act in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla_algos.models.loading import load_info
from vla_algos.models.openvla.info import ModelInfo
from vla_algos.policies.vla_policy import VLAPolicy
from vla_gym.actions.tokenizer import ActionTokenizer


def env_kwargs_for(
    vla: str | Path, unnorm_key: str | None = None, *, env_id: str | None = None, revision: str | None = None
) -> dict[str, Any]:
    """
    Keywords of ``gymnasium.make`` and ``vla_gym.make_vec`` for an environment that a model fits.

    :param vla: preset, shipped checkpoint, checkpoint folder, or Hugging Face id; weights are not loaded
    :param unnorm_key: data set of the action statistics that hold, with or without OpenVLA's ending ``_no_noops``;
        None: the only one, or that of the suite
    :param env_id: suite that the environment is made for, such as "LIBERO-Goal-v0"; None: unknown
    :param revision: of a model on the Hub, see :func:`vla_algos.models.load_vla`
    :return: ``chunk_size``, ``image_size`` (px), ``cameras`` and ``action_tokenizer``
    :raises UnknownNameError: if there is no such model, suite or data set, or several data sets and none is known
    :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture
    :raises ActionStatisticsError: if the data set's statistics are damaged or have another number of dimensions
    """
    return info_env_kwargs(load_info(vla, revision), unnorm_key, env_id)


def info_env_kwargs(info: ModelInfo, unnorm_key: str | None = None, env_id: str | None = None) -> dict[str, Any]:
    """
    As :func:`env_kwargs_for`, for a model that is at hand.

    :param info: of the model
    :param unnorm_key: as for :func:`env_kwargs_for`
    :param env_id: as for :func:`env_kwargs_for`
    :return: as :func:`env_kwargs_for`
    :raises UnknownNameError: if there is no such data set, or several and none is known
    :raises ActionStatisticsError: as for :func:`env_kwargs_for`
    """
    return {
        "chunk_size": info.config.chunk_size,
        "image_size": info.camera_size,
        "cameras": info.config.cameras,
        "action_tokenizer": ActionTokenizer.from_checkpoint_stats(
            info.record.norm_stats, unnorm_key, suite=env_id, source=info.record.statistics_file or ""
        ),
    }


def policy_env_kwargs(model: Any, given: dict[str, Any] | None) -> dict[str, Any]:
    """
    Keywords of an environment that a model can act in.

    Images have the size of the policy's observation space, which is what it was trained or made with.

    :param model: a ``VLAPolicy``, an algorithm with one, or any other
    :param given: keywords for ``gymnasium.make``
    :return: these, and those that a ``VLAPolicy`` needs and they do not name
    :raises UnknownNameError: if the model has several action statistics, and the policy no ``unnorm_key``
    """
    given = given or {}
    policy = getattr(model, "policy", model)
    if not isinstance(policy, VLAPolicy):
        return given
    needed = info_env_kwargs(policy.vla.info, policy.unnorm_key)
    # square, channels first or last
    needed["image_size"] = (policy.observation_space[needed["cameras"][0]].shape or ())[1]
    return {**needed, **given}
