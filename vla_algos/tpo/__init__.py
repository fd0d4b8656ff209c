"""Trajectory-wise preference optimisation on action tokens."""

from vla_algos.tpo.tpo import TPO

__all__ = ["TPO"]
