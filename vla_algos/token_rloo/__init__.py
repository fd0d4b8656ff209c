"""RLOO on action tokens."""

from vla_algos.token_rloo.token_rloo import TokenRLOO

__all__ = ["TokenRLOO"]
