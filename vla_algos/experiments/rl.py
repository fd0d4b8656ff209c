"""
Train a checkpoint by reinforcement learning; evaluate it before and after on the same episodes, greedy and sampled.

Training uses the first initial states of each task. The evaluation uses these and held-out ones.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from vla_algos.algorithms.base import TokenAlgorithm
from vla_algos.common import provenance
from vla_algos.common.schedules import as_schedule
from vla_algos.common.vec_env import SB3VecEnv, announce_training
from vla_algos.curriculum import CurriculumCallback, SuccessSampler
from vla_algos.evaluation.harness import EvaluationResult
from vla_algos.experiments.components import components, is_import_path, load_object
from vla_algos.experiments.history import StoredHistoryCallback
from vla_algos.experiments.names import algorithm_class
from vla_algos.experiments.results import MODES, RunResult
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import RLSettings
from vla_algos.experiments.stages import Announce, evaluate_both, silent, timed
from vla_algos.models import save_vla
from vla_algos.policies import VLAPolicy
from vla_algos.policies.saving import disk_errors_named
from vla_algos.rewards.callback import ProcessRewardCallback
from vla_algos.rewards.vec_process_reward import find_process_reward
from vla_gym.owned import own_folder
from vla_gym.provenance import peak_memory_mb
from vla_gym.vector import make_vec


def run_rl(
    settings: RLSettings,
    folder: str | Path,
    announce: Announce = silent,
    resume: bool = False,
    on_model: Callable[[str, BaseAlgorithm], None] = lambda when, model: None,
) -> RunResult:
    """
    Evaluate, train, evaluate again.

    :param settings: what and how; without ``evaluate_before`` the first evaluation is left out
    :param folder: where to write ``model/`` (checkpoint folder), ``model.zip`` (SB3), ``last.zip`` (to resume from),
        ``settings.json``, ``history.json``, ``results.json``, ``before_greedy.json``, ``before_sampled.json``, the
        episodes of each evaluation (``before_greedy.jsonl``, ...) and ``logs/``. It is locked during the run. A new run
        deletes what an earlier one in this folder would be resumed from
    :param announce: called with a description of each stage as it begins
    :param resume: continue an interrupted run in the stage in which it stopped, or extend a finished one. Fields in
        ``RLSettings.may_differ`` may be changed: schedules fall over the new ``total_timesteps``, and
        ``n_eval_states`` holds for the evaluation after training
    :param on_model: given the model ``"before"`` and ``"after"`` training, for example to film it
    :return: evaluations, history and times
    :raises UnknownNameError: for an algorithm, suite, task, model, asset pack or curriculum scheme that does not exist
    :raises TypeError: for a keyword of the curriculum that does not exist
    :raises DiscountError: if a process reward has another ``gamma`` than the algorithm
    :raises SettingsError: if the interrupted run has other settings, or has taken ``total_timesteps`` already
    :raises FolderInUseError: if another run is writing to ``folder``
    :raises FolderNotWritableError: if ``folder`` cannot be written
    :raises SavingError: if the model cannot be written at the end
    :raises CheckpointError: if there is no run to resume, or a checkpoint is damaged or does not fit
    :raises AssetsError: if the asset pack is missing or incomplete
    :raises TrainingDivergedError: if three updates in a row are not finite
    :raises KeyboardInterrupt: at Ctrl-C; in training the iteration is finished and saved before
    """
    run_folder = RunFolder(folder)
    # find wrong names and keywords before anything is written or takes time
    if resume:
        run_folder.check_resumable(settings)
        if not run_folder.has_begun_evaluation:
            run_folder.check_saved()
    settings.check_names()
    sampler = None if settings.curriculum is None else _new_sampler(settings)
    if settings.threads is not None:
        th.set_num_threads(settings.threads)
    with own_folder(run_folder.path):
        return _run(settings, run_folder, announce, resume, on_model, sampler)


def _run(
    settings: RLSettings,
    folder: RunFolder,
    announce: Announce,
    resume: bool,
    on_model: Callable[[str, BaseAlgorithm], None],
    sampler: SuccessSampler | None,
) -> RunResult:
    seconds: dict[str, float] = {}
    has_trained = resume and folder.last.is_file()
    env = make_env(settings)
    try:
        model = _make_model(settings, env, folder, has_trained)
        if resume:
            folder.extend(settings, model.num_timesteps)
        else:
            folder.start(settings)
        if has_trained:
            before = folder.evaluations("before")
        else:
            before = {}
            if settings.evaluate_before:
                with timed("evaluation before", seconds):
                    before = _evaluate(settings, model, folder, "before", announce)
            for mode, evaluation in before.items():
                evaluation.save(folder.evaluation_file("before", mode))
            on_model("before", model)
            # the evaluation has drawn random numbers; training must not depend on it
            model.set_random_seed(settings.seed)
        recorder = StoredHistoryCallback(folder)
        callbacks: list[BaseCallback] = [recorder]
        if sampler is not None:
            # a resumed run has counts already
            sampler = getattr(model, "success_sampler", None) or sampler
            callbacks.append(CurriculumCallback(sampler))
        callbacks += _callbacks(settings, env)
        n_timesteps = max(0, settings.total_timesteps - model.num_timesteps)
        if n_timesteps:
            folder.forget_evaluation("after")
            announce(_training_text(settings, n_timesteps))
        model.learn(n_timesteps, callbacks, reset_num_timesteps=not has_trained, progress_bar=True)
        seconds["training"] = recorder.seconds
    finally:
        env.close()
    with disk_errors_named(folder.algorithm):
        model.save(folder.algorithm)
        if not hasattr(model, "checkpoint_folder"):
            # algorithms of SB3 save nothing while they train
            model.save(folder.last)
    if isinstance(model.policy, VLAPolicy):
        with disk_errors_named(folder.vla):
            save_vla(model.policy.vla, folder.vla)
    with timed("evaluation after", seconds):
        after = _evaluate(settings, model, folder, "after", announce)
    on_model("after", model)
    result = RunResult(
        settings,
        folder.path,
        {"before": before, "after": after},
        settings.seen,
        model.num_timesteps,
        provenance.origin(model.device),
        seconds,
        peak_memory_mb(),
        history=recorder.history,
        task_counts={} if sampler is None else sampler.task_counts(),
    )
    result.save(folder.results_file)
    return result


def _callbacks(settings: RLSettings, env: VecEnv) -> list[BaseCallback]:
    """Callbacks of the recipe, and the alarm of a process reward, unless the recipe names its own."""
    callbacks: list[BaseCallback] = [make() for make in components(settings.callbacks)]
    has_alarm = any(isinstance(callback, ProcessRewardCallback) for callback in callbacks)
    if find_process_reward(env) is not None and not has_alarm:
        callbacks.append(ProcessRewardCallback())
    return callbacks


def _training_text(settings: RLSettings, n_timesteps: int) -> str:
    n_tasks = len(settings.tasks)
    return f"{settings.algorithm}, {n_timesteps} decisions on {n_tasks} task{'s' * (n_tasks > 1)}"


def make_env(settings: RLSettings) -> VecEnv:
    """
    Make the environments to train in.

    :param settings: of the run
    :return: seeded, with the settings' wrappers around them; they draw the starts to train on, and give observations
        of the simulator's state if the policy's critic reads it
    """
    workers = make_vec(
        settings.env_id,
        settings.n_envs,
        settings.backend,
        wrappers=components(settings.wrappers),
        init_state_ids=range(settings.n_train_states),
        **{
            "privileged_obs": settings.policy_kwargs.get("critic") == "privileged",
            **settings.env_kwargs,
            **settings.train_env_kwargs,
        },
    )
    env: VecEnv = VecMonitor(SB3VecEnv(workers))
    env.seed(settings.seed)
    for wrap in components(settings.vec_wrappers):
        env = wrap(env)
    return env


def _make_model(settings: RLSettings, env: VecEnv, folder: RunFolder, resume: bool) -> BaseAlgorithm:
    model = _load_model(settings, env, folder) if resume else _new_model(settings, env, folder)
    if not isinstance(model, TokenAlgorithm) and hasattr(model, "gamma"):
        # what this package's algorithms do by themselves; those of SB3 bootstrap time limits
        announce_training(env, model.gamma, is_limit_end=False)
    return model


def _load_model(settings: RLSettings, env: VecEnv, folder: RunFolder) -> BaseAlgorithm:
    policy = _policy(settings.policy)
    # the user's own class is not unpickled, but imported as at the start
    custom = {} if isinstance(policy, str) else {"policy_class": policy}
    algorithm = algorithm_class(settings.algorithm)
    model: BaseAlgorithm = algorithm.load(folder.last, env=env, device=settings.device, custom_objects=custom)
    # the folder may have been moved, or named from elsewhere
    if hasattr(model, "checkpoint_folder"):
        model.checkpoint_folder = str(folder.path)
    model.set_logger(_logger(folder, model.num_timesteps))
    return model


def _new_model(settings: RLSettings, env: VecEnv, folder: RunFolder) -> BaseAlgorithm:
    algorithm = algorithm_class(settings.algorithm)
    policy = _policy(settings.policy)
    kwargs = {name: as_schedule(value) for name, value in settings.algorithm_kwargs.items() if name != "policy_kwargs"}
    if _is_vla_policy(policy):
        kwargs["policy_kwargs"] = settings.policy_kwargs
    elif "policy_kwargs" in settings.algorithm_kwargs:
        kwargs["policy_kwargs"] = settings.algorithm_kwargs["policy_kwargs"]
    if "checkpoint_folder" in inspect.signature(algorithm).parameters:
        kwargs["checkpoint_folder"] = folder.path
    elif policy == "VLAPolicy":
        # the algorithms of SB3 do not know this name
        policy = VLAPolicy
    model: BaseAlgorithm = algorithm(policy, env, **{"seed": settings.seed, "device": settings.device, **kwargs})
    model.set_logger(_logger(folder, 0))
    return model


def _policy(name: str) -> str | type[BasePolicy]:
    return load_object(name) if is_import_path(name) else name


def _is_vla_policy(policy: str | type[BasePolicy]) -> bool:
    return policy == "VLAPolicy" or (isinstance(policy, type) and issubclass(policy, VLAPolicy))


def _logger(folder: RunFolder, n_timesteps: int) -> Logger:
    """Log to a new folder each time that a run is resumed, so that no log is overwritten."""
    return configure(str(folder.logs / f"from_{n_timesteps}"), ["csv", "tensorboard"])


def _new_sampler(settings: RLSettings) -> SuccessSampler:
    starts = itertools.product(settings.tasks, range(settings.n_train_states))
    return SuccessSampler(starts, **(settings.curriculum or {}))


def _evaluate(
    settings: RLSettings, model: BaseAlgorithm, folder: RunFolder, when: str, announce: Announce
) -> dict[str, EvaluationResult]:
    if settings.n_eval_states:
        announce(f"evaluation {when} training, greedy and sampled")
    files = {mode: folder.episodes_file(when, mode) for mode in MODES}
    return evaluate_both(settings, model, settings.env_kwargs, settings.tasks, files)
