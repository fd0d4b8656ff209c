"""Ask a model or a control about films: frame by frame, and under other instructions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_algos.errors import FilmError, RewardModelError
from vla_algos.rewards.controls import Control
from vla_algos.rewards.films import Film
from vla_algos.rewards.model import RewardModel
from vla_algos.rewards.targets import other_instructions
from vla_gym.spec import PRIVILEGED, PROPRIO
from vla_gym.type_aliases import BoolArray, Float64Array


@dataclass(frozen=True, eq=False)
class Confusion:
    """
    Last frames of successes, judged under other instructions of their scene.

    A success is mistaken for another task if that instruction scores nearer to done than to what is true of it, or at
    least as high as its own. What is true is in the film's ``progress_under`` (a bowl that was put on the stove went
    half of the way to the plate), and 0 without it, so that the limit is one half. Either is an error that a policy
    can be paid for: the first passes a task for done that was not, and the second alone finds models that do not read
    the instruction, but rate everything low. An instruction that the film fulfils as well is not asked.

    :param instructions: n texts
    :param progress: mean progress, (n, n) float64: row = what was done, column = what was asked; NaN where that was not
        asked of any film
    :param mistaken: share of the successes mistaken, (n, n) float64; NaN as above, and on the diagonal
    :param of_film: share of successes that are mistaken under at least one other instruction; it grows with their
        number
    :param of_pair: share of pairs of a success and another instruction that are mistaken; NaN if there are none
    :param left_out: pairs that were not asked, as the other was done, too
    """

    instructions: tuple[str, ...]
    progress: Float64Array
    mistaken: Float64Array
    of_film: float
    of_pair: float
    left_out: int


def progress_in(model: RewardModel | Control, film: Film) -> Float64Array:
    """
    Progress of each frame of a film, as the model says it.

    :param model: judges the frames
    :param film: with what the model looks at: images, ``proprio`` or ``privileged``
    :return: (K,) float64; NaN where the model has no answer
    :raises FilmError: if the film lacks it
    :raises RewardModelError: if the model does not give a score per frame
    """
    if isinstance(model, Control):
        return model.progress(film)
    sources = {PROPRIO: film.proprio, PRIVILEGED: film.privileged}
    seen = sources.get(model.key, film.frames)
    if seen is None:
        raise FilmError(f"The film has no {model.key!r}, which the model looks at. Record it with privileged_obs=True.")
    pairs = np.stack([np.broadcast_to(seen[0], seen.shape), seen], axis=1)
    return _scores(model, pairs, [film.instruction] * len(film))


def is_usable(scores: Float64Array) -> BoolArray:
    """
    Tell which scores a reward can be paid by.

    :param scores: (K,)
    :return: whether each is in [0, 1], (K,)
    """
    return (scores >= 0) & (scores <= 1)


def paid_progress(scores: Float64Array) -> Float64Array:
    """
    Progress as ``VecProcessReward`` pays it: unusable scores leave it as it was, 0 at first.

    :param scores: of an episode, (K,)
    :return: (K,) float64 in [0, 1]
    """
    valid = is_usable(scores)
    source = np.maximum.accumulate(np.where(valid, np.arange(len(scores)), -1))
    return np.where(source >= 0, scores[source], 0.0)


def confusion(
    model: RewardModel | Control, films: Sequence[Film], instructions: Mapping[int, Sequence[str]] | None = None
) -> Confusion:
    """
    Judge the last frames of successes under every instruction of their scene.

    :param model: judges the frames
    :param films: successes count, failures give their instructions alone
    :param instructions: by task_id, texts that ask for something else in its scene; None: those of the film's
        ``progress_under``, else those of other films in the same scene of LIBERO, see
        :func:`vla_algos.rewards.targets.other_instructions`
    :return: what was mistaken for what
    :raises RewardModelError: if the model does not give a score per film, or reads the simulator's own state, which is
        about one task
    :raises TypeError: if the texts of a task are a single one
    """
    if not isinstance(model, Control) and model.key == PRIVILEGED:
        raise RewardModelError(
            f"The model reads {PRIVILEGED!r}, the simulator's own state of one task; expected one that reads images "
            "and the instruction."
        )
    others = _asked(films, instructions)
    texts = tuple(dict.fromkeys([film.instruction for film in films] + [text for each in others for text in each]))
    n = len(texts)
    sums, mistakes, counts = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    was_mistaken, left_out = [], 0
    for film, asked in zip(films, others, strict=True):
        if not film.is_success:
            continue
        n_asked = len(asked)
        true = {text: _truly_done(film, text) for text in asked}
        asked = [text for text in asked if true[text] < 1.0]
        left_out += n_asked - len(asked)
        scores = _last_under(model, film, [film.instruction, *asked])
        limits = np.array([1.0, *((1.0 + true[text]) / 2 for text in asked)])
        is_mistaken = (scores > limits) | (scores >= scores[0])
        row, columns = texts.index(film.instruction), [texts.index(text) for text in (film.instruction, *asked)]
        sums[row, columns] += scores
        mistakes[row, columns] += is_mistaken
        counts[row, columns] += 1
        if asked:
            was_mistaken.append(bool(is_mistaken[1:].any()))
    progress, mistaken = _share(sums, counts), _share(mistakes, counts)
    np.fill_diagonal(mistaken, np.nan)
    n_pairs = counts.sum() - np.trace(counts)
    return Confusion(
        instructions=texts,
        progress=progress,
        mistaken=mistaken,
        of_film=float(np.mean(was_mistaken)) if was_mistaken else float("nan"),
        of_pair=float((mistakes.sum() - np.trace(mistakes)) / n_pairs) if n_pairs else float("nan"),
        left_out=left_out,
    )


def _scores(model: RewardModel, seen: NDArray[Any], instructions: Sequence[str]) -> Float64Array:
    scores = np.asarray(model.score(seen, instructions), np.float64)
    if scores.shape != (len(instructions),):
        raise RewardModelError(
            f"{type(model).__name__}.score returned shape {scores.shape} for {len(instructions)} moments; expected "
            f"({len(instructions)},)."
        )
    return scores


def _asked(films: Sequence[Film], instructions: Mapping[int, Sequence[str]] | None) -> list[list[str]]:
    """Other instructions, by film."""
    for task_id, texts in (instructions or {}).items():
        if isinstance(texts, str):
            raise TypeError(f"instructions[{task_id}] is {texts!r}; expected a list of texts, such as [{texts!r}].")
    if instructions is not None:
        found = [list(instructions.get(film.task_id, ())) for film in films]
    else:
        found = [
            list(film.progress_under or texts) for film, texts in zip(films, other_instructions(films), strict=True)
        ]
    return [
        [text for text in dict.fromkeys(texts) if text != film.instruction]
        for film, texts in zip(films, found, strict=True)
    ]


def _truly_done(film: Film, text: str) -> float:
    """How much of what another instruction asks for is done at the end; 0 if that is not known."""
    known = film.progress_under or {}
    return float(known[text][-1]) if text in known else 0.0


def _last_under(model: RewardModel | Control, film: Film, texts: Sequence[str]) -> Float64Array:
    """Progress in the last frame under each instruction, (n,); 0 where the model has no usable answer."""
    if isinstance(model, Control):
        return np.array([model.progress(dataclasses.replace(film, instruction=text))[-1] for text in texts])
    seen = film.proprio if model.key == PROPRIO else film.frames
    scores = _scores(model, np.stack([seen[[0, -1]]] * len(texts)), texts)
    return np.where(is_usable(scores), scores, 0.0)


def _share(sums: Float64Array, counts: Float64Array) -> Float64Array:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
