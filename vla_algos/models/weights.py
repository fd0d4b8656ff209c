"""Weights of a checkpoint folder: checked as a whole before any is read, then read one by one to where they go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch as th
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from vla_algos.common.devices import check_memory
from vla_algos.common.state_dicts import describe_mismatch
from vla_algos.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
OWN_FILE = "vla_gym.safetensors"
"""Weights that the original does not have; its code reads what it finds in the index or in ``WEIGHTS_FILE``."""
MAX_SHARD_BYTES = 5 * 10**9
_METADATA = {"format": "pt"}
_DTYPES = {"F64": th.float64, "F32": th.float32, "F16": th.float16, "BF16": th.bfloat16, "I64": th.int64}


def read_weights(model: nn.Module, folder: Path, device: th.device, dtype: th.dtype | None) -> None:
    """
    Fill a model that was built on the meta device; there is never more than one tensor beside it in memory.

    :param model: filled in place
    :param folder: checkpoint
    :param device: where the weights go
    :param dtype: their type; None: as they are stored
    :raises CheckpointError: if a file is missing or damaged, or the names or shapes are not those of the model
    :raises DeviceError: if they do not fit into the memory
    """
    places = _find_weights(folder)
    stored: dict[str, th.Tensor] = {}
    for path in sorted(set(places.values())):
        with _opened(path) as file:
            stored |= {name: _without_data(file, name) for name in file.keys() if places.get(name) == path}
    mismatch = describe_mismatch(model.state_dict(), stored)
    if mismatch:
        raise CheckpointError(f"The weights in {folder} do not fit its config.json. {mismatch}")
    needed = sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in stored.values())
    check_memory(needed, device, f"The model in {folder}")
    for path in sorted(set(places.values())):
        with _opened(path) as file:
            for name in (name for name, place in places.items() if place == path):
                _assign(model, name, file.get_tensor(name).to(device, dtype))


def write_weights(
    weights: Iterable[tuple[str, th.Tensor]],
    folder: Path,
    own_prefixes: tuple[str, ...] = (),
    max_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """
    Write weights as Hugging Face does: one file, or several with an index. No more than a file's worth is held.

    :param weights: names and tensors on the CPU, asked for one by one
    :param folder: where to
    :param own_prefixes: names that go to ``OWN_FILE``
    :param max_bytes: largest file
    """
    own: dict[str, th.Tensor] = {}
    shard: dict[str, th.Tensor] = {}
    shards: list[Path] = []
    weight_map: dict[str, int] = {}
    shard_bytes = total = 0

    def flush() -> None:
        # how many there will be is not known yet
        shards.append(folder / f"model-{len(shards) + 1:05d}.safetensors")
        save_file(shard, shards[-1], metadata=_METADATA)
        shard.clear()

    for name, tensor in weights:
        if own_prefixes and name.startswith(own_prefixes):
            own[name] = tensor
            continue
        n_bytes = tensor.numel() * tensor.itemsize
        if shard and shard_bytes + n_bytes > max_bytes:
            flush()
            shard_bytes = 0
        shard[name] = tensor
        weight_map[name] = len(shards)
        shard_bytes += n_bytes
        total += n_bytes
    flush()
    if own:
        save_file(own, folder / OWN_FILE, metadata=_METADATA)
    if len(shards) == 1:
        shards[0].rename(folder / WEIGHTS_FILE)
        return
    files = [f"{path.stem}-of-{len(shards):05d}.safetensors" for path in shards]
    for path, file in zip(shards, files, strict=True):
        path.rename(folder / file)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: files[number] for name, number in weight_map.items()},
    }
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def _assign(model: nn.Module, name: str, tensor: th.Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    is_parameter = isinstance(getattr(module, leaf), nn.Parameter)
    setattr(module, leaf, nn.Parameter(tensor) if is_parameter else tensor)


def _find_weights(folder: Path) -> dict[str, Path]:
    """File of each weight."""
    index_file = folder / INDEX_FILE
    if index_file.exists():
        try:
            weight_map = json.loads(index_file.read_text())["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{index_file} is damaged ({error!r}). Save or download the checkpoint again."
            ) from error
        places = {name: _inside(folder, file) for name, file in weight_map.items()}
    else:
        with _opened(folder / WEIGHTS_FILE) as file:
            places = dict.fromkeys(file.keys(), folder / WEIGHTS_FILE)
    if (folder / OWN_FILE).exists():
        with _opened(folder / OWN_FILE) as file:
            places |= dict.fromkeys(file.keys(), folder / OWN_FILE)
    return places


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder, whatever an index says."""
    if Path(name).name != name:
        raise CheckpointError(f"{folder / INDEX_FILE} names the file {name!r}, which is not in its folder.")
    return folder / name


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. Save or download the checkpoint again.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Save or download the checkpoint again.") from error


def _without_data(file: Any, name: str) -> th.Tensor:
    """A tensor of the stored shape and type that takes no memory."""
    part = file.get_slice(name)
    if part.get_dtype() not in _DTYPES:
        raise CheckpointError(f"{name} is stored as {part.get_dtype()}; known are {', '.join(_DTYPES)}.")
    return th.empty(part.get_shape(), dtype=_DTYPES[part.get_dtype()], device="meta")
