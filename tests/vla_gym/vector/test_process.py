"""Worker processes that die, hang, are closed or left behind."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.errors import WorkerError
from vla_gym.vector.process import ProcessVectorEnv

ROOT = Path(__file__).resolve().parents[3]
TOY = partial(ToyLiberoEnv, horizon=50, image_size=16)
DIE, SLEEP, HANG = 1, 2, 3
LIVENESS_S = 20.0
"""What must happen soon must have happened within this time; generous, as machines may be busy."""


def fragile(**kwargs: Any) -> Callable[[], ToyLiberoEnv]:
    """Maker of an environment whose third bin kills its process or blocks; sent to workers by value."""

    class FragileEnv(ToyLiberoEnv):
        def step(self, action: Any) -> Any:
            if action[2] == DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            if action[2] == SLEEP:
                time.sleep(1.0)
            while action[2] == HANG:
                time.sleep(1.0)
            return super().step(action)

        def die(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def modules(self) -> list[str]:
            return list(sys.modules)

        def function(self) -> Any:
            return lambda: None

    return partial(FragileEnv, **{"horizon": 50, "image_size": 16, "task_ids": [0], **kwargs})


def miss(n_envs: int = 2, **third: int) -> np.ndarray:
    """Commands to the right, which is wrong for task 0; ``_0=DIE`` sets the third bin of environment 0."""
    actions = np.full((n_envs, 7), 255)
    actions[:, 2] = 0
    for index, value in third.items():
        actions[int(index[1:]), 2] = value
    return actions


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or before it was read
        return False


def assert_gone(pids: tuple[int, ...]) -> None:
    deadline = time.monotonic() + LIVENESS_S
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers are still there"
        time.sleep(0.01)


@contextmanager
def interrupt_after(seconds: float) -> Iterator[None]:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def make() -> Iterator[Callable[..., ProcessVectorEnv]]:
    made = []

    def make(*env_fns: Any, **kwargs: Any) -> ProcessVectorEnv:
        made.append(ProcessVectorEnv(env_fns, **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


def test_a_killed_worker_costs_its_episode_only(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    env = make(fragile(), fragile())
    env.reset(seed=0)
    before, *_ = env.step(miss())
    before = {name: array.copy() for name, array in before.items()}
    pids = env.worker_pids
    with caplog.at_level(logging.WARNING):
        observations, rewards, terminations, truncations, infos = env.step(miss(_1=DIE))
    assert "Worker 1 (process" in caplog.text and "died with exit code -9; it is restarted" in caplog.text
    assert env.worker_pids[0] == pids[0] and env.worker_pids[1] != pids[1]
    assert rewards.tolist() == [0, 0] and not terminations.any() and truncations.tolist() == [False, True]
    final = infos["final_obs"][1]
    for name in before:
        np.testing.assert_array_equal(final[name], before[name][1])
    assert infos["worker_restarted"].tolist() == infos["final_info"]["worker_restarted"].tolist() == [False, True]
    assert infos["final_info"]["executed_steps"][1] == 0 and infos["final_info"]["task_id"][1] == 0
    assert observations["proprio"][:, 0] == pytest.approx([2 / 50, 0])
    observations, *_, truncations, infos = env.step(miss())
    assert observations["proprio"][:, 0] == pytest.approx([3 / 50, 1 / 50])
    assert not truncations.any() and "worker_restarted" not in infos


def test_without_autoreset_a_killed_worker_waits_for_a_reset(make: Any) -> None:
    env = make(fragile(), fragile())
    env.reset(seed=0)
    before, *_ = env.step(miss())
    before = {name: array.copy() for name, array in before.items()}
    observations, rewards, _, truncations, infos = env.step_some([1], miss(_1=DIE)[1:], autoreset=False)
    for name in before:
        np.testing.assert_array_equal(observations[name], before[name])
    assert rewards.tolist() == [0, 0] and truncations.tolist() == [False, True] and infos["worker_restarted"][1]
    assert "final_info" not in infos
    with pytest.raises(gym.error.ResetNeeded):
        env.step(miss())
    _, infos = env.reset()
    assert "worker_restarted" not in infos  # told already
    observations, *_, truncations, infos = env.step(miss())
    assert observations["proprio"][:, 0] == pytest.approx([1 / 50, 1 / 50]) and not truncations.any()


def test_with_next_step_the_fresh_episode_comes_one_step_later(make: Any) -> None:
    env = make(fragile(), fragile(), autoreset_mode="NextStep")
    env.reset(seed=0)
    env.step(miss())
    observations, rewards, _, truncations, infos = env.step(miss(_1=DIE))
    assert observations["proprio"][:, 0] == pytest.approx([2 / 50, 1 / 50])
    assert (rewards[1], truncations.tolist(), infos["worker_restarted"].tolist()) == (0, [False, True], [False, True])
    observations, rewards, _, truncations, infos = env.step(miss())
    assert observations["proprio"][:, 0] == pytest.approx([3 / 50, 0])
    assert (rewards[1], truncations.any()) == (0, False) and "worker_restarted" not in infos
    observations, *_ = env.step(miss())
    assert observations["proprio"][:, 0] == pytest.approx([4 / 50, 1 / 50])


def test_restarts_are_reproducible_and_differ_from_the_first_start(make: Any) -> None:
    def starts(seed: int) -> list[int]:
        env = make(fragile(n_init_states=1000))
        found = [env.reset(seed=seed)[1]["init_state_id"][0]]
        for _ in range(2):
            found.append(env.step(miss(1, _0=DIE))[4]["init_state_id"][0])
            env.step(miss(1))
        return found

    assert starts(0) == starts(0) != starts(1)
    assert len(set(starts(0))) == 3


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_hung_worker_is_replaced(make: Any, is_stopped: bool) -> None:
    env = make(fragile(), fragile(), worker_timeout=1.0)
    env.reset(seed=0)
    pids = env.worker_pids
    if is_stopped:
        os.kill(pids[0], signal.SIGSTOP)
    *_, truncations, infos = env.step(miss() if is_stopped else miss(_0=HANG))
    assert truncations.tolist() == infos["worker_restarted"].tolist() == [True, False]
    assert_gone(pids[:1])
    assert not env.step(miss())[3].any()


def test_a_death_between_steps_is_reported_by_the_next(make: Any) -> None:
    env = make(fragile(), fragile())
    env.reset(seed=0)
    env.step(miss())
    os.kill(env.worker_pids[0], signal.SIGKILL)
    assert env.get_attr("horizon") == (50, 50)
    observations, *_, truncations, infos = env.step(miss())
    assert truncations.tolist() == infos["worker_restarted"].tolist() == [True, False]
    assert infos["final_obs"][0]["proprio"][0] == pytest.approx(1 / 50) and observations["proprio"][0, 0] == 0


def test_two_deaths_between_steps_are_one_loss(make: Any) -> None:
    env = make(fragile())
    env.reset(seed=0, options={"init_state_id": 6})
    env.step(miss(1))
    for _ in range(2):
        os.kill(env.worker_pids[0], signal.SIGKILL)
        env.get_attr("horizon")
    *_, infos = env.step(miss(1))
    assert infos["final_obs"][0]["proprio"][0] == pytest.approx(1 / 50)
    assert infos["final_info"]["init_state_id"].tolist() == [6]
    assert not env.step(miss(1))[3].any()


def test_a_death_before_a_reset_loses_no_episode(make: Any) -> None:
    env, twin = make(fragile()), make(fragile())
    env.reset(seed=0)
    os.kill(env.worker_pids[0], signal.SIGKILL)
    observations, infos = env.reset(seed=3)
    expected, _ = twin.reset(seed=3)
    np.testing.assert_array_equal(observations["agentview"], expected["agentview"])
    assert infos["worker_restarted"].tolist() == [True]
    assert not env.step(miss(1))[3].any()


def test_attributes_survive_a_restart(make: Any) -> None:
    env = make(fragile(), fragile())
    env.set_attr("horizon", [7, 8])
    env.reset(seed=0)
    env.step(miss(_0=DIE, _1=DIE))
    assert env.get_attr("horizon") == (7, 8)


def test_a_worker_that_dies_at_every_start_is_an_error() -> None:
    def dying() -> ToyLiberoEnv:
        os.kill(os.getpid(), signal.SIGKILL)
        return ToyLiberoEnv()

    with pytest.raises(WorkerError, match=r"Worker 1 .* died with exit code -9; that is 3 deaths without an answer"):
        ProcessVectorEnv([TOY, dying])


def test_a_worker_that_dies_at_every_step_is_an_error(make: Any) -> None:
    env = make(fragile())
    env.reset(seed=0)
    with pytest.raises(WorkerError, match="3 deaths"):
        for _ in range(4):
            env.step(miss(1, _0=DIE))
    with pytest.raises(WorkerError, match="3 deaths"):
        make(fragile()).call("die")


def test_an_exception_carries_the_traceback_of_the_worker(make: Any) -> None:
    class OddError(Exception):
        def __init__(self, first: int, second: int) -> None:
            super().__init__(f"{first} and {second}")

    def failing() -> ToyLiberoEnv:
        raise OddError(1, 2)

    with pytest.raises(WorkerError, match="OddError: 1 and 2") as caught:
        make(failing)
    assert "in failing" in str(caught.value.__cause__)
    with pytest.raises(WorkerError, match="cannot be sent"):
        make(fragile()).call("function")


def test_late_answers_to_an_interrupted_step_are_dropped(make: Any) -> None:
    env = make(fragile(), fragile())
    env.reset(seed=0)
    with pytest.raises(KeyboardInterrupt), interrupt_after(0.2):
        env.step(miss(_0=SLEEP))
    observations, *_ = env.step(miss())
    assert observations["proprio"][:, 0] == pytest.approx([2 / 50, 2 / 50])


def test_close_does_not_wait_for_busy_workers(make: Any) -> None:
    env = make(fragile(), fragile())
    env.reset(seed=0)
    pids = env.worker_pids
    with pytest.raises(KeyboardInterrupt), interrupt_after(0.2):
        env.step(miss(_0=HANG))
    start = time.monotonic()
    env.close()
    assert time.monotonic() - start < LIVENESS_S  # it would hang for ever
    assert_gone(pids)


def test_a_forgotten_env_takes_its_workers_along() -> None:
    env = ProcessVectorEnv([TOY, TOY])
    pids = env.worker_pids
    assert all(is_alive(pid) for pid in pids)
    del env
    gc.collect()
    assert_gone(pids)


def test_nothing_is_left_in_shared_memory_or_open(make: Any) -> None:
    def resources() -> tuple[list[str], list[str]]:
        gc.collect()
        open_files = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        return sorted(os.listdir("/dev/shm")), sorted(open_files)

    make(TOY).close()  # starts the server of worker processes, which stays
    before = resources()
    env = make(fragile(), fragile())
    env.reset(seed=0)
    env.step(miss(_0=DIE))
    assert resources() != before
    env.close()
    assert resources() == before


def test_workers_import_no_learning_library(make: Any) -> None:
    env = make(fragile())
    assert "vla_gym.vector.worker" in env.call("modules")[0]
    assert not {"torch", "stable_baselines3", "pytest"} & set(env.call("modules")[0])


def test_workers_see_the_environment_variables_of_now(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class VariableEnv(ToyLiberoEnv):
        def variable(self, name: str) -> str | None:
            return os.environ.get(name)

    for value in ("1", "2"):
        monkeypatch.setenv("VLA_GYM_TEST", value)
        assert make(VariableEnv).call("variable", "VLA_GYM_TEST") == (value,)


SCRIPT = """
import os, signal, threading, time
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector import vector_env_class
print("started", flush=True)
class OwnEnv(ToyLiberoEnv):
    def hang(self):
        time.sleep(1000)
