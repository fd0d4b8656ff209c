"""Figures as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    figure, axes = _figure(4.0)
    finished = [(record.timesteps, 100 * record.success_rate) for record in history if record.success_rate is not None]
    axes.plot(*zip(*finished, strict=True) if finished else ([], []), ".-", color="0.6", label="roll-outs in training")
    end = history[-1].timesteps if history else 1
    for i, pair in enumerate(zip(before, after, strict=True)):
        shift = 0.01 * end * i  # intervals side by side
        rates, spreads = _rates(pair)
        axes.errorbar(
            [shift, end + shift],
            rates,
            yerr=spreads,
            fmt="so"[i % 2],
            capsize=4,
            label=f"evaluation, {pair[0].mode}, n = {pair[0].n_episodes}, 95 % interval",
        )
    axes.set(xlabel="decisions", ylabel="success (%)", ylim=(-3, 103), title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    _save(figure, path)


def plot_comparison(path: str | Path, results: Mapping[str, Sequence[EvaluationResult]], title: str) -> None:
    """
    Success of several policies, one below the other, with 95 % intervals.

    :param path: PNG to write or replace
    :param results: per name evaluations such as greedy and sampled, in the same order for all
    :param title: of the figure
    """
    figure, axes = _figure(1.4 + 0.45 * len(results))
    names = list(results)
    for i, results_of_mode in enumerate(zip(*results.values(), strict=True)):
        rates, spreads = _rates(results_of_mode)
        axes.errorbar(
            rates,
            [row + 0.2 * i for row in range(len(names))],
            xerr=spreads,
            fmt="so"[i % 2],
            capsize=4,
            label=f"{results_of_mode[0].mode}, n = {results_of_mode[0].n_episodes}",
        )
    axes.set(xlabel="success (%), 95 % interval", xlim=(-3, 103), title=title)
    axes.set_yticks([row + 0.1 for row in range(len(names))], names)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    _save(figure, path)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _rates(results: Sequence[EvaluationResult]) -> tuple[list[float], list[list[float]]]:
    """Success rates, and how far their intervals reach below and above (%)."""
    rates = [100 * result.success_rate for result in results]
    bounds = [[100 * bound for bound in result.interval] for result in results]
    below = [max(0.0, rate - low) for rate, (low, _) in zip(rates, bounds, strict=True)]
    above = [max(0.0, high - rate) for rate, (_, high) in zip(rates, bounds, strict=True)]
    return rates, [below, above]


def _save(figure: Any, path: str | Path) -> None:
    with write_then_rename(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
