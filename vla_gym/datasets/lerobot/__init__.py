"""
Write (v3.0) and read (v2.0, v2.1, v3.0) demonstrations in LeRobot's dataset format, without LeRobot.

LeRobot would bring torch, a video library and pinned versions that exclude this library's own, but its format is
public: ``data/`` contains steps as parquet, ``videos/<camera>/`` frames as MP4, ``meta/`` an index. Keys are those of
LeRobot's LIBERO environment: ``observation.images.image`` (agentview), ``observation.images.image2`` (wrist),
``observation.state`` (``proprio``) and ``action``, in single precision. Images are upright, as the policy sees them.
Other people's sets may have other keys, images in the parquet, and other conventions: see :class:`Conventions`. Video
is lossy; the format has no place for simulator states.
"""

from __future__ import annotations

from vla_gym.datasets.lerobot.export import export_lerobot
from vla_gym.datasets.lerobot.load import load_lerobot

__all__ = ["export_lerobot", "load_lerobot"]
