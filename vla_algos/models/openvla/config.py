"""Sizes and constants of an OpenVLA-shaped model, and the presets that name them."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any

from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.models.openvla.config_checks import describe_faults
from vla_algos.models.openvla.released import (
    DINOV2_ID,
    OWN_KEY,
    SIGLIP_ID,
    ReleasedFiles,
    is_released,
    released_config,
    released_fields,
)
from vla_algos.models.openvla.variants import refuse_other_kind
from vla_gym.spec import AGENTVIEW, COMMAND_DIM, N_BINS

# mean and std of (eef position in m, axis-angle in rad, two finger positions in m), rounded, over LIBERO's tasks
LIBERO_PROPRIO_MEAN = [-0.05, 0.03, 0.9, 3.0, -0.1, -0.1, 0.027, -0.027]
LIBERO_PROPRIO_STD = [0.1, 0.15, 0.3, 0.35, 0.5, 0.3, 0.014, 0.014]

LIBERO_CAMERA_SIZE = 256
LIBERO_PIPELINE = ("jpeg", "lanczos", "crop")
"""``image_pipeline`` of OpenVLA's evaluation on LIBERO, with which the published numbers were made."""

_IN_RELEASED = ("image_size", "towers", "llm", "norm_stats", "prompt_end_id")
"""Fields that the original's files say in their own way."""
_NOT_SAVED = ("released", "statistics_file")


@dataclass
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
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])


@dataclass
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


