"""
Controls of an audit: judges of progress that see no image.

What a control reaches, a reward model reaches without looking. It learns the same targets from the same films.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch as th
from scipy.spatial.transform import Rotation
from torch import nn
from torch.nn import functional as F

from vla_algos.errors import FilmError, UnknownNameError
from vla_algos.rewards.films import Film
from vla_algos.rewards.targets import Targets, frame_targets
from vla_gym.type_aliases import Float32Array, Float64Array

Inputs = Literal["proprio", "clock", "length"]

CONTROL_NAMES: dict[Inputs, str] = {
    "proprio": "control: proprioception, task",
    "clock": "control: decisions so far, task",
    "length": "control: length, task",
}
"""What a control is called in tables."""

_WIDTH = 64


class Control:
    """
    A small network that judges frames of a film without their images. :func:`fit_control` makes one.

    :param inputs: what it sees beside the task
    :param instructions: texts that it knows; to any other it has no task
    :param mean: of its inputs, (F,)
    :param std: of its inputs, (F,)
    :param network: from F numbers to a logit, float64
    """

    def __init__(
        self, inputs: Inputs, instructions: Sequence[str], mean: Float32Array, std: Float32Array, network: nn.Module
    ) -> None:
        self.inputs, self.instructions, self.network = inputs, tuple(instructions), network
        self._mean, self._std = mean, std

    @th.no_grad()
    def progress(self, film: Film) -> Float64Array:
        """
        Judge every frame.

        :param film: any
        :return: progress, (K,) float64 in [0, 1]
        """
        features = (_features(film, self.inputs, self.instructions) - self._mean) / self._std
        scores = self.network(th.from_numpy(features).double())[:, 0].sigmoid().numpy()
        # rounded, as sums differ in their last bits between films of different lengths, and equal scores must tie
        return np.round(scores, 9)


def fit_control(
    films: Sequence[Film],
    inputs: Inputs,
    targets: Targets = "truth",
    *,
    steps: int = 400,
    learning_rate: float = 0.01,
    weight_decay: float = 0.01,
    seed: int = 0,
) -> Control:
    """
    Train a judge that sees no image on what a reward model is taught.

    ``proprio``: the arm and the gripper in the frame. ``clock``: how many decisions were over. ``length``: how many
    decisions the film has in all, which no reward can know before the end; its progress is the same in every frame.
    Each sees which task it is, by its instruction.

    :param films: to learn from; audit it on others
    :param inputs: ``proprio``, ``clock`` or ``length``
    :param targets: how much is done in each frame, see :func:`vla_algos.rewards.targets.frame_targets`
    :param steps: gradient steps, each on all frames
    :param learning_rate: of AdamW
    :param weight_decay: of AdamW
    :param seed: of the first weights
    :return: the control
    :raises UnknownNameError: for other inputs or targets
    :raises FilmError: if there are no films, or they lack what the targets need
    """
    if inputs not in get_args(Inputs):
        raise UnknownNameError("inputs", inputs, get_args(Inputs))
    if not films:
        raise FilmError("There are 0 films to fit a control on; expected some. Name the films the model learned from.")
    instructions = sorted({film.instruction for film in films})
    features = np.concatenate([_features(film, inputs, instructions) for film in films])
    wanted = th.from_numpy(np.concatenate([frame_targets(film, targets) for film in films]).astype(np.float32))
    mean, std = features.mean(0), features.std(0)
    std[std < 1e-6] = 1.0
    x = th.from_numpy((features - mean) / std)
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(x.shape[1], _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, 1)
        )
    optimizer = th.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    for _ in range(steps):
        # the reward models' loss, between two answers: -(p log P(yes) + (1 - p) log P(no))
        loss = F.binary_cross_entropy_with_logits(network(x)[:, 0], wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Control(inputs, instructions, mean, std, network.double().eval())


def _features(film: Film, inputs: Inputs, instructions: Sequence[str]) -> Float32Array:
    """(K, F)"""
    n = len(film)
    if inputs == "proprio":
        # two columns of the rotation matrix: the axis-angle vector jumps where the angle passes pi, as in LIBERO
        orientation = Rotation.from_rotvec(film.proprio[:, 3:6]).as_matrix()[:, :, :2].reshape(n, 6)
        own = np.concatenate([film.proprio[:, :3], orientation, film.proprio[:, 6:]], axis=1)
    else:
        own = (np.arange(n) if inputs == "clock" else np.full(n, n - 1))[:, None]
    task = np.tile([film.instruction == text for text in instructions], (n, 1))
    return np.concatenate([own, task], axis=1).astype(np.float32)