env = vector_env_class("process")([OwnEnv, OwnEnv])
env.reset(seed=0)
print(*env.worker_pids, flush=True)
def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_script(folder: Path, end: str) -> tuple[subprocess.CompletedProcess[str], tuple[int, ...]]:
    """Run a script without a ``__main__`` guard that does not close; the process and the workers that it had."""
    script = folder / "script.py"
    script.write_text(SCRIPT + end)
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=paths)
    first, *pids = result.stdout.split()
    assert first == "started" and len(pids) == 2
    return result, tuple(int(pid) for pid in pids)


@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("raise SystemExit(3)", 3), ("os.kill(env.worker_pids[0], signal.SIGKILL)", 0)]
)
def test_a_script_that_forgets_to_close_ends_cleanly(tmp_path: Path, end: str, code: int) -> None:
    result, pids = run_script(tmp_path, end)
    assert (result.returncode, result.stderr) == (code, "")
    assert_gone(pids)


@pytest.mark.parametrize("end", ["kill_me()", "threading.Timer(0.3, kill_me).start()\nenv.call('hang')"])
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path, end: str) -> None:
    result, pids = run_script(tmp_path, end)
    assert result.returncode == -signal.SIGKILL
    assert_gone(pids)


def server_pid() -> int:
    return int(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]


