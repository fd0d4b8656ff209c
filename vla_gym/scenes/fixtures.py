"""Draw new fixture poses as LIBERO's samplers do."""

from __future__ import annotations

import numpy as np

from vla_gym.scenes.bundle import SceneBundle
from vla_gym.type_aliases import Float64Array


def sample_fixture_poses(bundle: SceneBundle, rng: np.random.Generator) -> tuple[Float64Array, Float64Array]:
    """
    Draw positions uniformly in each fixture's region, and yaws uniformly in its range.

    :param bundle: the task
    :param rng: source of randomness
    :return: positions (m), (F, 3), and orientations (wxyz), (F, 4)
    """
    pos, quat = bundle.fixture_pos[0].copy(), bundle.fixture_quat[0].copy()
    for i, name in enumerate(bundle.fixture_names):
        region = bundle.fixture_regions.get(name)
        if region is None:
            continue
        rectangle = int(rng.integers(len(region["x_ranges"])))
        pos[i, 0] = rng.uniform(*region["x_ranges"][rectangle])
        pos[i, 1] = rng.uniform(*region["y_ranges"][rectangle])
        yaw = rng.uniform(*region["yaw_range"])
        quat[i] = (np.cos(yaw / 2.0), 0.0, 0.0, np.sin(yaw / 2.0))
    return pos, quat
