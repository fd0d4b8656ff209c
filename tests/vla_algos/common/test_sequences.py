from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vla_algos.bc import BC
from vla_algos.common.sequences import as_list
from vla_algos.errors import UnknownNameError
from vla_algos.evaluation import evaluate_policy_on_suite
from vla_algos.policies.critics import PrivilegedCritic
from vla_gym.envs.toy_env import ToyLiberoEnv


def test_lists_of_any_kind_are_read() -> None:
    assert as_list("task_ids", (1, 2), "[1]") == as_list("task_ids", iter([1, 2]), "[1]") == [1, 2]


@pytest.mark.parametrize("values", ["12", b"12", 1, None])
def test_a_text_is_not_a_list(values: Any) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown task_ids .*a list such as \[1\]"):
        as_list("task_ids", values, "[1]")


@pytest.mark.parametrize(
    "call",
    [
        lambda: evaluate_policy_on_suite(None, task_ids="12"),
        lambda: evaluate_policy_on_suite(None, task_ids=1),
        lambda: PrivilegedCritic(4, net_arch="64"),
        lambda: BC("VLAPolicy", ToyLiberoEnv(), smoothed_dims="012", policy_kwargs={"vla": "nano"}),
    ],
)
def test_no_argument_is_read_letter_by_letter(call: Callable[[], Any]) -> None:
    with pytest.raises(UnknownNameError, match="a list such as"):
        call()
