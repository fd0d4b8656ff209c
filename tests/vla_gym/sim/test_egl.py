from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest

from vla_gym.sim import egl, opengl
from vla_gym.sim.opengl import share_out_rendering


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with the given devices: a CUDA number each, None for the software renderer."""

    def pretend(*cuda_numbers: int | None) -> None:
        # device handles count from 1, as 0 is no address
        def function(get: Any, name: str, *types: Any) -> Any:
            if name == "eglQueryDeviceStringEXT":
                return lambda device, _: (
                    b"EGL_A" + (b" " + egl._SOFTWARE if cuda_numbers[device.value - 1] is None else b"")
                )

            def attribute(device: Any, _: int, result: Any) -> bool:
                number = cuda_numbers[device.value - 1]
                result._obj.value = -1 if number is None else number
                return number is not None

            return attribute

        devices = [ctypes.c_void_p(i + 1) for i in range(len(cuda_numbers))]
        monkeypatch.setattr(egl, "_query_devices", lambda: (None, devices))
        monkeypatch.setattr(egl, "_function", function)
        monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return pretend


def chosen(index: int, monkeypatch: pytest.MonkeyPatch) -> str | None:
    with monkeypatch.context() as context:
        context.setattr(os, "environ", dict(os.environ))
        egl.choose_egl_device(index)
        return os.environ.get("MUJOCO_EGL_DEVICE_ID")


def test_environments_take_turns_on_the_devices(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(0, 1, 2, None)
    assert egl.egl_device_count() == 4 and egl.egl_device_ids() == [0, 1, 2]
    assert [chosen(i, monkeypatch) for i in range(5)] == ["0", "1", "2", "0", "1"]


def test_a_single_device_is_left_to_mujoco_and_software_is_avoided(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for devices, expected in (((), None), ((None,), None), ((0,), None), ((None, 0), "1"), ((None, None), "1")):
        machine(*devices)
        assert chosen(1, monkeypatch) == expected


def test_the_users_choice_counts(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(3, 2, 1, 0, None)
    for visible, expected in (
        ("0,2", [1, 3]),
        ("3", [0]),
        ("7", [0, 1, 2, 3]),
        ("GPU-5a1e", [0, 1, 2, 3]),
        ("", [0, 1, 2, 3]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert egl.egl_device_ids() == expected
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "2")
    assert chosen(0, monkeypatch) == "2"


def test_no_egl_means_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert egl.egl_device_count() == 0 and egl.egl_device_ids() == []
    egl.choose_egl_device(0)


def test_the_real_machine_agrees_with_mujoco() -> None:
    program = (
        "from vla_gym.sim.egl import egl_device_count\n"
        "count = egl_device_count()\n"
        "from mujoco.egl import egl_ext\n"
        "assert count == len(egl_ext.eglQueryDevicesEXT())"
    )
    if egl.egl_device_count() == 0:
        pytest.skip("needs EGL: apt-get install libegl1 libgl1-mesa-dri")
    variables = {**os.environ, "PYOPENGL_PLATFORM": "egl"}
    subprocess.run([sys.executable, "-c", program], check=True, env=variables)


@pytest.mark.parametrize(("cores", "n_envs", "threads"), [(2, 2, "0"), (2, 1, "2"), (16, 4, "4"), (4, 9, "0")])
def test_rendering_threads_are_shared_out(
    cores: int, n_envs: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opengl, "available_cpus", lambda: cores)
    monkeypatch.setattr(opengl, "choose_egl_device", lambda index: None)
    monkeypatch.delenv("LP_NUM_THREADS", raising=False)
    share_out_rendering(0, n_envs)
    assert os.environ.pop("LP_NUM_THREADS") == threads
    monkeypatch.setenv("LP_NUM_THREADS", "7")
    share_out_rendering(0, n_envs)
    assert os.environ["LP_NUM_THREADS"] == "7"
