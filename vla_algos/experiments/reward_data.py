"""Films for a reward model: of policies, of demonstrations, and of branches from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.utils import get_device, set_random_seed

import vla_gym  # noqa: F401  (registers the environments)
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.errors import FilmError
from vla_algos.evaluation.subject import checkpoint_of, plain
from vla_algos.experiments.names import check_env_names, check_vla
from vla_algos.policies import VLAPolicy, env_kwargs_for
from vla_algos.rewards.films import DEMONSTRATION, Film, describe_films, save_films
from vla_algos.rewards.recording import (
    Rest,
    Start,
    all_starts,
    branches,
    played_actions,
    record_films,
    with_progress_under,
)
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.hdf5 import load_episodes
from vla_gym.owned import own_folder
from vla_gym.provenance import recorded_with
from vla_gym.vector import vector_env_class
from vla_gym.wrappers import make_sequence

OnFilm = Callable[[str, int, int], None]
"""Called with a source, how many of its films there are, and how many there will be."""
BRANCH = "branch of "
"""Before the name of the policy that goes on where a demonstration was left."""


@dataclass(frozen=True)
class RewardDataSettings:
    """
    What to film.

    :param env_id: suite
    :param vlas: shipped checkpoints, checkpoint folders or Hugging Face ids, each a source of films
    :param demonstrations: HDF5 file or folder, to be played in the simulator; None: none
    :param has_branches: whether every policy also goes on where demonstrations are left, after random moves
    :param task_ids: tasks; None: all
    :param n_init_states: initial states 0..n-1 of each task
    :param temperature: of sampled actions; None: as in the checkpoint's training
    :param assets: asset pack
    :param render_quality: "fast" or "full"
    :param n_envs: environments side by side
    :param device: "auto", "cpu" or "cuda"
    :param seed: of everything
    """

    env_id: str = "LIBERO-Goal-v0"
    vlas: tuple[str, ...] = ("compact-libero-goal",)
    demonstrations: str | None = None
    has_branches: bool = False
    task_ids: tuple[int, ...] | None = None
    n_init_states: int = 50
    temperature: float | None = None
    assets: str = "auto"
    render_quality: str = "fast"
    n_envs: int = 8
    device: str = "auto"
    seed: int = 0


def record_reward_data(
    settings: RewardDataSettings, folder: str | Path, on_film: OnFilm = lambda *_: None
) -> dict[str, tuple[int, int]]:
    """
    Film every source from every start, a file each; what an earlier call has recorded is kept.

    Demonstrations are played by their commands, so that images, states and traces are those of this environment. Films
    show what the first policy's cameras show.

    :param settings: what to film
    :param folder: where to
    :param on_film: called after each film
    :return: films, and successes among them, per source
    :raises FilmError: if a file of ``folder`` was recorded with other settings, or no demonstration has a start
    :raises UnknownNameError: for names that do not exist
    :raises FolderInUseError: if another process records there
    """
    spec = check_env_names(settings.env_id, settings.task_ids, settings.assets, settings.render_quality)
    for vla in settings.vlas:
        check_vla(vla)
    if not settings.vlas:
        raise FilmError("There is no model; expected one at least. Its cameras say what films show.")
    starts = all_starts(settings.task_ids or range(len(spec.tasks)), range(settings.n_init_states))
    found = {}
    with own_folder(folder) as folder:
        for recording in _recordings(settings, starts):
            found[recording.source] = recording.run(folder / f"{_slug(recording.source)}.hdf5", on_film)
    return found


def _recordings(settings: RewardDataSettings, starts: list[Start]) -> Iterator[_Recording]:
    """Policies, and with demonstrations those and the branches from them."""
    for vla in settings.vlas:
        yield _Recording(settings, vla, vla, starts)
    if settings.demonstrations is None:
        return
    chunk_size = env_kwargs_for(settings.vlas[0], env_id=settings.env_id)["chunk_size"]
    played = _played(settings, starts, chunk_size)
    yield _Recording(settings, settings.vlas[0], DEMONSTRATION, list(played), played, is_continuous=True)
    for vla in settings.vlas if settings.has_branches else ():
        kwargs = env_kwargs_for(vla, env_id=settings.env_id)
        played = _played(settings, starts, kwargs["chunk_size"], kwargs["action_tokenizer"])
        drawn = branches(played, np.random.default_rng(settings.seed))
        yield _Recording(settings, vla, f"{BRANCH}{vla}", list(drawn), drawn)


def _played(
    settings: RewardDataSettings, starts: list[Start], chunk_size: int, tokenizer: ActionTokenizer | None = None
) -> dict[Start, NDArray[Any]]:
    assert settings.demonstrations is not None
    found = played_actions(load_episodes(settings.demonstrations), chunk_size, tokenizer)
    played = {start: found[start] for start in starts if start in found}
    if not played:
        raise FilmError(
            f"No demonstration in {settings.demonstrations} starts from one of {len(starts)} starts that are filmed. "
            "Take demonstrations of vla-rl collect, or others that name their task and initial state."
        )
    return played


@dataclass(frozen=True)
class _Recording:
    """One source of films."""

    settings: RewardDataSettings
    vla: str
    source: str
    starts: list[Start]
    first_actions: dict[Start, NDArray[Any]] | None = None
    is_continuous: bool = False

    def run(self, path: Path, on_film: OnFilm) -> tuple[int, int]:
        wanted = self._settings_that_matter()
        if not path.is_file():
            self._record(path, wanted, on_film)
        about, is_success = describe_films(path)
        if about.get("settings") != wanted:
            raise FilmError(
                f"{path} was recorded with {about.get('settings')}; expected {wanted}. Name another folder."
            )
        return len(is_success), sum(is_success)

    def _record(self, path: Path, wanted: dict[str, Any], on_film: OnFilm) -> None:
        kwargs = {
            **env_kwargs_for(self.vla, env_id=self.settings.env_id),
            "assets": self.settings.assets,
            "render_quality": self.settings.render_quality,
            "privileged_obs": True,
            "trace": True,
        }
        if self.is_continuous:
            kwargs |= {"action_type": "continuous", "action_tokenizer": None}
        make = partial(gym.make, self.settings.env_id, **kwargs)
        policy = Rest(kwargs["chunk_size"]) if self.is_continuous else self._policy(make)
        set_random_seed(self.settings.seed)
        n_envs = min(self.settings.n_envs, len(self.starts))
        parts = [self.starts[i::n_envs] for i in range(n_envs)]
        env_fns = [partial(make_sequence, make, part, self.settings.seed) for part in parts]
        venv = SB3VecEnv(vector_env_class("process" if n_envs > 1 else "sync")(env_fns))
        about = {
            "settings": wanted,
            "checkpoint": checkpoint_of(policy),
            "env_kwargs": plain(kwargs),
            **recorded_with(),
        }
        films = record_films(policy, venv, self.starts, self.source, self.first_actions)
        with make(cameras=(), settle_steps=0) as simulator:
            try:
                save_films(path, self._completed(films, simulator, on_film), about)
            finally:
                venv.close()

    def _policy(self, make: Callable[[], gym.Env]) -> VLAPolicy:
        with make() as env:
            policy = VLAPolicy.from_checkpoint(self.vla, env, temperature=self.settings.temperature)
        return policy.to(get_device(self.settings.device))

    def _completed(self, films: Iterator[Film], simulator: gym.Env, on_film: OnFilm) -> Iterator[Film]:
        for n, film in enumerate(films, 1):
            yield with_progress_under(film, simulator)
            on_film(self.source, n, len(self.starts))

    def _settings_that_matter(self) -> dict[str, Any]:
        """Those that films of this source depend on, as JSON gives them back."""
        left_out = {"vlas", "has_branches", "n_envs", "device", "demonstrations"}
        kept = {name: value for name, value in asdict(self.settings).items() if name not in left_out}
        task_ids = self.settings.task_ids
        demonstrations = None if self.first_actions is None else str(self.settings.demonstrations)
        return {
            **kept,
            "task_ids": None if task_ids is None else list(task_ids),
            "vla": self.vla,
            "demonstrations": demonstrations,
        }


def _slug(source: str) -> str:
    """A name for a file."""
    return re.sub(r"[^\w.-]+", "-", source).strip("-.") or "films"
