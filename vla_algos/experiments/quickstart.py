"""
The quickstart: improve the shipped checkpoint at one LIBERO-Goal task by reinforcement learning, in minutes.

Nothing is downloaded. Success is counted on all 50 initial states, of which training sees the first 25. Films show one
held-out episode before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vla_algos.evaluation.plots import plot_learning_curve
from vla_algos.evaluation.videos import record_episode
from vla_algos.experiments.recipe import load_recipe
from vla_algos.experiments.results import RunResult
from vla_algos.experiments.rl import run_rl
from vla_algos.experiments.settings import RLSettings
from vla_gym.tasks.registry import get_suite

RECIPE = "quickstart"
CURVE = "curve.png"
FILMS = {"before": "before.mp4", "after": "after.mp4"}


def quickstart_settings(smoke: bool = False, **changes: Any) -> RLSettings:
    """
    Read the settings of the quickstart from its recipe.

    :param smoke: run every stage once, as small as possible; the results mean nothing
    :param changes: fields of :class:`RLSettings` that replace those of the recipe
    """
    settings = load_recipe(RECIPE)
    assert isinstance(settings, RLSettings)
    if smoke:
        kwargs = {**settings.algorithm_kwargs, "n_steps": 8, "batch_size": 16}
        settings = replace(settings, n_envs=2, total_timesteps=3 * 2 * 8, n_eval_states=4, algorithm_kwargs=kwargs)
    return replace(settings, **changes)


def run_quickstart(
    settings: RLSettings,
    folder: str | Path,
    announce: Callable[[str], None] = lambda _: None,
    resume: bool = False,
) -> RunResult:
    """
    Evaluate, train, evaluate again; film one held-out episode before and after, and draw the curve.

    :param settings: of one task
    :param folder: where to write what :func:`vla_algos.experiments.rl.run_rl` writes, and ``curve.png``,
        ``before.mp4`` and ``after.mp4``
    :param announce: called with a description of each stage as it begins
    :param resume: as for :func:`vla_algos.experiments.rl.run_rl`
    :return: evaluations, history and times
    """
    folder = Path(folder)
    options = {"task_id": settings.tasks[0], "init_state_id": settings.n_train_states}

    def film(when: str, model: Any) -> None:
        announce(f"film of one held-out episode, {when} training")
        record_episode(model, folder / FILMS[when], settings.env_id, settings.env_kwargs, options)

    result = run_rl(settings, folder, announce, resume, on_model=film)
    title = get_suite(settings.env_id).task(settings.tasks[0]).instruction
    before, after = list(result.before.values()), list(result.after.values())
    plot_learning_curve(folder / CURVE, result.history, before, after, title)
    return result