@dataclass
class OpenVLAConfig:
    """
    Architecture of one model; saved as ``config.json``.

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
    :param detach_value: stop the gradient of the value at the hidden state it reads
    :param trained_camera_size: side of the camera images of the data that it was trained on, pixels; None: not known
    :param trained_render_quality: rendering of the images that it was trained on, "fast" or "full"; None: not known
    :param trained_temperature: at which its actions were sampled in training; None: not known
    :param norm_stats: OpenVLA's data set statistics, {data set: {"action": {"q01": ..., "q99": ..., "mask": ...}}}
    :param released: files of the released checkpoint that the model came from, whose layout it is saved in; None: the
        layout of this library
    :param statistics_file: where ``norm_stats`` were read, for messages; not saved
    """

    image_size: int
    towers: list[VisionTowerConfig]
    llm: LLMConfig
    image_pipeline: list[str] = field(default_factory=list)
    prompt_template: str = "In: What action should the robot take to {instruction}?\nOut:"
    prompt_end_id: int | None = None
    builtin_tokenizer: bool = False
    proprio_dim: int = 0
    proprio_mean: list[float] = field(default_factory=list)
    proprio_std: list[float] = field(default_factory=list)
    proprio_frequencies: int = 6
    cameras: list[str] = field(default_factory=lambda: [AGENTVIEW])
    chunk_size: int = 1
    value_head_width: int = 0
    detach_value: bool = False
    trained_camera_size: int | None = None
    trained_render_quality: str | None = None
    trained_temperature: float | None = None
    norm_stats: dict[str, Any] = field(default_factory=dict)
    released: ReleasedFiles | None = None
    statistics_file: str | None = field(default=None, compare=False, repr=False)

    @property
    def camera_size(self) -> int:
        """
        Side of the camera images that the model is to be given, pixels: those of its training, if they are known.

        An image that is rendered at the size of the model's input is not the one that was rendered larger and resized.
        """
        if self.trained_camera_size is not None:
            return self.trained_camera_size
        # what the pipeline starts from
        return LIBERO_CAMERA_SIZE if "lanczos" in self.image_pipeline else self.image_size

    @property
    def render_quality(self) -> str:
        """Rendering that the model is to be given: that of its training, if known; else "full" for released models."""
        return self.trained_render_quality or ("fast" if self.released is None else "full")

    @property
    def temperature(self) -> float:
        """Temperature at which actions are to be sampled: that of the training, else 1."""
        return 1.0 if self.trained_temperature is None else self.trained_temperature

    @property
    def action_tokens(self) -> int:
        """Tokens of one decision."""
        return COMMAND_DIM * self.chunk_size

    @property
    def patches(self) -> int:
        """Patch tokens of one image."""
        return (self.image_size // self.towers[0].patch) ** 2

    def to_dict(self) -> dict[str, Any]:
        """
        Everything as plain JSON values.

        :return: the content of ``config.json``, in the layout of the original for what came in it
        """
        values = dataclasses.asdict(self)
        del values["released"], values["statistics_file"]
        if self.released is None:
            return {"model_type": "openvla", "architectures": ["OpenVLA"], **values}
        said = dataclasses.asdict(self.from_dict(self.released.config, self.released.preprocessor))
        own = {key: value for key, value in values.items() if key not in _IN_RELEASED and value != said[key]}
        return released_config(self.released, self.norm_stats, {**self.released.config.get(OWN_KEY, {}), **own})

    @classmethod
    def from_dict(cls, values: dict[str, Any], preprocessor: dict[str, Any] | None = None) -> OpenVLAConfig:
        """
        Inverse of :meth:`to_dict`.

        :param values: the content of ``config.json``, in this library's layout or in that of the original
        :param preprocessor: the content of ``preprocessor_config.json``, which the original has
        :return: the configuration
        :raises CheckpointError: if it is of another kind of model, a key is unknown, a needed one is missing, or a
            value is of another type or out of range
        """
        refuse_other_kind(values)
        released = ReleasedFiles(values, preprocessor or {}) if is_released(values) else None
        if released is None:
            fields: dict[str, Any] = {
                key: value for key, value in values.items() if key not in ("model_type", "architectures")
            }
        else:
            fields = {"image_pipeline": list(LIBERO_PIPELINE), **released_fields(released)}
        try:
            towers = [VisionTowerConfig(**tower) for tower in fields.pop("towers")]
            config = cls(towers=towers, llm=LLMConfig(**fields.pop("llm")), released=released, **fields)
        except (KeyError, TypeError) as error:
            valid = ", ".join(f.name for f in dataclasses.fields(cls) if f.name not in _NOT_SAVED)
            raise CheckpointError(
                f"config.json does not describe an OpenVLA of this library ({error!r}). Expected the keys: {valid}. "
                "Save the model with vla_algos.models.save_vla."
            ) from error
        faults = describe_faults(config)
        if faults:
            raise CheckpointError(f"config.json does not describe an OpenVLA of this library: {faults}")
        return config


def _released(*timm_ids: str) -> OpenVLAConfig:
    """Full size, as released."""
    values = {
        "model_type": "openvla",
        "image_sizes": [224] * len(timm_ids),
        "timm_model_ids": list(timm_ids),
        "pad_to_multiple_of": 64,
        "text_config": {},
    }
    # the id of the empty piece in the tokenizer of Llama 2
    return dataclasses.replace(OpenVLAConfig.from_dict(values), prompt_end_id=29871, released=None)


def _small(image_size: int, tower: VisionTowerConfig, llm: LLMConfig, value_head_width: int) -> OpenVLAConfig:
    return OpenVLAConfig(
        image_size=image_size,
        towers=[tower],
        llm=llm,
        prompt_template="{instruction}",
        prompt_end_id=2,
        builtin_tokenizer=True,
        proprio_dim=8,
        proprio_mean=list(LIBERO_PROPRIO_MEAN),
        proprio_std=list(LIBERO_PROPRIO_STD),
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
    :param changes: fields that shall differ, such as ``image_size=96``, ``cameras=["agentview", "wrist"]`` or
        ``proprio_dim=0``
    :return: a copy that may be changed
    :raises UnknownNameError: if there is no such preset or field
    :raises CheckpointError: if a value is of another type or out of range
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    config = copy.deepcopy(PRESETS[name])
    valid = [f.name for f in dataclasses.fields(config) if f.name not in _NOT_SAVED]
    for key in changes:
        if key not in valid:
            raise UnknownNameError("field of a preset", key, valid)
    config = dataclasses.replace(config, **changes)
    faults = describe_faults(config)
    if faults:
        raise CheckpointError(f"Preset {name!r} cannot be changed by {changes}: {faults}")
    return config
