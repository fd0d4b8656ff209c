"""Names that a run depends on, checked before torch is imported and before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vla_algos.experiments.components import is_import_path, load_object
from vla_gym.assets.resolve import resolve_assets
from vla_gym.errors import UnknownNameError
from vla_gym.tasks.registry import RENDER_QUALITIES, SuiteSpec, get_suite

ALGORITHMS: Mapping[str, str] = MappingProxyType(
    {
        "TokenPPO": "vla_algos:TokenPPO",
        "TokenGRPO": "vla_algos:TokenGRPO",
        "TokenRLOO": "vla_algos:TokenRLOO",
        "TPO": "vla_algos:TPO",
        "BC": "vla_algos:BC",
        "PPO": "stable_baselines3:PPO",
        "A2C": "stable_baselines3:A2C",
        "TRPO": "sb3_contrib:TRPO",
        "RecurrentPPO": "sb3_contrib:RecurrentPPO",
    }
)
"""Name -> import path; any other algorithm for such spaces can be named by its import path."""
CLONING = "BC"
"""The algorithm of supervised fine-tuning."""
SCHEME_NAMES = ("paper", "frontier", "uniform")
"""As ``vla_algos.curriculum.sampler.SCHEMES`` has them."""
PRESET_NAMES = ("openvla-7b", "openvla-7b-siglip", "compact", "nano")
"""As ``vla_algos.models.openvla.config.PRESETS`` has them, which needs torch."""
_CHECKPOINTS = Path(__file__).resolve().parents[1] / "models" / "checkpoints"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_vla(vla: str) -> None:
    """
    Look up the name of a model, without asking the Hub whether an id exists.

    :param vla: preset, shipped checkpoint, checkpoint folder or Hugging Face id
    :raises UnknownNameError: if it is none of these
    """
    shipped = sorted(path.parent.name for path in _CHECKPOINTS.glob("*/config.json"))
    if vla in PRESET_NAMES or vla in shipped or Path(vla).exists():
        return
    if _HUB_ID.fullmatch(vla) and not vla.startswith("."):
        return
    remedy = "Or give an existing checkpoint folder, or a Hugging Face id such as 'organisation/name'."
    raise UnknownNameError("VLA", vla, [*PRESET_NAMES, *shipped], remedy)


def check_scheme(curriculum: Mapping[str, Any] | None) -> None:
    """
    Look up the scheme of a curriculum.

    :param curriculum: its keywords; None: there is none
    :raises UnknownNameError: if there is no such scheme
    """
    scheme = (curriculum or {}).get("scheme")
    if scheme is not None and scheme not in SCHEME_NAMES:
        raise UnknownNameError("scheme", scheme, SCHEME_NAMES)


def check_algorithm(algorithm: str) -> None:
    """
    Look up an algorithm, and import it if it is the user's own.

    :param algorithm: its name or import path
    :raises UnknownNameError: if there is none of that name
    :raises RecipeError: if it cannot be imported
    """
    if algorithm in ALGORITHMS:
        return
    if not is_import_path(algorithm):
        raise UnknownNameError(
            "algorithm", algorithm, ALGORITHMS, "Or give an import path, such as 'my_package.MyPPO'."
        )
    load_object(algorithm)


def algorithm_class(algorithm: str) -> type[Any]:
    """
    Import an algorithm.

    :param algorithm: its name or import path
    :return: its class
    :raises UnknownNameError: if there is none of that name
    :raises RecipeError: if it cannot be imported
    """
    check_algorithm(algorithm)
    return load_object(ALGORITHMS.get(algorithm, algorithm))  # type: ignore[no-any-return]


def check_policy(policy: str) -> None:
    """
    Import the user's own policy; any other name is left to the algorithm.

    :param policy: name or import path
    :raises RecipeError: if it cannot be imported
    :raises UnknownNameError: if its module has nothing of that name
    """
    if is_import_path(policy):
        load_object(policy)


def check_env_names(
    env_id: str, task_ids: Sequence[int] | None = None, assets: str = "auto", render_quality: str | None = None
) -> SuiteSpec:
    """
    Look up the names that an environment is made from.

    :param env_id: id or short name of a suite
    :param task_ids: of the suite; None or empty: all
    :param assets: asset pack
    :param render_quality: "fast" or "full"; None: not known yet
    :return: the suite
    :raises UnknownNameError: for a suite, task or quality that does not exist
    :raises AssetsError: if the asset pack is missing
    """
    suite = get_suite(env_id)
    for task_id in task_ids or ():
        if task_id not in range(len(suite.tasks)):
            raise UnknownNameError("task_id", task_id, range(len(suite.tasks)))
    if render_quality is not None and render_quality not in RENDER_QUALITIES:
        raise UnknownNameError("render_quality", render_quality, RENDER_QUALITIES)
    resolve_assets(assets)
    return suite