@pytest.fixture
def server() -> Iterator[int]:
    """The server of worker processes, running; it is replaced afterwards."""
    ProcessVectorEnv([TOY]).close()
    pid = server_pid()
    yield pid
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)


def test_a_stopped_worker_with_a_full_pipe_hangs_neither_a_call_nor_close(make: Any) -> None:
    env = make(fragile(), worker_timeout=1.0)
    env.reset(seed=0)
    pid = env.worker_pids[0]
    os.kill(pid, signal.SIGSTOP)
    with interrupt_after(LIVENESS_S):
        assert len(env.call("is_goal_command", np.zeros(1 << 20))) == 1
    assert_gone((pid,))
    pid = env.worker_pids[0]
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(KeyboardInterrupt), interrupt_after(0.1):
        env.call("is_goal_command", np.zeros(1 << 20))
    with interrupt_after(LIVENESS_S):
        env.close()
    assert_gone((pid,))


def test_hung_workers_are_killed_without_the_server_they_came_from(make: Any, server: int) -> None:
    env = make(fragile(), fragile(), worker_timeout=1.0)
    env.reset(seed=0)
    pids = env.worker_pids
    os.kill(server, signal.SIGKILL)
    assert_gone((server,))
    assert env.get_attr("horizon") == (50, 50)
    with interrupt_after(LIVENESS_S):
        *_, truncations, _ = env.step(miss(_0=HANG))
    assert truncations.tolist() == [True, False]
    assert_gone(pids[:1])
    assert server_pid() != server
    os.kill(env.worker_pids[1], signal.SIGSTOP)
    env.close()
    assert_gone(pids)


