"""Which starts (task, initial state) to practise on."""

from vla_algos.curriculum.callback import CurriculumCallback
from vla_algos.curriculum.sampler import SuccessSampler

__all__ = ["CurriculumCallback", "SuccessSampler"]
