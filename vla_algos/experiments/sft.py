"""
Supervised fine-tuning of a VLA on demonstrations, from files to success rate.

The action statistics of the demonstrations decide what the bins mean and are stored with the model. Validation on
held-out episodes chooses the model; the simulator then says what it is worth, apart for initial states that were
demonstrated and for others.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th

from vla_algos.bc import BC
from vla_algos.bc.bc import BEST_FOLDER
from vla_algos.bc.dataset import DemonstrationSet
from vla_algos.common import provenance
from vla_algos.evaluation.harness import EvaluationResult, evaluate_policy_on_suite
from vla_algos.experiments.model_card import write_model_card
from vla_algos.experiments.sft_settings import SFTSettings
from vla_algos.experiments.stored_settings import check_resumable, check_saved, differs, store_settings
from vla_algos.models import load_vla, save_vla
from vla_algos.policies import VLAPolicy, env_kwargs
from vla_algos.policies.saving import LAST_FILE, disk_errors_named
from vla_gym.datasets.episode import Episode
from vla_gym.files import write_then_rename
from vla_gym.owned import own_folder
from vla_gym.tasks.registry import get_suite

N_VALIDATIONS = 10
MODEL_FOLDER = "model"
MAY_DIFFER = ("frames_on_disk", "weights_dtype", "assets", "render_quality", "n_eval_states", "n_envs")
"""Settings that a run may go on with otherwise: where frames are kept, and how the model is stored and judged."""


@dataclass(frozen=True)
class SFTResult:
    """
    What came out.

    :param settings: of the run, with what the model decides filled in
    :param folder: where everything was written
    :param n_episodes: demonstrations
    :param n_decisions: control steps in them
    :param n_steps: gradient steps
    :param validations: figures of every validation, with their ``step``
    :param evaluations: ``greedy`` and ``sampled``; empty if there was no evaluation
    :param demonstrated: initial states that were demonstrated, per task
    :param provenance: ``versions``, ``commit`` and ``hardware`` of the training, ``command``, and what is known of the
        demonstrations as ``data``
    :param seconds: wall time of each stage
    :param peak_memory_mb: of this process so far, megabytes
    """

    settings: SFTSettings
    folder: Path
    n_episodes: int
    n_decisions: int
    n_steps: int
    validations: list[dict[str, float]]
    evaluations: dict[str, EvaluationResult]
    demonstrated: dict[int, set[int]]
    provenance: dict[str, Any]
    seconds: dict[str, float]
    peak_memory_mb: float

    def split_success(self, mode: str) -> dict[str, tuple[int, int]]:
        """
        Successes and episodes, apart for initial states that were demonstrated and for others.

        :param mode: "greedy" or "sampled"
        :return: ``demonstrated`` and ``held out`` -> (successes, episodes)
        """
        counted = {}
        for name, is_wanted in (("demonstrated", True), ("held out", False)):
            outcomes = [
                episode.is_success
                for episode in self.evaluations[mode].episodes
                if (episode.init_state_id in self.demonstrated.get(episode.task_id, ())) == is_wanted
            ]
            counted[name] = (sum(outcomes), len(outcomes))
        return counted

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "settings": asdict(self.settings),
            "n_episodes": self.n_episodes,
            "n_decisions": self.n_decisions,
            "n_steps": self.n_steps,
            "validations": self.validations,
            "evaluations": {mode: result.to_dict() for mode, result in self.evaluations.items()},
            "split_success": {mode: self.split_success(mode) for mode in self.evaluations},
            "demonstrated": {task_id: sorted(states) for task_id, states in self.demonstrated.items()},
            "provenance": self.provenance,
            "seconds": self.seconds,
            "peak_memory_mb": self.peak_memory_mb,
        }


def run_sft(
    settings: SFTSettings,
    episodes: Iterable[Episode],
    folder: str | Path,
    announce: Callable[[str], None] = lambda _: None,
    resume: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> SFTResult:
    """
    Train, choose the best model by validation, evaluate it, and write a model card.

    :param settings: what and how
    :param episodes: demonstrations, read once and one by one; unsuccessful ones are left out
    :param folder: where to write ``model/`` (the best model and its card), ``last.zip`` (to go on from),
        ``settings.json``, ``logs/`` and ``results.json``
    :param announce: told what begins
    :param resume: go on from ``last.zip`` of an interrupted run with the same demonstrations and, but for those of the
        evaluation, the same settings
    :param origin: further entries of the result's ``provenance``, such as ``command`` and ``data``
    :return: what came out
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
    folder = Path(folder)
    settings.check_names()
    settings = settings.resolved()
    if resume:
        check_resumable(settings, folder, MAY_DIFFER)
        check_saved(folder)
    with own_folder(folder):
        return _run(settings, episodes, folder, announce, resume, origin or {})


