"""PPO on action tokens."""

from vla_algos.token_ppo.token_ppo import TokenPPO

__all__ = ["TokenPPO"]
