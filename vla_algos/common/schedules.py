"""Learning rates as functions of the progress of a run."""

from __future__ import annotations

import math
from typing import Any

from stable_baselines3.common.utils import LinearSchedule

LINEAR_PREFIX = "lin_"
"""Of numbers in recipe files that fall to zero in a straight line, as in RL Baselines3 Zoo."""


def as_schedule(value: Any) -> Any:
    """
    What a recipe file means by a value.

    :param value: anything; ``"lin_1.0e-4"`` falls from 1e-4 to 0 over the run
    :return: an SB3 schedule for such a text, anything else as it is
    :raises ValueError: if no number follows
    """
    if not isinstance(value, str) or not value.startswith(LINEAR_PREFIX):
        return value
    return LinearSchedule(start=float(value.removeprefix(LINEAR_PREFIX)), end=0.0, end_fraction=1.0)


def warmup_cosine(step: int, n_steps: int, warmup_fraction: float, final_fraction: float = 0.1) -> float:
    """
    Factor of the learning rate: a straight rise, then half a cosine.

    :param step: gradient steps done, 0..n_steps - 1
    :param n_steps: gradient steps in all
    :param warmup_fraction: share of the steps that rise
    :param final_fraction: factor at the end
    :return: factor in (0, 1]
    """
    n_warmup = round(warmup_fraction * n_steps)
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    progress = (step - n_warmup) / max(1, n_steps - 1 - n_warmup)
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
