"""
Can a process reward be trusted? What it pays for successes and failures, before a policy learns to exploit it.

AUC is the probability that a success is ranked above a failure, ties counting half: 0.5 is chance, below it failing
pays. Successes are compared with failures of their own task alone: otherwise knowing which task is easy would count as
seeing what was done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, somersd, spearmanr

from vla_algos.errors import FilmError
from vla_algos.rewards.controls import Control, Inputs, fit_control
from vla_algos.rewards.films import Film
from vla_algos.rewards.judging import Confusion, confusion, is_usable, paid_progress, progress_in
from vla_algos.rewards.model import RewardModel, TrueProgress
from vla_algos.rewards.shaping import Shaping
from vla_algos.rewards.targets import Targets
from vla_gym.spec import PRIVILEGED
from vla_gym.type_aliases import BoolArray, Float64Array, Int64Array

CALIBRATION_BINS = 10
_NAN = float("nan")


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
        return _NAN
    ranks = rankdata(scores)[is_positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


@dataclass(frozen=True)
class TaskFigures:
    """
    Figures of one task. Those that need successes and failures are NaN where it lacks one of them.

    :param n_films: films, and how many of them are successes
    :param auc_return: of the discounted return, the sparse reward included
    :param auc_last: of the progress in the last frame
    :param auc_mean: of the mean progress over the task's first frames, as many as its shortest film has, so that length
        says nothing
    :param truth: Spearman correlation of progress with the simulator's, over all frames; NaN if no film has it
    :param best_failure: largest return of a failure
    :param worst_success: smallest return of a success
    :param mean_success: mean return of successes
    :param waiting: worst case of loitering: the return of going straight to the largest progress that a failure showed,
        and waiting there until the end of the longest film
    """

    n_films: tuple[int, int]
    auc_return: float
    auc_last: float
    auc_mean: float
    truth: float
    best_failure: float
    worst_success: float
    mean_success: float
    waiting: float

    @property
    def loitering(self) -> float:
        """``waiting`` divided by ``mean_success``; infinite if a success is paid nothing or less."""
        if np.isnan(self.waiting) or np.isnan(self.mean_success):
            return _NAN
        return self.waiting / self.mean_success if self.mean_success > 0 else float("inf")

    @property
    def does_failing_pay(self) -> bool:
        """Whether a failure earns more than some success, or waiting at least as much as the mean success."""
        return self.best_failure > self.worst_success or self.loitering >= 1.0


@dataclass(frozen=True, eq=False)
class FilmFigures:
    """
    What was found in a film.

    :param film: the film
    :param progress: in each frame, (K,) float64 in [0, 1]; where the model had no usable answer, that of the frame
        before
    :param truth: the simulator's, (K,) float64; None if the film does not have it
    :param pay: discounted return, sparse and process reward
    """

    film: Film
    progress: Float64Array
    truth: Float64Array | None
    pay: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "task_id": self.film.task_id,
            "init_state_id": self.film.init_state_id,
            "source": self.film.source,
            "is_success": self.film.is_success,
            "n_decisions": len(self.film) - 1,
            "return": self.pay,
            "last_progress": float(self.progress[-1]),
            "largest_progress": float(self.progress.max()),
            "last_true_progress": None if self.truth is None else float(self.truth[-1]),
        }


@dataclass(frozen=True, eq=False)
class Audit:
    """
    Figures of one model on films that it was not trained on.

    :param shaping: what it is paid by
    :param gamma: discount of the returns, per decision
    :param n_films: films, and how many of them are successes
    :param auc_return: of the discounted return, the sparse reward included, between successes and failures of a task
    :param auc_last: of the progress in the last frame
    :param auc_mean: of the mean progress over equally many first frames per task, so that length says nothing
    :param truth: Spearman correlation of progress with the simulator's, over all frames; NaN if no film has it
    :param rewound: share of successes whose progress falls (correlates negatively with time) when their frames come in
        reverse: what was done is undone
    :param rewound_gain: mean of the progress at the end minus that at the start, of successes played backwards as films
        of their own, whose first frame is the last one; above 0, undoing a task counts as progress
    :param ranking: agreement between how far a film got in its last frame (failure, failure more than half of the way,
        success) and the progress there, mean over groups of films from one start: Kendall's tau of pairs that got
        differently far (Somers' D), -1 to 1. Failures of films without true progress all count alike
    :param calibration_error: mean distance between the progress in last frames and the share of successes, over ten
        bins of progress, weighted by their films
    :param confusion: of instructions; None for a model that reads the simulator's own state, which is about one task
    :param best_failure: largest return of a failure, and its index
    :param worst_success: smallest return of a success, and its index
    :param invalid: share of scores that were NaN or outside of [0, 1]; as in a training, they change nothing
    :param of_task: figures per task
    :param films: what was found in each film
    """

    shaping: Shaping
    gamma: float
    n_films: tuple[int, int]
    auc_return: float
    auc_last: float
    auc_mean: float
    truth: float
    rewound: float
    rewound_gain: float
    ranking: float
    calibration_error: float
    confusion: Confusion | None
    best_failure: tuple[float, int]
    worst_success: tuple[float, int]
    invalid: float
    of_task: dict[int, TaskFigures]
    films: tuple[FilmFigures, ...] = field(repr=False)

    @property
    def loitering(self) -> float:
        """What waiting is paid in relation to the mean success, in the worst task: from 1 on, it beats success."""
        return max(task.loitering for task in self.of_task.values() if not np.isnan(task.loitering))

    @property
    def does_failing_pay(self) -> bool:
        """Whether a failure earns more than some success of its task, or waiting as much as the mean success."""
        return any(task.does_failing_pay for task in self.of_task.values())

    @property
    def confused(self) -> float:
        """Share of successes that are mistaken for another task; NaN where no other instruction was asked."""
        return _NAN if self.confusion is None else self.confusion.of_film

    def to_dict(self) -> dict[str, Any]:
        """As JSON: what is NaN or infinite is null."""
        figures = {
            entry.name: getattr(self, entry.name)
            for entry in dataclasses.fields(self)
            if entry.name not in {"shaping", "gamma", "of_task", "films", "confusion"}
        }
        of_task = {
            str(task_id): {
                **dataclasses.asdict(task),
                "loitering": task.loitering,
                "failing_pays": task.does_failing_pay,
            }
            for task_id, task in self.of_task.items()
        }
        confusion = None if self.confusion is None else dataclasses.asdict(self.confusion)
        return _as_json(
            {
                **figures,
                "loitering": self.loitering,
                "failing_pays": self.does_failing_pay,
                "confusion": confusion,
                "of_task": of_task,
                "films": [film.to_dict() for film in self.films],
            }
        )


def audit(
    model: RewardModel | Control,
    films: Sequence[Film],
    shaping: Shaping,
    gamma: float = 0.99,
    instructions: Mapping[int, Sequence[str]] | None = None,
) -> Audit:
    """
    Judge a process reward on films of successes and failures.

    :param model: judges the frames
    :param films: of policies and initial states that it was not trained on, for as many tasks as it is meant for
    :param shaping: what it is paid by
    :param gamma: discount of the return, per decision
    :param instructions: by task_id, texts that ask for something else in its scene; None: see
        :func:`vla_algos.rewards.judging.confusion`
    :return: the figures
    :raises FilmError: if no task has a success and a failure, or films lack what the model looks at
    :raises RewardModelError: if the model does not give a score per frame
    :raises ValueError: if ``gamma`` is out of range, or not that of the shaping
    """
    if not 0 <= gamma <= 1 or shaping.gamma not in (None, gamma):
        raise ValueError(f"gamma is {gamma}, that of the shaping {shaping.gamma}; expected one discount, from 0 to 1.")
    is_success = np.array([film.is_success for film in films], np.bool_)
    tasks = np.array([film.task_id for film in films])
    _check_kinds(is_success, tasks)
    scores = [progress_in(model, film) for film in films]
    n_invalid = sum(int((~is_usable(each)).sum()) for each in scores)
    found = []
    for film, each in zip(films, scores, strict=True):
        progress = paid_progress(each)
        truth = None if film.privileged is None else progress_in(TrueProgress(), film)
        found.append(FilmFigures(film, progress, truth, _return(progress, film, shaping, gamma)))
    last = np.array([each.progress[-1] for each in found])
    returns = np.array([each.pay for each in found])
    of_task = {
        int(task): _task_figures([each for each in found if each.film.task_id == task], shaping, gamma)
        for task in np.unique(tasks)
    }
    rewound = [_rewound(model, each.film, each.progress) for each in found if each.film.is_success]
    is_asked = isinstance(model, Control) or model.key != PRIVILEGED
    best, worst = (
        int(np.where(is_success, -np.inf, returns).argmax()),
        int(np.where(is_success, returns, np.inf).argmin()),
    )
    return Audit(
        shaping=shaping,
        gamma=gamma,
        n_films=(len(films), int(is_success.sum())),
        auc_return=_over_pairs(of_task, "auc_return"),
        auc_last=_over_pairs(of_task, "auc_last"),
        auc_mean=_over_pairs(of_task, "auc_mean"),
        truth=_correlation(found),
        rewound=float(np.mean([falls for falls, _ in rewound])),
        rewound_gain=float(np.mean([gain for _, gain in rewound])),
        ranking=_ranking(found),
        calibration_error=calibration_error(last, is_success),
        confusion=confusion(model, films, instructions) if is_asked else None,
        best_failure=(float(returns[best]), best),
        worst_success=(float(returns[worst]), worst),
        invalid=n_invalid / sum(map(len, scores)),
        of_task=of_task,
        films=tuple(found),
    )


def audit_controls(
    fitted_on: Sequence[Film],
    films: Sequence[Film],
    shaping: Shaping,
    gamma: float = 0.99,
    targets: Targets = "truth",
    instructions: Mapping[int, Sequence[str]] | None = None,
    seed: int = 0,
) -> dict[Inputs, Audit]:
    """
    Fit every control, and judge it like a model.

    :param fitted_on: what the model was trained on
    :param films: the films of the model's audit
    :param shaping: what they are paid by
    :param gamma: discount of the return, per decision
    :param targets: what frames are taught to be, as for the model
    :param instructions: as in :func:`audit`
    :param seed: of the controls' first weights
    :return: figures by what the control sees
    :raises FilmError: if a film is in both parts, as in :func:`audit`, or if films lack what the targets need
    """
    known = {_identity(film) for film in fitted_on}
    n_both = sum(_identity(film) in known for film in films)
    if n_both:
        raise FilmError(
            f"{n_both} of {len(films)} films are among those to fit on; expected others. Divide them with split_films."
        )
    kinds: tuple[Inputs, ...] = ("proprio", "clock", "length")
    return {
        inputs: audit(fit_control(fitted_on, inputs, targets, seed=seed), films, shaping, gamma, instructions)
        for inputs in kinds
    }


def reliability(scores: Any, is_success: Any) -> tuple[Float64Array, Float64Array, Int64Array]:
    """
    Compare scores with what became true, in ten equal bins.

    :param scores: (N,) in [0, 1]
    :param is_success: (N,) bool
    :return: mean score, share of successes and number of scores, (B,) each, of the bins that are not empty
    """
    scores, is_success = np.asarray(scores, np.float64), np.asarray(is_success, np.float64)
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    parts = [bins == b for b in np.unique(bins)]
    return (
        np.array([scores[part].mean() for part in parts]),
        np.array([is_success[part].mean() for part in parts]),
        np.array([part.sum() for part in parts], np.int64),
    )


def calibration_error(scores: Any, is_success: Any) -> float:
    """
    Expected calibration error over ten equal bins.

    :param scores: (N,) in [0, 1]
    :param is_success: (N,) bool
    :return: 0 to 1; NaN if there are none
    """
    means, shares, counts = reliability(scores, is_success)
    return float(np.abs(means - shares) @ counts / counts.sum()) if len(counts) else _NAN


def _check_kinds(is_success: BoolArray, tasks: NDArray[Any]) -> None:
    kinds = f"{int(is_success.sum())} of {len(is_success)} films are successes"
    if is_success.all() or not is_success.any():
        raise FilmError(f"{kinds}; expected successes and failures. Record a policy that does both.")
    if not set(tasks[is_success]) & set(tasks[~is_success]):
        raise FilmError(
            f"{kinds}, but no task has both; expected a task with successes and failures. Record more of each task."
        )


def _return(progress: Float64Array, film: Film, shaping: Shaping, gamma: float) -> float:
    rewards = shaping.of_episode(progress, film.is_success)
    rewards[-1] += float(film.is_success)
    return _discounted(rewards, gamma)


def _discounted(rewards: Float64Array, gamma: float) -> float:
    return float(gamma ** np.arange(len(rewards)) @ rewards)


def _task_figures(found: Sequence[FilmFigures], shaping: Shaping, gamma: float) -> TaskFigures:
    is_success = np.array([each.film.is_success for each in found], np.bool_)
    returns = np.array([each.pay for each in found])
    lengths = [len(each.progress) for each in found]
    failures = [each.progress for each in found if not each.film.is_success]
    waiting_pay = _NAN
    if failures:
        # from the start of the failure that got farthest, straight to its best state, and waiting there to the end
        farthest = max(failures, key=lambda progress: float(progress.max()))
        waiting = np.full(max(lengths), farthest.max())
        waiting[0] = farthest[0]
        waiting_pay = _discounted(shaping.of_episode(waiting, False), gamma)
    return TaskFigures(
        n_films=(len(found), int(is_success.sum())),
        auc_return=auc(returns, is_success),
        auc_last=auc([each.progress[-1] for each in found], is_success),
        auc_mean=auc([each.progress[: min(lengths)].mean() for each in found], is_success),
        truth=_correlation(found),
        best_failure=float(returns[~is_success].max()) if failures else _NAN,
        worst_success=float(returns[is_success].min()) if is_success.any() else _NAN,
        mean_success=float(returns[is_success].mean()) if is_success.any() else _NAN,
        waiting=waiting_pay,
    )


def _over_pairs(of_task: Mapping[int, TaskFigures], name: str) -> float:
    """AUC over all pairs of a success and a failure of the same task."""
    both = [task for task in of_task.values() if 0 < task.n_films[1] < task.n_films[0]]
    n_pairs = [task.n_films[1] * (task.n_films[0] - task.n_films[1]) for task in both]
    return float(np.average([getattr(task, name) for task in both], weights=n_pairs))


def _correlation(found: Sequence[FilmFigures]) -> float:
    """NaN where there is no truth that could be followed, 0 for progress that never changes."""
    known = [(each.progress, each.truth) for each in found if each.truth is not None]
    if not known:
        return _NAN
    progress, truth = (np.concatenate(part) for part in zip(*known, strict=True))
    if np.ptp(truth) == 0:
        return _NAN
    return float(spearmanr(progress, truth).statistic) if np.ptp(progress) > 0 else 0.0


def _rewound(model: RewardModel | Control, film: Film, progress: Float64Array) -> tuple[bool, float]:
    """Whether progress falls when what was done is undone, and what a film that begins at its end gains."""
    backwards = np.arange(len(film))[::-1]
    if isinstance(model, Control):
        undone = model.progress(_rearranged(film, [0, *backwards]))[1:]
        replayed = model.progress(_rearranged(film, backwards))
    else:
        # models remember nothing, so what they said of each frame after the same start holds in any order
        undone = progress[::-1]
        replayed = paid_progress(progress_in(model, _rearranged(film, backwards[[0, -1]])))
    return _falls(undone), float(replayed[-1] - replayed[0])


def _rearranged(film: Film, rows: Any) -> Film:
    """Film of other frames, a control step apart."""
    return dataclasses.replace(
        film,
        frames=film.frames[rows],
        steps=np.arange(len(rows)),
        proprio=film.proprio[rows],
        privileged=None if film.privileged is None else film.privileged[rows],
        trace=None,
        states=None,
        progress_under=None,
        is_success=False,
    )


def _falls(progress: Float64Array) -> bool:
    """Whether progress falls over time."""
    if np.ptp(progress) == 0:
        return False
    return bool(spearmanr(np.arange(len(progress)), progress).statistic < 0)


def _ranking(found: Sequence[FilmFigures]) -> float:
    groups: dict[tuple[int, int], list[FilmFigures]] = {}
    for each in found:
        if each.film.init_state_id >= 0:
            groups.setdefault((each.film.task_id, each.film.init_state_id), []).append(each)
    agreements = []
    for group in groups.values():
        knows_truth = all(each.truth is not None for each in group)
        ranks = [_how_far(each) if knows_truth else 2 * each.film.is_success for each in group]
        if len(set(ranks)) > 1:
            last = [each.progress[-1] for each in group]
            agreements.append(somersd(ranks, last).statistic if np.ptp(last) > 0 else 0.0)
    return float(np.mean(agreements)) if agreements else _NAN


def _how_far(found: FilmFigures) -> int:
    """0: failed, 1: more than half of the way, 2: success."""
    if found.film.is_success:
        return 2
    return int(found.truth is not None and found.truth[-1] > 0.5)


def _identity(film: Film) -> tuple[str, int, int, bytes]:
    return film.source, film.task_id, film.init_state_id, film.proprio.tobytes()


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_as_json(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
