"""SB3's on-policy loop, for runs that can be stopped at any moment and go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from vla_algos.common.callbacks import TolerantProgressBar
from vla_algos.common.interrupts import deferred_interrupt
from vla_algos.common.resumption import generator_states, restore_generators
from vla_algos.common.vec_env import as_vec_env
from vla_algos.errors import TrainingDivergedError
from vla_algos.policies.saving import DIVERGED_FILE, LAST_FILE, SavedWithoutFrozenWeights, owned_folder, save_or_warn
from vla_gym.errors import VLAGymError
from vla_gym.snapshots import restore_snapshot, take_snapshot

logger = logging.getLogger(__name__)


class ResumableAlgorithm(SavedWithoutFrozenWeights, OnPolicyAlgorithm):
    """
    A subclass brings ``_collect``, its roll-outs, and ``train``.

    With ``checkpoint_folder`` the run is saved every ``checkpoint_interval`` iterations, at its end, and at Ctrl-C. The
    folder is locked while it learns. A checkpoint that the disk does not take is given up with a warning.

    ``load`` what is in ``last.zip`` there and call ``learn(model.remaining_timesteps, reset_num_timesteps=False)``: on
    a CPU the run continues with the same bits as if nothing had happened, killed or not. The file holds the
    environments in mid-episode (see :mod:`vla_gym.snapshots`), so that saving changes nothing, however often.
    Environments without snapshots start new episodes when a run is resumed, with a warning. A run that diverges leaves
    ``last.zip`` as it is, and its current state in ``diverged.zip``.

    :param checkpoint_folder: where to save the run; None: nowhere
    :param checkpoint_interval: iterations between savings
    """

    def __init__(
        self, *args: Any, checkpoint_folder: str | Path | None, checkpoint_interval: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.checkpoint_folder = None if checkpoint_folder is None else str(checkpoint_folder)
        self.checkpoint_interval = checkpoint_interval
        self._n_iterations = 0
        self._n_saved_iterations: int | None = None
        # in a file alone, and between ``load`` and the roll-out after it
        self._moment: dict[str, Any] | None = None
        self._is_interrupted: Callable[[], bool] = _never

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As SB3's; takes what ``vla_gym.make_vec`` returns, too."""
        return OnPolicyAlgorithm._wrap_env(as_vec_env(env), verbose, monitor_wrapper)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callbacks = callback if isinstance(callback, list) else [callback]
        callbacks = [c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in callbacks]
        bar = [TolerantProgressBar()] if progress_bar else []
        return super()._init_callback([*callbacks, *bar])

    def dump_logs(self, iteration: int = 0) -> None:
        """As SB3's; a log that cannot be written does not end the run."""
        try:
            super().dump_logs(iteration)
        except Exception as error:
            # the next iteration has figures of its own
            self.logger.name_to_value.clear()
            self.logger.name_to_count.clear()
            self.logger.name_to_excluded.clear()
            logger.warning("The log of iteration %d could not be written: %s", iteration, error)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_obs", "_is_interrupted"]

    @property
    def remaining_timesteps(self) -> int:
        """Decisions that the last call of ``learn`` has not taken."""
        return max(0, self._total_timesteps - self.num_timesteps)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Any:
        """
        As SB3's.

        :param total_timesteps: decisions to take, in whole iterations
        :param callback: SB3 callbacks
        :param log_interval: iterations between log entries
        :param tb_log_name: name of the run for TensorBoard; None: that of the class
        :param reset_num_timesteps: begin a new run; False: go on
        :param progress_bar: show progress with tqdm and rich
        :return: self
        :raises KeyboardInterrupt: after Ctrl-C, once the iteration in progress is done and saved
        :raises TrainingDivergedError: after three updates in a row whose loss or gradient was not finite
        :raises FolderInUseError: if another run is writing to ``checkpoint_folder``
        :raises FolderNotWritableError: if ``checkpoint_folder`` cannot be written
        """
        if reset_num_timesteps:
            self._start_anew()
        name = tb_log_name or type(self).__name__
        with owned_folder(self.checkpoint_folder), deferred_interrupt() as self._is_interrupted:
            try:
                super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)
            except TrainingDivergedError as error:
                raise TrainingDivergedError(f"{error} {self._save_diverged()}") from None
            if self.checkpoint_folder is not None and self._n_saved_iterations != self._n_iterations:
                # of a run that is over, too: it may be extended
                self._save_checkpoint()
            if self._is_interrupted():
                raise KeyboardInterrupt(self._said_of_interruption())
        return self

    def _said_of_interruption(self) -> str:
        if self.checkpoint_folder is None:
            return "Nothing was saved, as there is no checkpoint_folder; learn goes on with reset_num_timesteps=False."
        path = Path(self.checkpoint_folder) / LAST_FILE
        return (
            f"Saved to {path} after {self.num_timesteps} decisions. Load it and call "
            "learn(model.remaining_timesteps, reset_num_timesteps=False) to resume."
        )

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As SB3's; after ``load``, environments and generators first return to the moment that was saved."""
        if self._is_interrupted():
            return False
        if self._moment is not None:
            self._return_to(self._moment, env)
            self._moment = None
        return self._collect(env, callback, rollout_buffer, n_rollout_steps)

    def _collect(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Roll out; False if a callback ended the run."""
        raise NotImplementedError

    def _return_to(self, moment: dict[str, Any], env: VecEnv) -> None:
        """Put environments and generators back; where that cannot be, start new episodes and say so."""
        try:
            if moment["envs"] is None:
                raise ValueError("Its environments offered no snapshots.")
            restore_snapshot(env, moment["envs"])
        except (ValueError, KeyError, VLAGymError) as error:
            logger.warning(
                "The run starts new episodes where it was saved, and is not the one that it would have been: %s", error
            )
            self._last_obs = env.reset()  # type: ignore[assignment]
            self._last_episode_starts = np.ones((env.num_envs,), dtype=bool)
        else:
            self._last_obs = moment["last_obs"]
            self._last_episode_starts = moment["last_episode_starts"]
        restore_generators(moment["generators"])

    def _start_anew(self) -> None:
        """Forget the run before."""
        self._n_iterations = 0
        self._n_saved_iterations = None
        self._moment = None

    def _finish_iteration(self) -> None:
        """Count, and save the run if it is time to."""
        self._n_iterations += 1
        if self.checkpoint_folder is not None and self._n_iterations % self.checkpoint_interval == 0:
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        assert self.env is not None
        self._moment = {
            "generators": generator_states(),
            "envs": take_snapshot(self.env),
            "last_obs": self._last_obs,
            "last_episode_starts": self._last_episode_starts,
        }
        path = Path(str(self.checkpoint_folder)) / LAST_FILE
        # the file says of itself that it is saved
        saved_before, self._n_saved_iterations = self._n_saved_iterations, self._n_iterations
        try:
            if not save_or_warn(lambda: self.save(path)):
                self._n_saved_iterations = saved_before
        finally:
            self._moment = None

    def _save_diverged(self) -> str:
        """Save what is left of a run, apart from what it could go on from; returns what to tell of it."""
        if self.checkpoint_folder is None:
            return "Nothing was saved, as there is no checkpoint_folder; the model is as it was before these updates."
        path = Path(self.checkpoint_folder) / DIVERGED_FILE
        if not save_or_warn(lambda: self.save(path)):
            return f"The model as it is could not be saved to {path}."
        return f"The model as it is was saved to {path}; {LAST_FILE} beside it, if there is one, is older."


def _never() -> bool:
    return False
