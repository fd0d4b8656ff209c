"""Vector environments: several copies of an environment, stepped as one."""

from vla_gym.vector.factory import BACKENDS, make_vec, vector_env_class

__all__ = ["BACKENDS", "make_vec", "vector_env_class"]
