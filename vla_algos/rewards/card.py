"""Model card of a trained reward model: what it is, what it learned from, and how far its word can be taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vla_algos.rewards.audit import calibration_error, reliability
from vla_algos.rewards.films import Film
from vla_gym.files import write_then_rename
from vla_gym.provenance import commit, versions

CARD_FILE = "README.md"
_METADATA = """---
library_name: vla-gym
pipeline_tag: robotics
tags: [reward-model, process-reward, vision-language-action, LIBERO]
---
"""


class Side(NamedTuple):
    """Films that were learned from, or that were held out."""

    films: Sequence[Film]
    skipped: Mapping[str, int]
    """By reason, how many films were left out."""


def write_reward_card(
    folder: Path,
    description: str,
    settings: Mapping[str, Any],
    learned: Side,
    held_out: Side,
    epochs: Sequence[Mapping[str, float]],
    scores: Sequence[float],
) -> None:
    """
    Write ``README.md`` beside a reward model; the file appears whole or not at all.

    :param folder: of the model
    :param description: what it is
    :param settings: keywords of the training
    :param learned: films to learn from
    :param held_out: the others
    :param epochs: figures of each pass, by name
    :param scores: Phi in the last frame of each held-out film
    """
    best = min(epochs, key=lambda epoch: epoch["held_out_loss"])
    sections = [
        "# Process reward model",
        f"Phi, from 0 to 1: how much of a task is done, from the first image of an episode, the current one and the "
        f"instruction. It is {description}. For research in simulation.",
        "## Training",
        f"Commit {commit() or 'unknown'}; versions: {_listed(versions())}. The model is that of epoch "
        f"{int(best['epoch'])}, which has the smallest loss on the held-out films.",
        _table(("setting", "value"), ((name, f"{value}") for name, value in settings.items())),
        "## Data",
        *(f"{name}: {_described(side)}" for name, side in (("Learned from", learned), ("Held out", held_out))),
        _split(learned.films, held_out.films),
        _tasks(learned.films, held_out.films),
        "## Figures per epoch",
        _table(tuple(epochs[0]), ([f"{value:.4g}" for value in epoch.values()] for epoch in epochs)),
        "## Calibration on held-out films",
        f"Progress in last frames beside the share of successes, in bins of a tenth. Calibration error: "
        f"{calibration_error(scores, [film.is_success for film in held_out.films]):.3f}.",
        _calibration(scores, [film.is_success for film in held_out.films]),
    ]
    with write_then_rename(folder / CARD_FILE) as temporary:
        temporary.write_text(_METADATA + "\n" + "\n\n".join(sections) + "\n", encoding="utf-8")


def _described(side: Side) -> str:
    n_successes = sum(film.is_success for film in side.films)
    skipped = "; ".join(f"{n} left out: {reason}" for reason, n in side.skipped.items())
    sources = ", ".join(sorted({film.source for film in side.films}))
    return (
        f"{len(side.films)} films, {n_successes} of them successes, {sum(map(len, side.films)):,} frames; by {sources}."
        f"{f' {skipped}.' if skipped else ''}"
    )


def _split(learned: Sequence[Film], held_out: Sequence[Film]) -> str:
    """What held-out films have that was not learned from."""

    def only(values: Sequence[set[Any]]) -> str:
        return _listed_values(values[1] - values[0]) or "none"

    sides = (learned, held_out)
    tasks, starts = ([{getattr(f, n) for f in side} for side in sides] for n in ("task_id", "init_state_id"))
    sources = [{film.source for film in side} for side in sides]
    return (
        f"Held out alone: tasks {only(tasks)}; initial states {only(starts)}; policies {only(sources)}. What is in "
        "both parts says nothing of other tasks, starts or policies."
    )


def _tasks(learned: Sequence[Film], held_out: Sequence[Film]) -> str:
    rows = []
    for task_id, text in sorted({(film.task_id, film.instruction) for film in [*learned, *held_out]}):
        counts = [[film.is_success for film in side if film.instruction == text] for side in (learned, held_out)]
        rows.append((str(task_id), text, *(f"{sum(each)}/{len(each)}" for each in counts)))
    return _table(("task", "instruction", "successes, learned from", "successes, held out"), rows)


def _calibration(scores: Sequence[float], is_success: Sequence[bool]) -> str:
    rows = zip(*reliability(scores, is_success), strict=True)
    return _table(
        ("mean progress", "share of successes", "films"),
        ((f"{mean:.2f}", f"{share:.2f}", str(n)) for mean, share, n in rows),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _listed_values(values: Iterable[Any]) -> str:
    return ", ".join(map(str, sorted(values)))
