"""
The layout of released OpenVLA checkpoints: their ``config.json`` and ``preprocessor_config.json``.

They name vision towers by timm's ids and leave the sizes of Llama-2-7B unsaid; what they mean is written down here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vla_algos.errors import CheckpointError
from vla_algos.models.openvla.variants import refuse_other_config, refuse_other_language_model
from vla_gym.spec import N_BINS

OWN_KEY = "vla_gym"
"""Entry of ``config.json`` for what the original does not have; its code keeps unknown entries and ignores them."""

DINOV2_ID = "vit_large_patch14_reg4_dinov2.lvd142m"
SIGLIP_ID = "vit_so400m_patch14_siglip_224"
TOWERS: dict[str, dict[str, Any]] = {
    DINOV2_ID: {
        "width": 1024,
        "depth": 24,
        "heads": 16,
        "patch": 14,
        "mlp_ratio": 4.0,
        "class_token": True,
        "registers": 4,
        "layer_scale": 1e-5,
        # ImageNet's, rounded to bfloat16, as the released processor has them
        "mean": [0.484375, 0.455078125, 0.40625],
        "std": [0.228515625, 0.2236328125, 0.224609375],
    },
    SIGLIP_ID: {
        "width": 1152,
        "depth": 27,
        "heads": 16,
        "patch": 14,
        "mlp_ratio": 3.7362,
        "attention_pool": True,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
}
"""Fields of ``VisionTowerConfig`` by timm's id."""
LLAMA_2_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32064,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
"""What ``text_config`` means where it is silent: the defaults of transformers, with OpenVLA's padded vocabulary."""
_OVERRIDES = {"embed_dim": "width", "depth": "depth", "num_heads": "heads"}


@dataclass(frozen=True)
class ReleasedFiles:
    """
    What a released checkpoint says about itself, kept to be written back.

    :param config: ``config.json``
    :param preprocessor: ``preprocessor_config.json``; empty if there is none
    """

    config: dict[str, Any]
    preprocessor: dict[str, Any] = field(default_factory=dict)


def is_released(values: Mapping[str, Any]) -> bool:
    """
    Whether a ``config.json`` is in the layout of the original.

    :param values: its content
    """
    return "text_config" in values or "vision_backbone_id" in values


def released_fields(files: ReleasedFiles) -> dict[str, Any]:
    """
    Fields of ``OpenVLAConfig`` and ``TrainingRecord``, towers and language model as dictionaries of theirs.

    :param files: of the checkpoint
    :return: keyword arguments; ``prompt_end_id`` is left to the tokenizer
    :raises CheckpointError: if it is no OpenVLA, or one of a kind that is not known here
    """
    values = files.config
    refuse_other_config(values)
    if values.get("n_action_bins", N_BINS) != N_BINS:
        raise CheckpointError(f"config.json says n_action_bins={values['n_action_bins']}; expected {N_BINS}.")
    if values.get("image_resize_strategy", "resize-naive") != "resize-naive":
        strategy = values["image_resize_strategy"]
        raise CheckpointError(f"config.json says image_resize_strategy={strategy!r}; only 'resize-naive' is known.")
    try:
        sizes, ids = list(values["image_sizes"]), list(values["timm_model_ids"])
        text = {**LLAMA_2_7B, **dict(values["text_config"])}
        padding = int(values["pad_to_multiple_of"])
        vocab = int(text["vocab_size"]) - padding
        n_sizes, own = len(set(sizes)), dict(values.get(OWN_KEY) or {})
        towers = [_tower(files, i, timm_id) for i, timm_id in enumerate(ids)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise CheckpointError(f"config.json lacks or garbles {error}. Download the checkpoint again.") from error
    if n_sizes != 1:
        raise CheckpointError(f"config.json says image_sizes={sizes}; expected one size for all towers.")
    if text.get("num_key_value_heads", text["num_attention_heads"]) not in (text["num_attention_heads"], None):
        raise CheckpointError(
            "config.json says that keys and values share heads; Llama-2-7B, which is expected, does not."
        )
    refuse_other_language_model(text)
    return {
        "image_size": sizes[0],
        "towers": towers,
        "llm": {
            "hidden": text["hidden_size"],
            "layers": text["num_hidden_layers"],
            "heads": text["num_attention_heads"],
            "mlp": text["intermediate_size"],
            "vocab": vocab,
            "rows": text["vocab_size"],
            "rms_eps": text["rms_norm_eps"],
            "rope_base": text["rope_theta"],
        },
        "norm_stats": values.get("norm_stats") or {},
        **own,
    }


def _tower(files: ReleasedFiles, index: int, timm_id: Any) -> dict[str, Any]:
    if not isinstance(timm_id, str) or timm_id not in TOWERS:
        raise CheckpointError(f"config.json names the vision tower {timm_id!r}. Known: {', '.join(TOWERS)}.")
    fields = copy.deepcopy(TOWERS[timm_id])
    overrides = files.config.get("timm_model_overrides") or []
    if index < len(overrides):
        for name, value in (overrides[index] or {}).items():
            if name not in _OVERRIDES:
                raise CheckpointError(f"config.json overrides {name!r} of a tower. Known: {', '.join(_OVERRIDES)}.")
            fields[_OVERRIDES[name]] = value
    fields["mlp_width"] = int(fields["width"] * fields.pop("mlp_ratio"))
    normalisation = files.preprocessor.get("tvf_normalize_params")
    if normalisation:
        fields |= {name: list(normalisation[index][name]) for name in ("mean", "std")}
    return fields


def released_config(files: ReleasedFiles, norm_stats: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """
    ``config.json`` in the original's layout.

    :param files: of the checkpoint that the model came from
    :param norm_stats: action statistics
    :param own: fields that the original does not have
    :return: its content
    """
    values = {key: value for key, value in files.config.items() if key != OWN_KEY}
    # dataset_statistics.json beside it may have named fewer data sets; the others are not lost
    norm_stats = {**(values.get("norm_stats") or {}), **norm_stats}
    return {**values, "norm_stats": norm_stats, **({OWN_KEY: own} if own else {})}
