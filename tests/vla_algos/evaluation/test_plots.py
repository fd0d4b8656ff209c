from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import pytest

from vla_algos.common.callbacks import RolloutRecord
from vla_algos.evaluation import plots
from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.evaluation.plots import plot_comparison, plot_learning_curve
from vla_algos.evaluation.statistics import bootstrap_interval


def result(successes: int, deterministic: bool = True) -> EvaluationResult:
    episodes = tuple(EpisodeRecord(8, k, k < successes, 10) for k in range(10))
    return EvaluationResult("LIBERO-Goal-v0", "primitive", deterministic, 0, {8: "text"}, episodes, {}, None)


@pytest.mark.parametrize(
    "history", [[], [RolloutRecord(10, 0, None, None), RolloutRecord(20, 2, 0.5, 9.0), RolloutRecord(30, 1, 1.0, 8.0)]]
)
def test_a_curve_is_written_whatever_the_roll_outs_showed(history: list[RolloutRecord], tmp_path: Path) -> None:
    before, after = [result(0), result(3, False)], [result(10), result(5, False)]
    plot_learning_curve(tmp_path / "curve.png", history, before, after, "a task")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    image = imageio.imread(tmp_path / "curve.png")
    assert image.shape[:2] == (600, 1050) and image.std() > 10


def test_a_comparison_has_a_row_for_each(tmp_path: Path) -> None:
    rows = {f"algorithm {i}": [[result(i), result(10 - i, False)]] for i in (0, 5, 10)}
    plot_comparison(tmp_path / "three.png", rows, "a task")
    plot_comparison(tmp_path / "one.png", dict([rows.popitem()]), "a task")
    three, one = (imageio.imread(tmp_path / name) for name in ("three.png", "one.png"))
    assert three.std() > 10 and three.shape[0] > one.shape[0]


def test_unlike_evaluations_are_not_compared(tmp_path: Path) -> None:
    other = replace(result(3), assets="libero")
    with pytest.raises(ValueError, match=r"\(10, 'libero'\), \(10, 'primitive'\)"):
        plot_comparison(tmp_path / "x.png", {"A": [[result(2)]], "B": [[other]]}, "a task")
    assert not list(tmp_path.iterdir())


def test_seeds_are_drawn_together_and_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    plot_comparison(tmp_path / "x", {"A": [[result(2)], [result(8)]], "B": [[result(10)]]}, "a task")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A (2 seeds)", "B (1 seed)"]
    bars, marks = axes.containers[0], axes.collections[-2]
    assert bars.lines[0].get_xdata().tolist() == [50.0, 100.0]
    low, high = (100 * bound for bound in bootstrap_interval([0.2, 0.8]))
    assert bars.lines[2][0].get_segments()[0][:, 0].tolist() == pytest.approx([low, high])
    assert marks.get_offsets()[:, 0].tolist() == [20.0, 80.0]
