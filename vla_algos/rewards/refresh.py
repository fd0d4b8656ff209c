"""``RewardRefreshCallback``: train the reward model on a run's own episodes while the policy trains on its reward."""

from __future__ import annotations

import logging
import shutil
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from vla_algos.common.vec_env import is_broken
from vla_algos.errors import FilmError, SpaceError
from vla_algos.rewards.films import Film, load_films, save_films
from vla_algos.rewards.model import TrainableRewardModel
from vla_algos.rewards.recording import Reel
from vla_algos.rewards.targets import Targets
from vla_algos.rewards.training import BEST, train_reward_model
from vla_algos.rewards.vec_process_reward import find_process_reward
from vla_gym.spec import PRIVILEGED, PROPRIO

logger = logging.getLogger(__name__)

_DIGITS = "[0-9]" * 6
_FILMS, _MODELS = f"films_{_DIGITS}.hdf5", f"model_{_DIGITS}"
"""In the folder, by roll-out."""
_KEPT_MODELS = 3
"""Models of past refreshes in the folder; a run may be resumed from before the last one."""


class EpisodeRecorder:
    """
    Films the episodes that a :class:`vla_algos.rewards.vec_process_reward.VecProcessReward` sees, broken ones excepted.

    :param camera: whose images are kept
    :param source: name of who acts
    """

    def __init__(self, camera: str, source: str) -> None:
        self.camera = camera
        self.source = source
        self.reels: dict[int, Reel] = {}
        """Episodes in progress, by environment."""
        self.films: list[Film] = []
        """Of episodes that are over, the newest last."""

    def begin(self, index: int, observations: Any, first_info: Mapping[str, Any]) -> None:
        """
        Start a film.

        :param index: environment
        :param observations: of all environments, (N, ...) by key
        :param first_info: of the environment's reset
        """
        self.reels[index] = Reel(observations, index, first_info, self.camera)

    def add(self, index: int, observations: Any, is_over: bool, info: Mapping[str, Any]) -> None:
        """
        Film a decision.

        :param index: environment
        :param observations: of all environments, (N, ...) by key
        :param is_over: whether its episode ended; the last frame is then in ``info``
        :param info: of the step
        """
        reel = self.reels.get(index)
        if reel is None:
            return
        if not is_over:
            reel.add(observations, index, info)
            return
        del self.reels[index]
        if is_broken(info):
            return
        reel.add({key: np.asarray(array)[None] for key, array in info["terminal_observation"].items()}, 0, info)
        try:
            self.films.append(reel.film(info, self.source))
        except FilmError as error:
            logger.warning("An episode gave no film: %s", error)


