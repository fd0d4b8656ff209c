"""Updates that are dropped because something in them is not finite, and when there are too many of them."""

from __future__ import annotations

import math
from collections import defaultdict

from vla_algos.errors import TrainingDivergedError

MAX_SKIPPED_IN_A_ROW = 3


class SkippedUpdates:
    """
    Counts the updates of a run that were not applied.

    ``total``: of the whole run.
    """

    def __init__(self) -> None:
        self.total = 0
        self._in_a_row: dict[str, int] = defaultdict(int)

    def accepts(self, loss: float, grad_norm: float, what: str = "policy") -> bool:
        """
        Whether an update may be applied.

        :param loss: of the update
        :param grad_norm: of its gradient
        :param what: learns by it; each is counted apart
        :return: True if both are finite
        :raises TrainingDivergedError: at the third update in a row that may not
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._in_a_row[what] = 0
            return True
        self.total += 1
        self._in_a_row[what] += 1
        if self._in_a_row[what] < MAX_SKIPPED_IN_A_ROW:
            return False
        # whoever goes on from here starts counting again
        self._in_a_row.clear()
        raise TrainingDivergedError(
            f"{MAX_SKIPPED_IN_A_ROW} updates of the {what} in a row had a loss ({loss}) or a gradient ({grad_norm}) "
            "that is not finite; none was applied. Lower learning_rate, or look for rewards or observations that are "
            "not finite."
        )
