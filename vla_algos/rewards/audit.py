"""
Can a process reward be trusted? What it pays for successes and failures, before a policy learns to exploit it.

AUC is the probability that a success is ranked above a failure, ties counting half: 0.5 is chance, below it failing
pays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata, spearmanr

from vla_algos.errors import FilmError
from vla_algos.rewards.films import Film
from vla_algos.rewards.model import RewardModel, TrueProgress
from vla_algos.rewards.shaping import Shaping
from vla_gym.spec import PRIVILEGED, PROPRIO
from vla_gym.type_aliases import BoolArray, Float64Array

CALIBRATION_BINS = 10


def auc(scores: Any, is_positive: Any) -> float:
    """
    Area under the ROC curve (the Mann-Whitney statistic).

    :param scores: (N,) numbers
    :param is_positive: (N,) bool
    :return: 0 to 1; NaN unless there are both kinds
    """
    scores, is_positive = np.asarray(scores, np.float64), np.asarray(is_positive, np.bool_)
    n_positive, n_negative = int(is_positive.sum()), int((~is_positive).sum())
    if not n_positive or not n_negative:
        return float("nan")
    ranks = rankdata(scores)[is_positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


@dataclass(frozen=True)
class Audit:
    """
    Figures of one model on films that it was not trained on.

    :param n_films: films, and how many of them are successes
    :param auc_return: of the discounted return, the sparse reward included, between successes and failures
    :param auc_last: of the progress in the last frame
    :param auc_mean: of the mean progress over equally many first frames, so that length says nothing
    :param auc_last_of_task: ``auc_last`` per task
    :param truth: Spearman correlation of progress with the simulator's, over all frames; NaN if films do not have it
    :param truth_of_task: the same per task
    :param rewound: share of successes whose progress correlates negatively with time when they are played backwards,
        from the last frame to the first
    :param ranking: Kendall's tau between how far a film got (failure, more than half of the way, success) and the
        progress in its last frame, mean over groups of films that began alike
    :param calibration_error: mean distance between the progress in last frames and the share of successes, over ten
        bins of progress, weighted by their films
    :param best_failure: largest return of a failure, and its index
    :param worst_success: smallest return of a success
    :param loitering: what the largest progress in a failure would be paid in an episode of the longest film's length,
        divided by the mean return of successes: from 1 on, waiting there beats success
    """

    n_films: tuple[int, int]
    auc_return: float
    auc_last: float
    auc_mean: float
    auc_last_of_task: dict[int, float]
    truth: float
    truth_of_task: dict[int, float]
    rewound: float
    ranking: float
    calibration_error: float
    best_failure: tuple[float, int]
    worst_success: float
    loitering: float

    @property
    def does_failing_pay(self) -> bool:
        """Whether a failure earns more than some success, or waiting more than the mean success."""
        return self.best_failure[0] > self.worst_success or self.loitering >= 1.0


def audit(model: RewardModel, films: Sequence[Film], shaping: Shaping, gamma: float = 0.99) -> Audit:
    """
    Judge a process reward on films of successes and failures.

    :param model: judges the frames
    :param films: of policies and initial states that it was not trained on, for as many tasks as it is meant for
    :param shaping: what it is paid by
    :param gamma: discount of the return, per decision
    :return: the figures
    :raises FilmError: if there is no success, or no failure, among the films, or they lack what the model looks at
    """
    is_success = np.array([film.is_success for film in films])
    if not is_success.any() or is_success.all():
        raise FilmError(
            f"{int(is_success.sum())} of {len(films)} films are successes; expected successes and failures. Record a "
            "policy that does both."
        )
    progress = [progress_in(model, film) for film in films]
    last = np.array([each[-1] for each in progress])
    n_common = min(map(len, progress))
    means = np.array([each[:n_common].mean() for each in progress])
    returns = np.array([_return(each, film, shaping, gamma) for each, film in zip(progress, films, strict=True)])
    tasks = np.array([film.task_id for film in films])
    has_truth = all(film.privileged is not None for film in films)
    truth = [progress_in(TrueProgress(), film) for film in films] if has_truth else []
    successes = [each for each, film in zip(progress, films, strict=True) if film.is_success]
    failures = np.where(is_success, -np.inf, returns)
    # from the start of the failure that got farthest, straight to its best state, and waiting there to the end
    farthest = max(_of(progress, ~is_success), key=lambda each: float(each.max()))
    waiting = np.full(max(map(len, progress)), farthest.max())
    waiting[0] = farthest[0]
    return Audit(
        n_films=(len(films), int(is_success.sum())),
        auc_return=auc(returns, is_success),
        auc_last=auc(last, is_success),
        auc_mean=auc(means, is_success),
        auc_last_of_task={int(t): auc(last[tasks == t], is_success[tasks == t]) for t in np.unique(tasks)},
        truth=_correlation(progress, truth),
        truth_of_task={
            int(t): _correlation(_of(progress, tasks == t), _of(truth, tasks == t)) for t in np.unique(tasks)
        },
        rewound=float(np.mean([_falls(each[::-1]) for each in successes])),
        ranking=_ranking(films, last, truth),
        calibration_error=calibration_error(last, is_success),
        best_failure=(float(failures.max()), int(failures.argmax())),
        worst_success=float(returns[is_success].min()),
        loitering=float(_discounted(shaping.of_episode(waiting, False), gamma) / returns[is_success].mean()),
    )


def progress_in(model: RewardModel, film: Film) -> Float64Array:
    """
    Progress of each frame of a film.

    :param model: judges the frames
    :param film: with what the model looks at: images, ``proprio`` or ``privileged``
    :return: (K,) float64
    :raises FilmError: if the film lacks it
    """
    sources = {PROPRIO: film.proprio, PRIVILEGED: film.privileged}
    seen = sources.get(model.key, film.frames)
    if seen is None:
        raise FilmError(f"The film has no {model.key!r}, which the model looks at. Record it with privileged_obs=True.")
    pairs = np.stack([np.broadcast_to(seen[0], seen.shape), seen], axis=1)
    return np.asarray(model.score(pairs, [film.instruction] * len(film)), np.float64)


def confusion(model: RewardModel, films: Sequence[Film], instructions: Sequence[str]) -> Float64Array:
    """
    Progress in the last frames of successes, under every instruction of their scene.

    :param model: judges the frames
    :param films: successes
    :param instructions: n texts, the films' own among them
    :return: mean progress, (n, n): row = what was done, column = what was asked; NaN for rows without films
    """
    table = np.full((len(instructions), len(instructions)), np.nan)
    for i, done in enumerate(instructions):
        ends = [film.frames[[0, -1]] for film in films if film.instruction == done and film.is_success]
        for j, asked in enumerate(instructions):
            if ends:
                table[i, j] = np.mean(model.score(np.stack(ends), [asked] * len(ends)))
    return table


def calibration_error(scores: Any, is_success: Any) -> float:
    """
    Expected calibration error over ten equal bins.

    :param scores: (N,) in [0, 1]
    :param is_success: (N,) bool
    :return: 0 to 1
    """
    scores, is_success = np.asarray(scores, np.float64), np.asarray(is_success, np.float64)
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    errors = [abs(scores[bins == b].mean() - is_success[bins == b].mean()) * (bins == b).sum() for b in np.unique(bins)]
    return float(sum(errors) / len(scores))


def _return(progress: Float64Array, film: Film, shaping: Shaping, gamma: float) -> float:
    rewards = shaping.of_episode(progress, film.is_success)
    rewards[-1] += float(film.is_success)
    return _discounted(rewards, gamma)


def _discounted(rewards: Float64Array, gamma: float) -> float:
    return float(gamma ** np.arange(len(rewards)) @ rewards)


def _of(parts: Sequence[Float64Array], chosen: BoolArray) -> list[Float64Array]:
    return [part for part, is_chosen in zip(parts, chosen, strict=True) if is_chosen] if parts else []


def _correlation(progress: Sequence[Float64Array], truth: Sequence[Float64Array]) -> float:
    if not truth:
        return float("nan")
    one, other = np.concatenate(progress), np.concatenate(truth)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)


def _falls(progress: Float64Array) -> bool:
    """Whether progress falls over time."""
    if np.ptp(progress) == 0:
        return False
    return bool(spearmanr(np.arange(len(progress)), progress).statistic < 0)


def _ranking(films: Sequence[Film], last: Float64Array, truth: Sequence[Float64Array]) -> float:
    groups: dict[tuple[int, int], list[int]] = {}
    for i, film in enumerate(films):
        groups.setdefault((film.task_id, film.init_state_id), []).append(i)
    taus = []
    for members in groups.values():
        ranks = [2.0 if films[i].is_success else float(bool(truth) and truth[i].max() > 0.5) for i in members]
        tau = kendalltau(ranks, last[members]).statistic if len(set(ranks)) > 1 else np.nan
        if np.isfinite(tau):
            taus.append(tau)
    return float(np.mean(taus)) if taus else float("nan")


def table(name: str, found: Audit, controls: Mapping[str, Audit] | None = None) -> str:
    """
    Figures as a Markdown table, controls beside the model.

    :param name: of the model
    :param found: its figures
    :param controls: figures of models that see no image, by name
    :return: the table
    """
    columns = {name: found, **(controls or {})}
    rows: dict[str, list[str]] = {
        "AUC, discounted return": [f"{a.auc_return:.3f}" for a in columns.values()],
        "AUC, last frame": [f"{a.auc_last:.3f}" for a in columns.values()],
        "AUC, mean over equal lengths": [f"{a.auc_mean:.3f}" for a in columns.values()],
        "correlation with true progress": [f"{a.truth:.2f}" for a in columns.values()],
        "rewound films that fall": [f"{100 * a.rewound:.0f} %" for a in columns.values()],
        "Kendall's tau, failure < partial < success": [f"{a.ranking:.2f}" for a in columns.values()],
        "calibration error": [f"{a.calibration_error:.3f}" for a in columns.values()],
        "best-paid failure / worst-paid success": [
            f"{a.best_failure[0]:.2f} / {a.worst_success:.2f}" for a in columns.values()
        ],
        "waiting / mean success": [f"{a.loitering:.2f}" for a in columns.values()],
    }
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    return "\n".join([*lines, *(f"| {row} | {' | '.join(cells)} |" for row, cells in rows.items())])
