"""What figures of labels and audits show."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vla_algos.errors import FilmError
from vla_algos.rewards import plots
from vla_algos.rewards.audit import audit
from vla_algos.rewards.films import Film
from vla_algos.rewards.labels import label_trajectory
from vla_algos.rewards.shaping import Shaping


def labelled_film(is_success: bool = True, source: str = "mine") -> Film:
    """Forth, a stop in which the gripper closes, and on: 96 control steps, a decision for every 8."""
    speed = np.concatenate([np.full(40, 0.01), np.zeros(12), np.full(44, 0.01)])
    trace = np.zeros((96, 8), np.float32)
    trace[:, 0] = np.concatenate([[0], np.cumsum(speed)[:-1]])
    closing = np.interp(np.arange(96), [42, 48], [0.04, 0.0])
    trace[:, 6], trace[:, 7] = closing, -closing
    proprio = np.concatenate([trace[::8], trace[-1:]])
    frames = np.zeros((13, 4, 4, 3), np.uint8) + np.arange(13, dtype=np.uint8)[:, None, None, None]
    return Film(frames, 8 * np.arange(13), proprio, "push it", 3, 0, is_success, source, trace=trace)


class Brightness:
    key = "agentview"

    def score(self, seen, instructions):
        return seen[:, 1, 0, 0, 0].astype(np.float32) / 12


@pytest.fixture
def figures(monkeypatch):
    """Figures that would have been written."""
    kept = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: kept.append(figure))
    return kept


def test_a_figure_of_labels_shows_every_one_of_them(figures):
    film = labelled_film()
    labels = label_trajectory(film.trace, True)
    assert len(labels.key_frames) == 2 and len(labels.cuts) == 1
    plots.plot_labels("unused.png", labels, "a title", film)
    *shown, speed, openness, progress = figures[0].axes
    # the frames next to the key frames
    assert [axes.images[0].get_array()[0, 0, 0] for axes in shown] == [round(k / 8) for k in labels.key_frames]
    np.testing.assert_array_equal(speed.lines[0].get_ydata(), labels.speed)
    assert speed.lines[1].get_ydata()[0] == labels.threshold
    assert openness.lines[1].get_xdata()[0] == labels.cuts[0]
    np.testing.assert_array_equal(progress.lines[0].get_ydata(), labels.progress)
    for axes in (speed, openness, progress):
        marked = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        assert marked == labels.key_frames.tolist()
        spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
        covered = np.concatenate([np.arange(begin, end) for begin, end in spans])
        np.testing.assert_array_equal(covered, np.flatnonzero(labels.is_positive))


def test_a_failure_has_no_progress_to_draw_and_a_figure_needs_no_frames(figures):
    film = labelled_film(is_success=False)
    plots.plot_labels("unused.png", label_trajectory(film.trace, False))
    _, _, progress = figures[0].axes
    assert progress.texts[0].get_text() == "unknown: the trajectory failed"


def test_at_most_eight_frames_are_shown_the_first_and_the_last_among_them(figures):
    film = labelled_film()
    labels = replace(label_trajectory(film.trace, True), key_frames=np.arange(8, 97, 8))
    plots.plot_labels("unused.png", labels, film=film)
    numbers = [axes.images[0].get_array()[0, 0, 0] for axes in figures[0].axes[:-3]]
    assert len(numbers) == plots.MAX_FRAMES and (numbers[0], numbers[-1]) == (1, 12)


def test_labels_of_another_film_are_refused(tmp_path):
    film = labelled_film()
    labels = label_trajectory(film.trace[:50], True)
    with pytest.raises(
        FilmError, match=r"The film has 96 control steps, the labels 50; expected the labels of the film"
    ):
        plots.plot_labels(tmp_path / "a.png", labels, film=film)


def test_films_are_drawn_each_into_a_file_and_those_without_labels_are_counted(tmp_path, caplog):
    film = labelled_film()
    short = replace(
        film, frames=film.frames[:2], steps=np.array([0, 2]), proprio=film.proprio[:2], trace=film.trace[:2]
    )
    films = [labelled_film(), replace(labelled_film(), trace=None), short, labelled_film(is_success=False)]
    with caplog.at_level(logging.WARNING):
        paths = plots.plot_labels_of_films(tmp_path / "labels", films)
    assert [path.name for path in paths] == ["film_000_task_3_success.png", "film_003_task_3_failure.png"]
    assert sorted((tmp_path / "labels").iterdir()) == [*paths, tmp_path / "labels" / "overview.png"]
    assert Image.open(tmp_path / "labels" / "overview.png").format == "PNG"
    assert "2 of 4 films have no trace, or too few steps" in caplog.text
    assert Image.open(paths[0]).format == "PNG" and Image.open(paths[0]).convert("L").getextrema() == (0, 255)
    with pytest.raises(FilmError, match=r"None of 1 films can be labelled.*trace=True"):
        plots.plot_labels_of_films(tmp_path, films[1:2])


def judged_films() -> list[Film]:
    successes = [replace(labelled_film(), init_state_id=k) for k in range(5)]
    failures = [replace(labelled_film(False), frames=labelled_film().frames // 2, init_state_id=k) for k in range(2)]
    other = [replace(each, task_id=7, instruction="pull it") for each in (successes[0], failures[0])]
    return [*successes, *failures, *other]


def test_the_panels_of_an_audit_show_its_figures():
    from matplotlib.figure import Figure

    found = audit(Brightness(), judged_films(), Shaping(), instructions={3: ["pull it"], 7: ["push it"]})
    axes = Figure().subplots(4)
    plots.plot_progress(axes[0], found, 3)
    # three of five successes, and both failures
    assert [line.get_ydata()[-1] for line in axes[0].lines] == pytest.approx([0.5, 0.5, 1, 1, 1])
    plots.plot_calibration(axes[1], found)
    np.testing.assert_allclose(axes[1].collections[0].get_offsets(), [[0.5, 0], [1, 1]])
    assert [text.get_text() for text in axes[1].texts] == ["3", "6"]
    plots.plot_returns(axes[2], found)
    assert sum(bar.get_height() for bar in axes[2].patches) == 9
    plots.plot_confusion(axes[3], found)
    assert [text.get_text() for text in axes[3].texts] == ["1.00"] * 4
    assert "100 % of successes" in axes[3].get_title()


def test_true_progress_is_drawn_beside_the_models():
    from matplotlib.figure import Figure

    found = audit(Brightness(), judged_films()[-3:], Shaping())
    true = replace(found, films=tuple(replace(each, truth=each.progress / 2) for each in found.films))
    axes = Figure().subplots()
    plots.plot_progress(axes, true, 7)
    dotted = [line.get_ydata()[-1] for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx([0.25, 0.5])


def test_tasks_with_both_kinds_are_drawn_before_others(monkeypatch, figures):
    films = [*judged_films(), replace(labelled_film(), task_id=1)]
    found = audit(Brightness(), films, Shaping())
    assert plots.drawn_tasks(found) == [1, 3, 7]
    monkeypatch.setattr(plots, "MAX_TASKS", 2)
    assert plots.drawn_tasks(found) == [3, 7]
    plots.plot_audit("unused.png", found, "a title")
    assert figures[0].get_suptitle() == "a title (tasks that are not drawn: 1)"


def test_one_task_alone_has_no_confusion_to_draw():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plots.plot_confusion(axes, audit(Brightness(), judged_films()[:7], Shaping()))
    assert axes.texts[0].get_text() == "no other instruction was asked" and not axes.images


def test_panels_are_pictures_of_their_own():
    found = audit(Brightness(), judged_films()[:7], Shaping(), instructions={3: ["shut it"]})
    drawn = plots.panels(found)
    always = ["Progress over time, task 3", "Calibration", "Returns"]
    assert [name for name, _ in drawn] == [*always, "Confusion of instructions"]
    alone = audit(Brightness(), judged_films()[:7], Shaping())
    assert [name for name, _ in plots.panels(alone)] == always
    assert all(Image.open(io.BytesIO(png)).size == (750, 600) for _, png in drawn)
