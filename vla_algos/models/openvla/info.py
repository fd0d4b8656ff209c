"""What a checkpoint says of a model beside its weights: its architecture, and what it was trained on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from vla_algos.errors import CheckpointError
from vla_algos.models.openvla.config import LIBERO_PIPELINE, OpenVLAConfig
from vla_algos.models.openvla.config_checks import describe_faults
from vla_algos.models.openvla.released import OWN_KEY, ReleasedFiles, is_released, released_config, released_fields
from vla_algos.models.openvla.variants import refuse_other_kind

LIBERO_CAMERA_SIZE = 256
_IN_RELEASED = ("image_size", "towers", "llm", "norm_stats", "prompt_end_id")
"""Entries that the original's files say in their own way."""
_NOT_SAVED = ("released", "statistics_file")


@dataclass(frozen=True)
class TrainingRecord:
    """
    What a model was trained on, for whoever uses it later. Training replaces it as a whole:
    ``vla.record = dataclasses.replace(vla.record, trained_temperature=1.0)``.

    :param detach_value: whether the value's gradient stopped at the hidden state; the model's switch starts like this
    :param trained_camera_size: side of the camera images of its data, pixels; None: not known
    :param trained_render_quality: rendering of these images, "fast" or "full"; None: not known
    :param trained_temperature: at which its actions were sampled; None: not known
    :param norm_stats: OpenVLA's data set statistics, {data set: {"action": {"q01": ..., "q99": ..., "mask": ...}}}
    :param released: files of the released checkpoint that the model came from, whose layout it is saved in; None: the
        layout of this library
    :param statistics_file: where ``norm_stats`` were read, for messages; not saved
    """

    detach_value: bool = False
    trained_camera_size: int | None = None
    trained_render_quality: str | None = None
    trained_temperature: float | None = None
    norm_stats: dict[str, Any] = field(default_factory=dict)
    released: ReleasedFiles | None = None
    statistics_file: str | None = field(default=None, compare=False, repr=False)

    @property
    def render_quality(self) -> str:
        """Rendering that the model is to be given: that of its training, if known; else "full" for released models."""
        return self.trained_render_quality or ("fast" if self.released is None else "full")

    @property
    def temperature(self) -> float:
        """Temperature at which actions are to be sampled: that of the training, else 1."""
        return 1.0 if self.trained_temperature is None else self.trained_temperature


@dataclass(frozen=True)
class ModelInfo:
    """
    Both together, as ``config.json`` has them.

    :param config: architecture
    :param record: what it was trained on
    """

    config: OpenVLAConfig
    record: TrainingRecord = field(default_factory=TrainingRecord)

    @property
    def camera_size(self) -> int:
        """
        Side of the camera images that the model is to be given, pixels: those of its training, if they are known.

        An image that is rendered at the size of the model's input is not the one that was rendered larger and resized.
        """
        if self.record.trained_camera_size is not None:
            return self.record.trained_camera_size
        # what the pipeline starts from
        return LIBERO_CAMERA_SIZE if "lanczos" in self.config.image_pipeline else self.config.image_size

    def to_dict(self) -> dict[str, Any]:
        """
        Everything as plain JSON values.

        :return: the content of ``config.json``, in the layout of the original for what came in it
        """
        values, released = self._values(), self.record.released
        if released is None:
            return {"model_type": "openvla", "architectures": ["OpenVLA"], **values}
        said = self.from_dict(released.config, released.preprocessor)._values()
        own = {key: value for key, value in values.items() if key not in _IN_RELEASED and value != said[key]}
        return released_config(released, self.record.norm_stats, {**released.config.get(OWN_KEY, {}), **own})

    def _values(self) -> dict[str, Any]:
        values = {**dataclasses.asdict(self.config), **dataclasses.asdict(self.record)}
        return {key: value for key, value in values.items() if key not in _NOT_SAVED}

    @classmethod
    def from_dict(cls, values: dict[str, Any], preprocessor: dict[str, Any] | None = None) -> ModelInfo:
        """
        Inverse of :meth:`to_dict`.

        :param values: the content of ``config.json``, in this library's layout or in that of the original
        :param preprocessor: the content of ``preprocessor_config.json``, which the original has
        :return: architecture and record
        :raises CheckpointError: if it is of another kind of model, a key is unknown, a needed one is missing, or a
            value is of another type or out of range
        """
        refuse_other_kind(values)
        released = ReleasedFiles(values, preprocessor or {}) if is_released(values) else None
        if released is None:
            fields = {key: value for key, value in values.items() if key not in ("model_type", "architectures")}
        else:
            fields = {"image_pipeline": LIBERO_PIPELINE, **released_fields(released)}
        saved = [each.name for each in dataclasses.fields(TrainingRecord) if each.name not in _NOT_SAVED]
        record = TrainingRecord(released=released, **{key: fields.pop(key) for key in saved if key in fields})
        try:
            config = OpenVLAConfig.from_fields(fields)
        except (KeyError, TypeError) as error:
            valid = ", ".join([*(each.name for each in dataclasses.fields(OpenVLAConfig)), *saved])
            raise CheckpointError(
                f"config.json does not describe an OpenVLA of this library ({error!r}). Expected the keys: {valid}. "
                "Save the model with vla_algos.models.save_vla."
            ) from error
        faults = describe_faults(config, record)
        if faults:
            raise CheckpointError(f"config.json does not describe an OpenVLA of this library: {faults}")
        return cls(config, record)
