"""Behaviour cloning: supervised fine-tuning on demonstrated action tokens."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import configure_logger
from tqdm import tqdm

from vla_algos.bc.augmentation import Augmentation
from vla_algos.bc.dataset import Batch, DemonstrationSet
from vla_algos.bc.stream import TrainingStream
from vla_algos.bc.validation import known_inputs, prediction_figures
from vla_algos.common.devices import computes_in_bf16
from vla_algos.common.divergence import SkippedUpdates
from vla_algos.common.interrupts import deferred_interrupt
from vla_algos.common.losses import smoothing_table, soft_cross_entropy
from vla_algos.common.progress import progress_bar as tolerant_bar
from vla_algos.common.schedules import warmup_cosine
from vla_algos.common.sequences import as_list
from vla_algos.common.type_aliases import UseBF16
from vla_algos.models import save_vla
from vla_algos.policies import VLAPolicy
from vla_algos.policies.saving import (
    LAST_FILE,
    SavedWithoutFrozenWeights,
    disk_errors_named,
    owned_folder,
    save_or_warn,
)
from vla_algos.policies.spaces import make_spaces
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.spec import AGENTVIEW, COMMAND_DIM, N_BINS, WRIST

BEST_FOLDER = "best"
_FIGURES = ("accuracy", "l1_error", "bin_error")


class BC(SavedWithoutFrozenWeights):
    """
    Cross-entropy on demonstrated bins, with safeguards against copying.

    Given the true earlier tokens, a model learns to continue them and to ignore the image: next-token figures look fine
    while free-running actions are poor. So earlier tokens are hidden at random in training, and every validation puts
    free-running greedy figures beside the teacher-forced ones.

    ``learn(total_timesteps)`` counts **gradient steps**. A run that was stopped goes on with the same bits (on a CPU,
    without dropout inside the model): ``BC.load(file, dataset=...)``, then
    ``learn(model.remaining_steps, reset_num_timesteps=False)``.

    To hand the model on, save it as a checkpoint folder with ``vla_algos.models.save_vla(bc.policy.vla, folder)``; the
    action statistics of the demonstrations travel with it.

    :param policy: "VLAPolicy" or a subclass of it
    :param env: only its spaces are used; None: spaces as the data has them
    :param dataset: demonstrations; None: for prediction only
    :param learning_rate: largest learning rate, see :func:`warmup_cosine`
    :param batch_size: decisions per gradient step
    :param micro_batch_size: decisions per backward pass, gradients add up to those of the whole batch; None: all
    :param warmup_fraction: share of the gradient steps in which the learning rate rises
    :param token_dropout: probability to hide an earlier token
    :param full_dropout: share of the samples that hide all earlier tokens
    :param label_smoothing: share of the target that is spread over neighbouring bins
    :param smoothing_width: standard deviation of the spread, bins
    :param smoothed_dims: dimensions of a command whose targets are spread; default: translation
    :param augmentation: keywords of :class:`Augmentation`, for training images only; None: images as they are
    :param use_bf16: compute passes in bfloat16 where that is safe; weights stay as they are; "auto": where the device
        has such arithmetic
    :param max_grad_norm: gradients are scaled down to this norm
    :param validation_fraction: share of the episodes held out; 0: no validation
    :param validation_interval: gradient steps between validations; one more follows the last step
    :param validation_samples: held-out decisions per validation, at most
    :param checkpoint_folder: where to keep ``best/``, the model with the smallest free-running error, and ``last.zip``,
        from which a run goes on, both written at every validation, the latter also on Ctrl-C; None: nowhere
    :param tensorboard_log: folder for TensorBoard; None: none
    :param policy_kwargs: keywords of the policy, such as ``vla`` and ``lora``
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
        learning_rate: float = 1e-3,
        batch_size: int = 32,
        micro_batch_size: int | None = None,
        warmup_fraction: float = 0.05,
        token_dropout: float = 0.3,
        full_dropout: float = 0.5,
        label_smoothing: float = 0.5,
        smoothing_width: float = 3.0,
        smoothed_dims: Sequence[int] = (0, 1, 2),
        augmentation: dict[str, Any] | None = None,
        use_bf16: UseBF16 = False,
        max_grad_norm: float = 1.0,
        validation_fraction: float = 0.1,
        validation_interval: int = 500,
        validation_samples: int = 128,
        checkpoint_folder: str | Path | None = None,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if dataset is not None and dataset.norm_stats:
            policy_kwargs = {"norm_stats": dict(dataset.norm_stats), **(policy_kwargs or {})}
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
        self.micro_batch_size = micro_batch_size
        self.warmup_fraction = warmup_fraction
        self.token_dropout = token_dropout
        self.full_dropout = full_dropout
        self.label_smoothing = label_smoothing
        self.smoothing_width = smoothing_width
        self.smoothed_dims = tuple(as_list("smoothed_dims", smoothed_dims, "[0, 1, 2]"))
        self.augmentation = augmentation
        self.use_bf16 = use_bf16
        self.max_grad_norm = max_grad_norm
        self.validation_fraction = validation_fraction
        self.validation_interval = validation_interval
        self.validation_samples = validation_samples
        self.checkpoint_folder = None if checkpoint_folder is None else str(checkpoint_folder)
        self.validations: list[dict[str, float]] = []
        self.training_seconds = 0.0
        """Wall time in ``learn`` so far, validation included; it goes on after ``load``."""
        self._stream: TrainingStream | None = None
        self._skipped_updates = SkippedUpdates()
        self._best_error = math.inf
        if env is None and dataset is not None:
            cameras = [AGENTVIEW] if dataset.wrist is None else [AGENTVIEW, WRIST]
            self.observation_space, self.action_space = make_spaces(
                cameras, dataset.camera_size, dataset.proprio.shape[1], dataset.n_tokens
            )
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
        self._augment = Augmentation(**(self.augmentation or {}))
        hard, soft = th.eye(N_BINS), smoothing_table(N_BINS, self.label_smoothing, self.smoothing_width)
        self._target_tables = th.stack([soft if d in self.smoothed_dims else hard for d in range(COMMAND_DIM)])
        self._target_tables = self._target_tables.to(self.device)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "dataset", "_target_tables", "_augment"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    @property
    def remaining_steps(self) -> int:
        """Gradient steps that the last call of ``learn`` has not done."""
        return self._total_timesteps - self.num_timesteps

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
        :param reset_num_timesteps: begin a new run; False: go on, with the schedule of one run of all steps together
        :param progress_bar: show progress with tqdm
        :return: self
        :raises ValueError: without a dataset, or with one whose bins mean something else than the model's
        :raises TrainingDivergedError: after three gradient steps in a row whose loss or gradient was not finite
        :raises KeyboardInterrupt: after Ctrl-C, once the gradient step in progress is done and saved
        :raises FolderInUseError: if another run is writing to ``checkpoint_folder``
        :raises FolderNotWritableError: if ``checkpoint_folder`` cannot be written
        """
        if self.dataset is None:
            raise ValueError("There is nothing to learn from: set model.dataset to a DemonstrationSet.")
        self._check_action_tokenizer(self.dataset.action_tokenizer)
        # for everyone who later makes an environment for the model; the frames are kept at the size of its input
        vla = self.policy.vla
        vla.record = dataclasses.replace(
            vla.record, trained_camera_size=self.dataset.camera_size[0], trained_temperature=1.0
        )
        self.start_time = time.time_ns()
        if reset_num_timesteps or self._stream is None:
            self.num_timesteps = 0
            self.validations = []
            self.training_seconds = 0.0
            self._best_error = math.inf
            self._skipped_updates = SkippedUpdates()
            self._stream = TrainingStream(int(np.random.randint(2**31)) if self.seed is None else self.seed)
        self._total_timesteps = self.num_timesteps + total_timesteps
        split = self.dataset.split_by_episode(self.validation_fraction, np.random.default_rng(self._stream.seed))
        if not self._custom_logger:
            self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps)
        callback = self._init_callback(callback)
        callback.on_training_start(locals(), globals())
        bar = tolerant_bar(
            total=self._total_timesteps,
            initial=self.num_timesteps,
            disable=not progress_bar,
            unit="step",
            mininterval=1.0,
        )
        with owned_folder(self.checkpoint_folder), deferred_interrupt() as is_interrupted, bar:
            for step in range(self.num_timesteps, self._total_timesteps):
                self._advance(step, *split, log_interval, bar)
                callback.update_locals(locals())
                if not callback.on_step() or is_interrupted():
                    break
            if is_interrupted() and self.checkpoint_folder is not None:
                last = Path(self.checkpoint_folder) / LAST_FILE
                save_or_warn(lambda: self.save(last))
        callback.on_training_end()
        if is_interrupted():
            raise KeyboardInterrupt
        return self

    def _check_action_tokenizer(self, tokenizer: ActionTokenizer) -> None:
        own = self.policy.action_tokenizer
        if not own.agrees_with(tokenizer):
            raise ValueError(
                f"The bins of the demonstrations span {tokenizer.q01}..{tokenizer.q99}, those of the model "
                f"{own.q01}..{own.q99}. Make the set with tokenizer=model.policy.action_tokenizer, or with "
                "tokenizer=None, whose statistics replace the model's when it is made with dataset=."
            )

    def _advance(
        self, step: int, train_set: DemonstrationSet, validation_set: DemonstrationSet, log_interval: int, bar: tqdm
    ) -> None:
        """One gradient step, and what follows it."""
        assert self._stream is not None
        start = time.perf_counter()
        self._set_learning_rate(warmup_cosine(step, self._total_timesteps, self.warmup_fraction))
        indices = self._stream.next_indices(len(train_set), self.batch_size)
        batch = train_set.batch(indices, self.device, self.policy.vla.config.cameras)
        self.logger.record_mean("train/loss", self._train_step(batch, self._stream))
        self.num_timesteps += 1
        is_last = self.num_timesteps == self._total_timesteps
        is_checked = is_last or self.num_timesteps % self.validation_interval == 0
        if is_checked and len(validation_set):
            self._log_validation(self.validate(validation_set), bar)
        self.training_seconds += time.perf_counter() - start
        if is_checked:
            if self.checkpoint_folder is not None:
                self._save_checkpoints()
        if is_last or self.num_timesteps % log_interval == 0:
            self.dump_logs()
        bar.update()

    def _set_learning_rate(self, factor: float) -> None:
        learning_rate = factor * self.lr_schedule(1.0)
        for group in self.policy.optimizer.param_groups:
            group["lr"] = learning_rate
        self.logger.record("train/learning_rate", learning_rate)

    def _train_step(self, batch: Batch, stream: TrainingStream) -> float:
        """One gradient step; one that is not finite is skipped and counted, three in a row are too many."""
        self.policy.set_training_mode(True)
        # all noise is drawn for the whole batch, so that micro-batches change nothing
        dropped = stream.hidden_tokens(batch.bins.shape, self.token_dropout, self.full_dropout).to(self.device)
        batch.inputs["images"] = self._augment(batch.inputs["images"], stream.noise)
        n_samples, n_tokens = len(batch.bins), batch.mask.sum()
        size = self.micro_batch_size or n_samples
        self.policy.optimizer.zero_grad()
        loss = 0.0
        for start in range(0, n_samples, size):
            part_loss = self._loss(batch.part(start, start + size), dropped[start : start + size], n_tokens)
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss += part_loss.item()
        grad_norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.logger.record_mean("train/grad_norm", grad_norm.item())
        if self._skipped_updates.accepts(loss, grad_norm.item()):
            self.policy.optimizer.step()
            self._n_updates += 1
        self.logger.record("train/skipped_updates", self._skipped_updates.total)
        return loss

    def _loss(self, batch: Batch, dropped: th.Tensor, n_tokens: th.Tensor) -> th.Tensor:
        """Share of a batch in the loss of ``n_tokens`` tokens."""
        inputs = known_inputs(self.policy.vla, batch.inputs)
        with th.autocast(self.device.type, th.bfloat16, enabled=computes_in_bf16(self.use_bf16, self.device)):
            logits = self.policy.vla.action_logits(**inputs, bins=batch.bins, dropped=dropped)
        dims = th.arange(batch.bins.shape[1], device=self.device) % COMMAND_DIM
        return soft_cross_entropy(logits, self._target_tables[dims, batch.bins], batch.mask, n_tokens)

    def validate(self, validation_set: DemonstrationSet) -> dict[str, float]:
        """
        Figures on at most ``validation_samples`` decisions, evenly spaced; images are not augmented.

        :param validation_set: decisions that were not trained on
        :return: see :func:`vla_algos.bc.validation.prediction_figures`
        """
        self.policy.set_training_mode(False)
        n_samples = min(self.validation_samples, len(validation_set))
        indices = np.linspace(0, len(validation_set) - 1, n_samples).astype(int)
        size = self.micro_batch_size or self.batch_size
        return prediction_figures(self.policy.vla, validation_set, indices, size, self.device)

    def _log_validation(self, figures: dict[str, float], bar: tqdm) -> None:
        self.validations.append({"step": self.num_timesteps, **figures})
        for name, figure in figures.items():
            self.logger.record(f"validation/{name}", figure)
        if not bar.disable:
            pairs = [f"{name} {figures[f'{name}_forced']:.4f} | {figures[f'{name}_free']:.4f}" for name in _FIGURES]
            bar.write(f"step {self.num_timesteps}, teacher-forced | free-running: {', '.join(pairs)}")

    def _save_checkpoints(self) -> None:
        folder = Path(str(self.checkpoint_folder))
        error = self.validations[-1]["l1_error_free"] if self.validations else self._best_error
        # what could not be saved is not the best
        if error <= self._best_error and save_or_warn(lambda: self._save_best(folder / BEST_FOLDER)):
            self._best_error = error
        save_or_warn(lambda: self.save(folder / LAST_FILE))

    def _save_best(self, folder: Path) -> None:
        with disk_errors_named(folder):
            save_vla(self.policy.vla, folder)

    def dump_logs(self) -> None:
        """Write the log."""
        self.logger.record("time/time_elapsed", int((time.time_ns() - self.start_time) / 1e9), exclude="tensorboard")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)
