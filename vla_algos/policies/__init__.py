"""Adapters from models to SB3 policies."""

from vla_algos.policies.actor_policy import ActorPolicy
from vla_algos.policies.env_keywords import env_kwargs_for
from vla_algos.policies.spaces import spaces_of
from vla_algos.policies.vla_policy import VLAPolicy

__all__ = ["ActorPolicy", "VLAPolicy", "env_kwargs_for", "spaces_of"]
