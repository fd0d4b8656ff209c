"""What an evaluation measures: which weights, how they act, and in which environment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from vla_algos.policies import ActorPolicy, VLAPolicy
from vla_algos.policies.env_keywords import policy_env_kwargs

MAX_LISTED = 1024
"""Numbers of an array that are written out, action statistics among them."""
_FACTS = ("chunk_size", "image_size", "render_quality", "physics", "horizon")


def evaluation_env_kwargs(model: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    Complete the keywords of the environment that a model is evaluated in.

    :param model: a ``VLAPolicy``, an algorithm with one, or any other
    :param given: keywords for ``gymnasium.make``
    :return: these, and those that the model needs and they do not name, ``render_quality`` of its training among them
    :raises UnknownNameError: if the model has several action statistics, and the policy no ``unnorm_key``
    """
    kwargs = policy_env_kwargs(model, dict(given or {}))
    policy = _policy(model)
    if isinstance(policy, VLAPolicy) and policy.vla.record.trained_render_quality is not None:
        kwargs.setdefault("render_quality", policy.vla.record.trained_render_quality)
    return kwargs


def checkpoint_of(model: Any) -> dict[str, str | None] | None:
    """
    Identify the weights of a model.

    :param model: policy or algorithm
    :return: ``vla`` and ``sha256``; None for a model without torch weights
    """
    policy = _policy(model)
    if isinstance(policy, VLAPolicy):
        return {"vla": policy.vla_name, "sha256": weights_digest(policy.vla)}
    return {"vla": None, "sha256": weights_digest(policy)} if isinstance(policy, nn.Module) else None


def temperature_of(model: Any) -> float | None:
    """
    Return the temperature of sampled actions.

    :param model: policy or algorithm
    :return: the temperature; None without an ``ActorPolicy``
    """
    policy = _policy(model)
    return float(policy.temperature) if isinstance(policy, ActorPolicy) else None


def weights_digest(module: nn.Module) -> str:
    """
    Compute a digest of names, types, shapes and values of all weights; it depends on neither file nor device.

    :param module: with weights of any type, on any device
    :return: sha256, 64 hexadecimal digits
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, th.Tensor):
            continue
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(th.uint8).numpy().data)
    return digest.hexdigest()


def environment_facts(venv: VecEnv) -> dict[str, Any]:
    """
    Read what an environment reports about itself.

    :param venv: the environment
    :return: ``chunk_size``, ``image_size``, ``render_quality``, ``physics``, ``horizon``; None where it reports nothing
    """
    facts = {name: venv.get_attr(name, 0)[0] if venv.has_attr(name) else None for name in _FACTS}
    if facts["horizon"] is None and venv.has_attr("suite"):
        facts["horizon"] = getattr(venv.get_attr("suite", 0)[0], "horizon", None)
    return plain(facts)


def plain(value: Any) -> Any:
    """
    Convert a value to what JSON can hold.

    :param value: anything; objects such as an ``ActionTokenizer`` become their attributes, large arrays such as
        pictures their shape, type and checksum
    :return: numbers, texts, lists and dictionaries
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and value.size > MAX_LISTED:
        digest = hashlib.sha256(value.tobytes()).hexdigest()
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": digest}
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [plain(part) for part in value]
    if isinstance(value, Path) or not hasattr(value, "__dict__"):
        return str(value)
    attributes = {name: plain(part) for name, part in vars(value).items() if not name.startswith("_")}
    return {"class": type(value).__qualname__, **attributes}


def _policy(model: Any) -> Any:
    return getattr(model, "policy", model)
