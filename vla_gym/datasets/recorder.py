"""
Record one demonstration of the scripted expert to its own file.

An episode depends only on the seed, its task and its number. The expert acts in an environment without rendering. Its
commands, rounded to single precision and without those that do nothing, are then replayed from the same initial state,
and the observations of the replay are stored. So every demonstration on disk is known to succeed open-loop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_gym.assets.resolve import resolve_assets
from vla_gym.datasets.collect import collect_episode, replay_episode
from vla_gym.datasets.episode import Episode
from vla_gym.datasets.hdf5_writer import DemonstrationWriter
from vla_gym.datasets.noops import noop_mask
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.errors import UnknownNameError
from vla_gym.experts.scripted import ScriptedExpert
from vla_gym.files import write_then_rename
from vla_gym.spec import AGENTVIEW, WRIST
from vla_gym.tasks.registry import N_INIT_STATES, SuiteSpec, TaskSpec, get_suite

WORK_FOLDER = ".recording"
KEPT, UNKNOWN = "kept", "unknown"
EXPERT_FAILED, REPLAY_FAILED = FAILURES = ("expert", "replay")
"""The expert did not reach the goal, or the replay without commands that do nothing did not."""

Job = tuple[int, int]
"""Task and number of the episode."""


@dataclass(frozen=True)
class RecordingSettings:
    """
    Settings that all demonstrations of a folder share.

    :param suite: Gymnasium id or short name of the suite
    :param image_size: height and width of the images (px)
    :param cameras: ``agentview`` and/or ``wrist``; may be empty
    :param render_quality: ``fast`` or ``full``
    :param assets: ``auto``, ``primitive`` or a folder in LIBERO's layout
    :param seed: seed of the expert's styles and noise
    :param action_noise: standard deviation of normal noise on translation commands, unitless
    :param keep_noops: keep commands that do nothing
    :param n_init_states: episode i starts in initial state i modulo this number, 1 to 50
    """

    suite: str
    image_size: int = 128
    cameras: tuple[str, ...] = (AGENTVIEW, WRIST)
    render_quality: str = "fast"
    assets: str = "auto"
    seed: int = 0
    action_noise: float = 0.05
    keep_noops: bool = False
    n_init_states: int = N_INIT_STATES

    def __post_init__(self) -> None:
        if not 1 <= self.n_init_states <= N_INIT_STATES:
            raise ValueError(f"n_init_states is {self.n_init_states}; expected 1 to {N_INIT_STATES}.")

    @property
    def spec(self) -> SuiteSpec:
        """The suite."""
        return get_suite(self.suite)

    def make_env(self, task_ids: Sequence[int], cameras: Sequence[str]) -> LiberoEnv:
        """
        Make an environment that takes the expert's commands.

        :param task_ids: its tasks
        :param cameras: cameras to render
        """
        return LiberoEnv(
            self.suite,
            task_ids=task_ids,
            action_type="continuous",
            cameras=cameras,
            image_size=self.image_size,
            assets=self.assets,
            render_quality=self.render_quality,
        )

    def fingerprint(self) -> str:
        """Describe as JSON all that an episode of given task and number depends on."""
        pack = resolve_assets(self.assets).name
        # files use the name 'quality'
        values = {"quality" if name == "render_quality" else name: value for name, value in vars(self).items()}
        return json.dumps({**values, "suite": self.spec.name, "assets": pack}, sort_keys=True)


class EpisodeRecorder:
    """
    Record single episodes to separate files.

    :param settings: settings of the recording
    :param folder: folder of the recording
    :param task_ids: tasks that it will be asked for
    """

    def __init__(self, settings: RecordingSettings, folder: Path, task_ids: Sequence[int]) -> None:
        self._settings = settings
        self._folder = folder
        self._spec = settings.spec
        self._fingerprint = settings.fingerprint()
        self._expert_env = settings.make_env(task_ids, ())
        self._env = settings.make_env(task_ids, settings.cameras)

    def __call__(self, job: Job) -> str:
        """
        Record one episode.

        :param job: task and number
        :return: its outcome
        """
        task_id, number = job
        options = {"task_id": task_id, "init_state_id": number % self._settings.n_init_states}
        rng = np.random.default_rng((self._settings.seed, task_id, number))
        expert = ScriptedExpert(self._expert_env, rng, self._settings.action_noise)
        try:
            attempt = collect_episode(self._expert_env, expert, options)
        except UnknownNameError:
            return UNKNOWN
        outcome, episode = self._check(attempt, options)
        path = part_path(self._folder, self._spec.task(task_id), number)
        metadata = {"settings": self._fingerprint, "episode": number}
        if episode is None:
            with write_then_rename(path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps({**metadata, "outcome": outcome}))
        else:
            with DemonstrationWriter(path, self._spec.task(task_id), metadata) as writer:
                writer.add(episode, {"episode": number})
        return outcome

    def _check(self, attempt: Episode, options: dict[str, Any]) -> tuple[str, Episode | None]:
        """Return the outcome of an attempt, and its replay if that succeeded, too."""
        if not attempt.success:
            return EXPERT_FAILED, None
        # learners and other formats use single precision
        commands = attempt.commands.astype(np.float32).astype(np.float64)
        if not self._settings.keep_noops:
            commands = commands[~noop_mask(commands)]
        if len(commands) == 0:
            return REPLAY_FAILED, None
        episode = replay_episode(self._env, commands, options)
        return (KEPT, episode) if episode.success else (REPLAY_FAILED, None)


def part_path(folder: Path, task: TaskSpec, number: int) -> Path:
    """
    Return the file of an episode until its task is complete; a failure is noted in the same name with ``.json``.

    :param folder: folder of the recording
    :param task: its task
    :param number: its number
    """
    return folder / WORK_FOLDER / task.name / f"episode_{number:06d}.hdf5"