def _run(
    settings: SFTSettings,
    episodes: Iterable[Episode],
    folder: Path,
    announce: Callable[[str], None],
    resume: bool,
    origin: Mapping[str, Any],
) -> SFTResult:
    seconds: dict[str, float] = {}
    demonstrated: dict[int, set[int]] = defaultdict(set)

    start = time.perf_counter()
    announce("reading the demonstrations")
    dataset = DemonstrationSet.from_episodes(
        _successful(episodes, demonstrated),
        chunk_size=settings.chunk_size,
        image_size=settings.image_size if settings.is_preset else None,
        image_folder=folder / "frames" if settings.frames_on_disk else None,
        name=get_suite(settings.env_id).name,
    )
    n_episodes = len(set(dataset.episode_ids))
    seconds["reading"] = time.perf_counter() - start

    model, n_steps = _model(settings, dataset, folder, resume)
    if n_steps or differs(settings, folder):
        # episodes of a model that is about to change, or that shall be judged otherwise
        for path in folder.glob("evaluation_*.jsonl"):
            path.unlink()
    announce(f"training on {n_episodes} episodes, {len(dataset)} decisions: {n_steps} gradient steps")
    model.learn(n_steps, reset_num_timesteps=not resume, progress_bar=True)
    best = load_vla(folder / BEST_FOLDER) if model.validations else model.policy.vla
    best.config.trained_render_quality = settings.render_quality
    with disk_errors_named(folder / MODEL_FOLDER):
        save_vla(best, folder / MODEL_FOLDER, dtype=getattr(th, settings.weights_dtype))
    seconds["training"] = model.training_seconds

    evaluations = _evaluate(settings, folder / MODEL_FOLDER, model.device, sorted(demonstrated), seconds, announce)
    result = SFTResult(
        settings,
        folder,
        n_episodes,
        len(dataset),
        model.num_timesteps,
        model.validations,
        evaluations,
        dict(demonstrated),
        {**provenance.origin(model.device), **origin},
        seconds,
        provenance.peak_memory_mb(),
    )
    with write_then_rename(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    write_model_card(folder / MODEL_FOLDER, result.to_dict())
    return result


def _successful(episodes: Iterable[Episode], demonstrated: dict[int, set[int]]) -> Iterator[Episode]:
    for episode in episodes:
        if episode.success:
            demonstrated[episode.task_id].add(episode.init_state_id)
            yield episode


def _model(settings: SFTSettings, dataset: DemonstrationSet, folder: Path, resume: bool) -> tuple[BC, int]:
    """The model and the gradient steps that it still has to do."""
    if resume:
        model = BC.load(folder / LAST_FILE, dataset=dataset, device=settings.bc_kwargs.get("device", "auto"))
        # the folder may have been moved
        model.checkpoint_folder, model.tensorboard_log = str(folder), str(folder / "logs")
        return model, model.remaining_steps
    model = BC(
        "VLAPolicy",
        None,
        dataset,
        seed=settings.seed,
        checkpoint_folder=folder,
        tensorboard_log=str(folder / "logs"),
        policy_kwargs=settings.policy_kwargs,
        **settings.bc_kwargs,
    )
    n_steps = math.ceil(settings.epochs * len(dataset) / model.batch_size)
    model.validation_interval = max(1, n_steps // N_VALIDATIONS)
    # nothing to go on from is left of an earlier run
    (folder / LAST_FILE).unlink(missing_ok=True)
    store_settings(settings, folder)
    return model, n_steps


def _evaluate(
    settings: SFTSettings,
    folder: Path,
    device: th.device,
    task_ids: list[int],
    seconds: dict[str, float],
    announce: Callable[[str], None],
) -> dict[str, EvaluationResult]:
    """Of the model as it was saved, in the environment that everyone will make for it."""
    if not settings.n_eval_states:
        return {}
    kwargs = {**env_kwargs(folder), "render_quality": settings.render_quality, "assets": settings.assets}
    with gym.make(settings.env_id, **kwargs) as env:
        policy = VLAPolicy.from_checkpoint(folder, env)
    policy.to(device)
    evaluations: dict[str, EvaluationResult] = {}
    for mode in ("greedy", "sampled"):
        start = time.perf_counter()
        announce(f"evaluation of the best model, {mode} actions")
        evaluations[mode] = evaluate_policy_on_suite(
            policy,
            settings.env_id,
            n_init_states=settings.n_eval_states,
            task_ids=task_ids,
            n_envs=settings.n_envs,
            deterministic=mode == "greedy",
            env_kwargs=kwargs,
            progress_bar=True,
            seed=settings.seed,
            episodes_file=folder.parent / f"evaluation_{mode}.jsonl",
            resume=True,
        )
        seconds[f"evaluation {mode}"] = time.perf_counter() - start
    return evaluations
