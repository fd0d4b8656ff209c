"""Environments that keep to their threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector.thread import ThreadVectorEnv

ROOT = Path(__file__).resolve().parents[3]


def test_an_environment_never_leaves_its_thread() -> None:
    seen: list[set[int]] = []

    class PinnedEnv(ToyLiberoEnv):
        def __init__(self) -> None:
            super().__init__(horizon=1)
            self.threads = {threading.get_ident()}
            seen.append(self.threads)

        def reset(self, **kwargs: Any) -> Any:
            self.threads.add(threading.get_ident())
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            self.threads.add(threading.get_ident())
            return super().step(action)

        def render(self) -> Any:
            self.threads.add(threading.get_ident())

        def close(self) -> None:
            self.threads.add(threading.get_ident())
            self.threads.add(-1)

    env = ThreadVectorEnv([PinnedEnv] * 3)
    env.reset(seed=0)
    env.step(np.zeros((3, 7), dtype=int))
    env.render()
    env.close()
    assert all(len(threads) == 2 and -1 in threads for threads in seen)
    assert len(set.union(*seen)) == 4 and threading.get_ident() not in set.union(*seen)


def test_close_does_not_wait_for_a_step_that_hangs() -> None:
    release = threading.Event()

    class HangingEnv(ToyLiberoEnv):
        def hang(self) -> None:
            release.wait()

    env = ThreadVectorEnv([HangingEnv] * 2)
    caller = threading.Thread(target=env.call, args=("hang",), daemon=True)
    caller.start()
    env.close()  # would hang for ever
    assert not release.is_set()
    release.set()
    caller.join(20)
    assert not caller.is_alive()


def test_threads_end_with_the_env() -> None:
    before = set(threading.enumerate())
    env = ThreadVectorEnv([ToyLiberoEnv] * 2)
    threads = {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("vla-gym-env")}
    assert len(threads) == 2
    del env
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


SCRIPT = """
import threading
import vla_gym
from vla_gym.envs.libero_env import LiberoEnv
close = LiberoEnv.close
def spoken_close(self):
    close(self)
    print("closed in", threading.current_thread().name, flush=True)
LiberoEnv.close = spoken_close
keywords = dict(assets="primitive", image_size=32, settle_steps=0, render_quality="fast", task_ids=[8])
env = vla_gym.make_vec("LIBERO-Goal-v0", 2, "thread", **keywords)
env.reset(seed=0)
"""


def test_a_program_that_forgets_to_close_ends_cleanly() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(result.stdout.splitlines()) == ["closed in vla-gym-env-0", "closed in vla-gym-env-1"]