def test_a_stopped_server_hangs_no_restart(make: Any, server: int, caplog: pytest.LogCaptureFixture) -> None:
    env = make(fragile(), worker_timeout=1.0)
    env.reset(seed=0)
    os.kill(server, signal.SIGSTOP)
    with interrupt_after(2 * LIVENESS_S), caplog.at_level(logging.WARNING):
        *_, truncations, infos = env.step(miss(1, _0=DIE))
    assert truncations.tolist() == infos["worker_restarted"].tolist() == [True]
    assert f"The server of worker processes (process {server}) is gone" in caplog.text
    assert_gone((server,))


def test_a_stopped_server_hangs_no_close(make: Any, server: int) -> None:
    env = make(fragile())
    pids = env.worker_pids
    os.kill(server, signal.SIGSTOP)
    with interrupt_after(LIVENESS_S):
        env.close()
    assert all(not child.name.startswith("vla-gym-env") for child in multiprocessing.active_children())
    os.kill(server, signal.SIGCONT)
    assert_gone(pids)


def in_fork(work: Callable[[], str], daemon: bool) -> str:
    reader, writer = multiprocessing.Pipe(duplex=False)

    def report() -> None:
        try:
            writer.send(work())
        except Exception as error:
            writer.send(f"{type(error).__name__}: {error}")

    child = multiprocessing.get_context("fork").Process(target=report, daemon=daemon)
    child.start()
    try:
        return reader.recv() if reader.poll(2 * LIVENESS_S) else "hangs"
    finally:
        child.kill()
        child.join()


def use_processes() -> str:
    env = ProcessVectorEnv([TOY])
    env.reset(seed=0)
    env.close()
    return "works"


def test_a_daemonic_process_is_told_to_use_threads(server: int) -> None:
    message = in_fork(use_processes, daemon=True)
    assert message.startswith("WorkerError: Worker processes cannot be started from a daemonic process")
    assert "backend='thread'" in message


def test_a_forked_process_starts_a_server_of_its_own(server: int) -> None:
    assert in_fork(use_processes, daemon=False) == "works"
    assert is_alive(server)
