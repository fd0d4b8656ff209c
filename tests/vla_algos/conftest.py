import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env

from vla_algos.bc.dataset import DemonstrationSet
from vla_gym.envs.toy_env import INSTRUCTIONS, ToyLiberoEnv

LOW, HIGH = 40, 215
# forks before anything has computed: what computes has threads, which a fork leaves behind
FORKS = """
import os, sys
from vla_algos import CurriculumCallback, SuccessSampler, TokenGRPO, TokenPPO
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        exec(eval(line))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def make_toy_vec_env(n_envs=2, **kwargs):
    return make_vec_env(partial(ToyLiberoEnv, **kwargs), n_envs)


def demonstrate(n_episodes: int, reliability: float = 1.0, seed: int = 0) -> DemonstrationSet:
    """One-step episodes of an expert that gets each of the two bins right with the given probability."""
    env, rng = ToyLiberoEnv(horizon=1), np.random.default_rng(seed)
    images, ids, proprio, bins = [], [], [], []
    for episode in range(n_episodes):
        obs, info = env.reset(seed=seed if episode == 0 else None)
        wanted = np.array([info["task_id"] == 1, info["init_state_id"] < 4])
        first_two = np.where(wanted == (rng.random(2) < reliability), HIGH, LOW)
        images.append(obs["agentview"])
        ids.append(info["task_id"])
        proprio.append(obs["proprio"])
        bins.append([*first_two, *range(20, 25)])
    return DemonstrationSet(
        np.stack(images), INSTRUCTIONS, np.array(ids), np.stack(proprio), np.array(bins), np.arange(n_episodes)
    )


@pytest.fixture
def toy_vec_env():
    """Factory of SB3 vector environments of the toy task."""
    return make_toy_vec_env


@pytest.fixture(scope="session")
def run_in_child() -> Iterator[Callable[[str, Path], int]]:
    """
    Runs code in a process of its own; gives its exit code, the negative number of a signal that ended it.

    Takes the code, and a folder to import from. The processes are forked from one that has imported torch once for all.
    """
    server = subprocess.Popen([sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    paths = [path for path in sys.path if path]

    def run(code: str, folder: Path) -> int:
        print(repr(f"sys.path[:0] = {[str(folder), *paths]!r}\n{code}"), file=server.stdin, flush=True)
        return int(server.stdout.readline())

    yield run
    server.communicate(timeout=60)


@pytest.fixture(scope="session")
def demonstrations():
    """Factory of demonstrations of the toy task."""
    return demonstrate


@pytest.fixture(scope="session")
def golden(golden: Path) -> Path:
    """Folder with reference numbers of the official OpenVLA code."""
    if not (golden / "openvla").is_dir():
        pytest.skip(f"needs OpenVLA's reference data: {golden} holds no folder openvla")
    return golden / "openvla"
