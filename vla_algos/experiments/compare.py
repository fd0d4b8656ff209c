"""
Several algorithms on the same tasks, from one checkpoint and with one budget of decisions, over several seeds.

Every algorithm and seed is one run in one folder, as ``vla-rl train`` and ``vla-rl sft`` make them. BC does not act: it
learns from demonstrations of the scripted expert, which are recorded in its folder first.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.utils import get_device, set_random_seed

from vla_algos.common import provenance
from vla_algos.errors import SettingsError
from vla_algos.evaluation.harness import EvaluationResult
from vla_algos.evaluation.plots import plot_comparison
from vla_algos.experiments.comparison_settings import START, ComparisonSettings
from vla_algos.experiments.results import MODES, RunResult
from vla_algos.experiments.rl import run_rl
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import RLSettings, SFTSettings
from vla_algos.experiments.sft import run_sft
from vla_algos.experiments.stages import Announce, evaluate_both, silent, timed
from vla_algos.policies import VLAPolicy, env_kwargs_for
from vla_gym.datasets.episode import Episode
from vla_gym.datasets.hdf5 import load_episodes
from vla_gym.datasets.record import record_demonstrations
from vla_gym.datasets.recorder import RecordingSettings
from vla_gym.owned import own_folder
from vla_gym.processors import available_cpus
from vla_gym.provenance import peak_memory_mb
from vla_gym.vector.base import derive_seeds

FIGURE = "comparison.png"
DEMONSTRATIONS_PER_STATE = 4
"""For BC: of 25 initial states they hold about 10,000 control steps."""

_SHARED = (
    "vla",
    "env_id",
    "assets",
    "render_quality",
    "n_eval_states",
    "task_ids",
    "n_train_states",
    "total_timesteps",
)
"""Fields in which the runs of one comparison must agree."""


@dataclass(frozen=True)
class _Member:
    """One run of a comparison."""

    name: str
    settings: RLSettings | SFTSettings
    folder: RunFolder


def run_comparison(
    settings: ComparisonSettings, folder: str | Path, announce: Announce = silent, resume: bool = False
) -> dict[str, list[RunResult]]:
    """
    Train and evaluate every algorithm with every seed, and draw a figure of the results.

    :param settings: which algorithms and seeds
    :param folder: where to write one folder per algorithm and seed (``TokenPPO/seed_0``, ...) and ``comparison.png``
    :param announce: called with a description of each stage as it begins
    :param resume: leave out finished runs, resume interrupted ones and start the others. Stock algorithms of
        Stable-Baselines3 save nothing while they train, so an interrupted training of theirs starts again
    :return: results of all finished runs in ``folder``, by algorithm, in the order of their seeds
    :raises SettingsError: if ``folder`` holds runs of other settings, or without ``resume`` any saved run
    :raises FolderInUseError: if another comparison is writing to ``folder``
    :raises KeyboardInterrupt: at Ctrl-C; the run in progress is saved as if it ran alone
    """
    folder = Path(folder)
    members = list(_members(settings, folder))
    _check_folder(settings.common, members, folder, resume)
    with own_folder(folder):
        for member in members:
            if not member.folder.results_file.is_file():
                announce(f"{member.name}, seed {member.settings.seed}")
                _run(member, settings.common, announce)
        results = comparison_results(folder)
        plot_comparison(folder / FIGURE, evaluations_of(results), _title(settings.common, results))
    return results


def comparison_results(folder: str | Path) -> dict[str, list[RunResult]]:
    """
    Results of all finished runs in the folder of a comparison.

    :param folder: of the comparison
    :return: by algorithm, the untrained checkpoint first, then by name; each in the order of its seeds
    """
    found: dict[str, list[RunResult]] = {}
    for run in _run_folders(Path(folder)):
        if run.results_file.is_file():
            found.setdefault(run.path.parent.name, []).append(run.results)
    return {name: sorted(found[name], key=lambda result: result.settings.seed) for name in found}


def evaluations_of(results: Mapping[str, Sequence[RunResult]]) -> dict[str, list[list[EvaluationResult]]]:
    """
    Evaluations that a comparison compares: after training, and of the untrained checkpoint its only ones.

    :param results: by algorithm
    :return: by algorithm and seed: greedy, sampled
    """
    return {
        name: [[(result.after or result.before)[mode] for mode in MODES] for result in of_seeds]
        for name, of_seeds in results.items()
    }


def describe_progress(settings: ComparisonSettings, folder: str | Path) -> str | None:
    """
    Describe in one sentence what an interrupted comparison has saved.

    :param settings: of the comparison
    :param folder: of the comparison
    :return: None if there is nothing
    """
    folders = [member.folder for member in _members(settings, Path(folder))]
    n_finished = sum(run.results_file.is_file() for run in folders)
    begun = [run.what_was_saved() for run in folders if not run.results_file.is_file()]
    saved = [text for text in begun if text]
    if not n_finished and not saved:
        return None
    return " ".join([f"{n_finished} of {len(folders)} runs are finished in {folder}.", *saved])


def _members(settings: ComparisonSettings, folder: Path) -> Iterator[_Member]:
    for name, of_algorithm in settings.algorithms.items():
        # the untrained checkpoint is the same for every seed
        for seed in settings.seeds[:1] if name == START else settings.seeds:
            label = re.split(r"[.:]", name)[-1]
            yield _Member(name, replace(of_algorithm, seed=seed), RunFolder(folder / label / f"seed_{seed}"))


def _run_folders(folder: Path) -> list[RunFolder]:
    """Folders of all runs that were started in a comparison, the untrained checkpoint's first."""
    files = sorted(folder.glob("*/seed_*/settings.json"), key=lambda path: (path.parts[-3] != START, path))
    return [RunFolder(file.parent) for file in files]


