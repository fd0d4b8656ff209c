import numpy as np
import pytest

from vla_algos.bc.dataset import DemonstrationSet
from vla_gym.datasets.episode import Episode


def random_episodes(n, lengths=None, instructions=("a",), image_size=4):
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        length = lengths[i] if lengths else int(rng.integers(2, 7))
        commands = 0.5 * rng.uniform(-1, 1, (length, 7))
        commands[:, 6] = np.where(commands[:, 6] < 0, -1.0, 1.0)
        shape = (length, image_size, image_size, 3)
        made.append(
            Episode(
                images=rng.integers(0, 256, shape, dtype=np.uint8),
                wrist_images=rng.integers(0, 256, shape, dtype=np.uint8),
                proprio=rng.normal(size=(length, 8)).astype(np.float32),
                commands=commands,
                instruction=instructions[i % len(instructions)],
                task_id=0,
                init_state_id=i,
                success=True,
            )
        )
    return made


@pytest.fixture
def episodes():
    """Factory of episodes of noise."""
    return random_episodes


@pytest.fixture
def chunked():
    """Factory of demonstrations with two commands per decision, some of them filled up."""
    return lambda n: DemonstrationSet.from_episodes(random_episodes(n), chunk_size=2, image_size=16)
