from __future__ import annotations

import json

import numpy as np
import pytest

from vla_gym import ActionTokenizer
from vla_gym.actions.statistics import choose_data_set, dataset_statistics, read_quantiles
from vla_gym.errors import ActionStatisticsError, UnknownNameError

ENTRY = {"q01": [-0.5] * 7, "q99": [0.5] * 7, "mask": [True] * 6 + [False]}


def test_against_numpy() -> None:
    rng = np.random.default_rng(0)
    commands = [rng.normal(0, 0.3, (n, 7)).clip(-1, 1) for n in (40, 7, 300)]
    proprio = [rng.normal(size=(n, 8)).astype(np.float32) for n in (40, 7, 300)]
    stats = json.loads(json.dumps(dataset_statistics(commands, proprio)))
    assert stats["num_transitions"] == 347 and stats["num_trajectories"] == 3
    data = np.concatenate(commands)
    # as data sets store it: 1 is open
    data[:, 6] = np.where(data[:, 6] < 0, 1.0, 0.0)
    for name, values in (("action", data), ("proprio", np.concatenate(proprio).astype(np.float64))):
        entry = stats[name]
        np.testing.assert_allclose(entry["mean"], np.mean(values, axis=0))
        np.testing.assert_allclose(entry["std"], np.std(values, axis=0))
        np.testing.assert_array_equal(entry["min"], np.min(values, axis=0))
        np.testing.assert_array_equal(entry["max"], np.max(values, axis=0))
        np.testing.assert_allclose(entry["q01"], np.percentile(values, 1, axis=0))
        np.testing.assert_allclose(entry["q99"], np.percentile(values, 99, axis=0))
    assert stats["action"]["mask"] == [True] * 6 + [False]


def test_bins_by_the_statistics_are_within_half_a_bin_of_the_commands_between_the_quantiles() -> None:
    commands = np.random.default_rng(1).uniform(-0.3, 0.5, (1000, 7))
    commands[:, 3] = 0.0
    tokenizer = ActionTokenizer.from_norm_stats(dataset_statistics([commands]))
    decoded = tokenizer.decode(tokenizer.encode(commands))
    expected = np.clip(commands, tokenizer.q01, tokenizer.q99)
    half_bin = (tokenizer.q99 - tokenizer.q01) / 255 / 2
    assert (np.abs(decoded - expected)[:, :6] <= half_bin[:6] + 1e-9).all()
    # a dimension that never moves stays at rest whatever the bin
    assert (tokenizer.decode(np.full((256, 7), 5))[:, 3] == 0.0).all()
    np.testing.assert_array_equal(decoded[:, 6], np.where(commands[:, 6] < 0, -1.0, 1.0))


def test_data_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="no episodes"):
        dataset_statistics([])
    with pytest.raises(ValueError, match=r"shape \(3, 6\); expected \(T, 7\)"):
        dataset_statistics([np.zeros((3, 6))])


def test_commands_that_are_not_finite_name_episode_step_and_dimension() -> None:
    commands = [np.zeros((3, 7)), np.zeros((3, 7))]
    commands[1][2, 4] = np.nan
    with pytest.raises(ValueError, match=r"Commands of episode 1: nan at step 2 in dimension 4; expected finite"):
        dataset_statistics(commands)
    proprio = [np.zeros((3, 8), dtype=np.float32)] * 2
    proprio[0][0, 1] = np.inf
    with pytest.raises(ValueError, match=r"Proprioception of episode 0: inf at step 0 in dimension 1"):
        dataset_statistics([np.zeros((3, 7))] * 2, proprio)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            {**ENTRY, "q99": [0.5] * 3 + [float("nan")] + [0.5] * 3},
            "q99 of .* is nan in dimension 3; expected a",
        ),
        ({**ENTRY, "q01": [float("-inf")] * 7}, "q01 of .* is -inf in dimension 0"),
        ({**ENTRY, "q01": [-0.5] * 6 + ["-0.5"]}, "q01 of .* is '-0.5' in dimension 6"),
        ({**ENTRY, "q01": [-0.5] * 6 + [True]}, "q01 of .* is True in dimension 6"),
        ({**ENTRY, "q01": [10**400] * 7}, "q01 of .* in dimension 0"),
        ({"q01": [-0.5] * 14, "q99": [0.5] * 14}, "q01 of .* has 14 dimensions; expected 7.*another robot"),
        ({**ENTRY, "q99": []}, "q99 of .* has 0 dimensions"),
        ({**ENTRY, "q99": 0.5}, r"q99 of .* is 0\.5; expected 7 numbers"),
        ({**ENTRY, "q99": "0.5"}, r"q99 of .* is '0\.5'; expected 7 numbers"),
        ({**ENTRY, "q01": [0.0] * 5 + [0.75, 0.0]}, r"q01=0\.75 above q99=0\.5 in dimension 5"),
        ({**ENTRY, "mask": ["false"] * 7}, "mask of .* expected 7 times true or false"),
        ({**ENTRY, "mask": "falsely"}, "mask of .* expected 7 times true or false"),
        ({**ENTRY, "mask": [True] * 14}, "mask of .* expected 7 times true or false"),
        ({"q01": [0.0] * 7}, "lacks q99"),
        ([], "lacks q01 and q99"),
        (None, "lacks q01 and q99"),
    ],
)
def test_damaged_statistics_name_data_set_file_and_dimension(action: object, message: str) -> None:
    with pytest.raises(ActionStatisticsError, match=message) as error:
        read_quantiles({"action": action}, "bridge", "x/config.json")
    assert "of data set 'bridge' in x/config.json" in str(error.value)


def test_the_suites_data_set_is_found_as_openvlas_evaluation_finds_it() -> None:
    stats = {"bridge_orig": {}, "libero_goal_no_noops": {}, "libero_10": {}, "libero_10_no_noops": {}}
    assert choose_data_set(stats, suite="LIBERO-Goal-v0") == "libero_goal_no_noops"
    assert choose_data_set(stats, suite="goal") == "libero_goal_no_noops"
    assert choose_data_set(stats, suite="libero_10") == "libero_10"
    assert choose_data_set(stats, "libero_goal") == "libero_goal_no_noops"
    assert choose_data_set(stats, "bridge_orig", "libero_10") == "bridge_orig"
    assert choose_data_set({"mine": {}}, suite="libero_10") == "mine"
    assert choose_data_set({}, suite="libero_10") is None
    option = r"unnorm_key=\.\.\., or --unnorm-key"
    for key, suite in ((None, "libero_spatial"), (None, None), ("libero_spatial", None), ("bridge", "goal")):
        with pytest.raises(UnknownNameError, match=rf"unnorm_key {key!r}.*bridge_orig.*{option}"):
            choose_data_set(stats, key, suite)
    with pytest.raises(UnknownNameError, match="suite"):
        choose_data_set(stats, suite="LIBERO-Gaol-v0")
