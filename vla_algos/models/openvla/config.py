"""Sizes and constants of an OpenVLA-shaped model, and the presets that name them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.models.openvla.config_checks import describe_faults
from vla_algos.models.openvla.released import DINOV2_ID, SIGLIP_ID, ReleasedFiles, released_fields
from vla_gym.spec import AGENTVIEW, COMMAND_DIM, INSTRUCTION, N_BINS, PROPRIO

# mean and std of (eef position in m, axis-angle in rad, two finger positions in m), rounded, over LIBERO's tasks
LIBERO_PROPRIO_MEAN = (-0.05, 0.03, 0.9, 3.0, -0.1, -0.1, 0.027, -0.027)
LIBERO_PROPRIO_STD = (0.1, 0.15, 0.3, 0.35, 0.5, 0.3, 0.014, 0.014)

LIBERO_PIPELINE = ("jpeg", "lanczos", "crop")
"""``image_pipeline`` of OpenVLA's evaluation on LIBERO, with which the published numbers were made."""


@dataclass(frozen=True)
class VisionTowerConfig:
    """
    One ViT.

    :param width: channels
    :param depth: number of blocks
    :param heads: attention heads
    :param patch: side of a patch, pixels
    :param mlp_width: hidden channels of a block's MLP
    :param feature_layer: index of the block whose output is the feature; the final norm belongs to the last block
        and is applied only if that is it (-1)
    :param class_token: prepend a class token
    :param registers: register tokens after the class token
    :param layer_scale: initial value of LayerScale, None for none
    :param attention_pool: hold the weights of SigLIP's pooling head, which OpenVLA never runs
    :param mean: per-channel mean of the normalisation, on pixels in [0, 1]
    :param std: per-channel standard deviation of the normalisation
    """

    width: int
    depth: int
    heads: int
    patch: int
    mlp_width: int
    feature_layer: int = -2
    class_token: bool = False
    registers: int = 0
    layer_scale: float | None = None
    attention_pool: bool = False
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        _freeze_lists(self)


@dataclass(frozen=True)
class LLMConfig:
    """
    The Llama part.

    :param hidden: channels
    :param layers: number of decoder layers
    :param heads: attention heads (keys and values have as many)
    :param mlp: hidden channels of the gated MLP
    :param vocab: V, text and action tokens together; bin ``b`` is token ``V - 1 - b``
    :param rows: rows of the embedding and of the head, V and padding
    :param rms_eps: epsilon of the RMS norms
    :param rope_base: base of the rotary position embedding
    """

    hidden: int
    layers: int
    heads: int
    mlp: int
    vocab: int = 32000
    rows: int = 32064
    rms_eps: float = 1e-6
    rope_base: float = 10000.0


