"""Algorithms that improve a policy by its own experience, one file each, and what they share."""

from vla_algos.algorithms.token_grpo import TokenGRPO
from vla_algos.algorithms.token_ppo import TokenPPO
from vla_algos.algorithms.token_rloo import TokenRLOO
from vla_algos.algorithms.tpo import TPO

__all__ = ["TPO", "TokenGRPO", "TokenPPO", "TokenRLOO"]
