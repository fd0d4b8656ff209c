"""What a reward model is taught about the frames of a film, and what it is taught to refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from vla_algos.errors import FilmError, UnknownNameError
from vla_algos.rewards.films import Film
from vla_algos.rewards.labels import MIN_STEPS, LabelRule, label_trajectory
from vla_algos.rewards.model import OUTPUTS, TrueProgress, truly_held
from vla_gym.tasks.registry import SUITES
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
    progress: float
    """How much is done, 0 to 1."""
    held: float = float("nan")
    """Whether an object of the goal is held, 0 or 1; NaN: not known."""
    success: float = float("nan")
    """Whether the goal is reached, 0 or 1; NaN: not known."""


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
    _check_kind(kind)
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


def frame_outputs(
    film: Film, outputs: Sequence[str], kind: Targets, rule: LabelRule | None = None
) -> dict[str, Float32Array]:
    """
    What a model with these outputs is taught about each frame of a film.

    ``success`` is 1 in the last frame of a success. ``held`` is the simulator's
    (:func:`vla_algos.rewards.model.truly_held`), and NaN in a film without ``privileged``.

    :param film: see :func:`frame_targets`
    :param outputs: ``progress`` and others of ``vla_algos.rewards.model.OUTPUTS``
    :param kind: of ``progress``, see :func:`frame_targets`
    :param rule: see :func:`frame_targets`
    :return: by output, (K,) float32 in [0, 1] or NaN
    :raises UnknownNameError: for an unknown kind or output
    :raises FilmError: if the film lacks what progress needs
    :raises TrajectoryError: if it is too short for the rule
    """
    unknown = [name for name in outputs if name not in OUTPUTS]
    if unknown:
        raise UnknownNameError("output", unknown[0], OUTPUTS)
    found = {"progress": frame_targets(film, kind, rule)}
    if "held" in outputs:
        unknown_held = np.full(len(film), np.nan, np.float32)
        found["held"] = unknown_held if film.privileged is None else truly_held(film.privileged)
    if "success" in outputs:
        found["success"] = np.append(np.zeros(len(film) - 1), film.is_success).astype(np.float32)
    return found


def usable_films(films: Sequence[Film], kind: Targets) -> tuple[list[Film], dict[str, int]]:
    """
    Leave out films that cannot be labelled.

    Failures stay: each kind of targets says what they are taught as, see :func:`frame_targets`. A film in which the
    gripper does not change stays, too: it is one segment.

    :param films: any
    :param kind: of targets
    :return: those that can; by reason, how many cannot
    :raises UnknownNameError: for an unknown kind
    """
    _check_kind(kind)
    reasons = [_why_not(film, kind) for film in films]
    return (
        [film for film, reason in zip(films, reasons, strict=True) if reason is None],
        dict(Counter(reason for reason in reasons if reason is not None)),
    )


def _why_not(film: Film, kind: Targets) -> str | None:
    if not film.frames.size:
        return "no images"
    if kind == "truth":
        return "no privileged observations (record with privileged_obs=True)" if film.privileged is None else None
    if film.trace is None:
        return "no trace of every control step (record with trace=True)"
    return f"fewer than {MIN_STEPS} control steps" if len(film.trace) < MIN_STEPS else None


def scene_of(film: Film) -> str | None:
    """
    Find the scene of a film among LIBERO's tasks, by its instruction and the number of its task.

    :param film: any
    :return: name of the scene, see ``vla_gym.tasks.registry.TaskSpec.scene``; None for another task, or where several
        scenes have one of that instruction
    """
    scenes = {
        task.scene
        for suite in SUITES.values()
        for task in suite.tasks
        if task.instruction == film.instruction and film.task_id in (-1, task.task_id)
    }
    return scenes.pop() if len(scenes) == 1 else None


def other_instructions(films: Sequence[Film]) -> list[list[str]]:
    """
    For each film, other instructions of its scene: those in ``progress_under`` or, without it, those of other films.

    A text about objects that are not there asks for nothing that could be done, and would teach a model to read
    instructions without looking. Nor is another film's text taken that is part of the film's own, or has it as a part:
    whoever turns on the stove and puts the pan on it has turned on the stove.

    :param films: those whose instructions may be asked
    :return: texts, in the order of the films; none for tasks that are not LIBERO's
    """
    texts: dict[str, list[str]] = {}
    scenes = [scene_of(film) for film in films]
    for film, scene in zip(films, scenes, strict=True):
        known = texts.setdefault(scene or "", [])
        if film.instruction not in known:
            known.append(film.instruction)

    def of(film: Film, scene: str | None) -> list[str]:
        if film.progress_under is not None:
            return list(film.progress_under)
        own = film.instruction
        return [text for text in texts[scene] if text not in own and own not in text] if scene else []

    return [of(film, scene) for film, scene in zip(films, scenes, strict=True)]


def other_targets(film: Film, texts: Sequence[str], kind: Targets) -> dict[str, Float32Array]:
    """
    How much of what other instructions ask for is done in each frame.

    For ``truth`` it is what ``progress_under`` says, and 0 where that is not known; for others it is 0, and texts that
    the film is known to fulfil are left out.

    :param film: any
    :param texts: other instructions of its scene, see :func:`other_instructions`
    :param kind: of targets
    :return: by text, (K,) float32 in [0, 1]
    """
    known, nothing = film.progress_under or {}, np.zeros(len(film), np.float32)
    if kind == "truth":
        return {text: known.get(text, nothing) for text in texts}
    return {text: nothing for text in texts if known.get(text, nothing).max() < 1.0}


def make_examples(
    films: Sequence[Film],
    targets: Sequence[Mapping[str, Float32Array]],
    others: Sequence[Mapping[str, Float32Array]],
    negatives: float,
    rng: np.random.Generator,
) -> list[Example]:
    """
    Every frame of every film, and questions whose answer is no.

    Negatives are, in equal parts:

    - a frame under another instruction of its scene: hardly anything of it is done, and what is held is not known;
    - a frame of a success played backwards, from its end to its start, as in ReWiND: what was done is undone;
    - where ``success`` is taught, the end of a success that was cut short in its last quarter: as much is done as
      before, but it is no success. Without ``success`` a cut film asks nothing that its frames do not ask already.

    A kind for which there are no films is left out.

    :param films: of the training part
    :param targets: of the frames of each film, see :func:`frame_outputs`
    :param others: by film, targets under texts that make sense in its scene and ask for something else, see
        :func:`other_targets`
    :param negatives: share of negatives among all examples, at least 0 and below 1
    :param rng: draws them
    :return: the examples, negatives last
    :raises ValueError: if ``negatives`` is out of range
    """
    if not 0 <= negatives < 1:
        raise ValueError(f"negatives is {negatives}; expected a share from 0 to below 1.")
    examples = [_shown(targets[i], i, k, film) for i, film in enumerate(films) for k in range(len(film))]
    successes = [i for i, film in enumerate(films) if film.is_success]
    kinds = {"other": [i for i, texts in enumerate(others) if texts], "rewound": successes}
    if any("success" in each for each in targets):
        kinds["cut"] = successes
    possible = [kind for kind, candidates in kinds.items() if candidates]
    for n in range(round(len(examples) * negatives / (1 - negatives)) if possible else 0):
        kind = possible[n % len(possible)]
        i = int(rng.choice(kinds[kind]))
        film, end = films[i], len(films[i]) - 1
        if kind == "other":
            now, text = int(rng.integers(end + 1)), str(rng.choice(list(others[i])))
            progress = float(others[i][text][now])
            success = float(progress >= 1.0) if "success" in targets[i] else np.nan
            examples.append(Example(i, 0, now, text, progress, np.nan, success))
        elif kind == "rewound":
            shown = _shown(targets[i], i, int(rng.integers(end)), film)
            examples.append(shown._replace(first=end, progress=0.0))
        else:
            examples.append(_shown(targets[i], i, int(rng.integers(end - max(1, end // 4), end)), film))
    return examples


def _shown(targets: Mapping[str, Float32Array], index: int, now: int, film: Film) -> Example:
    """A frame as it was."""
    return Example(index, 0, now, film.instruction, **{name: float(values[now]) for name, values in targets.items()})


def _check_kind(kind: Targets) -> None:
    if kind not in get_args(Targets):
        raise UnknownNameError("targets", kind, get_args(Targets))
