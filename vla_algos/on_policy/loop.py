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
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from vla_algos.common.interrupts import deferred_interrupt
from vla_algos.common.resumption import boundary_seed, generator_states, restore_generators
from vla_algos.errors import TrainingDivergedError
from vla_algos.on_policy.callbacks import TokenRolloutCallback, TolerantProgressBar
from vla_algos.policies.saving import DIVERGED_FILE, LAST_FILE, SavedWithoutFrozenWeights

logger = logging.getLogger(__name__)


class ResumableAlgorithm(SavedWithoutFrozenWeights, OnPolicyAlgorithm):
    """
    With ``checkpoint_folder`` the run is saved every ``checkpoint_interval`` iterations, and at Ctrl-C.

    ``load`` what is in ``last.zip`` there and call ``learn(model.remaining_timesteps, reset_num_timesteps=False)``: on
    a CPU the run goes on with the same bits as if nothing had happened, killed or not. For that, environments start
    anew every ``checkpoint_interval`` iterations, with a seed of the iteration. Where Ctrl-C saves a run in between,
    they start anew there, which a run that is not stopped does not do. A run that diverges leaves ``last.zip`` as it
    is, and what it has come to in ``diverged.zip``.

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
        self._generator_states: dict[str, Any] | None = None
        self._is_interrupted: Callable[[], bool] = _never

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callbacks = callback if isinstance(callback, list) else [callback]
        callbacks = [c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in callbacks]
        bar = [TolerantProgressBar()] if progress_bar else []
        return super()._init_callback([TokenRolloutCallback(), *callbacks, *bar])

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
        """
        if reset_num_timesteps:
            self._start_anew()
        name = tb_log_name or type(self).__name__
        with deferred_interrupt() as self._is_interrupted:
            try:
                super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)
            except TrainingDivergedError as error:
                raise TrainingDivergedError(f"{error} {self._save_diverged()}") from None
            if self._is_interrupted():
                if self.checkpoint_folder is not None and self._n_saved_iterations != self._n_iterations:
                    self._save_checkpoint()
                raise KeyboardInterrupt
        return self

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As SB3's; behind a checkpoint, environments and generators first start from what was saved."""
        if self._is_interrupted():
            return False
        if self._generator_states is not None:
            restore_generators(self._generator_states)
            self._generator_states = None
            env.seed(boundary_seed(self.seed, self._n_iterations))
            self._last_obs = env.reset()  # type: ignore[assignment]
            self._last_episode_starts = np.ones((env.num_envs,), dtype=bool)
        return self._collect(env, callback, rollout_buffer, n_rollout_steps)

    def _collect(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def _start_anew(self) -> None:
        """Forget the run before."""
        self._n_iterations = 0
        self._n_saved_iterations = None
        self._generator_states = None

    def _finish_iteration(self) -> None:
        """Count, and save the run if it is time to."""
        self._n_iterations += 1
        if self.checkpoint_folder is not None and self._n_iterations % self.checkpoint_interval == 0:
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        self._generator_states = generator_states()
        self._n_saved_iterations = self._n_iterations
        self.save(Path(str(self.checkpoint_folder)) / LAST_FILE)

    def _save_diverged(self) -> str:
        """Save what is left of a run, apart from what it could go on from; returns what to tell of it."""
        if self.checkpoint_folder is None:
            return "Nothing was saved, as there is no checkpoint_folder; the model is as it was before these updates."
        path = Path(self.checkpoint_folder) / DIVERGED_FILE
        self.save(path)
        return f"The model as it is was saved to {path}; {LAST_FILE} beside it, if there is one, is older."


def _never() -> bool:
    return False
