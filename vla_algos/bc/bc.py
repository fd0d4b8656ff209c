"""Behaviour cloning: supervised fine-tuning on demonstrated action tokens."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import configure_logger
from tqdm import tqdm

from vla_algos.bc.dataset import DemonstrationSet
from vla_algos.common.losses import smoothing_table, soft_cross_entropy
from vla_algos.common.save_util import save_zip
from vla_algos.policies import VLAPolicy
from vla_gym.actions.tokenizer import N_BINS
from vla_gym.instructions import INSTRUCTION_BYTES
from vla_gym.tasks.registry import COMMAND_DIM


def warmup_cosine(step: int, n_steps: int, warmup_fraction: float, final_fraction: float = 0.1) -> float:
    """
    Factor of the learning rate: a straight rise, then half a cosine.

    :param step: gradient steps done, 0..n_steps - 1
    :param n_steps: gradient steps in all
    :param warmup_fraction: share of the steps that rise
    :param final_fraction: factor at the end
    :return: factor in (0, 1]
    """
    n_warmup = round(warmup_fraction * n_steps)
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    progress = (step - n_warmup) / max(1, n_steps - 1 - n_warmup)
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


class BC(BaseAlgorithm):
    """
    Cross-entropy on demonstrated bins, with safeguards against copying.

    Given the true earlier tokens, a model learns to continue them and to ignore the image: next-token figures look fine
    while free-running actions are poor. So earlier tokens are hidden at random in training, and validation reports the
    error of free-running greedy actions beside the teacher-forced accuracy.

    ``learn(total_timesteps)`` counts **gradient steps**. To hand the model on, save its weights as a checkpoint folder
    with ``vla_algos.models.save_vla(bc.policy.vla, folder)``.

    :param policy: "VLAPolicy" or a subclass of it
    :param env: only its spaces are used; None: spaces as the data has them
    :param dataset: demonstrations; None: for prediction only
    :param learning_rate: largest learning rate, see :func:`warmup_cosine`
    :param batch_size: decisions per gradient step
    :param warmup_fraction: share of the gradient steps in which the learning rate rises
    :param token_dropout: probability to hide an earlier token
    :param full_dropout: share of the samples that hide all earlier tokens
    :param label_smoothing: share of the target that is spread over neighbouring bins
    :param smoothing_width: standard deviation of the spread, bins
    :param smoothed_dims: dimensions of a command whose targets are spread; default: translation
    :param max_grad_norm: gradients are scaled down to this norm
    :param validation_fraction: share of the episodes held out; 0: no validation
    :param validation_interval: gradient steps between validations; one more follows the last step
    :param validation_samples: held-out decisions per validation, at most
    :param tensorboard_log: folder for TensorBoard; None: none
    :param policy_kwargs: keywords of the policy, such as ``vla``
    :param verbose: 0 silent, 1 tables, 2 debug
    :param seed: of all generators and of the split
    :param device: of the model
    :param _init_setup_model: build the model now
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"VLAPolicy": VLAPolicy}
    policy: VLAPolicy

    def __init__(
        self,
        policy: str | type[VLAPolicy],
        env: GymEnv | str | None = None,
        dataset: DemonstrationSet | None = None,
        learning_rate: float = 5e-4,
        batch_size: int = 64,
        warmup_fraction: float = 0.05,
        token_dropout: float = 0.3,
        full_dropout: float = 0.5,
        label_smoothing: float = 0.1,
        smoothing_width: float = 2.0,
        smoothed_dims: Sequence[int] = (0, 1, 2),
        max_grad_norm: float = 1.0,
        validation_fraction: float = 0.1,
        validation_interval: int = 500,
        validation_samples: int = 256,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        self.dataset = dataset
        self.batch_size = batch_size
        self.warmup_fraction = warmup_fraction
        self.token_dropout = token_dropout
        self.full_dropout = full_dropout
        self.label_smoothing = label_smoothing
        self.smoothing_width = smoothing_width
        self.smoothed_dims = tuple(smoothed_dims)
        self.max_grad_norm = max_grad_norm
        self.validation_fraction = validation_fraction
        self.validation_interval = validation_interval
        self.validation_samples = validation_samples
        if env is None and dataset is not None:
            self.observation_space, self.action_space = _spaces(dataset)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, VLAPolicy):
            raise TypeError(f'BC works on action tokens and needs "VLAPolicy", not {self.policy_class.__name__}.')
        if not hasattr(self, "action_space"):
            raise ValueError("BC needs to know its spaces: give dataset=, or env=.")
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)
        hard, soft = th.eye(N_BINS), smoothing_table(N_BINS, self.label_smoothing, self.smoothing_width)
        self._target_tables = th.stack([soft if d in self.smoothed_dims else hard for d in range(COMMAND_DIM)])
        self._target_tables = self._target_tables.to(self.device)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "dataset", "_target_tables"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "BC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> BC:
        """
        Train.

        :param total_timesteps: gradient steps
        :param callback: SB3 callbacks; ``on_step`` follows every gradient step
        :param log_interval: gradient steps between log entries
        :param tb_log_name: name of the run for TensorBoard
        :param reset_num_timesteps: count from zero
        :param progress_bar: show progress with tqdm
        :return: self
        :raises ValueError: without a dataset
        """
        if self.dataset is None:
            raise ValueError("There is nothing to learn from: set model.dataset to a DemonstrationSet.")
        generator = np.random.default_rng(self.seed)
        train_set, validation_set = self.dataset.split_by_episode(self.validation_fraction, generator)
        self.start_time = time.time_ns()
        if reset_num_timesteps:
            self.num_timesteps = 0
        if not self._custom_logger:
            self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps)
        callback = self._init_callback(callback)
        callback.on_training_start(locals(), globals())
        with tqdm(total=total_timesteps, disable=not progress_bar, unit="step", mininterval=1.0) as bar:
            for step, indices in enumerate(_batches(len(train_set), self.batch_size, total_timesteps, generator)):
                self._set_learning_rate(warmup_cosine(step, total_timesteps, self.warmup_fraction))
                self.logger.record_mean("train/loss", self._train_step(*train_set.batch(indices, self.device)))
                self.num_timesteps += 1
                is_last = step + 1 == total_timesteps
                if len(validation_set) and (is_last or (step + 1) % self.validation_interval == 0):
                    figures = self.validate(validation_set)
                    for name, figure in figures.items():
                        self.logger.record(f"validation/{name}", figure)
                    bar.set_postfix(figures)
                if is_last or (step + 1) % log_interval == 0:
                    self.dump_logs()
                bar.update()
                callback.update_locals(locals())
                if not callback.on_step():
                    break
        callback.on_training_end()
        return self

    def _set_learning_rate(self, factor: float) -> None:
        learning_rate = factor * self.lr_schedule(1.0)
        for group in self.policy.optimizer.param_groups:
            group["lr"] = learning_rate
        self.logger.record("train/learning_rate", learning_rate)

    def _train_step(self, inputs: dict[str, Any], bins: th.Tensor) -> float:
        """One gradient step; a non-finite one is skipped and counted."""
        self.policy.set_training_mode(True)
        logits = self.policy.vla.action_logits(**self._known(inputs), bins=bins, dropped=self._draw_dropped(bins.shape))
        dims = th.arange(bins.shape[1], device=bins.device) % COMMAND_DIM
        loss = soft_cross_entropy(logits, self._target_tables[dims, bins])
        self.policy.optimizer.zero_grad()
        loss.backward()
        grad_norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        if th.isfinite(loss) and th.isfinite(grad_norm):
            self.policy.optimizer.step()
            self._n_updates += 1
        else:
            self.logger.record_mean("train/skipped_updates", 1.0)
        return loss.item()

    def _draw_dropped(self, shape: th.Size) -> th.Tensor:
        """Which earlier tokens are hidden, (N, A) bool."""
        is_full = th.rand(shape[0], 1) < self.full_dropout
        return (is_full | (th.rand(shape) < self.token_dropout)).to(self.device)

    def _known(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Inputs that the model takes."""
        return inputs if self.policy.vla.config.proprio_dim else {**inputs, "proprio": None}

    @th.no_grad()
    def validate(self, validation_set: DemonstrationSet) -> dict[str, float]:
        """
        Figures on at most ``validation_samples`` decisions, evenly spaced.

        :param validation_set: decisions that were not trained on
        :return: ``token_accuracy``, teacher-forced share of exact bins in [0, 1], and ``bin_error``, mean distance of
            free-running greedy bins, bins
        """
        self.policy.set_training_mode(False)
        indices = np.linspace(0, len(validation_set) - 1, min(self.validation_samples, len(validation_set))).astype(int)
        n_exact, distance = 0.0, 0.0
        for start in range(0, len(indices), self.batch_size):
            inputs, bins = validation_set.batch(indices[start : start + self.batch_size], self.device)
            inputs = self._known(inputs)
            n_exact += (self.policy.vla.action_logits(**inputs, bins=bins).argmax(dim=-1) == bins).sum().item()
            distance += (self.policy.vla.decode_actions(**inputs, deterministic=True).bins - bins).abs().sum().item()
        n_tokens = len(indices) * validation_set.n_tokens
        return {"token_accuracy": n_exact / n_tokens, "bin_error": distance / n_tokens}

    def dump_logs(self) -> None:
        """Write the log."""
        self.logger.record("time/time_elapsed", int((time.time_ns() - self.start_time) / 1e9), exclude="tensorboard")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save as SB3 does, without the demonstrations, and never leave half a file.

        :param path: file, ``.zip`` is added if it has no suffix
        :param exclude: attributes to leave out
        :param include: attributes to keep although they are left out by default
        """
        save_zip(super().save, path, exclude=exclude, include=include)


def _batches(n_samples: int, batch_size: int, n_batches: int, generator: np.random.Generator) -> Iterable[np.ndarray]:
    """Endless passes in random order, cut into batches."""
    order = np.empty(0, dtype=np.int64)
    for _ in range(n_batches):
        while len(order) < batch_size:
            order = np.concatenate([order, generator.permutation(n_samples)])
        yield order[:batch_size]
        order = order[batch_size:]


def _spaces(dataset: DemonstrationSet) -> tuple[spaces.Dict, spaces.MultiDiscrete]:
    """Spaces of an environment that such demonstrations come from, images as SB3 transposes them."""
    _, height, width, _ = dataset.images.shape
    observation_space = spaces.Dict(
        {
            "agentview": spaces.Box(0, 255, (3, height, width), np.uint8),
            "proprio": spaces.Box(-np.inf, np.inf, dataset.proprio.shape[1:], np.float32),
            "instruction": spaces.Box(0, 255, (INSTRUCTION_BYTES,), np.uint8),
        }
    )
    return observation_space, spaces.MultiDiscrete([N_BINS] * dataset.n_tokens)
