"""Figures of labels and of audits as PNG."""

from __future__ import annotations

import functools
import io
import itertools
import logging
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_algos.errors import FilmError, TrajectoryError
from vla_algos.rewards.audit import Audit, reliability
from vla_algos.rewards.films import Film
from vla_algos.rewards.labels import LabelRule, TrajectoryLabels, label_trajectory
from vla_gym.files import write_then_rename
from vla_gym.type_aliases import BoolArray, Int64Array, UInt8Array

logger = logging.getLogger(__name__)

MAX_FRAMES = 8
"""Most frames that a figure of labels shows."""
MAX_TASKS = 12
"""Most tasks that a figure of an audit shows."""
N_CURVES = 3
"""Successes, and failures, of a task that a figure shows."""

_SUCCESS, _FAILURE = "C0", "C1"
_POSITIVE = "C2"


def plot_labels(path: str | Path, labels: TrajectoryLabels, title: str = "", film: Film | None = None) -> None:
    """
    Draw the labels of a trajectory over control steps: speed, openness of the gripper, and progress.

    Key frames are dashed lines, positive commands are shaded.

    :param path: PNG to write or replace
    :param labels: of the trajectory
    :param title: of the figure
    :param film: of the same trajectory; its frames next to the key frames are shown above, ``MAX_FRAMES`` at most
    :raises FilmError: if the film lasts longer or shorter than the trajectory
    """
    n_steps = len(labels.speed)
    if film is not None and film.steps[-1] != n_steps:
        raise FilmError(
            f"The film has {film.steps[-1]} control steps, the labels {n_steps}; expected the labels of the film."
        )
    shown = _frames_at(labels.key_frames, film) if film is not None else []
    # as many columns, at least, as keep few frames small; a row as high as its frames are wide
    columns = max(6, len(shown))
    ratios = [6.0 / columns] * bool(shown) + [1.0, 1.0, 1.0]
    figure = _figure(9.0, 2.0 * sum(ratios))
    figure.suptitle(title)
    grid = figure.add_gridspec(len(ratios), columns, height_ratios=ratios)
    for i, (step, frame) in enumerate(shown):
        axes = figure.add_subplot(grid[0, i])
        axes.imshow(frame)
        axes.set_axis_off()
        axes.set_anchor("S")
        axes.set_title(f"step {step}", fontsize=8)
    steps = np.arange(n_steps)
    rows = [figure.add_subplot(grid[row, :]) for row in range(bool(shown), 3 + bool(shown))]
    rows[0].plot(steps, labels.speed, color="0.2")
    rows[0].axhline(labels.threshold, color="C3", lw=1, label="threshold of a stop")
    rows[0].set(ylabel="speed (m/s)", ylim=(0, None))
    rows[1].plot(steps, labels.openness, color="0.2")
    for i, cut in enumerate(labels.cuts):
        rows[1].axvline(cut, color="C4", lw=1, label="cut" if i == 0 else None)
    rows[1].set(ylabel="gripper openness", ylim=(-0.05, 1.05))
    rows[2].plot(steps, labels.progress, color="0.2")
    rows[2].set(ylabel="progress", ylim=(-0.05, 1.05), xlabel="control step")
    if not labels.is_success:
        note = {"transform": rows[2].transAxes, "ha": "center", "va": "center", "backgroundcolor": "white"}
        rows[2].text(0.5, 0.5, "unknown: the trajectory failed", **note)
    for row, axes in enumerate(rows):
        for i, key_frame in enumerate(labels.key_frames):
            axes.axvline(key_frame, color="0.5", ls="--", lw=1, label="key frame" if row == i == 0 else None)
        for i, (begin, end) in enumerate(_runs(labels.is_positive)):
            label = "positive commands" if row == i == 0 else None
            axes.axvspan(begin, end, color=_POSITIVE, alpha=0.2, lw=0, label=label)
        axes.set_xlim(0, n_steps)
    # below, as curves may be anywhere
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    _save(figure, path)


def plot_labels_of_films(folder: str | Path, films: Sequence[Film], rule: LabelRule | None = None) -> list[Path]:
    """
    Draw the labels of films, a PNG each, and ``overview.png`` with all of them.

    Films without a trace, or too short for the rule, are left out, with a warning that counts them.

    :param folder: where to
    :param films: any number
    :param rule: thresholds and windows; None: the defaults
    :return: the files of single films, in their order
    :raises FilmError: if no film can be labelled
    """
    paths: list[Path] = []
    drawn: list[tuple[Film, TrajectoryLabels]] = []
    for i, film in enumerate(films):
        try:
            if film.trace is None:
                continue
            labels = label_trajectory(film.trace, film.is_success, rule)
        except TrajectoryError:
            continue
        path = Path(folder) / f"film_{i:03d}_task_{film.task_id}_{_kind(film)}.png"
        plot_labels(path, labels, f"{film.instruction} ({film.source}, {_kind(film)})", film)
        paths.append(path)
        drawn.append((film, labels))
    if not paths:
        raise FilmError(
            f"None of {len(films)} films can be labelled: they have no trace, or too few steps. Record them with "
            "trace=True."
        )
    if len(paths) < len(films):
        logger.warning("%d of %d films have no trace, or too few steps: not drawn", len(films) - len(paths), len(films))
    _plot_overview(Path(folder) / "overview.png", drawn)
    return paths


