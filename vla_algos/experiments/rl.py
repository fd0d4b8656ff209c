"""
Reinforcement learning from a checkpoint, judged before and after on the same episodes, greedy and sampled.

Training uses the first initial states of each task; the evaluation uses these and those that training has not seen.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.vec_env import VecMonitor

from vla_algos.algorithms import TPO, TokenGRPO, TokenPPO, TokenRLOO
from vla_algos.algorithms.base import TokenAlgorithm
from vla_algos.common import provenance
from vla_algos.common.callbacks import RolloutRecord
from vla_algos.common.schedules import as_schedule
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.curriculum import CurriculumCallback, SuccessSampler
from vla_algos.evaluation.harness import EvaluationResult, Predictor, evaluate_policy_on_suite
from vla_algos.experiments.rl_folder import FIRST_EPISODES, MAY_DIFFER, StoredHistoryCallback, begin_run, extend_run
from vla_algos.experiments.rl_settings import RLSettings
from vla_algos.experiments.stored_settings import check_resumable, check_saved
from vla_algos.models import save_vla
from vla_algos.policies.saving import LAST_FILE, disk_errors_named
from vla_gym.files import write_then_rename
from vla_gym.owned import own_folder
from vla_gym.vector import make_vec

ALGORITHMS: Mapping[str, type[TokenAlgorithm]] = MappingProxyType(
    {algorithm.__name__: algorithm for algorithm in (TokenPPO, TokenGRPO, TokenRLOO, TPO)}
)
MODES = ("greedy", "sampled")


@dataclass(frozen=True)
class RLResult:
    """
    What was measured.

    :param settings: of the run
    :param folder: where everything was written
    :param before: evaluations of the start, ``greedy`` and ``sampled``; empty if there was no evaluation
    :param after: the same after training
    :param history: one record per roll-out, of all parts of the run
    :param task_counts: by task_id, (successes, episodes) that the curriculum has counted in training, from the starts
        that it drew; empty without a curriculum
    :param n_timesteps: decisions trained on
    :param provenance: ``versions``, ``commit``, ``hardware``
    :param seconds: wall time of each stage: ``training`` of all parts of the run, without what an interruption has
        undone; evaluations of this process
    :param peak_memory_mb: of this process, megabytes
    """

    settings: RLSettings
    folder: Path
    before: dict[str, EvaluationResult]
    after: dict[str, EvaluationResult]
    history: list[RolloutRecord]
    task_counts: dict[int, tuple[int, int]]
    n_timesteps: int
    provenance: dict[str, Any]
    seconds: dict[str, float]
    peak_memory_mb: float

    def split_success(self, evaluation: EvaluationResult) -> dict[str, tuple[int, int]]:
        """
        Successes and episodes, apart for initial states that were trained on and for held-out ones.

        :param evaluation: one of ``before`` and ``after``
        :return: ``trained on`` and ``held out`` -> (successes, episodes)
        """
        n = self.settings.n_train_states
        counted = {}
        for name, is_trained in (("trained on", True), ("held out", False)):
            outcomes = [e.is_success for e in evaluation.episodes if (e.init_state_id < n) == is_trained]
            counted[name] = (sum(outcomes), len(outcomes))
        return counted

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        evaluations = {
            when: {
                mode: {**result.to_dict(), "split_success": self.split_success(result)}
                for mode, result in results.items()
            }
            for when, results in (("before", self.before), ("after", self.after))
        }
        return {
            "settings": asdict(self.settings),
            **evaluations,
            "history": [asdict(record) for record in self.history],
            "task_counts": self.task_counts,
            "n_timesteps": self.n_timesteps,
            "provenance": self.provenance,
            "seconds": self.seconds,
            "peak_memory_mb": self.peak_memory_mb,
        }


def run_rl(
    settings: RLSettings,
    folder: str | Path,
    announce: Callable[[str], None] = lambda _: None,
    resume: bool = False,
    on_model: Callable[[str, TokenAlgorithm], None] = lambda when, model: None,
) -> RLResult:
    """
    Evaluate, train, evaluate again.

    :param settings: what and how
    :param folder: where to write ``model/`` (checkpoint folder), ``model.zip`` (SB3), ``last.zip`` (to go on from),
        ``settings.json``, ``history.json``, ``results.json``, ``before_greedy.json``, ``before_sampled.json``, the
        episodes of each evaluation (``before_greedy.jsonl``, ...) and ``logs/``. It is locked meanwhile. A new run
        takes away what an earlier one in this folder would have gone on from
    :param announce: told what begins
    :param resume: go on with an interrupted run, or extend a finished one: with the evaluation before training, with
        training from ``last.zip``, or with the evaluation after it. Two of its settings may differ:
        ``total_timesteps``, over which schedules then fall, and ``n_eval_states``, for the evaluation after training
    :param on_model: given the model ``"before"`` and ``"after"`` training, for example to film it
    :return: what was measured
    :raises UnknownNameError: for an algorithm, suite, task, model, asset pack or curriculum scheme that does not exist
    :raises TypeError: for a keyword of the curriculum that does not exist
    :raises SettingsError: if the interrupted run has other settings, or has taken ``total_timesteps`` already
    :raises FolderInUseError: if another run is writing to ``folder``
    :raises FolderNotWritableError: if ``folder`` cannot be written
    :raises SavingError: if the model cannot be written at the end
    :raises CheckpointError: if there is no run to go on with, or a checkpoint is damaged or does not fit
    :raises AssetsError: if the asset pack is missing or incomplete
    :raises TrainingDivergedError: if three updates in a row are not finite
    :raises KeyboardInterrupt: at Ctrl-C; in training the iteration is finished and saved before
    """
    folder = Path(folder)
    # what is wrong with names and keywords shall show before anything is written or takes time
    if resume:
        check_resumable(settings, folder, MAY_DIFFER)
        if not any(folder.glob(FIRST_EPISODES)):
            check_saved(folder)
    settings.check_names()
    sampler = None if settings.curriculum is None else _new_sampler(settings)
    with own_folder(folder):
        return _run(settings, folder, announce, resume, on_model, sampler)


def _run(
    settings: RLSettings,
    folder: Path,
    announce: Callable[[str], None],
    resume: bool,
    on_model: Callable[[str, TokenAlgorithm], None],
    sampler: SuccessSampler | None,
) -> RLResult:
    seconds: dict[str, float] = {}
    has_trained = resume and (folder / LAST_FILE).is_file()
    env = make_env(settings)
    try:
        model = _make_model(settings, env, folder, has_trained)
        if resume:
            extend_run(settings, folder, model.num_timesteps)
        else:
            begin_run(settings, folder)
        if has_trained:
            before = _read(folder)
        else:
            with _stage("evaluation before", seconds):
                before = _evaluate(settings, model, folder, "before", announce)
            for mode, evaluation in before.items():
                evaluation.save(folder / f"before_{mode}.json")
            on_model("before", model)
            # training is to be the same whatever the evaluation has drawn
            model.set_random_seed(settings.seed)
        recorder = StoredHistoryCallback(folder)
        callbacks: list[BaseCallback] = [recorder]
        if sampler is not None:
            # a run that goes on has counted already
            sampler = getattr(model, "success_sampler", None) or sampler
            callbacks.append(CurriculumCallback(sampler))
        n_timesteps = max(0, settings.total_timesteps - model.num_timesteps)
        if n_timesteps:
            _forget_evaluation_after(folder)
            announce(_training_text(settings, n_timesteps))
        model.learn(n_timesteps, callbacks, reset_num_timesteps=not has_trained, progress_bar=True)
        seconds["training"] = recorder.seconds
    finally:
        env.close()
    model.save(folder / "model.zip")
    with disk_errors_named(folder / "model"):
        save_vla(model.policy.vla, folder / "model")
    with _stage("evaluation after", seconds):
        after = _evaluate(settings, model, folder, "after", announce)
    on_model("after", model)
    result = RLResult(
        settings,
        folder,
        before,
        after,
        recorder.history,
        {} if sampler is None else sampler.task_counts(),
        model.num_timesteps,
        provenance.origin(model.device),
        seconds,
        provenance.peak_memory_mb(),
    )
    with write_then_rename(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return result


def _training_text(settings: RLSettings, n_timesteps: int) -> str:
    n_tasks = len(settings.tasks)
    return f"{settings.algorithm}, {n_timesteps} decisions on {n_tasks} task{'s' * (n_tasks > 1)}"


def _forget_evaluation_after(folder: Path) -> None:
    """Episodes of a model that is about to change."""
    for path in folder.glob("after_*.jsonl"):
        path.unlink()


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def make_env(settings: RLSettings) -> VecMonitor:
    """
    Environments to train in.

    :param settings: of the run
    :return: seeded, a process each; they draw the starts that are trained on, and show the simulator's state if the
        policy's critic is to read it
    """
    workers = make_vec(
        settings.env_id,
        settings.n_envs,
        "process",
        init_state_ids=range(settings.n_train_states),
        privileged_obs=settings.policy_kwargs.get("critic") == "privileged",
        **settings.env_kwargs,
    )
    env = VecMonitor(SB3VecEnv(workers))
    env.seed(settings.seed)
    return env


def _make_model(settings: RLSettings, env: VecMonitor, folder: Path, resume: bool) -> TokenAlgorithm:
    algorithm: Any = ALGORITHMS[settings.algorithm]
    if resume:
        model = algorithm.load(folder / LAST_FILE, env=env)
        # the folder may have been moved, or named from elsewhere
        model.checkpoint_folder = str(folder)
        model.set_logger(_logger(folder, model.num_timesteps))
        return model
    kwargs = {name: as_schedule(value) for name, value in settings.algorithm_kwargs.items() if name != "policy_kwargs"}
    model = algorithm(
        "VLAPolicy",
        env,
        seed=settings.seed,
        policy_kwargs=settings.policy_kwargs,
        checkpoint_folder=folder,
        **kwargs,
    )
    model.set_logger(_logger(folder, 0))
    return model


def _logger(folder: Path, n_timesteps: int) -> Logger:
    """A folder of its own for each time that a run goes on, so that no log is overwritten."""
    return configure(str(folder / "logs" / f"from_{n_timesteps}"), ["csv", "tensorboard"])


def _new_sampler(settings: RLSettings) -> SuccessSampler:
    starts = itertools.product(settings.tasks, range(settings.n_train_states))
    return SuccessSampler(starts, **(settings.curriculum or {}))


def _evaluate(
    settings: RLSettings, model: TokenAlgorithm, folder: Path, when: str, announce: Callable[[str], None]
) -> dict[str, EvaluationResult]:
    if not settings.n_eval_states:
        return {}
    announce(f"evaluation {when} training, greedy and sampled")
    return evaluate_both(settings, model, {mode: folder / f"{when}_{mode}.jsonl" for mode in MODES})


def evaluate_both(
    settings: RLSettings, model: Predictor, episodes_files: Mapping[str, Path] | None = None
) -> dict[str, EvaluationResult]:
    """
    Success with greedy and with sampled actions, from the same initial states.

    :param settings: of the run that the model comes from
    :param model: anything with SB3's ``predict``
    :param episodes_files: by mode, where each episode is written as it ends; episodes that are there are not run again
    :return: by name of the mode, one of ``MODES``
    :raises EvaluationFileError: if the episodes that are there were measured otherwise
    """
    return {
        mode: evaluate_policy_on_suite(
            model,
            settings.env_id,
            n_init_states=settings.n_eval_states,
            task_ids=settings.tasks,
            n_envs=settings.n_envs,
            deterministic=mode == "greedy",
            env_kwargs=settings.env_kwargs,
            progress_bar=True,
            seed=settings.seed,
            episodes_file=(episodes_files or {}).get(mode),
            resume=True,
        )
        for mode in MODES
    }


def _read(folder: Path) -> dict[str, EvaluationResult]:
    """Evaluations before training, of a run that goes on."""
    paths = {mode: folder / f"before_{mode}.json" for mode in MODES}
    return {mode: EvaluationResult.load(path) for mode, path in paths.items() if path.exists()}