class RewardRefreshCallback(BaseCallback):
    """
    Trains the reward model every ``every`` roll-outs on the newest episodes of the run, failures above all.

    A policy goes where the reward model errs, and its failures there are what the model has not seen. Half of
    ``newest`` films are failures, half successes, the newest of each. ``data`` adds films that the model was trained on
    before. Every ``held_out_every``-th initial state is held out; without films on both sides the model stays as it is.
    Scores of episodes in progress are forgotten, as the new model would give others.

    ``folder`` has the films, a file per roll-out as long as they are used, and the trained models. A run that
    ``model.save`` keeps is resumed with both. Episodes that are in progress when ``learn`` is called, or when a run was
    stopped, are not filmed. In main memory films take the room of ``newest`` episodes' images.

    Logged at a refresh: ``reward/films``, ``reward/held_out_loss`` and ``reward/auc_last``.

    :param every: roll-outs from one refresh to the next, at least 1
    :param folder: of films and models, where a new run deletes those of an earlier one; None: ``reward`` in the
        algorithm's ``checkpoint_folder``
    :param data: file or folder of films to add, see :func:`vla_algos.rewards.films.load_films`; None: none
    :param newest: films of the run to learn from at most, at least 2
    :param held_out_every: initial states k with k + 1 divisible by it are held out, at least 2
    :param targets: what frames are taught to be, see :func:`vla_algos.rewards.targets.frame_targets`: ``truth`` needs
        environments with ``privileged_obs=True``, the others ``trace=True``
    :param epochs: passes per refresh at most
    :param learning_rate: of the reward model
    :param batch_size: examples per gradient step
    :param seed: of order and negatives
    :param verbose: as in SB3
    :raises ValueError: for a number out of its range; at the start of training, if there is no ``VecProcessReward``
        with a model that learns, or no folder
    :raises SpaceError: at the start of training, if observations lack what films or targets need
    :raises FilmError: if ``data`` holds no films, or films lack what the targets need
    """

    def __init__(
        self,
        every: int = 10,
        folder: str | Path | None = None,
        data: str | Path | None = None,
        newest: int = 64,
        held_out_every: int = 5,
        targets: Targets = "truth",
        epochs: int = 2,
        learning_rate: float = 1e-4,
        batch_size: int = 64,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        for name, value, least in (("every", every, 1), ("newest", newest, 2), ("held_out_every", held_out_every, 2)):
            if value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}.")
        super().__init__(verbose)
        self.every = every
        self.folder = None if folder is None else Path(folder)
        self.held_out_every = held_out_every
        self.seed = seed
        self._training: dict[str, Any] = {"targets": targets, "epochs": epochs}
        self._training |= {"learning_rate": learning_rate, "batch_size": batch_size}
        self._data = [] if data is None else load_films(data)
        # roll-out that each film is from, its place there, and the film
        kept = (deque[tuple[int, int, Film]](maxlen=n) for n in (newest - newest // 2, newest // 2))
        self._failures, self._successes = kept

    @property
    def films(self) -> list[Film]:
        """Films of the run that the next refresh learns from, in the order in which they were made."""
        return [film for _, _, film in sorted([*self._failures, *self._successes], key=lambda entry: entry[:2])]

    def _on_training_start(self) -> None:
        wrapper = find_process_reward(self.training_env)
        if wrapper is None or not hasattr(wrapper.model, "loss"):
            found = "none" if wrapper is None else f"one with a {type(wrapper.model).__name__}"
            raise ValueError(
                f"RewardRefreshCallback trains the model of a VecProcessReward, and the environment has {found}. Name "
                "the folder of a trained model there, or leave the callback out."
            )
        keys = getattr(wrapper.venv.observation_space, "spaces", {})
        for key in (PROPRIO, *([PRIVILEGED] if self._training["targets"] == "truth" else [])):
            if key not in keys:
                raise SpaceError(
                    f"Observations have the keys {sorted(keys)}; a refresh needs {key!r}. Make the environment with "
                    "privileged_obs=True (in a recipe under env.train_kwargs), or choose other targets."
                )
        self._wrapper = wrapper
        checkpoint_folder = getattr(self.model, "checkpoint_folder", None)
        if self.folder is not None:
            self._path = self.folder
        elif checkpoint_folder is not None:
            self._path = Path(checkpoint_folder) / "reward"
        else:
            raise ValueError("folder is None, and the algorithm has no checkpoint_folder. Name a folder.")
        self._path.mkdir(parents=True, exist_ok=True)
        is_resumed = self.num_timesteps > 0 and hasattr(self.model, "reward_refresh")
        if not is_resumed:
            self.model.reward_refresh = {"rollouts": 0, "refreshed_at": 0}  # type: ignore[attr-defined]
        self._state: dict[str, int] = self.model.reward_refresh  # type: ignore[attr-defined]
        self._return_to_state()
        wrapper.recorder = EpisodeRecorder(wrapper.view, type(self.model).__name__)

    @property
    def _learner(self) -> TrainableRewardModel:
        return self._wrapper.model  # type: ignore[return-value]  # seen to be one when training started

    def _return_to_state(self) -> None:
        """Take films and model of the roll-outs so far, and delete those of later ones, which were undone."""
        self._failures.clear()
        self._successes.clear()
        rollouts, refreshed_at = self._state["rollouts"], self._state["refreshed_at"]
        for path in sorted(self._path.glob(_FILMS)):
            rollout = _number(path)
            if rollout > rollouts:
                path.unlink()
            else:
                self._keep(rollout, load_films(path))
        for path in self._path.glob(_MODELS):
            if _number(path) > refreshed_at:
                shutil.rmtree(path)
        if refreshed_at:
            self._learner.restore(self._path / f"model_{refreshed_at:06d}" / BEST)

    def _keep(self, rollout: int, films: list[Film]) -> None:
        for place, film in enumerate(films):
            (self._successes if film.is_success else self._failures).append((rollout, place, film))

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._state["rollouts"] += 1
        rollout, recorder = self._state["rollouts"], self._wrapper.recorder
        assert recorder is not None
        films, recorder.films = recorder.films, []
        if films and self._training["targets"] != "truth" and films[0].trace is None:
            raise FilmError(
                f"Films of the run have no trace of every control step, which targets={self._training['targets']!r} "
                "needs. Make the environment with trace=True (in a recipe under env.train_kwargs)."
            )
        if films:
            save_films(self._path / f"films_{rollout:06d}.hdf5", films)
        self._keep(rollout, films)
        if rollout % self.every == 0:
            self._refresh(rollout)
        self._delete_unused(rollout)

    def _on_training_end(self) -> None:
        self._wrapper.recorder = None

    def _refresh(self, rollout: int) -> None:
        films = [*self._data, *self.films]
        is_held_out = [(film.init_state_id + 1) % self.held_out_every == 0 for film in films]
        learned, held_out = (
            [film for film, out in zip(films, is_held_out, strict=True) if out is side] for side in (False, True)
        )
        folder = self._path / f"model_{rollout:06d}"
        try:
            history = train_reward_model(
                self._learner, learned, held_out, folder, seed=self.seed + rollout, **self._training
            )
        except FilmError as error:
            # there may be more films the next time
            logger.warning(
                "The reward model stays as it is after roll-out %d, with %d films to learn from and %d held out "
                "(initial states k with k + 1 divisible by held_out_every=%d): %s",
                *(rollout, len(learned), len(held_out), self.held_out_every, error),
            )
            return
        self._state["refreshed_at"] = rollout
        self._wrapper.forget_progress()
        best = min(history, key=lambda epoch: epoch.held_out_loss)
        self.logger.record("reward/films", len(films))
        self.logger.record("reward/held_out_loss", best.held_out_loss)
        self.logger.record("reward/auc_last", best.auc_last)

    def _delete_unused(self, rollout: int) -> None:
        """Delete films and models that are not used, nor by a run that is resumed from its last checkpoint."""
        margin = 2 * int(getattr(self.model, "checkpoint_interval", 1))
        used = [number for number, *_ in (*self._failures, *self._successes)]
        first_used = min([*used, rollout - margin])
        for path in self._path.glob(_FILMS):
            if _number(path) < first_used:
                path.unlink()
        models = sorted(self._path.glob(_MODELS))
        for path in models[:-_KEPT_MODELS]:
            if _number(path) < rollout - margin:
                shutil.rmtree(path)


def _number(path: Path) -> int:
    """Roll-out that a file or folder is named after."""
    return int(path.stem.rpartition("_")[2])
