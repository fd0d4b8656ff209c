"""Weights of a checkpoint folder: checked as a whole before any is read, then read one by one to where they go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
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
from vla_gym.files import check_shared_file, read_json_object

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
OWN_FILE = "vla_gym.safetensors"
"""Weights that the original does not have; its code reads what it finds in the index or in ``WEIGHTS_FILE``."""
MAX_SHARD_BYTES = 5 * 10**9
_METADATA = {"format": "pt"}
_DTYPES = {"F64": th.float64, "F32": th.float32, "F16": th.float16, "BF16": th.bfloat16}


class StoredWeights:
    """
    Weights of a checkpoint folder, of which only the headers are read at first.

    :param folder: checkpoint
    :raises CheckpointError: if a file is missing or damaged, or a weight is of another type than float
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places = _find_weights(folder)
        self.headers: dict[str, th.Tensor] = {}
        """Name -> tensor of the stored shape and type that takes no memory."""
        for path in self._files():
            with _opened(path) as file:
                for name in file.keys():
                    if self._places.get(name) == path:
                        self.headers[name] = _without_data(file, name, path)

    def read_into(self, model: nn.Module, device: th.device, dtype: th.dtype | None) -> None:
        """
        Fill a model that was built on the meta device; there is never more than one tensor beside it in memory.

        :param model: filled in place
        :param device: where the weights go
        :param dtype: their type; None: as they are stored
        :raises CheckpointError: if the names or shapes are not those of the model, or a value is not finite
        :raises DeviceError: if they do not fit into the memory
        """
        mismatch = describe_mismatch(model.state_dict(), self.headers)
        if mismatch:
            raise CheckpointError(f"The weights in {self.folder} do not fit its config.json. {mismatch}")
        needed = sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in self.headers.values())
        check_memory(needed, device, f"The model in {self.folder}")
        for path in self._files():
            with _opened(path) as file:
                for name in (name for name, place in self._places.items() if place == path):
                    stored = file.get_tensor(name)
                    tensor = stored.to(device, dtype)
                    _check_finite(tensor, stored, name, path)
                    _assign(model, name, tensor)

    def _files(self) -> list[Path]:
        return sorted(set(self._places.values()))


def read_weights(model: nn.Module, folder: Path, device: th.device, dtype: th.dtype | None) -> None:
    """
    Fill a model from a folder, see :meth:`StoredWeights.read_into`.

    :param model: built on the meta device, filled in place
    :param folder: checkpoint
    :param device: where the weights go
    :param dtype: their type; None: as they are stored
    :raises CheckpointError: if a file is missing or damaged, the names or shapes are not those of the model, or a
        weight is no float or not finite
    :raises DeviceError: if they do not fit into the memory
    """
    StoredWeights(folder).read_into(model, device, dtype)


def read_tensors(path: Path) -> dict[str, th.Tensor]:
    """
    Read all tensors of one file.

    :param path: safetensors file
    :return: name -> tensor on the CPU
    :raises CheckpointError: if the file is missing or damaged, or a weight is no float or not finite
    """
    tensors: dict[str, th.Tensor] = {}
    with _opened(path) as file:
        for name in file.keys():
            _without_data(file, name, path)
            tensors[name] = file.get_tensor(name)
            _check_finite(tensors[name], tensors[name], name, path)
    return tensors


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


def _check_finite(tensor: th.Tensor, stored: th.Tensor, name: str, path: Path) -> None:
    """Refuse values that are not finite, or no longer once converted."""
    if tensor.numel() == 0:
        return
    # one pass without a copy; both are NaN if a single value is
    low, high = th.aminmax(tensor)
    if not (low.isfinite() and high.isfinite()):
        wrong = int((~stored.isfinite()).sum())
        if wrong:
            raise CheckpointError(
                f"{name} in {path} holds NaN or infinity in {wrong} of {stored.numel()} values: the training that "
                "saved it had diverged. Take an earlier checkpoint."
            )
        raise CheckpointError(
            f"{name} in {path} holds values that are infinite in {tensor.dtype}. Load it with dtype=torch.float32 or "
            "torch.bfloat16."
        )


def _find_weights(folder: Path) -> dict[str, Path]:
    """File of each weight."""
    index_file = folder / INDEX_FILE
    if index_file.exists() or index_file.is_symlink():
        places = {name: _inside(folder, file) for name, file in _weight_map(index_file).items()}
    else:
        with _opened(folder / WEIGHTS_FILE) as file:
            places = dict.fromkeys(file.keys(), folder / WEIGHTS_FILE)
    if (folder / OWN_FILE).exists():
        with _opened(folder / OWN_FILE) as file:
            places |= dict.fromkeys(file.keys(), folder / OWN_FILE)
    return places


def _weight_map(index_file: Path) -> Mapping[str, str]:
    try:
        weight_map = read_json_object(index_file, CheckpointError).get("weight_map")
    except FileNotFoundError as error:
        raise CheckpointError(f"{index_file} is missing. Save or download the checkpoint again.") from error
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        found = "none" if weight_map is None else f"{weight_map!r:.80}"
        raise CheckpointError(
            f"{index_file} is damaged: its weight_map is {found}; expected the file name of each weight. Save or "
            "download the checkpoint again."
        )
    return weight_map


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder, whatever an index says."""
    if Path(name).name != name or "\0" in name:
        raise CheckpointError(f"{folder / INDEX_FILE} names the file {name!r}, which is not in its folder.")
    return folder / name


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(check_shared_file(path, CheckpointError), framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. Save or download the checkpoint again.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Save or download the checkpoint again.") from error


def _without_data(file: Any, name: str, path: Path) -> th.Tensor:
    """A tensor of the stored shape and type that takes no memory."""
    part = file.get_slice(name)
    if part.get_dtype() not in _DTYPES:
        raise CheckpointError(
            f"{name} in {path} is stored as {part.get_dtype()}; expected one of {', '.join(_DTYPES)}. Quantised "
            "checkpoints are not read: take the original weights."
        )
    return th.empty(part.get_shape(), dtype=_DTYPES[part.get_dtype()], device="meta")
