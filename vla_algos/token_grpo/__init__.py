"""GRPO on action tokens."""

from vla_algos.token_grpo.token_grpo import TokenGRPO

__all__ = ["TokenGRPO"]