@dataclass(frozen=True)
class OpenVLAConfig:
    """
    Architecture of one model: what its weights are, and what is computed with them. It never changes.

    Numbers that are part of the computation belong to it, such as those that images and proprioception are normalised
    by. What the model was trained on is in :class:`vla_algos.models.openvla.info.TrainingRecord`.

    :param image_size: side of the square model input, pixels
    :param towers: one or two ViTs; their features are concatenated on the channel axis
    :param llm: the Llama part
    :param image_pipeline: what is done to a camera image before it is resized: names of ``IMAGE_STEPS``, in order
    :param prompt_template: prompt with the place ``{instruction}``; the instruction is put in lower case
    :param prompt_end_id: token that ends every prompt (added unless it is there already), None for none
    :param builtin_tokenizer: use the tokenizer shipped with the package when no checkpoint brings one
    :param proprio_dim: numbers of proprioception that enter as one token after the patches, 0 for none
    :param proprio_mean: (proprio_dim,) subtracted before encoding
    :param proprio_std: (proprio_dim,) divided by
    :param proprio_frequencies: Fourier frequencies per number
    :param cameras: keys of the observation whose images are read, one after the other
    :param chunk_size: actions per decision, 7 tokens each
    :param value_head_width: hidden channels of the value head, 0 for no value head
    """

    image_size: int
    towers: tuple[VisionTowerConfig, ...]
    llm: LLMConfig
    image_pipeline: tuple[str, ...] = ()
    prompt_template: str = "In: What action should the robot take to {instruction}?\nOut:"
    prompt_end_id: int | None = None
    builtin_tokenizer: bool = False
    proprio_dim: int = 0
    proprio_mean: tuple[float, ...] = ()
    proprio_std: tuple[float, ...] = ()
    proprio_frequencies: int = 6
    cameras: tuple[str, ...] = (AGENTVIEW,)
    chunk_size: int = 1
    value_head_width: int = 0

    def __post_init__(self) -> None:
        _freeze_lists(self)

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """Entries of an observation that the model reads."""
        return (*self.cameras, INSTRUCTION, *([PROPRIO] if self.proprio_dim else []))

    @property
    def action_tokens(self) -> int:
        """Tokens of one decision."""
        return COMMAND_DIM * self.chunk_size

    @property
    def patches(self) -> int:
        """Patch tokens of one image."""
        return (self.image_size // self.towers[0].patch) ** 2

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> OpenVLAConfig:
        """
        Make one from plain values.

        :param fields: keywords, vision towers and language model as dictionaries of theirs
        :return: the configuration, unchecked
        :raises KeyError: if towers or language model are missing
        :raises TypeError: for a field that does not exist, or is missing
        """
        rest = dict(fields)
        towers = tuple(VisionTowerConfig(**tower) for tower in rest.pop("towers"))
        return cls(towers=towers, llm=LLMConfig(**rest.pop("llm")), **rest)


def _freeze_lists(config: Any) -> None:
    """JSON and recipes have lists where a configuration has tuples."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if isinstance(value, list):
            object.__setattr__(config, each.name, tuple(value))


def _released(*timm_ids: str) -> OpenVLAConfig:
    """Full size, as released."""
    values = {
        "model_type": "openvla",
        "image_sizes": [224] * len(timm_ids),
        "timm_model_ids": list(timm_ids),
        "pad_to_multiple_of": 64,
        "text_config": {},
    }
    fields = released_fields(ReleasedFiles(values))
    del fields["norm_stats"]
    # the id of the empty piece in the tokenizer of Llama 2
    return OpenVLAConfig.from_fields({**fields, "image_pipeline": LIBERO_PIPELINE, "prompt_end_id": 29871})


def _small(image_size: int, tower: VisionTowerConfig, llm: LLMConfig, value_head_width: int) -> OpenVLAConfig:
    return OpenVLAConfig(
        image_size=image_size,
        towers=(tower,),
        llm=llm,
        prompt_template="{instruction}",
        prompt_end_id=2,
        builtin_tokenizer=True,
        proprio_dim=8,
        proprio_mean=LIBERO_PROPRIO_MEAN,
        proprio_std=LIBERO_PROPRIO_STD,
        value_head_width=value_head_width,
    )


# the shipped tokenizer has 498 tokens; its rows are padded to a multiple of 64, as OpenVLA's are
_SMALL_VOCAB = {"vocab": 498 + N_BINS, "rows": 768}

PRESETS: dict[str, OpenVLAConfig] = {
    "openvla-7b": _released(DINOV2_ID, SIGLIP_ID),
    "openvla-7b-siglip": _released(SIGLIP_ID),
    "compact": _small(
        128,
        VisionTowerConfig(width=192, depth=4, heads=3, patch=16, mlp_width=576, feature_layer=-1),
        LLMConfig(hidden=192, layers=4, heads=3, mlp=512, **_SMALL_VOCAB),
        value_head_width=256,
    ),
    "nano": _small(
        64,
        VisionTowerConfig(width=64, depth=2, heads=2, patch=16, mlp_width=128, feature_layer=-1),
        LLMConfig(hidden=64, layers=2, heads=2, mlp=128, **_SMALL_VOCAB),
        value_head_width=64,
    ),
}


def get_preset(name: str, **changes: Any) -> OpenVLAConfig:
    """
    Configuration of a preset.

    :param name: one of :data:`PRESETS`
    :param changes: fields to change, such as ``image_size=96``, ``cameras=["agentview", "wrist"]`` or
        ``proprio_dim=0``
    :return: the configuration
    :raises UnknownNameError: if there is no such preset or field
    :raises CheckpointError: if a value is of another type or out of range
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    valid = [each.name for each in dataclasses.fields(OpenVLAConfig)]
    for key in changes:
        if key not in valid:
            raise UnknownNameError("field of a preset", key, valid)
    config = dataclasses.replace(PRESETS[name], **changes)
    faults = describe_faults(config)
    if faults:
        raise CheckpointError(f"Preset {name!r} cannot be changed by {changes}: {faults}")
    return config
