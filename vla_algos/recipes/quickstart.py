"""
The quickstart: a compact VLA learns one LIBERO-Goal task, first from a few scripted demonstrations, then by PPO.

Everything is measured, nothing is downloaded: demonstrations come from the scripted expert, the start is a behaviour
clone of them, and success is counted before and after PPO on the same episodes, greedy and sampled. Demonstrations and
PPO use initial states 0 to 24; the evaluation uses these and the 25 that neither has seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecMonitor
from tqdm import tqdm

from vla_algos.bc import BC
from vla_algos.bc.dataset import DemonstrationSet
from vla_algos.common.callbacks import RolloutHistoryCallback, RolloutRecord
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.evaluation.harness import EvaluationResult, evaluate_policy_on_suite
from vla_algos.evaluation.plots import plot_learning_curve
from vla_algos.evaluation.videos import record_episode
from vla_algos.models import save_vla
from vla_algos.token_ppo import TokenPPO
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.collect import Episode, collect_episode
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.experts.scripted import ScriptedExpert
from vla_gym.files import write_then_rename
from vla_gym.vector import make_vec

ENV_ID = "LIBERO-Goal-v0"
N_TRAIN_STATES = 25
"""Initial states 0..24 are trained on; the rest are held out."""
MAX_ATTEMPTS_PER_DEMONSTRATION = 3


@dataclass(frozen=True)
class QuickstartSettings:
    """
    Sizes of a run.

    :param task_id: task of LIBERO-Goal; the scripted expert must know it
    :param seed: of everything
    :param assets: asset pack
    :param chunk_size: commands per decision
    :param image_size: of the policy's images (px)
    :param n_demonstrations: scripted episodes
    :param bc_steps: gradient steps of behaviour cloning
    :param n_envs: environments side by side
    :param ppo_iterations: roll-outs and updates
    :param n_steps: decisions per environment and roll-out
    :param n_eval_states: initial states per evaluation
    :param bc_kwargs: further keywords of :class:`BC`
    :param ppo_kwargs: further keywords of :class:`TokenPPO`
    """

    task_id: int = 8
    seed: int = 0
    assets: str = "auto"
    chunk_size: int = 8
    image_size: int = 128
    n_demonstrations: int = 10
    bc_steps: int = 500
    n_envs: int = 8
    ppo_iterations: int = 10
    n_steps: int = 80
    n_eval_states: int = 50
    bc_kwargs: dict[str, Any] = field(default_factory=lambda: {"batch_size": 32, "learning_rate": 5e-4})
    ppo_kwargs: dict[str, Any] = field(
        default_factory=lambda: {
            "learning_rate": 5e-5,
            "value_learning_rate": 1e-3,
            "batch_size": 128,
            "n_epochs": 2,
            "ratio_level": "token",
            "temperature": 1.0,
            "critic_warmup_iterations": 2,
            "clip_range_vf": None,
        }
    )

    @classmethod
    def smoke(cls, **overrides: Any) -> QuickstartSettings:
        """Everything once and as small as it goes; the figures mean nothing."""
        sizes = {
            "n_demonstrations": 3,
            "bc_steps": 25,
            "n_envs": 2,
            "ppo_iterations": 3,
            "n_steps": 20,
            "n_eval_states": 4,
        }
        return cls(**{**sizes, **overrides})

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Keywords of the environment the policy acts in."""
        return {
            "task_ids": [self.task_id],
            "chunk_size": self.chunk_size,
            "image_size": self.image_size,
            "render_quality": "fast",
            "assets": self.assets,
        }


@dataclass(frozen=True)
class QuickstartResult:
    """
    What was measured.

    :param settings: sizes of the run
    :param folder: where everything was written
    :param before: evaluations of the clone, ``greedy`` and ``sampled``
    :param after: the same after PPO
    :param history: one record per roll-out
    :param demonstrations: scripted episodes that succeeded, and tries
    :param seconds: wall time of each stage
    :param video_success: whether the filmed episode succeeded
    """

    settings: QuickstartSettings
    folder: Path
    before: dict[str, EvaluationResult]
    after: dict[str, EvaluationResult]
    history: list[RolloutRecord]
    demonstrations: tuple[int, int]
    seconds: dict[str, float]
    video_success: bool

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "settings": asdict(self.settings),
            "before": {mode: result.to_dict() for mode, result in self.before.items()},
            "after": {mode: result.to_dict() for mode, result in self.after.items()},
            "history": [asdict(record) for record in self.history],
            "demonstrations": {"kept": self.demonstrations[0], "tried": self.demonstrations[1]},
            "seconds": self.seconds,
            "video_success": self.video_success,
        }


def split_success(result: EvaluationResult) -> dict[str, tuple[int, int]]:
    """
    Successes and episodes, apart for initial states that were trained on and for held-out ones.

    :param result: an evaluation
    :return: ``trained`` and ``held out`` -> (successes, episodes)
    """
    parts = {"trained": range(N_TRAIN_STATES), "held out": range(N_TRAIN_STATES, 10**9)}
    counted = {}
    for name, states in parts.items():
        outcomes = [episode.is_success for episode in result.episodes if episode.init_state_id in states]
        counted[name] = (sum(outcomes), len(outcomes))
    return counted


