"""The proprioception token and the value head, by hand."""

from __future__ import annotations

import math

import pytest
import torch as th

from vla_algos.models.openvla.config import get_preset
from vla_algos.models.openvla.heads import ProprioEncoder, ValueHead


def test_fourier_features_by_hand():
    changes = {"proprio_mean": [1.0, 0.0], "proprio_std": [0.5, 2.0], "proprio_frequencies": 3}
    config = get_preset("nano", proprio_dim=2, **changes)
    encoder = ProprioEncoder(config)
    seen = []
    encoder.fc1.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    assert encoder(th.tensor([[2.0, 1.0], [1.0, 1e6]])).shape == (2, 1, 64)
    angles = [z * math.pi / 4 * f for z in (2.0, 0.5) for f in (1, 2, 4)]
    expected = [2.0, 0.5, *map(math.sin, angles), *map(math.cos, angles)]
    assert seen[0][0].tolist() == pytest.approx(expected, abs=1e-5)
    assert seen[0][1, :2].tolist() == [0.0, 8.0]


def test_proprioception_is_normalised_in_full_precision():
    encoder = ProprioEncoder(get_preset("nano")).bfloat16()
    seen = []
    encoder.fc1.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    # 1 mm of height at 1 m is lost in bfloat16, but not once the mean is gone
    for height in (0.900, 0.901):
        encoder(th.tensor([[0, 0, height, 3, 0, 0, 0, 0]]))
    assert (seen[0] != seen[1]).any()


def test_value_is_float32():
    assert ValueHead(8, 4).bfloat16()(th.zeros(3, 8, dtype=th.bfloat16)).dtype == th.float32
