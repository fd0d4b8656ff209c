"""
LIBERO tasks as Gymnasium environments over VLA action tokens.

Importing this package registers LIBERO's five suites; it imports neither torch nor Stable-Baselines3 nor robosuite.
"""

from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.appearance import Appearance, CameraOverride, LightOverride
from vla_gym.envs.registration import register_envs
from vla_gym.instructions import decode_instruction, encode_instruction
from vla_gym.vector.factory import make_vec

__version__ = "0.1.0"

__all__ = [
    "ActionTokenizer",
    "Appearance",
    "CameraOverride",
    "LightOverride",
    "__version__",
    "decode_instruction",
    "encode_instruction",
    "make_vec",
]

register_envs()
