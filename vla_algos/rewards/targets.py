"""What a reward model is taught about the frames of a film, and what it is taught to refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from vla_algos.errors import FilmError, UnknownNameError
from vla_algos.rewards.films import Film
from vla_algos.rewards.labels import LabelRule, label_trajectory
from vla_algos.rewards.model import TrueProgress
from vla_gym.type_aliases import Float32Array

Targets = Literal["truth", "progress", "paper"]


class Example(NamedTuple):
    """One question to a reward model, and its answer."""

    film: int
    """Index of the film."""
    first: int
    """Frame to show as the first of the episode."""
    now: int
    """Frame to judge."""
    instruction: str
    target: float
    """How much is done, 0 to 1."""


def frame_targets(film: Film, kind: Targets, rule: LabelRule | None = None) -> Float32Array:
    """
    How much is done in each frame of a film.

    ``truth``: by the simulator (:class:`vla_algos.rewards.model.TrueProgress`), of successes and failures alike.

    ``progress``: by the rule's key frames; 0 throughout a failure, as the rule cannot tell how far it got.

    ``paper``: 1 where the commands before the frame led to a key frame, else 0, as VLA-RL labels; failures, too.

    :param film: with ``privileged`` for ``truth``, with a ``trace`` for the others
    :param kind: see above
    :param rule: thresholds and windows; None: the defaults
    :return: (K,) float32 in [0, 1]
    :raises UnknownNameError: for an unknown kind
    :raises FilmError: if the film lacks what it needs
    :raises TrajectoryError: if it is too short for the rule
    """
    if kind not in get_args(Targets):
        raise UnknownNameError("targets", kind, get_args(Targets))
    if kind == "truth":
        if film.privileged is None:
            raise FilmError("The film has no privileged observations. Record it with privileged_obs=True.")
        pairs = np.stack([np.broadcast_to(film.privileged[0], film.privileged.shape), film.privileged], axis=1)
        return TrueProgress().score(pairs, [film.instruction] * len(film))
    if film.trace is None:
        raise FilmError("The film has no trace of every control step. Record it with trace=True.")
    if kind == "progress" and not film.is_success:
        return np.zeros(len(film), np.float32)
    labels = label_trajectory(film.trace, film.is_success, rule)
    if kind == "progress":
        # a frame is the state before its step; the last one is where the success was seen
        return np.append(labels.progress[film.steps[:-1]], np.float32(1.0))
    is_positive = labels.is_positive[np.maximum(film.steps - 1, 0)]
    return np.where(film.steps > 0, is_positive, False).astype(np.float32)


def make_examples(
    films: Sequence[Film],
    targets: Sequence[Float32Array],
    instructions: Mapping[int, Sequence[str]],
    negatives: float,
    rng: np.random.Generator,
) -> list[Example]:
    """
    Every frame of every film, and questions whose answer is no.

    Negatives are, in equal parts: a frame under another instruction of its scene, and a frame of a success played
    backwards, from its end to its start, as in ReWiND: what was done is undone.

    :param films: of the training part
    :param targets: how much is done in each frame, (K,) per film
    :param instructions: by task_id, other texts that make sense in its scene and ask for something else
    :param negatives: share of negatives among all examples, at least 0 and below 1
    :param rng: draws them
    :return: the examples, negatives last
    :raises ValueError: if ``negatives`` is out of range
    """
    if not 0 <= negatives < 1:
        raise ValueError(f"negatives is {negatives}; expected a share from 0 to below 1.")
    examples = [
        Example(i, 0, k, film.instruction, float(target))
        for i, film in enumerate(films)
        for k, target in enumerate(targets[i])
    ]
    n_negatives = round(len(examples) * negatives / (1 - negatives))
    with_others = [i for i, film in enumerate(films) if instructions.get(film.task_id)]
    successes = [i for i, film in enumerate(films) if film.is_success]
    for n in range(n_negatives):
        candidates = with_others if n % 2 == 0 or not successes else successes
        if not candidates:
            continue
        i = int(rng.choice(candidates))
        film = films[i]
        if candidates is with_others:
            text = str(rng.choice(list(instructions[film.task_id])))
            examples.append(Example(i, 0, int(rng.integers(len(film))), text, 0.0))
        else:
            examples.append(Example(i, len(film) - 1, int(rng.integers(len(film) - 1)), film.instruction, 0.0))
    return examples
