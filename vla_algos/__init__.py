"""Stable-Baselines3-compatible reinforcement learning for vision-language-action models."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vla_algos.errors import MissingPackageError

if TYPE_CHECKING:
    from vla_algos.algorithms import TPO as TPO
    from vla_algos.algorithms import TokenGRPO as TokenGRPO
    from vla_algos.algorithms import TokenPPO as TokenPPO
    from vla_algos.algorithms import TokenRLOO as TokenRLOO
    from vla_algos.bc import BC as BC
    from vla_algos.bc import DemonstrationSet as DemonstrationSet
    from vla_algos.common.vec_env import SB3VecEnv as SB3VecEnv
    from vla_algos.curriculum import CurriculumCallback as CurriculumCallback
    from vla_algos.curriculum import SuccessSampler as SuccessSampler
    from vla_algos.evaluation import evaluate_policy_on_suite as evaluate_policy_on_suite
    from vla_algos.policies import ActorPolicy as ActorPolicy
    from vla_algos.policies import VLAPolicy as VLAPolicy
    from vla_algos.policies import env_kwargs_for as env_kwargs_for
    from vla_algos.rewards import ProcessRewardCallback as ProcessRewardCallback
    from vla_algos.rewards import RewardRefreshCallback as RewardRefreshCallback
    from vla_algos.rewards import VecProcessReward as VecProcessReward

# loaded on first use: torch, transformers and SB3 take seconds that `vla-rl --help` should not
_EXPORTS = {
    "ActorPolicy": "vla_algos.policies",
    "BC": "vla_algos.bc",
    "CurriculumCallback": "vla_algos.curriculum",
    "DemonstrationSet": "vla_algos.bc",
    "ProcessRewardCallback": "vla_algos.rewards",
    "RewardRefreshCallback": "vla_algos.rewards",
    "SB3VecEnv": "vla_algos.common.vec_env",
    "TPO": "vla_algos.algorithms",
    "TokenGRPO": "vla_algos.algorithms",
    "SuccessSampler": "vla_algos.curriculum",
    "TokenPPO": "vla_algos.algorithms",
    "TokenRLOO": "vla_algos.algorithms",
    "VLAPolicy": "vla_algos.policies",
    "VecProcessReward": "vla_algos.rewards",
    "env_kwargs_for": "vla_algos.policies",
    "evaluate_policy_on_suite": "vla_algos.evaluation",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. It exports: {', '.join(__all__)}.")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _MissingExtra(MetaPathFinder):
    """Names the extra where a part of this package is imported whose packages are not installed."""

    _FREE = frozenset({"cli", "errors"})
    """Parts that need nothing of the extra."""

    def __init__(self, missing: Sequence[str]) -> None:
        self._missing = ", ".join(missing)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        package, _, rest = fullname.partition(".")
        if package == __name__ and rest.partition(".")[0] not in self._FREE:
            raise MissingPackageError(
                f"{fullname} needs packages that are not installed: {self._missing}. Run: pip install 'vla-gym[algos]'"
            )


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # imports of it are blocked
        return False


_missing = [name for name in ("torch", "transformers", "stable_baselines3") if not _is_installed(name)]
if _missing:
    sys.meta_path.insert(0, _MissingExtra(_missing))
