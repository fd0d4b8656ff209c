"""Reading and writing weights, and what can be wrong with them."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch as th
from safetensors.torch import load_file
from torch import nn

from vla_algos.common import devices
from vla_algos.errors import CheckpointError, DeviceError
from vla_algos.models import load_vla, save_vla, weights

CPU = th.device("cpu")


class Net(nn.Module):
    """Three layers of 400 bytes and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(10, 10, bias=False) for _ in range(3))
        self.register_buffer("count", th.zeros(1))


def on_meta() -> Net:
    with th.device("meta"):
        return Net()


@pytest.mark.parametrize(("max_bytes", "n_files"), [(10**9, 1), (900, 2), (400, 4), (1, 4)])
def test_files_are_no_larger_than_asked_for(tmp_path: Path, max_bytes: int, n_files: int) -> None:
    net = Net()
    weights.write_weights(net.state_dict().items(), tmp_path, max_bytes=max_bytes)
    assert len(list(tmp_path.glob("*.safetensors"))) == n_files
    assert (tmp_path / weights.INDEX_FILE).exists() == (n_files > 1)
    read = on_meta()
    weights.read_weights(read, tmp_path, CPU, None)
    assert all(th.equal(tensor, read.state_dict()[name]) for name, tensor in net.state_dict().items())
    if n_files > 1:
        index = json.loads((tmp_path / weights.INDEX_FILE).read_text())
        assert index["metadata"]["total_size"] == 3 * 400 + 4
        assert set(index["weight_map"]) == set(net.state_dict())


def test_no_more_than_a_file_is_held_while_writing(tmp_path: Path) -> None:
    made: list[weakref.ref[th.Tensor]] = []

    def one_by_one() -> Iterator[tuple[str, th.Tensor]]:
        for i in range(6):
            tensor = th.zeros(100)
            made.append(weakref.ref(tensor))
            yield f"{i}", tensor
            del tensor
            # two fill a file, and the last one asked for has not been put away yet
            assert sum(ref() is not None for ref in made) <= 3

    weights.write_weights(one_by_one(), tmp_path, max_bytes=800)
    assert len(made) == 6


def test_types_are_kept_or_changed(tmp_path: Path) -> None:
    weights.write_weights(Net().bfloat16().state_dict().items(), tmp_path)
    for dtype, expected in ((None, th.bfloat16), (th.float32, th.float32)):
        net = on_meta()
        weights.read_weights(net, tmp_path, CPU, dtype)
        assert {p.dtype for p in net.parameters()} == {expected}
        assert all(p.requires_grad for p in net.parameters())


def test_nothing_is_read_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.write_weights(Net().state_dict().items(), tmp_path)
    monkeypatch.setattr(devices, "available_memory", lambda device: 700)
    with pytest.raises(DeviceError, match=r"needs 0\.0 GiB on cpu.*dtype=torch\.bfloat16"):
        weights.read_weights(on_meta(), tmp_path, CPU, None)
    # in half the size it does
    weights.read_weights(on_meta(), tmp_path, CPU, th.bfloat16)


def test_an_index_cannot_point_elsewhere(tmp_path: Path) -> None:
    index = {"weight_map": {"count": "../../secret.safetensors"}}
    (tmp_path / weights.INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"secret\.safetensors', which is not in its folder"):
        weights.read_weights(on_meta(), tmp_path, CPU, None)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / weights.INDEX_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{weights.INDEX_FILE} is damaged"):
        weights.read_weights(on_meta(), tmp_path, CPU, None)


def test_an_index_that_promises_too_much_is_found_out(tmp_path: Path) -> None:
    weights.write_weights(Net().state_dict().items(), tmp_path, max_bytes=1)
    path = tmp_path / weights.INDEX_FILE
    index = json.loads(path.read_text())
    index["weight_map"]["layers.0.weight"] = index["weight_map"]["layers.1.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"Missing: layers\.0\.weight\."):
        weights.read_weights(on_meta(), tmp_path, CPU, None)


def test_shards_of_before_do_not_linger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_vla("nano", seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(weights.write_weights, "__defaults__", ((), 200_000))
        save_vla(model, tmp_path / "model")
        assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 2
        load_vla(tmp_path / "model")
    save_vla(load_vla("nano", seed=1), tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").glob("*.safetensors*")] == ["model.safetensors"]
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert th.equal(stored["projector.fc1.weight"], load_vla("nano", seed=1).projector.fc1.weight)


def test_a_device_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"cuda was asked for; this machine has no CUDA device.*device='cpu'"):
        load_vla("nano", device="cuda")
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    monkeypatch.setattr(th.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match=r"cuda:2 was asked for; this machine has 2 CUDA device"):
        load_vla(tmp_path, device="cuda:2")


def test_a_limit_on_the_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    monkeypatch.setattr(devices, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable: 50 kB\n")
    assert devices.available_memory(CPU) == 50 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert devices.available_memory(CPU) == 50 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert devices.available_memory(CPU) == 2000


def test_memory_is_known_where_the_system_tells() -> None:
    available = devices.available_memory(CPU)
    assert available is None or 10**6 < available < 10**14