def run_quickstart(
    settings: QuickstartSettings, folder: str | Path, announce: Callable[[str], None] = lambda _: None
) -> QuickstartResult:
    """
    Demonstrate, clone, evaluate, train by PPO, evaluate again, and write model, curve, film and figures.

    :param settings: sizes of the run
    :param folder: where to write ``sft/`` (the clone), ``model.zip``, ``curve.png``, ``episode.mp4``, ``results.json``
        and ``logs/``; an interrupted training leaves ``interrupted.zip``
    :param announce: told what begins
    :return: what was measured
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    with _stage("demonstrations", seconds, announce, f"{settings.n_demonstrations} scripted demonstrations"):
        episodes, attempts = _demonstrate(settings)
    with _stage("cloning", seconds, announce, f"behaviour cloning, {settings.bc_steps} gradient steps"):
        clone = _clone(settings, episodes)
        save_vla(clone.policy.vla, folder / "sft")
    with _stage("evaluation before", seconds, announce, "evaluation before PPO, greedy and sampled"):
        before = _evaluate(settings, clone)
    with _stage("ppo", seconds, announce, f"TokenPPO, {settings.ppo_iterations} iterations"):
        model, history = _train(settings, clone, folder)
        model.save(folder / "model.zip")
    with _stage("evaluation after", seconds, announce, "evaluation after PPO, greedy and sampled"):
        after = _evaluate(settings, model)
    with _stage("video", seconds, announce, "film of one held-out episode"):
        state = min(N_TRAIN_STATES, settings.n_eval_states - 1)
        options = {"task_id": settings.task_id, "init_state_id": state}
        filmed = record_episode(model, folder / "episode.mp4", ENV_ID, settings.env_kwargs, options)
    instruction = after["greedy"].instructions[settings.task_id]
    plot_learning_curve(folder / "curve.png", history, list(before.values()), list(after.values()), instruction)
    result = QuickstartResult(
        settings, folder, before, after, history, (len(episodes), attempts), seconds, video_success=filmed
    )
    with write_then_rename(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return result


@contextmanager
def _stage(name: str, seconds: dict[str, float], announce: Callable[[str], None], text: str) -> Any:
    announce(text)
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _demonstrate(settings: QuickstartSettings) -> tuple[list[Episode], int]:
    """Scripted episodes that succeeded, and how many were tried."""
    env = LiberoEnv(ENV_ID, action_type="continuous", **{**settings.env_kwargs, "chunk_size": 1})
    rng = np.random.default_rng(settings.seed)
    expert = ScriptedExpert(env, rng, action_noise=0.05)
    episodes: list[Episode] = []
    attempts = 0
    with tqdm(total=settings.n_demonstrations, unit="episode") as bar:
        while len(episodes) < settings.n_demonstrations:
            if attempts >= MAX_ATTEMPTS_PER_DEMONSTRATION * settings.n_demonstrations:
                raise RuntimeError(f"The scripted expert solved {len(episodes)} of {attempts} episodes; too few.")
            options = {"task_id": settings.task_id, "init_state_id": attempts % N_TRAIN_STATES}
            episode = collect_episode(env, expert, options, ActionTokenizer())
            attempts += 1
            if episode.success:
                episodes.append(episode)
                bar.update()
    env.close()
    return episodes, attempts


def _clone(settings: QuickstartSettings, episodes: list[Episode]) -> BC:
    dataset = DemonstrationSet.from_episodes(episodes, ActionTokenizer(), settings.chunk_size)
    clone = BC("VLAPolicy", None, dataset, seed=settings.seed, policy_kwargs=_policy_kwargs(), **settings.bc_kwargs)
    return clone.learn(settings.bc_steps, progress_bar=True)


def _policy_kwargs() -> dict[str, Any]:
    # the gradient of a value head that is still wrong undoes what the clone has learnt
    return {"vla": "compact", "detach_value": True}


def _evaluate(settings: QuickstartSettings, model: Any) -> dict[str, EvaluationResult]:
    return {
        mode: evaluate_policy_on_suite(
            model,
            ENV_ID,
            n_init_states=settings.n_eval_states,
            n_envs=settings.n_envs,
            deterministic=mode == "greedy",
            env_kwargs=settings.env_kwargs,
            progress_bar=True,
            seed=settings.seed,
        )
        for mode in ("greedy", "sampled")
    }


def _train(settings: QuickstartSettings, clone: BC, folder: Path) -> tuple[TokenPPO, list[RolloutRecord]]:
    workers = make_vec(ENV_ID, settings.n_envs, "process", init_state_ids=range(N_TRAIN_STATES), **settings.env_kwargs)
    env = VecMonitor(SB3VecEnv(workers))
    env.seed(settings.seed)
    try:
        model = TokenPPO(
            "VLAPolicy",
            env,
            n_steps=settings.n_steps,
            seed=settings.seed,
            policy_kwargs=_policy_kwargs(),
            **settings.ppo_kwargs,
        )
        model.policy.load_state_dict(clone.policy.state_dict())
        model.set_logger(configure(str(folder / "logs"), ["csv", "tensorboard"]))
        recorder = RolloutHistoryCallback()
        n_decisions = settings.ppo_iterations * settings.n_steps * settings.n_envs
        model.learn(n_decisions, callback=recorder, progress_bar=True)
    except KeyboardInterrupt:
        model.save(folder / "interrupted.zip")
        raise
    finally:
        env.close()
    return model, recorder.history
