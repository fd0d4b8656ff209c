"""Behaviour cloning."""

from vla_algos.bc.bc import BC
from vla_algos.bc.dataset import DemonstrationSet

__all__ = ["BC", "DemonstrationSet"]
