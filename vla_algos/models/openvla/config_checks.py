"""What is wrong with a configuration: types, ranges, and sizes that do not go together."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_algos.errors import CheckpointError
from vla_gym.spec import N_BINS

if TYPE_CHECKING:
    from vla_algos.models.openvla.config import LLMConfig, OpenVLAConfig, VisionTowerConfig
    from vla_algos.models.openvla.info import TrainingRecord

MAX_DEPTH = 1000
MAX_SIZE = 2**20
"""Largest number of channels, rows of the vocabulary, and so on; products stay far from overflow."""
MAX_POSITIONS = 2048
_WEIGHTS_PER_BLOCK = 9
"""Fewest tensors of a decoder layer or of a block of a vision tower."""

_SIZE, _COUNT, _NUMBERS, _NAMES = "a whole number above 0", "a whole number", "a list of numbers", "a list of names"
_NUMBER, _TRUTH, _TEXT, _OBJECT = "a number above 0", "true or false", "a text", "an object"
_TOWER_TYPES = {
    "width": _SIZE,
    "depth": _SIZE,
    "heads": _SIZE,
    "patch": _SIZE,
    "mlp_width": _SIZE,
    "class_token": _TRUTH,
    "registers": _COUNT,
    "layer_scale": _NUMBER,
    "attention_pool": _TRUTH,
    "mean": _NUMBERS,
    "std": _NUMBERS,
}
_LLM_TYPES = {
    "hidden": _SIZE,
    "layers": _SIZE,
    "heads": _SIZE,
    "mlp": _SIZE,
    "vocab": _SIZE,
    "rows": _SIZE,
    "rms_eps": _NUMBER,
    "rope_base": _NUMBER,
}
_TYPES = {
    "image_size": _SIZE,
    "image_pipeline": _NAMES,
    "prompt_template": _TEXT,
    "prompt_end_id": _COUNT,
    "builtin_tokenizer": _TRUTH,
    "proprio_dim": _COUNT,
    "proprio_mean": _NUMBERS,
    "proprio_std": _NUMBERS,
    "proprio_frequencies": _COUNT,
    "cameras": _NAMES,
    "chunk_size": _SIZE,
    "value_head_width": _COUNT,
}
_RECORD_TYPES = {
    "detach_value": _TRUTH,
    "trained_camera_size": _SIZE,
    "norm_stats": _OBJECT,
}
_OPTIONAL = ("layer_scale", "prompt_end_id", "trained_camera_size")


def describe_faults(config: OpenVLAConfig, record: TrainingRecord | None = None) -> str:
    """
    What is wrong with a configuration.

    :param config: filled from a file, values of any type
    :param record: likewise; None: there is none
    :return: each fault with what was expected; empty if there is none
    """
    faults = _wrong_types(config, _TYPES)
    if record is not None:
        faults += _wrong_types(record, _RECORD_TYPES)
    for i, tower in enumerate(config.towers):
        faults += [f"towers[{i}].{fault}" for fault in _wrong_types(tower, _TOWER_TYPES)]
    faults += [f"llm.{fault}" for fault in _wrong_types(config.llm, _LLM_TYPES)]
    if not faults:
        faults = [*_towers_apart(config), *_llm_apart(config.llm), *_inputs_apart(config)]
    if not faults:
        faults = _sequence_too_long(config)
    return " ".join(f"{fault}." for fault in faults[:8])


def check_depth(config: OpenVLAConfig, n_weights: int, folder: Path) -> None:
    """
    Make sure that a checkpoint's weights can be those of as many layers as its configuration declares.

    :param config: of the checkpoint
    :param n_weights: tensors in its files
    :param folder: of the checkpoint, for the message
    :raises CheckpointError: if there are too few
    """
    depths = {"language model": config.llm.layers}
    depths |= {f"vision tower {i}": tower.depth for i, tower in enumerate(config.towers)}
    needed = _WEIGHTS_PER_BLOCK * sum(depths.values())
    if needed > n_weights:
        listed = ", ".join(f"{name}: {depth}" for name, depth in depths.items())
        raise CheckpointError(
            f"The weights in {folder} do not fit its config.json, which declares layers ({listed}) of {needed} weights "
            f"or more; Missing: all but {n_weights}. Save or download the checkpoint again."
        )


def _wrong_types(values: Any, types: Mapping[str, str]) -> list[str]:
    return [
        f"{name}={getattr(values, name)!r:.60}, expected {expected}"
        for name, expected in types.items()
        if not (name in _OPTIONAL and getattr(values, name) is None) and not _is(getattr(values, name), expected)
    ]


def _is(value: Any, expected: str) -> bool:
    if expected == _NUMBERS:
        return isinstance(value, list | tuple) and all(_is_number(item) for item in value)
    if expected == _NAMES:
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if expected in (_SIZE, _COUNT):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and int(expected == _SIZE) <= value <= MAX_SIZE
    if expected == _NUMBER:
        return _is_number(value) and value > 0
    return isinstance(value, {_TRUTH: bool, _TEXT: str, _OBJECT: dict}[expected])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30 and math.isfinite(value)


def _towers_apart(config: OpenVLAConfig) -> list[str]:
    faults = []
    if len(config.towers) not in (1, 2):
        return [f"{len(config.towers)} vision towers, expected 1 or 2"]
    for i, tower in enumerate(config.towers):
        faults += [f"towers[{i}]: {fault}" for fault in _tower_apart(tower, config.image_size)]
    if len({config.image_size // tower.patch for tower in config.towers}) > 1:
        faults.append("the towers have different numbers of patches, expected one")
    return faults


def _tower_apart(tower: VisionTowerConfig, image_size: int) -> list[str]:
    faults = []
    layer = tower.feature_layer
    if tower.width % tower.heads:
        faults.append(f"width={tower.width} cannot be divided by heads={tower.heads}")
    if tower.depth > MAX_DEPTH:
        faults.append(f"depth={tower.depth}, expected {MAX_DEPTH} at most")
    if isinstance(layer, bool) or not isinstance(layer, int) or not -tower.depth <= layer < tower.depth:
        faults.append(f"feature_layer={layer!r} is no block of {tower.depth}")
    if tower.patch > image_size:
        faults.append(f"patch={tower.patch} is larger than image_size={image_size}")
    if len(tower.mean) != 3 or len(tower.std) != 3 or min(tower.std) <= 0:
        faults.append(f"mean={tower.mean}, std={tower.std}, expected 3 numbers each, std above 0")
    return faults


def _llm_apart(llm: LLMConfig) -> list[str]:
    faults = []
    if llm.hidden % llm.heads or llm.hidden // llm.heads % 2:
        faults.append(
            f"llm.hidden={llm.hidden} and llm.heads={llm.heads}, expected an even number of channels per head"
        )
    if llm.layers > MAX_DEPTH:
        faults.append(f"llm.layers={llm.layers}, expected {MAX_DEPTH} at most")
    if not N_BINS < llm.vocab <= llm.rows:
        faults.append(f"llm.vocab={llm.vocab} and llm.rows={llm.rows}, expected {N_BINS} < vocab <= rows")
    return faults


def _inputs_apart(config: OpenVLAConfig) -> list[str]:
    faults = []
    if not config.cameras or len(set(config.cameras)) != len(config.cameras):
        faults.append(f"cameras={list(config.cameras)}, expected one or more, each once")
    if not _is_template(config.prompt_template):
        faults.append(f"prompt_template={config.prompt_template!r:.60}, expected a text with the place {{instruction}}")
    statistics = config.proprio_mean, config.proprio_std
    if config.proprio_dim and any(len(values) != config.proprio_dim for values in statistics):
        faults.append(f"proprio_mean and proprio_std, expected {config.proprio_dim} numbers each")
    elif config.proprio_dim and min(config.proprio_std) <= 0:
        faults.append(f"proprio_std={config.proprio_std}, expected numbers above 0")
    if config.prompt_end_id is not None and config.prompt_end_id >= config.llm.rows:
        faults.append(f"prompt_end_id={config.prompt_end_id}, expected less than llm.rows={config.llm.rows}")
    return faults


def _sequence_too_long(config: OpenVLAConfig) -> list[str]:
    tokens = config.patches * len(config.cameras) + config.action_tokens
    if tokens < MAX_POSITIONS:
        return []
    return [f"images and actions take {tokens} tokens, expected less than {MAX_POSITIONS}"]


def _is_template(text: str) -> bool:
    try:
        places = [place for _, *place in string.Formatter().parse(text) if place[0] is not None]
    except ValueError:
        return False
    # no width or attribute: a format can ask for gigabytes of blanks
    return places == [["instruction", "", None]]