def _check_folder(common: RLSettings, members: Sequence[_Member], folder: Path, resume: bool) -> None:
    """Find settings that do not fit before hours are spent on them."""
    kept = [run for run in _run_folders(folder) if run.results_file.is_file() or run.what_was_saved()]
    if kept and not resume:
        raise SettingsError(
            f"{folder} holds {len(kept)} saved run(s) of a comparison already, such as {kept[0].path.name} of "
            f"{kept[0].path.parent.name}. Resume it (vla-rl compare: --resume), or name another folder."
        )
    for run in kept:
        stored = run.settings
        for name in _SHARED:
            value, wanted = getattr(stored, name, None), getattr(common, name)
            if hasattr(stored, name) and value != wanted:
                raise SettingsError(
                    f"{name} of the run in {run.path} is {value!r}, not {wanted!r}: the two cannot be compared. "
                    "Give the same settings again, or name another folder."
                )
    saved = {run.path for run in kept}
    for member in members:
        if member.folder.path in saved:
            own = member.settings
            member.folder.check_resumable(own.resolved() if isinstance(own, SFTSettings) else own)


def _run(member: _Member, common: RLSettings, announce: Announce) -> None:
    settings, folder = member.settings, member.folder
    resume = folder.settings_file.is_file() and folder.last.is_file()
    if member.name == START:
        _evaluate_start(settings, folder, announce)
    elif isinstance(settings, SFTSettings):
        run_sft(settings, _demonstrations(settings, common, folder, announce), folder.path, announce, resume)
    else:
        run_rl(settings, folder.path, announce, resume)


def _evaluate_start(settings: RLSettings | SFTSettings, folder: RunFolder, announce: Announce) -> None:
    """Evaluate the checkpoint that all start from, without training."""
    assert isinstance(settings, RLSettings)
    seconds: dict[str, float] = {}
    with own_folder(folder.path):
        if not folder.has_begun_evaluation:
            folder.start(settings)
        if settings.threads is not None:
            th.set_num_threads(settings.threads)
        with gym.make(settings.env_id, **settings.env_kwargs) as env:
            kwargs = {"unnorm_key": settings.policy_kwargs.get("unnorm_key"), "vla_kwargs": settings.vla_kwargs}
            policy = VLAPolicy.from_checkpoint(settings.vla, env, **kwargs)
        policy.to(get_device(settings.device))
        set_random_seed(settings.seed)
        announce("evaluation without training, greedy and sampled")
        files = {mode: folder.episodes_file("before", mode) for mode in MODES}
        with timed("evaluation", seconds):
            evaluations = evaluate_both(settings, policy, settings.env_kwargs, settings.tasks, files)
        origin = provenance.origin(policy.device)
        RunResult(
            settings, folder.path, {"before": evaluations}, {}, 0, origin, seconds, peak_memory_mb()
        ).save(folder.results_file)  # fmt: skip


def _demonstrations(
    settings: SFTSettings, common: RLSettings, folder: RunFolder, announce: Announce
) -> Iterable[Episode]:
    """The expert's, from the initial states that the others train on."""
    needed: dict[str, Any] = env_kwargs_for(settings.vla, env_id=settings.env_id, revision=settings.revision)
    announce(f"recording {DEMONSTRATIONS_PER_STATE} demonstrations of each initial state")
    folders, kept = [], set[int]()
    for i, seed in enumerate(derive_seeds(settings.seed, DEMONSTRATIONS_PER_STATE)):
        recording = RecordingSettings(
            settings.env_id,
            image_size=needed["image_size"],
            cameras=needed["cameras"],
            render_quality=settings.render_quality,
            assets=settings.assets,
            seed=seed,
        )
        folders.append(folder.path / "demonstrations" / str(i))
        workers = min(settings.n_envs, available_cpus())
        reports = record_demonstrations(recording, folders[-1], common.n_train_states, common.tasks, workers)
        kept |= {report.task.task_id for report in reports if report.kept}
    without = [task_id for task_id in common.tasks if task_id not in kept]
    if without:
        raise SettingsError(
            f"The expert solved no episode of task(s) {', '.join(map(str, without))}, which BC could not learn. Leave "
            "BC out (vla-rl compare: --algorithms), or these tasks (--tasks)."
        )
    return itertools.chain.from_iterable(map(load_episodes, folders))


def _title(common: RLSettings, results: Mapping[str, Sequence[RunResult]]) -> str:
    instructions = next(iter(evaluations_of(results).values()))[0][0].instructions
    tasks = list(instructions.values())
    what = tasks[0] if len(tasks) == 1 else f"{common.env_id}, {len(tasks)} tasks"
    return f"{what}, {common.total_timesteps:,} decisions"