def _kind(film: Film) -> str:
    return "success" if film.is_success else "failure"


def _plot_overview(path: Path, drawn: Sequence[tuple[Film, TrajectoryLabels]]) -> None:
    """Speed and gripper of every film on one page, two columns."""
    n_rows = -(-len(drawn) // 2)
    figure = _figure(9.0, 1.3 * n_rows + 0.5)
    grid = figure.add_gridspec(n_rows, 2)
    for i, (film, labels) in enumerate(drawn):
        axes = figure.add_subplot(grid[i // 2, i % 2])
        first = i == 0
        axes.plot(labels.speed, color="0.2", lw=1, label="speed (m/s)" if first else None)
        axes.axhline(labels.threshold, color="C3", lw=0.8, label="threshold of a stop" if first else None)
        # on the same axis, so that a cut is seen beside the stop that it belongs to
        openness = labels.openness * float(labels.speed.max())
        axes.plot(openness, color="C4", lw=0.8, alpha=0.7, label="gripper, closed to open" if first else None)
        for key_frame in labels.key_frames:
            axes.axvline(key_frame, color="0.5", ls="--", lw=0.8)
        for k, (begin, end) in enumerate(_runs(labels.is_positive)):
            label = "positive commands, up to a key frame" if first and k == 0 else None
            axes.axvspan(begin, end, color=_POSITIVE, alpha=0.2, lw=0, label=label)
        axes.set(xlim=(0, len(labels.speed)), ylim=(0, None))
        axes.set_title(f"{film.instruction} ({_kind(film)})", fontsize=7)
        axes.tick_params(labelsize=6)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    _save(figure, path)


def plot_audit(path: str | Path, found: Audit, title: str) -> None:
    """
    Draw an audit: progress over time per task, calibration, returns, and the confusion of instructions.

    :param path: PNG to write or replace
    :param found: the audit
    :param title: of the figure
    """
    tasks = drawn_tasks(found)
    columns = 2 if len(tasks) in (2, 4) else min(3, len(tasks))
    task_rows = -(-len(tasks) // columns)
    figure = _figure(13.0, 3.2 * task_rows + 4.4)
    n_left_out = len(found.of_task) - len(tasks)
    figure.suptitle(f"{title} (tasks that are not drawn: {n_left_out})" if n_left_out else title)
    upper, lower = figure.subfigures(2, 1, height_ratios=[3.2 * task_rows, 4.4])
    for i, task in enumerate(tasks):
        plot_progress(upper.add_subplot(task_rows, columns, i + 1), found, task)
    plots = lower.subplots(1, 3, width_ratios=[1, 1, 1.5])
    plot_calibration(plots[0], found)
    plot_returns(plots[1], found)
    plot_confusion(plots[2], found)
    _save(figure, path)


def drawn_tasks(found: Audit) -> list[int]:
    """
    Choose the tasks to draw.

    :param found: the audit
    :return: the first ``MAX_TASKS``, those with successes and failures before others
    """
    has_both = {task: 0 < figures.n_films[1] < figures.n_films[0] for task, figures in found.of_task.items()}
    return sorted(sorted(has_both, key=lambda task: not has_both[task])[:MAX_TASKS])


def plot_progress(axes: Any, found: Audit, task_id: int) -> None:
    """
    Draw progress over time in a few films of a task, the simulator's beside it.

    Of successes and failures those with the smallest, the middle and the largest return are shown.

    :param axes: of matplotlib
    :param found: the audit
    :param task_id: whose films
    """
    films = [each for each in found.films if each.film.task_id == task_id]
    for is_success, color, name in ((False, _FAILURE, "failure"), (True, _SUCCESS, "success")):
        chosen = sorted((each for each in films if each.film.is_success == is_success), key=lambda each: each.pay)
        for i, each in enumerate(_spread(chosen, N_CURVES)):
            axes.plot(each.progress, color=color, lw=1.5, label=name if i == 0 else None)
            if each.truth is not None:
                axes.plot(each.truth, color=color, ls=":", lw=1.2, label=f"{name}, true" if i == 0 else None)
    axes.set(xlabel="decisions", ylabel="progress", ylim=(-0.05, 1.05))
    axes.set_title(textwrap.fill(f"task {task_id}: {films[0].film.instruction}", 44), fontsize=9)
    axes.grid(alpha=0.3)
    # below, as curves may be anywhere
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, fontsize=7, frameon=False, columnspacing=1)


def plot_calibration(axes: Any, found: Audit) -> None:
    """
    Draw the share of successes against the progress in last frames.

    :param axes: of matplotlib
    :param found: the audit
    """
    last = [each.progress[-1] for each in found.films]
    means, shares, counts = reliability(last, [each.film.is_success for each in found.films])
    axes.plot([0, 1], [0, 1], color="0.6", lw=1)
    axes.plot(means, shares, "-", color=_SUCCESS, lw=1)
    axes.scatter(means, shares, s=20 + 180 * counts / counts.max(), color=_SUCCESS, alpha=0.6)
    for x, y, n in zip(means, shares, counts, strict=True):
        axes.annotate(str(n), (x, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=7)
    axes.set(xlabel="progress in the last frame", ylabel="share of successes", xlim=(-0.05, 1.05), ylim=(-0.05, 1.12))
    axes.set_title(f"calibration, error {found.calibration_error:.3f} (films per bin)", fontsize=9)
    axes.grid(alpha=0.3)


def plot_returns(axes: Any, found: Audit) -> None:
    """
    Draw the distribution of the returns of successes and failures.

    :param axes: of matplotlib
    :param found: the audit
    """
    pays = [[each.pay for each in found.films if each.film.is_success == kind] for kind in (False, True)]
    bins = np.histogram_bin_edges(np.concatenate(pays), 20)
    for pay, color, name in zip(pays, (_FAILURE, _SUCCESS), ("failures", "successes"), strict=True):
        axes.hist(pay, bins, color=color, alpha=0.6, label=f"{len(pay)} {name}")
    axes.set(xlabel=f"discounted return ({found.shaping.mode}, weight {found.shaping.weight:g})", ylabel="films")
    axes.set_title(f"returns, AUC {found.auc_return:.3f}", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)


def plot_confusion(axes: Any, found: Audit) -> None:
    """
    Draw the progress in last frames of successes, under every instruction.

    :param axes: of matplotlib
    :param found: the audit
    """
    confusion = found.confusion
    if confusion is None or np.isnan(confusion.of_film):
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no other instruction was asked", ha="center", va="center")
        return
    n = len(confusion.instructions)
    axes.imshow(np.ma.masked_invalid(confusion.progress), vmin=0, vmax=1, cmap="Blues")
    for row, column in itertools.product(range(n), range(n)):
        value = confusion.progress[row, column]
        if np.isfinite(value) and n <= 12:
            color = "white" if value > 0.5 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    names = [textwrap.shorten(text, 34, placeholder=" …") for text in confusion.instructions]
    axes.set_xticks(range(n), [str(i + 1) for i in range(n)], fontsize=7)
    axes.set_yticks(range(n), [f"{i + 1} {name}" for i, name in enumerate(names)], fontsize=7)
    axes.set(xlabel="asked", ylabel="done")
    title = f"progress in last frames; {100 * confusion.of_film:.0f} % of successes taken for another task"
    axes.set_title(textwrap.fill(title, 48), fontsize=9)


def panels(found: Audit) -> list[tuple[str, bytes]]:
    """
    Draw each part of :func:`plot_audit` on its own.

    :param found: the audit
    :return: what it shows, and a PNG that can be read at a width of 360 pixels, each
    """
    drawn: list[tuple[str, Callable[[Any, Audit], None]]] = [
        (f"Progress over time, task {task}", functools.partial(plot_progress, task_id=task))
        for task in drawn_tasks(found)
    ]
    drawn += [("Calibration", plot_calibration), ("Returns", plot_returns)]
    if not np.isnan(found.confused):
        drawn.append(("Confusion of instructions", plot_confusion))
    pictures = []
    for name, plot in drawn:
        figure = _figure(5.0, 4.0)
        plot(figure.add_subplot(), found)
        pictures.append((name, _png(figure)))
    return pictures


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | Path) -> None:
    with write_then_rename(path) as temporary:
        temporary.write_bytes(_png(figure))


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _spread(items: Sequence[Any], n: int) -> list[Any]:
    """``n`` of them at most, evenly spaced, the first and the last among them."""
    if len(items) <= n:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, n).round().astype(int)]


def _frames_at(key_frames: Int64Array, film: Film) -> list[tuple[int, UInt8Array]]:
    """Steps and frames next to the key frames, ``MAX_FRAMES`` at most."""
    rows = [int(np.abs(film.steps - key_frame).argmin()) for key_frame in _spread(key_frames.tolist(), MAX_FRAMES)]
    return [(int(film.steps[row]), film.frames[row]) for row in rows]


def _runs(is_true: BoolArray) -> list[tuple[int, int]]:
    """Where stretches begin, and where they are over."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_true.astype(np.int8), [0]])))
    return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]
