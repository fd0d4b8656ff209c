"""What the supervised fine-tuning of a VLA is to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, get_type_hints

from vla_algos.errors import SpaceError, UnknownNameError
from vla_algos.experiments.names import PRESET_NAMES
from vla_algos.experiments.settings import BASE_KEYS, ExperimentSettings
from vla_algos.experiments.value_types import check_value
from vla_gym.datasets.conventions import Conventions
from vla_gym.spec import AGENTVIEW

PRESET_CHUNK_SIZE = 8
"""Commands per decision of a model that starts from fresh weights, unless another number is asked for."""

WEIGHTS_DTYPES = ("float32", "bfloat16")


_KEYS: Mapping[str, str] = MappingProxyType(
    {
        **BASE_KEYS,
        "epochs": "epochs",
        "chunk_size": "model.chunk_size",
        "image_size": "model.image_size",
        "cameras": "model.cameras",
        "use_proprio": "model.use_proprio",
        "lora": "model.lora",
        "weights_dtype": "model.weights_dtype",
        "frames_on_disk": "resources.frames_on_disk",
        "conventions": "conventions",
    }
)


@dataclass(frozen=True)
class SFTSettings(ExperimentSettings):
    """
    What to train, how long, and how to evaluate it; see :class:`ExperimentSettings` for the rest.

    ``env_id``, ``assets`` and ``render_quality`` should be those of the demonstrations.

    :param chunk_size: commands per decision; None: a checkpoint's own, ``PRESET_CHUNK_SIZE`` for a preset
    :param image_size: of a preset's images (px); frames are kept at this size, while a checkpoint resizes by itself
    :param cameras: of a preset; a checkpoint has its own
    :param use_proprio: whether a preset gets proprioception
    :param epochs: passes over the demonstrations
    :param lora: train adapters: keywords of :func:`vla_algos.models.lora.add_lora`; None: train all weights
    :param frames_on_disk: keep frames in a file instead of in memory
    :param conventions: of foreign demonstrations: keywords of :class:`vla_gym.datasets.conventions.Conventions`
    :param weights_dtype: type of the weights that are handed on and evaluated: "float32" or "bfloat16"
    """

    keys: ClassVar[Mapping[str, str]] = _KEYS
    may_differ: ClassVar[tuple[str, ...]] = (
        "frames_on_disk",
        "weights_dtype",
        "assets",
        "render_quality",
        "n_eval_states",
        "n_envs",
        "threads",
        "device",
    )
    lists: ClassVar[tuple[str, ...]] = ("cameras",)
    seen_states: ClassVar[str] = "demonstrated"

    vla: str = "compact"
    algorithm: str = "BC"
    n_envs: int = 8
    chunk_size: int | None = None
    image_size: int = 96
    cameras: tuple[str, ...] = (AGENTVIEW,)
    use_proprio: bool = True
    epochs: float = 5.0
    lora: dict[str, Any] | None = None
    frames_on_disk: bool = False
    weights_dtype: str = "float32"
    conventions: dict[str, Any] = field(default_factory=dict)

    def check_names(self) -> None:
        """
        As of the base class, with the type of the weights.

        :raises UnknownNameError: for a name that does not exist
        :raises SettingsError: for a convention of the wrong type
        :raises AssetsError: if the asset pack is missing
        """
        super().check_names()
        if self.weights_dtype not in WEIGHTS_DTYPES:
            raise UnknownNameError("weights_dtype", self.weights_dtype, WEIGHTS_DTYPES)
        hints = get_type_hints(Conventions)
        for key, value in self.conventions.items():
            if key not in hints:
                raise UnknownNameError("convention", key, hints)
            check_value(f"conventions.{key}", value, hints[key])
        Conventions(**self.conventions)

    @property
    def is_preset(self) -> bool:
        """Whether training starts from fresh weights."""
        return self.vla in PRESET_NAMES

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """Keywords of the policy."""
        kwargs: dict[str, Any] = {"vla": self.vla, "lora": self.lora}
        if self.is_preset:
            changes: dict[str, Any] = {"image_size": self.image_size, "cameras": list(self.cameras)}
            if not self.use_proprio:
                changes["proprio_dim"] = 0
            kwargs["vla_kwargs"] = {"config_changes": changes}
        elif self.vla_kwargs:
            kwargs["vla_kwargs"] = self.vla_kwargs
        return kwargs

    def resolved(self) -> SFTSettings:
        """
        With everything filled in that the model decides.

        :return: settings with a ``chunk_size``, and for a checkpoint with its ``image_size``, ``cameras`` and
            ``use_proprio``
        :raises SpaceError: if a checkpoint has another ``chunk_size`` than these settings
        :raises UnknownNameError: if there is no such model
        :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture
        """
        if self.is_preset:
            return replace(self, chunk_size=PRESET_CHUNK_SIZE if self.chunk_size is None else self.chunk_size)
        # here, as it needs torch, which settings alone do not
        from vla_algos.models.hub import load_config

        config = load_config(self.vla, self.revision)
        if self.chunk_size not in (None, config.chunk_size):
            raise SpaceError(
                f"{self.vla} chooses {config.chunk_size} commands per decision, and cannot be trained with "
                f"chunk_size={self.chunk_size}. Leave chunk_size out."
            )
        return replace(
            self,
            chunk_size=config.chunk_size,
            image_size=config.image_size,
            cameras=tuple(config.cameras),
            use_proprio=config.proprio_dim > 0,
        )
