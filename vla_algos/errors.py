"""Named errors of ``vla_algos``; each message states the value, what was expected, and the remedy."""

from __future__ import annotations

from vla_gym.errors import MissingPackageError, UnknownNameError

__all__ = [
    "ActorError",
    "CheckpointError",
    "DeviceError",
    "DiscountError",
    "EvaluationFileError",
    "FilmError",
    "FixedSettingError",
    "MissingPackageError",
    "ModelInputError",
    "RandomWeightsWarning",
    "RecipeError",
    "RemovedKeywordError",
    "RewardHackingWarning",
    "RewardModelError",
    "SavingError",
    "SettingsError",
    "SpaceError",
    "TrainingDivergedError",
    "TrajectoryError",
    "UnknownNameError",
    "VLAAlgosError",
    "WrapperOrderError",
    "WrapperOrderWarning",
]


class VLAAlgosError(Exception):
    """Base class of all errors raised by ``vla_algos``."""


class ActorError(VLAAlgosError, ValueError):
    """A policy that does not give what an algorithm or one of its settings needs."""


class CheckpointError(VLAAlgosError, RuntimeError):
    """A checkpoint that is missing, damaged or made for another architecture."""


class DeviceError(VLAAlgosError, RuntimeError):
    """A device that is not there, or has too little memory."""


class DiscountError(VLAAlgosError, ValueError):
    """A reward that needs the algorithm's discount, and has none or another one."""


class FilmError(VLAAlgosError, ValueError):
    """A film, or a file of films, that is damaged or not one."""


class FixedSettingError(VLAAlgosError, AttributeError):
    """A setting of an algorithm that cannot be changed once it is made."""


class EvaluationFileError(VLAAlgosError, ValueError):
    """A file of results or episodes that is damaged, or of another evaluation."""


class ModelInputError(VLAAlgosError, ValueError):
    """Images, instructions, proprioception or action bins that a model cannot take."""


class RandomWeightsWarning(UserWarning):
    """Reinforcement learning that starts from random weights, where hardly any episode succeeds."""


class RecipeError(VLAAlgosError, ValueError):
    """A recipe file that does not say what it should."""


class RemovedKeywordError(VLAAlgosError, TypeError):
    """A keyword without a meaning for the algorithm."""


class RewardHackingWarning(UserWarning):
    """A process reward that is worth more than success, or rises while success falls."""


class RewardModelError(VLAAlgosError, RuntimeError):
    """A process reward model that gives no usable scores."""


class SavingError(VLAAlgosError, OSError):
    """A file that could not be written, as the disk is full or failed."""


class SettingsError(VLAAlgosError, ValueError):
    """Settings that an interrupted run was not begun with."""


class TrajectoryError(VLAAlgosError, ValueError):
    """A trajectory that cannot be labelled."""


class TrainingDivergedError(VLAAlgosError, RuntimeError):
    """Updates that are not finite, again and again."""


class SpaceError(VLAAlgosError, ValueError):
    """An observation or action space that a policy or algorithm cannot work with."""


class WrapperOrderError(VLAAlgosError, ValueError):
    """Wrappers of a vector environment in an order in which they spoil each other's work."""


class WrapperOrderWarning(UserWarning):
    """Wrappers of a vector environment in an order in which the log says something else than usual."""
