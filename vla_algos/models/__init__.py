"""Vision-language-action models; plain torch, no environments."""

from vla_algos.models.decoding import DecodedActions, ScoredActions
from vla_algos.models.hub import load_vla, save_vla
from vla_algos.models.openvla.config import OpenVLAConfig
from vla_algos.models.openvla.model import OpenVLA

__all__ = ["DecodedActions", "OpenVLA", "OpenVLAConfig", "ScoredActions", "load_vla", "save_vla"]
