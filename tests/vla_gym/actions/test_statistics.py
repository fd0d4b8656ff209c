from __future__ import annotations

import json

import numpy as np
import pytest

from vla_gym import ActionTokenizer
from vla_gym.actions.statistics import dataset_statistics


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
