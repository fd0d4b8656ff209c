"""Figures as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_algos.common.callbacks import RolloutRecord
from vla_algos.common.save_util import write_then_rename
from vla_algos.evaluation.harness import EvaluationResult


def plot_learning_curve(
    path: str | Path, history: Sequence[RolloutRecord], before: EvaluationResult, after: EvaluationResult, title: str
) -> None:
    """
    Success in training, per roll-out, between the two evaluations.

    :param path: PNG to write or replace
    :param history: one record per roll-out
    :param before: evaluation before training
    :param after: evaluation after training
    :param title: of the figure
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [record.timesteps for record in history if record.success_rate is not None]
    rates = [100 * record.success_rate for record in history if record.success_rate is not None]
    axes.plot(steps, rates, marker="o", markersize=3, label="training roll-outs (sampled)")
    for result, x, label in (
        (before, 0, "evaluation before"),
        (after, history[-1].timesteps if history else 1, "evaluation after"),
    ):
        low, high = result.interval
        mode = "greedy" if result.deterministic else "sampled"
        centre = 100 * result.success_rate
        axes.errorbar(
            [x],
            [centre],
            yerr=[[max(0.0, centre - 100 * low)], [max(0.0, 100 * high - centre)]],
            fmt="s",
            capsize=4,
            label=f"{label} ({mode}, n = {result.n_episodes}, 95 % interval)",
        )
    axes.set(xlabel="decisions", ylabel="success (%)", ylim=(-3, 103), title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    with write_then_rename(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
