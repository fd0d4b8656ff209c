"""Stages of every kind of run: timing, and evaluation with greedy and with sampled actions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vla_algos.evaluation.harness import EvaluationResult, Predictor, evaluate_policy_on_suite
from vla_algos.experiments.components import components
from vla_algos.experiments.results import MODES
from vla_algos.experiments.settings import RLSettings, SFTSettings

Announce = Callable[[str], None]
"""Called with a description of the stage that begins."""


def silent(text: str) -> None:
    """Announce nothing."""


@contextmanager
def timed(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    """
    Measure a stage.

    :param stage: its name
    :param seconds: gets its wall time, by name
    """
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def evaluate_both(
    settings: RLSettings | SFTSettings,
    model: Predictor,
    env_kwargs: dict[str, Any],
    task_ids: Sequence[int],
    episodes_files: Mapping[str, Path] | None = None,
) -> dict[str, EvaluationResult]:
    """
    Evaluate with greedy and with sampled actions, from the same initial states.

    :param settings: of the run that the model comes from
    :param model: anything with SB3's ``predict``
    :param env_kwargs: keywords of the environment
    :param task_ids: tasks
    :param episodes_files: by mode, where each episode is written as it ends; episodes that are there are not run again
    :return: by mode; empty if the settings ask for no evaluation
    :raises EvaluationFileError: if the episodes that are there were measured with other settings
    """
    if not settings.n_eval_states:
        return {}
    wrappers = components(settings.wrappers) if isinstance(settings, RLSettings) else []
    return {
        mode: evaluate_policy_on_suite(
            model,
            settings.env_id,
            n_init_states=settings.n_eval_states,
            task_ids=task_ids,
            n_envs=settings.n_envs,
            deterministic=mode == "greedy",
            env_kwargs=env_kwargs,
            wrappers=wrappers,
            progress_bar=True,
            seed=settings.seed,
            episodes_file=(episodes_files or {}).get(mode),
            resume=True,
        )
        for mode in MODES
    }
