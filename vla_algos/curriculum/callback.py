"""``CurriculumCallback``: keeps the environments drawing what a ``SuccessSampler`` wants practised."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback

from vla_algos.common.vec_env import is_broken
from vla_algos.curriculum.sampler import SuccessSampler


class CurriculumCallback(BaseCallback):
    """
    Counts the episodes of a run and sends the weights that follow from them to the environments.

    Works with every algorithm and vector environment of SB3 whose environments have ``set_start_weights`` and report
    ``task_id``, ``init_state_id`` and ``is_success`` in the info of the step that ends an episode. Weights go out when
    training starts and then at the ends of roll-outs; also when an environment has been restarted. Not counted are
    broken episodes (physics that diverged, a worker that was restarted), and those from a start that the sampler does
    not have, such as those under way when training starts.

    The sampler becomes ``model.success_sampler``, so that ``model.save`` keeps it: a run goes on with
    ``CurriculumCallback(model.success_sampler)``.

    Logged at the end of each roll-out: ``curriculum/episodes`` (counted so far), ``curriculum/entropy`` (of the
    distribution over starts, nats), and for each task ``curriculum/episodes/<task_id>`` (counted so far),
    ``curriculum/recent_episodes/<task_id>`` (discounted by the half-life) and, once there are any,
    ``curriculum/success/<task_id>``: recent successes over recent episodes, without any prior.

    :param sampler: statistics and scheme
    :param every: roll-outs from one sending of weights to the next, at least 1
    :param verbose: as in SB3
    :raises ValueError: if ``every`` is below 1
    """

    def __init__(self, sampler: SuccessSampler, every: int = 1, verbose: int = 0) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; expected at least 1.")
        super().__init__(verbose)
        self.sampler = sampler
        self.every = every
        self._rollouts = 0

    def _init_callback(self) -> None:
        self.model.success_sampler = self.sampler  # type: ignore[attr-defined]

    def _on_training_start(self) -> None:
        # a resumed run sends when one that was never stopped would
        self._rollouts = getattr(self.model, "_n_iterations", 0)
        self._send()

    def _on_step(self) -> bool:
        is_restarted = False
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if not done:
                continue
            if is_broken(info):
                is_restarted |= bool(info.get("worker_restarted"))
                continue
            start = (int(info["task_id"]), int(info["init_state_id"]))
            if start in self.sampler:
                self.sampler.record(start, bool(info["is_success"]))
        if is_restarted:
            self._send()
        return True

    def _on_rollout_end(self) -> None:
        self._rollouts += 1
        if self._rollouts % self.every == 0:
            self._send()
        self.logger.record("curriculum/episodes", self.sampler.n_episodes)
        self.logger.record("curriculum/entropy", self.sampler.entropy())
        recent = self.sampler.recent_task_counts()
        for task_id, (_, episodes) in self.sampler.task_counts().items():
            recent_successes, recent_episodes = recent[task_id]
            self.logger.record(f"curriculum/episodes/{task_id}", episodes)
            self.logger.record(f"curriculum/recent_episodes/{task_id}", recent_episodes)
            if episodes:
                self.logger.record(f"curriculum/success/{task_id}", recent_successes / recent_episodes)

    def _send(self) -> None:
        self.training_env.env_method("set_start_weights", self.sampler.weights())
