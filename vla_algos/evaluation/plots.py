"""Figures as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_algos.common.callbacks import RolloutRecord
from vla_algos.evaluation.harness import EvaluationResult
from vla_algos.evaluation.statistics import success_interval
from vla_gym.files import write_then_rename


def plot_learning_curve(
    path: str | Path,
    history: Sequence[RolloutRecord],
    before: Sequence[EvaluationResult],
    after: Sequence[EvaluationResult],
    title: str,
) -> None:
    """
    Plot success in training, per roll-out, between the evaluations with their 95 % intervals.

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
        rates, spreads = _rates([[result] for result in pair])
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


def plot_comparison(path: str | Path, results: Mapping[str, Sequence[Sequence[EvaluationResult]]], title: str) -> None:
    """
    Plot the success of several algorithms, one below the other, with 95 % intervals.

    With several seeds: their mean, the bootstrap's interval over seeds, and each seed as a small hollow mark. With one
    seed: Wilson's interval of its episodes, which says nothing about other seeds, and a hollow mark.

    :param path: PNG to write or replace
    :param results: per name and seed evaluations such as greedy and sampled, in the same order for all
    :param title: of the figure
    :raises ValueError: if evaluations differ in the number of episodes or in the asset pack
    """
    kinds = {(r.n_episodes, r.assets) for seeds in results.values() for evaluations in seeds for r in evaluations}
    if len(kinds) > 1:
        raise ValueError(
            f"Evaluations differ in episodes and asset pack: {sorted(kinds)}. "
            "Compare evaluations of as many episodes with the same pack."
        )
    n_episodes, _ = kinds.pop()
    figure, axes = _figure(1.4 + 0.45 * len(results))
    modes = [result.mode for result in next(iter(results.values()))[0]]
    for i, mode in enumerate(modes):
        of_mode = [[evaluations[i] for evaluations in seeds] for seeds in results.values()]
        rates, spreads = _rates(of_mode)
        rows = [row + 0.2 * i for row in range(len(results))]
        bars = axes.errorbar(rates, rows, xerr=spreads, fmt="so"[i % 2], capsize=4, label=mode)
        marks = [
            (100 * result.success_rate, row)
            for row, seeds in zip(rows, of_mode, strict=True)
            for result in seeds
            if len(seeds) > 1
        ]
        color = bars.lines[0].get_color()
        if marks:
            axes.scatter(*zip(*marks, strict=True), marker="so"[i % 2], s=14, facecolors="none", edgecolors=color)
        alone = [pair for pair, seeds in zip(zip(rates, rows, strict=True), of_mode, strict=True) if len(seeds) == 1]
        if alone:
            axes.scatter(*zip(*alone, strict=True), marker="so"[i % 2], s=36, c="white", edgecolors=color, zorder=3)
    axes.set(xlabel=f"success (%), {n_episodes} episodes per seed, 95 % interval", xlim=(-3, 103), title=title)
    labels = [f"{name} ({len(seeds)} seed{'s' * (len(seeds) > 1)})" for name, seeds in results.items()]
    axes.set_yticks([row + 0.1 for row in range(len(labels))], labels)
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


def _rates(runs: Sequence[Sequence[EvaluationResult]]) -> tuple[list[float], list[list[float]]]:
    """Mean success rate of each group of runs, and how far its interval reaches below and above (%)."""
    rates = [100 * sum(result.success_rate for result in seeds) / len(seeds) for seeds in runs]
    bounds = [
        [100 * bound for bound in success_interval([result.successes for result in seeds], seeds[0].n_episodes)]
        for seeds in runs
    ]
    below = [max(0.0, rate - low) for rate, (low, _) in zip(rates, bounds, strict=True)]
    above = [max(0.0, high - rate) for rate, (_, high) in zip(rates, bounds, strict=True)]
    return rates, [below, above]


def _save(figure: Any, path: str | Path) -> None:
    with write_then_rename(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
