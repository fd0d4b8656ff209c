"""Vision-language-action models; plain torch, no environments."""

from vla_algos.models.adapters import load_adapters, save_adapters
from vla_algos.models.base import Actor, Sample, Scores
from vla_algos.models.decoding import DecodedActions, ScoredActions
from vla_algos.models.loading import load_vla, save_vla
from vla_algos.models.lora import add_lora, merge_adapters, unmerge_adapters
from vla_algos.models.openvla.config import OpenVLAConfig
from vla_algos.models.openvla.info import ModelInfo, TrainingRecord
from vla_algos.models.openvla.model import OpenVLA

__all__ = [
    "Actor",
    "DecodedActions",
    "ModelInfo",
    "OpenVLA",
    "OpenVLAConfig",
    "Sample",
    "ScoredActions",
    "Scores",
    "TrainingRecord",
    "add_lora",
    "load_adapters",
    "load_vla",
    "merge_adapters",
    "save_adapters",
    "save_vla",
    "unmerge_adapters",
]
