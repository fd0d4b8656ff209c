from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_gym import ActionTokenizer
from vla_gym.actions.tokenizer import CENTRES, EDGES
from vla_gym.errors import ActionStatisticsError, InvalidActionError, UnknownNameError

HALF_BIN = (EDGES[1] - EDGES[0]) / 2


def test_decode_after_encode_is_within_half_a_bin() -> None:
    tokenizer = ActionTokenizer()
    commands = np.random.default_rng(0).uniform(-1, 1, (500, 7))
    decoded = tokenizer.decode(tokenizer.encode(commands))
    assert np.abs(decoded - commands)[:, :6].max() <= HALF_BIN + 1e-12
    np.testing.assert_array_equal(decoded[:, 6], np.where(commands[:, 6] < 0, -1.0, 1.0))


def test_encode_after_decode_keeps_every_bin_that_has_a_centre_of_its_own() -> None:
    tokenizer = ActionTokenizer()
    bins = np.zeros((256, 7), dtype=np.int64)
    bins[:, :6] = np.arange(256)[:, None]
    again = tokenizer.encode(tokenizer.decode(bins))
    np.testing.assert_array_equal(again[:255, :6], bins[:255, :6])
    np.testing.assert_array_equal(again[255, :6], 254)  # 254 and 255 share a centre


def test_statistics_stretch_masked_dimensions_only() -> None:
    q01, q99 = np.full(7, -0.5), np.full(7, 0.3)
    tokenizer = ActionTokenizer(q01, q99, [True] * 5 + [False] * 2)
    decoded = tokenizer.decode(np.full(7, 200))
    np.testing.assert_allclose(decoded[:5], 0.5 * (CENTRES[200] + 1) * 0.8 - 0.5)
    assert decoded[5] == CENTRES[200]


def test_gripper_follows_openvla_for_libero() -> None:
    tokenizer = ActionTokenizer()
    bins = np.full((256, 7), 127)
    bins[:, 6] = np.arange(256)
    gripper = tokenizer.decode(bins)[:, 6]
    # a data set's gripper value above 0.5 means open, and LIBERO opens at -1
    np.testing.assert_array_equal(gripper, np.where(CENTRES[np.minimum(np.arange(256), 254)] > 0.5, -1.0, 1.0))


def test_bin_127_is_exactly_zero() -> None:
    assert (ActionTokenizer().decode(np.full(7, 127))[:6] == 0.0).all()


def test_norm_stats_round_trip() -> None:
    stats = {"action": {"q01": [-0.1] * 7, "q99": [0.2] * 7, "mask": [True] * 6 + [False]}}
    tokenizer = ActionTokenizer.from_norm_stats(stats)
    np.testing.assert_array_equal(tokenizer.q99, 0.2)
    with pytest.raises(ValueError, match="q01"):
        ActionTokenizer.from_norm_stats({"action": {}})


def norm_stats(**ranges: float) -> dict[str, dict[str, Any]]:
    return {name: {"action": {"q01": [-q] * 7, "q99": [q] * 7}} for name, q in ranges.items()}


def test_a_checkpoint_names_its_data_set_unless_there_is_one() -> None:
    assert (ActionTokenizer.from_checkpoint_stats({}).q99 == 1.0).all()
    assert (ActionTokenizer.from_checkpoint_stats(norm_stats(a=0.2)).q99 == 0.2).all()
    assert (ActionTokenizer.from_checkpoint_stats(norm_stats(a=0.2, b=0.3), "b").q99 == 0.3).all()
    for key, stats in ((None, norm_stats(a=0.2, b=0.3)), ("c", norm_stats(a=0.2)), ("c", {})):
        with pytest.raises(UnknownNameError, match=f"Unknown unnorm_key {key!r}.*Name the data set"):
            ActionTokenizer.from_checkpoint_stats(stats, key)


def test_statistics_of_a_checkpoint_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ActionTokenizer.from_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert (ActionTokenizer.from_checkpoint(tmp_path).q99 == 1.0).all()
    (tmp_path / "config.json").write_text(json.dumps({"norm_stats": norm_stats(a=0.2, b=0.3)}))
    assert (ActionTokenizer.from_checkpoint(tmp_path, "a").q99 == 0.2).all()
    (tmp_path / "dataset_statistics.json").write_text(json.dumps(norm_stats(fine_tuned=0.4)))
    assert (ActionTokenizer.from_checkpoint(tmp_path).q99 == 0.4).all()


def test_damaged_files_of_statistics_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ActionStatisticsError, match=r"config\.json is damaged: it holds a list"):
        ActionTokenizer.from_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"norm_stats": 3}))
    with pytest.raises(ActionStatisticsError, match=r"norm_stats in .*config\.json is 3"):
        ActionTokenizer.from_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    statistics = tmp_path / "dataset_statistics.json"
    statistics.write_text(json.dumps({"goal": {"action": {"q01": [0] * 14, "q99": [1] * 14}}}))
    with pytest.raises(ActionStatisticsError, match=r"data set 'goal' in .*dataset_statistics\.json has 14 dimensions"):
        ActionTokenizer.from_checkpoint(tmp_path)
    statistics.unlink()
    os.mkfifo(statistics)
    with pytest.raises(ActionStatisticsError, match="named pipe"):
        ActionTokenizer.from_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("bins", "message"),
    [
        (np.full(7, 256), r"0\.\.255"),
        (np.full(7, -1), r"0\.\.255"),
        (np.full(6, 0), "shape"),
        (np.full(7, 3.0), "integers"),
        (np.int64(3), "shape"),
    ],
)
def test_bad_bins_are_refused(bins: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidActionError, match=message):
        ActionTokenizer().decode(bins)


def test_bad_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match="q01 has shape"):
        ActionTokenizer(q01=[0.0])
    with pytest.raises(ValueError, match="q01 <= q99"):
        ActionTokenizer(q01=np.ones(7), q99=np.zeros(7))
    with pytest.raises(ValueError, match="7 times True or False"):
        ActionTokenizer(mask=["false"] * 7)  # type: ignore[list-item]


def test_agrees_with_the_original_tables(golden: Path) -> None:
    table = np.load(golden / "openvla" / "action_tokenizer_32000.npz")
    np.testing.assert_array_equal(EDGES, table["bins"])
    np.testing.assert_array_equal(CENTRES, table["bin_centers"])
