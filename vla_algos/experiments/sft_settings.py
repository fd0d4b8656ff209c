"""What the supervised fine-tuning of a VLA is to do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from vla_algos.errors import SpaceError, UnknownNameError
from vla_algos.experiments.names import PRESET_NAMES, check_env_names, check_vla
from vla_algos.experiments.value_types import check_fields, check_range
from vla_gym.tasks.registry import N_INIT_STATES

PRESET_CHUNK_SIZE = 8
"""Commands per decision of a model that starts from fresh weights, unless another number is asked for."""

WEIGHTS_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class SFTSettings:
    """
    What to train, how long, and how to judge it.

    :param vla: preset, shipped checkpoint, checkpoint folder or Hugging Face id
    :param chunk_size: commands per decision; None: a checkpoint's own, ``PRESET_CHUNK_SIZE`` for a preset
    :param image_size: of a preset's images (px); frames are kept at this size, while a checkpoint resizes by itself
    :param cameras: of a preset; a checkpoint has its own
    :param use_proprio: whether a preset gets proprioception
    :param epochs: passes over the demonstrations
    :param lora: train adapters: keywords of :func:`vla_algos.models.lora.add_lora`; None: train all weights
    :param bc_kwargs: further keywords of :class:`BC`
    :param frames_on_disk: keep frames in a file instead of in memory
    :param weights_dtype: type of the weights that are handed on, and judged: "float32" or "bfloat16"
    :param seed: of everything
    :param env_id: suite to evaluate in
    :param assets: asset pack to evaluate with; it should be that of the demonstrations
    :param render_quality: "fast" or "full", as in the demonstrations
    :param n_eval_states: initial states per task and evaluation; 0: no evaluation
    :param n_envs: environments side by side
    :raises SettingsError: for a value of the wrong type, or out of its range
    """

    may_differ: ClassVar[tuple[str, ...]] = (
        "frames_on_disk",
        "weights_dtype",
        "assets",
        "render_quality",
        "n_eval_states",
        "n_envs",
    )
    """Fields that may change when a run is resumed: how frames and weights are stored, and the evaluation."""
    lists: ClassVar[tuple[str, ...]] = ("cameras",)
    """Fields that JSON turns from tuples into lists."""
    seen_states: ClassVar[str] = "demonstrated"
    """Name of the initial states that training saw."""

    vla: str = "compact"
    chunk_size: int | None = None
    image_size: int = 96
    cameras: tuple[str, ...] = ("agentview",)
    use_proprio: bool = True
    epochs: float = 5.0
    lora: dict[str, Any] | None = None
    bc_kwargs: dict[str, Any] = field(
        default_factory=lambda: {
            "batch_size": 32,
            "learning_rate": 1e-3,
            "token_dropout": 0.3,
            "full_dropout": 0.5,
            # recorded commands carry noise of many bins; neighbouring bins are as good as the one that was drawn
            "label_smoothing": 0.5,
            "smoothing_width": 3.0,
            "validation_samples": 128,
        }
    )
    frames_on_disk: bool = False
    weights_dtype: str = "float32"
    seed: int = 0
    env_id: str = "LIBERO-Goal-v0"
    assets: str = "auto"
    render_quality: str = "fast"
    n_eval_states: int = 50
    n_envs: int = 8

    def __post_init__(self) -> None:
        check_fields(self)
        for name, lowest, highest in (("seed", 0, None), ("n_eval_states", 0, N_INIT_STATES), ("n_envs", 1, None)):
            check_range(name, getattr(self, name), lowest, highest)

    def check_names(self) -> None:
        """
        Look up every name that needs no model; torch is not imported.

        :raises UnknownNameError: for a model, suite, render quality or type of weights that does not exist
        :raises AssetsError: if the asset pack is missing
        """
        check_vla(self.vla)
        check_env_names(self.env_id, None, self.assets, self.render_quality)
        if self.weights_dtype not in WEIGHTS_DTYPES:
            raise UnknownNameError("weights_dtype", self.weights_dtype, WEIGHTS_DTYPES)

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

        config = load_config(self.vla)
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
