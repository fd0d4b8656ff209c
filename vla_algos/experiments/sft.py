"""
Supervised fine-tuning of a VLA on demonstrations, from files to success rate.

The action statistics of the demonstrations decide what the bins mean and are stored with the model. Validation on
held-out episodes chooses the model. The simulator then measures its success, separately for demonstrated initial states
and for others.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th

from vla_algos.bc import BC
from vla_algos.bc.dataset import DemonstrationSet
from vla_algos.common import provenance
from vla_algos.evaluation.harness import EvaluationResult
from vla_algos.experiments.components import load_object
from vla_algos.experiments.model_card import write_model_card
from vla_algos.experiments.results import MODES, RunResult
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import SFTSettings
from vla_algos.experiments.stages import Announce, evaluate_both, silent, timed
from vla_algos.models import load_vla, save_vla
from vla_algos.policies import VLAPolicy, env_kwargs_for
from vla_algos.policies.saving import disk_errors_named
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.episode import Episode
from vla_gym.owned import own_folder
from vla_gym.provenance import peak_memory_mb
from vla_gym.tasks.registry import get_suite

N_VALIDATIONS = 10


def run_sft(
    settings: SFTSettings,
    episodes: Iterable[Episode],
    folder: str | Path,
    announce: Announce = silent,
    resume: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> RunResult:
    """
    Train, choose the best model by validation, evaluate it, and write a model card.

    :param settings: what and how
    :param episodes: demonstrations, read once and one by one; unsuccessful ones are left out
    :param folder: where to write ``model/`` (the best model and its card), ``last.zip`` (to resume from),
        ``settings.json``, ``logs/`` and ``results.json``
    :param announce: called with a description of each stage as it begins
    :param resume: resume an interrupted run from ``last.zip``, with the same demonstrations and the same settings; only
        those of the evaluation may change
    :param origin: further entries of the result's ``provenance``, such as ``command`` and ``data``
    :return: validations, evaluations and times
    :raises ValueError: without a successful episode, with too few to hold any out, or with one that lacks a camera
    :raises SpaceError: if a checkpoint has another ``chunk_size`` than the settings
    :raises UnknownNameError: if there is no such model or suite
    :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture, or there is no run to
        ``resume``
    :raises SettingsError: if the interrupted run has other settings
    :raises TrainingDivergedError: after three gradient steps in a row that are not finite
    :raises FolderInUseError: if another run is writing to ``folder``
    :raises FolderNotWritableError: if ``folder`` cannot be written
    :raises SavingError: if the model cannot be written at the end
    :raises KeyboardInterrupt: after Ctrl-C, once the gradient step in progress is done and saved
    """
    run_folder = RunFolder(folder)
    settings.check_names()
    settings = settings.resolved()
    if resume:
        run_folder.check_resumable(settings)
        run_folder.check_saved()
    if settings.threads is not None:
        th.set_num_threads(settings.threads)
    with own_folder(run_folder.path):
        run_folder.rename_earlier_files()
        return _run(settings, episodes, run_folder, announce, resume, origin or {})


def _run(
    settings: SFTSettings,
    episodes: Iterable[Episode],
    folder: RunFolder,
    announce: Announce,
    resume: bool,
    origin: Mapping[str, Any],
) -> RunResult:
    seconds: dict[str, float] = {}
    demonstrated: dict[int, set[int]] = defaultdict(set)

    announce("reading the demonstrations")
    # resolved() has chosen one
    assert settings.chunk_size is not None
    with timed("reading", seconds):
        dataset = DemonstrationSet.from_episodes(
            _successful(episodes, demonstrated),
            tokenizer=_tokenizer(settings),
            chunk_size=settings.chunk_size,
            image_size=settings.image_size if settings.is_preset else None,
            image_folder=folder.frames if settings.frames_on_disk else None,
            name=get_suite(settings.env_id).name,
        )
    n_episodes = len(set(dataset.episode_ids))

    model, n_steps = _model(settings, dataset, folder, resume)
    if n_steps or folder.differs(settings):
        # episodes of a model that is about to change, or that is evaluated otherwise this time
        folder.forget_evaluation("after")
    announce(f"training on {n_episodes} episodes, {len(dataset)} decisions: {n_steps} gradient steps")
    model.learn(n_steps, reset_num_timesteps=not resume, progress_bar=True)
    best = load_vla(folder.best) if model.validations else model.policy.vla
    best.record = dataclasses.replace(best.record, trained_render_quality=settings.render_quality)
    with disk_errors_named(folder.vla):
        save_vla(best, folder.vla, dtype=getattr(th, settings.weights_dtype))
    seconds["training"] = model.training_seconds

    with timed("evaluation after", seconds):
        after = _evaluate(settings, folder, model.device, sorted(demonstrated), announce)
    result = RunResult(
        settings,
        folder.path,
        {"after": after},
        dict(demonstrated),
        model.num_timesteps,
        {**provenance.origin(model.device), **origin},
        seconds,
        peak_memory_mb(),
        validations=model.validations,
        n_episodes=n_episodes,
        n_decisions=len(dataset),
    )
    result.save(folder.results_file)
    write_model_card(result, folder.vla)
    return result


def _successful(episodes: Iterable[Episode], demonstrated: dict[int, set[int]]) -> Iterator[Episode]:
    for episode in episodes:
        if episode.success:
            demonstrated[episode.task_id].add(episode.init_state_id)
            yield episode


def _tokenizer(settings: SFTSettings) -> ActionTokenizer | None:
    """The checkpoint's bins; None: the demonstrations decide."""
    if not settings.keep_action_statistics:
        return None
    kwargs = env_kwargs_for(settings.vla, env_id=settings.env_id, revision=settings.revision)
    tokenizer: ActionTokenizer = kwargs["action_tokenizer"]
    return tokenizer


