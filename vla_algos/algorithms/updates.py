"""Gradient steps: the part of an update that does not depend on the loss."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch as th

from vla_algos.algorithms.episodes import EpisodeBuffer
from vla_algos.common.buffers import TokenRolloutBuffer
from vla_algos.common.devices import computes_in_bf16
from vla_algos.common.divergence import SkippedUpdates
from vla_algos.common.type_aliases import TokenRolloutBufferSamples, UseBF16
from vla_algos.policies import VLAPolicy
from vla_algos.policies.reference import ReferenceWeights
from vla_algos.policies.vla_policy import FEATURES
from vla_gym.spec import N_BINS

REFERENCE_LOG_PROB = "reference_log_prob"
"""Of each token that was chosen, (N, A)."""
REFERENCE_LOG_PROBS = "reference_log_probs"
"""Of every bin in the place of each token, (N, A, 256)."""

_SCORED_AT_ONCE = 64
_LARGEST = ("ratio_deviation",)
"""Figures of a minibatch that are the largest of its micro-batches, not their sum."""


class Update:
    """
    Gradient steps of one iteration, and what they report.

    A step is ``backward`` for each micro-batch, with losses that add up to that of the minibatch, and then ``apply`` or
    ``drop``::

        for part in minibatch.split(micro_batch_size):
            values, log_probs, entropy = update.evaluate(part)
            loss = ...
            update.backward(loss, {"loss": loss})
        update.apply("actor")

    :param policy: that learns
    :param max_grad_norm: gradients are scaled down to this norm
    :param micro_batch_size: decisions per pass of the model where actions are only scored; None: 64
    :param use_bf16: compute under autocast to bfloat16; weights and optimizer stay as they are; "auto": where the
        device has such arithmetic
    :param skipped: steps of the run that were not finite
    """

    def __init__(
        self,
        policy: VLAPolicy,
        max_grad_norm: float,
        micro_batch_size: int | None,
        use_bf16: UseBF16,
        skipped: SkippedUpdates,
    ) -> None:
        self.policy = policy
        self.max_grad_norm = max_grad_norm
        self.scored_at_once = micro_batch_size or _SCORED_AT_ONCE
        """Decisions per pass of the model where nothing bounds them but memory."""
        self.use_bf16 = computes_in_bf16(use_bf16, policy.device)
        self.skipped = skipped
        self.loss = 0.0
        """Of the step in progress, summed over its micro-batches."""
        self.figures: dict[str, float] = {}
        """Of the step in progress."""
        self.history: dict[str, list[float]] = defaultdict(list)
        """Figures of all steps of the iteration, in order."""
        self._is_begun = False

    def evaluate(self, part: TokenRolloutBufferSamples, every_bin: bool = False) -> tuple[th.Tensor, ...]:
        """
        Judge the actions of a micro-batch by the policy as it is now.

        :param part: B decisions
        :param every_bin: return the log-probabilities of all bins, too
        :return: values (B, 1), log-probabilities and entropies (B, A), and those of all bins (B, A, 256) if asked for
        """
        remembered: Any = {key: part.memory[key] for key in (FEATURES,) if key in part.memory}
        evaluate = self.policy.evaluate_bins if every_bin else self.policy.evaluate_actions
        with th.autocast(self.policy.device.type, th.bfloat16, enabled=self.use_bf16):
            return evaluate({**part.observations, **remembered}, part.actions)

    def backward(self, loss: th.Tensor, figures: Mapping[str, th.Tensor]) -> None:
        """
        Add the gradient of a micro-batch to the step in progress.

        :param loss: scalar; the micro-batch's share in the loss of the minibatch
        :param figures: of the micro-batch, for the log, scalars by name; they add up, ``ratio_deviation`` is the
            largest
        """
        if not self._is_begun:
            self.policy.optimizer.zero_grad()
            self._is_begun = True
        loss.backward()  # type: ignore[no-untyped-call]
        self.loss += loss.item()
        for name, tensor in figures.items():
            figure, before = tensor.item(), self.figures.get(name, 0.0)
            self.figures[name] = max(before, figure) if name in _LARGEST else before + figure

    def exceeds(self, target_kl: float | None) -> bool:
        """
        Whether the policy has moved too far before the step in progress.

        :param target_kl: nats per ratio; None: never
        :return: whether ``approx_kl`` is above 1.5 times that; False for a loss that is not finite, which ``apply``
            counts
        """
        return target_kl is not None and math.isfinite(self.loss) and self.figures["approx_kl"] > 1.5 * target_kl

    def apply(self, learner: Literal["actor", "critic"]) -> None:
        """
        Take the step; if loss or gradient is not finite, drop it instead.

        :param learner: who learns by it; steps that are dropped are counted apart
        :raises TrainingDivergedError: at the third step in a row that is dropped
        """
        grad_norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        loss = self._finish_step()
        if self.skipped.accepts(loss, grad_norm.item(), learner):
            self.policy.optimizer.step()
        else:
            self.policy.optimizer.zero_grad()

    def drop(self) -> None:
        """Take no step, and keep its figures."""
        self._finish_step()
        self.policy.optimizer.zero_grad()

    def _finish_step(self) -> float:
        for name, figure in self.figures.items():
            self.history[name].append(figure)
        loss, self.loss, self.figures, self._is_begun = self.loss, 0.0, {}, False
        return loss

    def score_reference(
        self,
        reference: ReferenceWeights,
        buffer: TokenRolloutBuffer | EpisodeBuffer,
        rows: np.ndarray | None = None,
        every_bin: bool = False,
    ) -> None:
        """
        Keep in the buffer's memory what a reference policy makes of the actions.

        :param reference: that policy
        :param buffer: gets ``REFERENCE_LOG_PROB``, or ``REFERENCE_LOG_PROBS`` with ``every_bin``; zeros in other rows
        :param rows: decisions to score, (R,) int64; None: all
        :param every_bin: score all bins in the place of each token, not only those that were chosen
        """
        buffer.flatten()
        rows = np.arange(len(buffer.actions)) if rows is None else np.unique(rows)
        shape = tuple(buffer.actions.shape)
        log_probs = th.zeros((*shape, N_BINS) if every_bin else shape, dtype=th.float32)
        size = self.scored_at_once
        with reference.put_into(self.policy.vla):
            for start in range(0, len(rows), size):
                chosen = rows[start : start + size]
                scores = self.evaluate(buffer.samples(chosen), every_bin)[3 if every_bin else 1]
                log_probs[th.from_numpy(chosen)] = scores.cpu()
        buffer.memory[REFERENCE_LOG_PROBS if every_bin else REFERENCE_LOG_PROB] = log_probs
