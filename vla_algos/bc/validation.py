"""How well a model predicts held-out actions: given the true earlier tokens, and given its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th

from vla_algos.bc.dataset import DemonstrationSet
from vla_algos.models import OpenVLA
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.spec import COMMAND_DIM


@th.no_grad()
def prediction_figures(
    vla: OpenVLA, data: DemonstrationSet, indices: np.ndarray, batch_size: int, device: th.device | str
) -> dict[str, float]:
    """
    Token accuracy and errors of greedy predictions, over the tokens that were demonstrated.

    ``forced`` figures see the true earlier tokens, as in training; ``free`` ones see the model's own, as at run time.

    :param vla: the model, in evaluation mode
    :param data: decisions
    :param indices: which of them, (K,) int64
    :param batch_size: decisions per pass
    :param device: of the model
    :return: ``accuracy_``, share of exact bins in [0, 1], ``l1_error_``, mean distance of decoded commands (of 2), and
        ``bin_error_``, mean distance in bins, each followed by ``forced`` and ``free``
    """
    sums = {f"{figure}_{mode}": 0.0 for figure in ("accuracy", "l1_error", "bin_error") for mode in ("forced", "free")}
    n_tokens = 0
    for start in range(0, len(indices), batch_size):
        batch = data.batch(indices[start : start + batch_size], device, vla.config.cameras)
        inputs = known_inputs(vla, batch.inputs)
        predictions = {
            "forced": vla.action_logits(**inputs, bins=batch.bins).argmax(dim=-1),
            "free": vla.decode_actions(**inputs, deterministic=True).bins,
        }
        n_tokens += int(batch.mask.sum())
        commands = _commands(batch.bins, data.action_tokenizer)
        for mode, bins in predictions.items():
            distance = (bins - batch.bins).abs()[batch.mask]
            error = (_commands(bins, data.action_tokenizer) - commands).abs()[batch.mask.cpu()]
            sums[f"accuracy_{mode}"] += (distance == 0).sum().item()
            sums[f"bin_error_{mode}"] += distance.sum().item()
            sums[f"l1_error_{mode}"] += error.sum().item()
    return {name: value / n_tokens for name, value in sums.items()}


def known_inputs(vla: OpenVLA, inputs: dict[str, Any]) -> dict[str, Any]:
    """
    Inputs that a model takes.

    :param vla: the model
    :param inputs: of a batch
    :return: these, without proprioception if the model has none
    """
    return inputs if vla.config.proprio_dim else {**inputs, "proprio": None}


def _commands(bins: th.Tensor, tokenizer: ActionTokenizer) -> th.Tensor:
    """Decoded commands, token by token, (N, A) float64 on the CPU."""
    return th.from_numpy(tokenizer.decode(bins.cpu().numpy().reshape(len(bins), -1, COMMAND_DIM))).flatten(1)