def _model(settings: SFTSettings, dataset: DemonstrationSet, folder: RunFolder, resume: bool) -> tuple[BC, int]:
    """The model and the gradient steps that it still has to do."""
    if resume:
        model = BC.load(folder.last, dataset=dataset, device=settings.algorithm_kwargs.get("device", settings.device))
        # the folder may have been moved
        model.checkpoint_folder, model.tensorboard_log = str(folder.path), str(folder.logs)
        return model, model.remaining_steps
    policy = settings.policy if settings.policy == "VLAPolicy" else load_object(settings.policy)
    kwargs = {"device": settings.device, **settings.algorithm_kwargs}
    model = BC(
        policy,
        None,
        dataset,
        seed=settings.seed,
        checkpoint_folder=folder.path,
        tensorboard_log=str(folder.logs),
        policy_kwargs=settings.policy_kwargs | kwargs.pop("policy_kwargs", {}),
        **kwargs,
    )
    n_steps = math.ceil(settings.epochs * len(dataset) / model.batch_size)
    model.validation_interval = max(1, n_steps // N_VALIDATIONS)
    folder.start(settings)
    return model, n_steps


def _evaluate(
    settings: SFTSettings, folder: RunFolder, device: th.device, task_ids: list[int], announce: Announce
) -> dict[str, EvaluationResult]:
    """Of the model as it was saved, in the environment that everyone will make for it."""
    if not settings.n_eval_states:
        return {}
    kwargs = {
        **env_kwargs_for(folder.vla, env_id=settings.env_id),
        "render_quality": settings.render_quality,
        "assets": settings.assets,
    }
    with gym.make(settings.env_id, **kwargs) as env:
        policy = VLAPolicy.from_checkpoint(folder.vla, env)
    policy.to(device)
    announce("evaluation of the best model, greedy and sampled")
    files = {mode: folder.episodes_file("after", mode) for mode in MODES}
    return evaluate_both(settings, policy, kwargs, task_ids, files)
