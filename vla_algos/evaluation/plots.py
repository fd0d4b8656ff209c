"""Figures as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_algos.common.callbacks import RolloutRecord
from vla_algos.evaluation.harness import EvaluationResult
from vla_gym.files import write_then_rename


def plot_learning_curve(
    path: str | Path,
    history: Sequence[RolloutRecord],
    before: Sequence[EvaluationResult],
    after: Sequence[EvaluationResult],
    title: str,
) -> None:
    """
    Success in training, per roll-out, between the evaluations with their 95 % intervals.

    :param path: PNG to write or replace
    :param history: one record per roll-out
    :param before: evaluations before training, such as greedy and sampled
    :param after: evaluations after training, in the same order
    :param title: of the figure
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    finished = [(record.timesteps, 100 * record.success_rate) for record in history if record.success_rate is not None]
    axes.plot(*zip(*finished, strict=True) if finished else ([], []), ".-", color="0.6", label="roll-outs in training")
    end = history[-1].timesteps if history else 1
    for i, pair in enumerate(zip(before, after, strict=True)):
        mode = "greedy" if pair[0].deterministic else "sampled"
        shift = 0.01 * end * i  # intervals side by side
        rates = [100 * result.success_rate for result in pair]
        bounds = [[100 * bound for bound in result.interval] for result in pair]
        axes.errorbar(
            [shift, end + shift],
            rates,
            yerr=[
                [max(0.0, rate - low) for rate, (low, _) in zip(rates, bounds, strict=True)],
                [max(0.0, high - rate) for rate, (_, high) in zip(rates, bounds, strict=True)],
            ],
            fmt="so"[i % 2],
            capsize=4,
            label=f"evaluation, {mode}, n = {pair[0].n_episodes}, 95 % interval",
        )
    axes.set(xlabel="decisions", ylabel="success (%)", ylim=(-3, 103), title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    with write_then_rename(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
