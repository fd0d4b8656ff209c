"""Gradient steps: the part of an update that does not depend on the loss."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch as th

from vla_algos.algorithms.episodes import EpisodeBuffer
from vla_algos.common.buffers import TokenRolloutBuffer
from vla_algos.common.devices import computes_in_bf16
from vla_algos.common.divergence import SkippedUpdates
from vla_algos.common.type_aliases import TokenRolloutBufferSamples, UseBF16
from vla_algos.models.base import Scores, check_scores
from vla_algos.policies import ActorPolicy
from vla_algos.policies.reference import ReferenceWeights

REFERENCE_LOG_PROB = "reference_log_prob"
"""Of each token that was chosen, (N, A)."""
REFERENCE_LOG_PROBS = "reference_log_probs"
"""Of every choice of each token, (N, A, K)."""

_SCORED_AT_ONCE = 64
_LARGEST = ("ratio_deviation",)
"""Figures of a minibatch that are the largest of its micro-batches, not their sum."""


class Update:
    """
    Gradient steps of one iteration, and what they report.

    A step is ``backward`` for each micro-batch, with losses that add up to that of the minibatch, and then ``apply`` or
    ``drop``::

        for part in minibatch.split(micro_batch_size):
            scores = update.evaluate(part)
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
        policy: ActorPolicy,
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

    def evaluate(self, part: TokenRolloutBufferSamples) -> Scores:
        """
        Judge the actions of a micro-batch by the policy as it is now.

        :param part: B decisions
        :return: log-probabilities (B, A), values (B,), and what else the policy has
        :raises ActorError: if the policy gives tensors of other shapes
        """
        policy = self.policy
        with th.autocast(policy.device.type, th.bfloat16, enabled=self.use_bf16):
            scores = policy.score(part.observations, part.actions, part.extras, policy.temperature)
        check_scores(scores, policy, part.old_log_prob)
        return scores

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
        all_choices: bool = False,
    ) -> None:
        """
        Keep in the buffer's extras what a reference policy makes of the actions.

        :param reference: that policy
        :param buffer: gets ``REFERENCE_LOG_PROB``, or ``REFERENCE_LOG_PROBS`` with ``all_choices``; zeros in other rows
        :param rows: decisions to score, (R,) int64, at least one; None: all
        :param all_choices: score all choices of each token, not only those that were made
        """
        buffer.flatten()
        rows = np.arange(len(buffer.actions)) if rows is None else np.unique(rows)
        log_probs: th.Tensor | None = None
        size = self.scored_at_once
        with reference.put_into(self.policy):
            for start in range(0, len(rows), size):
                chosen = rows[start : start + size]
                scores = self.evaluate(buffer.samples(chosen))
                found = scores.all_log_probs if all_choices else scores.log_prob
                assert found is not None, "kl_coef is refused without has_exact_kl"
                if log_probs is None:
                    log_probs = th.zeros((len(buffer.actions), *found.shape[1:]))
                log_probs[th.from_numpy(chosen)] = found.cpu()
        assert log_probs is not None, "there is at least one row"
        buffer.extras[REFERENCE_LOG_PROBS if all_choices else REFERENCE_LOG_PROB] = log_probs
