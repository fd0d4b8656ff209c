"""Starts of episodes: task and initial state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla_gym.arguments import checked_list
from vla_gym.errors import UnknownNameError
from vla_gym.type_aliases import Float64Array


class Starts:
    """
    Draw the starts of episodes, pairs (task_id, init_state_id), with or without weights.

    Without weights, task and initial state are drawn independently and uniformly from the ids offered.

    :param n_tasks: tasks that exist
    :param n_init_states: initial states that exist, of every task
    :param task_ids: tasks to draw from; None: all
    :param init_state_ids: initial states to draw from; None: all
    :raises UnknownNameError: for a task or initial state that does not exist
    :raises InvalidArgumentError: for anything but a list of different numbers
    :raises ValueError: if there is nothing to draw from
    """

    def __init__(
        self,
        n_tasks: int,
        n_init_states: int,
        task_ids: Sequence[int] | None = None,
        init_state_ids: Sequence[int] | None = None,
    ) -> None:
        self.n_init_states = n_init_states
        self.task_ids = _checked_ids("task_id", task_ids, n_tasks)
        self.init_state_ids = _checked_ids("init_state_id", init_state_ids, n_init_states)
        self._pairs = np.empty((0, 2), dtype=np.int64)
        # one per row of _pairs; None: not set
        self._weights: Float64Array | None = None

    def set_weights(self, weights: Mapping[tuple[int, int], float] | None) -> None:
        """
        Set how often each start is drawn; an error changes nothing.

        :param weights: relative frequency by (task_id, init_state_id), finite and at least 0; starts that are left out
            are not drawn; None: uniform
        :raises UnknownNameError: for a start that is not among ``task_ids`` and ``init_state_ids``
        :raises ValueError: if a weight is negative or not finite, or none is positive
        """
        if weights is None:
            self._weights = None
            return
        # sorted, so that draws do not depend on the order of the mapping
        by_start = sorted((self._checked_start(start), float(weight)) for start, weight in weights.items())
        for start, weight in by_start:
            if not 0 <= weight < np.inf:
                raise ValueError(f"The weight of start {start} is {weight}; expected a finite number >= 0.")
        array = np.array([weight for _, weight in by_start], dtype=np.float64)
        if not array.any():
            raise ValueError(f"None of the {len(array)} start weights is positive; expected at least one, or None.")
        self._pairs = np.array([start for start, _ in by_start], dtype=np.int64)
        self._weights = array / array.max()  # keeps the sums below finite

    def snapshot(self) -> dict[str, Any]:
        """Return pairs and weights as arrays; weights are None if not set."""
        return {"pairs": self._pairs.copy(), "weights": None if self._weights is None else self._weights.copy()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """
        Restore the weights of a snapshot.

        :param snapshot: what :meth:`snapshot` returned
        :raises ValueError: if weights are not one finite number for each pair
        :raises UnknownNameError: for a start that is not offered
        """
        weights = snapshot["weights"]
        pairs = [(int(task_id), int(state_id)) for task_id, state_id in np.asarray(snapshot["pairs"]).reshape(-1, 2)]
        self.set_weights(None if weights is None else dict(zip(pairs, np.asarray(weights).tolist(), strict=True)))

    def draw(
        self, np_random: np.random.Generator, task_id: int | None = None, init_state_id: int | None = None
    ) -> tuple[int, int]:
        """
        Draw task and initial state of an episode.

        :param np_random: generator for what is not given
        :param task_id: one of ``task_ids``; None: drawn, given the initial state
        :param init_state_id: any that exists; None: drawn, given the task
        :return: (task_id, init_state_id)
        :raises UnknownNameError: for a task or initial state that is not offered
        """
        if task_id is not None:
            task_id = _checked_id("task_id", task_id, self.task_ids)
        if init_state_id is not None:
            init_state_id = _checked_id("init_state_id", init_state_id, range(self.n_init_states))
        is_drawn = task_id is None or init_state_id is None
        if is_drawn and self._weights is not None:
            possible = self._weights.copy()
            if task_id is not None:
                possible[self._pairs[:, 0] != task_id] = 0.0
            if init_state_id is not None:
                possible[self._pairs[:, 1] != init_state_id] = 0.0
            if possible.any():
                row = np_random.choice(len(possible), p=possible / possible.sum())
                return int(self._pairs[row, 0]), int(self._pairs[row, 1])
        # no weights, or all are 0 for what is given
        if task_id is None:
            task_id = self.task_ids[int(np_random.integers(len(self.task_ids)))]
        if init_state_id is None:
            init_state_id = self.init_state_ids[int(np_random.integers(len(self.init_state_ids)))]
        return task_id, init_state_id

    def _checked_start(self, start: Any) -> tuple[int, int]:
        if not isinstance(start, tuple) or len(start) != 2:
            raise ValueError(f"Start weights have the key {start!r}; expected a tuple (task_id, init_state_id).")
        return (
            _checked_id("task_id", start[0], self.task_ids),
            _checked_id("init_state_id", start[1], self.init_state_ids),
        )


def _checked_ids(kind: str, ids: Sequence[int] | None, count: int) -> tuple[int, ...]:
    if ids is None:
        return tuple(range(count))
    entries = checked_list(f"{kind}s", ids, "[0, 3]")
    if len(entries) == 0:
        raise ValueError(f"{kind}s is empty; name at least one, or leave it out for all {count}.")
    return tuple(_checked_id(kind, i, range(count)) for i in entries)


def _checked_id(kind: str, value: Any, valid: Sequence[int]) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value not in valid:
        raise UnknownNameError(kind, value, valid)
    return int(value)
