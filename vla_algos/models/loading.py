"""Find, load and save checkpoints: Hugging Face folders with OpenVLA's key names."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch as th

from vla_algos.common.devices import check_device
from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.models.download import download, is_hub_id
from vla_algos.models.lora import TRAINED_IN_FULL, merged_weights
from vla_algos.models.openvla.config import PRESETS, get_preset
from vla_algos.models.openvla.config_checks import check_depth
from vla_algos.models.openvla.info import ModelInfo
from vla_algos.models.openvla.model import OpenVLA
from vla_algos.models.openvla.processor import load_tokenizer
from vla_algos.models.openvla.variants import refuse_other_files, refuse_other_weights
from vla_algos.models.weights import INDEX_FILE, OWN_FILE, WEIGHTS_FILE, StoredWeights, write_weights
from vla_gym.actions.statistics import check_norm_stats
from vla_gym.errors import ActionStatisticsError
from vla_gym.files import check_shared_file, read_json_object

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
STATISTICS_FILE = "dataset_statistics.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
CHANGEABLE = ("image_pipeline",)
"""Fields of a configuration that can change without changing the weights."""
CHECKPOINTS_FOLDER = Path(__file__).parent / "checkpoints"


def shipped_checkpoints() -> dict[str, Path]:
    """Name -> folder of the trained checkpoints that are part of this library."""
    return {path.parent.name: path.parent for path in sorted(CHECKPOINTS_FOLDER.glob(f"*/{CONFIG_FILE}"))}


def load_vla(
    id_or_folder: str | Path,
    *,
    device: th.device | str = "cpu",
    dtype: th.dtype | None = th.float32,
    seed: int | None = None,
    config_changes: dict[str, Any] | None = None,
    revision: str | None = None,
) -> OpenVLA:
    """
    Load a model by name: a preset (fresh weights), a shipped checkpoint, a checkpoint folder, or a Hugging Face Hub id.

    A name whose first part is a folder here is a path, never an id of the Hub, unless ``revision`` is given. Downloads
    are announced with id and revision.

    :param id_or_folder: name of a preset or of one of :func:`shipped_checkpoints`, path of a folder, or
        ``organisation/name``; a ``Path`` is always a folder
    :param device: where the model goes
    :param dtype: type of the parameters; None: as they are stored
    :param seed: makes the fresh weights of a preset reproducible; ignored for a checkpoint
    :param config_changes: fields of a preset's configuration to change, see :func:`get_preset`; of a
        checkpoint's only ``image_pipeline``
    :param revision: branch, tag or commit on the Hub, which pins what is downloaded; None: the main branch
    :return: the model, in evaluation mode, as from transformers' ``from_pretrained``
    :raises UnknownNameError: if it is none of these
    :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture, or is to be changed
    :raises DeviceError: if the device is not there, or has too little memory
    """
    name, device = str(id_or_folder), check_device(device)
    if name in PRESETS:
        _refuse_revision(name, revision)
        return _fresh(name, seed, config_changes or {}).to(device=device, dtype=dtype).eval()
    return _load_folder(_find_folder(id_or_folder, revision), device, dtype, config_changes or {}).eval()


def load_info(id_or_folder: str | Path, revision: str | None = None) -> ModelInfo:
    """
    Read the architecture of a model and what it was trained on, its action statistics included, without its weights.

    :param id_or_folder: as for :func:`load_vla`
    :param revision: as for :func:`load_vla`
    :return: both
    :raises UnknownNameError: if there is no such model
    :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture
    """
    name = str(id_or_folder)
    if name in PRESETS:
        _refuse_revision(name, revision)
        return ModelInfo(get_preset(name))
    return _read_info(_find_folder(id_or_folder, revision))


def save_vla(model: OpenVLA, folder: str | Path, dtype: th.dtype | None = None) -> None:
    """
    Write a checkpoint folder: configuration, weights, tokenizer, action statistics.

    Files are written beside the folder and moved into place when complete, the weights last. LoRA adapters are merged
    into the weights they adapt.

    :param model: the model
    :param folder: where to; other files in an existing folder are kept
    :param dtype: type of the weights in the file; None: as they are
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-{os.getpid()}-", dir=folder.parent))
    try:
        _write_configuration(model, temporary)
        weights = ((name, tensor.to("cpu").contiguous()) for name, tensor in merged_weights(model, dtype))
        write_weights(weights, temporary, TRAINED_IN_FULL if model.record.released else ())
        # mkdtemp makes a folder that nobody else can read, safetensors such files
        temporary.chmod(0o755)
        for path in temporary.iterdir():
            path.chmod(0o644)
        if not folder.exists():
            temporary.rename(folder)
            return
        _replace_files(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_configuration(model: OpenVLA, folder: Path) -> None:
    """All but the weights."""
    record = model.record
    _write_json(folder / CONFIG_FILE, model.info.to_dict())
    _write_json(folder / STATISTICS_FILE, record.norm_stats)
    if record.released is not None and record.released.preprocessor:
        _write_json(folder / PREPROCESSOR_FILE, record.released.preprocessor)
    processor = model.processor
    source = processor.tokenizer_folder
    if source is not None and (source / TOKENIZER_FILE).exists():
        # as they are: what today's transformers writes is not what that of 2024 reads
        for name in TOKENIZER_FILES:
            if (source / name).exists():
                shutil.copyfile(check_shared_file(source / name, CheckpointError), folder / name)
    elif processor.tokenizer is not None:
        processor.tokenizer.save_pretrained(str(folder))


def _replace_files(source: Path, folder: Path) -> None:
    """
    Move files into an existing folder, the weights last, and remove weights of before that are none any more.

    Where several files make up the weights, before or now, what is interrupted lacks the file by which they are found,
    and is not taken for a model.
    """
    names = {path.name for path in source.iterdir()}
    (folder / INDEX_FILE).unlink(missing_ok=True)
    if names & {INDEX_FILE, OWN_FILE}:
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)
    last = (INDEX_FILE, WEIGHTS_FILE)
    for path in sorted(source.iterdir(), key=lambda path: (path.name in last, path.suffix == ".safetensors")):
        os.replace(path, folder / path.name)
    for pattern in (WEIGHTS_FILE, OWN_FILE, "model-*-of-*.safetensors"):
        for path in folder.glob(pattern):
            if path.name not in names:
                path.unlink()


def _fresh(preset: str, seed: int | None, config_changes: dict[str, Any]) -> OpenVLA:
    config = get_preset(preset, **config_changes)
    if not config.builtin_tokenizer:
        raise CheckpointError(
            f"Preset {preset!r} names an architecture whose weights and tokenizer are not part of this library. "
            "Load a checkpoint folder or a Hugging Face id instead, such as 'openvla/openvla-7b'."
        )
    if seed is None:
        return OpenVLA(config)
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        return OpenVLA(config)


def _find_folder(id_or_folder: str | Path, revision: str | None) -> Path:
    """Folder of a checkpoint by path or name; one from the Hub is downloaded."""
    name, shipped = str(id_or_folder), shipped_checkpoints()
    if name in shipped:
        _refuse_revision(name, revision)
        return shipped[name]
    path, exists = _looked_up(name)
    if revision is not None and isinstance(id_or_folder, str) and is_hub_id(name):
        return download(name, revision)
    if exists:
        _refuse_revision(name, revision)
        if not path.is_dir():
            raise CheckpointError(f"{name} is a file; expected the folder of a checkpoint. Give the folder it is in.")
        return path
    first = path.parts[0] if path.parts else name
    if len(path.parts) > 1 and (isinstance(id_or_folder, Path) or path.is_absolute() or Path(first).exists()):
        nearest = next(parent for parent in path.parents if parent.exists())
        there = ", ".join(sorted(entry.name for entry in nearest.iterdir())[:8]) if nearest.is_dir() else ""
        hint = ' If you mean the model of that name on the Hugging Face Hub, add revision="main".'
        raise UnknownNameError(
            "VLA",
            name,
            [*PRESETS, *shipped],
            f"There is no such checkpoint folder: {nearest.absolute()} has only {there or 'nothing'}."
            f"{hint if is_hub_id(name) else ''}",
        )
    if isinstance(id_or_folder, str) and is_hub_id(name):
        return download(name, revision)
    remedy = "Or give an existing checkpoint folder, or a Hugging Face id such as 'organisation/name'."
    raise UnknownNameError("VLA", name, [*PRESETS, *shipped], remedy)


def _looked_up(name: str) -> tuple[Path, bool]:
    """A name as a path, and whether there is anything."""
    try:
        path = Path(name).expanduser()
        # an empty name would be the current folder
        return path, bool(name) and path.exists()
    except (OSError, RuntimeError, ValueError):
        # too long for a path, or the home of nobody
        return Path(name[:100]), False


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise CheckpointError(
            f"revision={revision!r} is for models on the Hugging Face Hub; {name!r} is not one. Leave it out."
        )


def _read_info(folder: Path) -> ModelInfo:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error}). Check its permissions.") from error
    refuse_other_files(folder, names)
    preprocessor = _read_json(folder / PREPROCESSOR_FILE) if PREPROCESSOR_FILE in names else None
    values = _read_json(folder / CONFIG_FILE)
    try:
        info = ModelInfo.from_dict(values, preprocessor)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    norm_stats, file = info.record.norm_stats, folder / CONFIG_FILE
    if STATISTICS_FILE in names:
        file = folder / STATISTICS_FILE
        norm_stats = _read_json(file)
    try:
        check_norm_stats(norm_stats, str(file))
    except ActionStatisticsError as error:
        raise CheckpointError(str(error)) from error
    record = dataclasses.replace(info.record, norm_stats=norm_stats, statistics_file=str(file))
    return dataclasses.replace(info, record=record)


def _load_folder(folder: Path, device: th.device, dtype: th.dtype | None, config_changes: dict[str, Any]) -> OpenVLA:
    if not config_changes.keys() <= set(CHANGEABLE):
        raise CheckpointError(
            f"config_changes={config_changes} is for presets ({', '.join(PRESETS)}); the checkpoint {folder} says "
            f"itself how it is built. Only {', '.join(CHANGEABLE)} may be changed."
        )
    info = _read_info(folder)
    config = dataclasses.replace(info.config, **config_changes)
    # before anything is built: a file of a few bytes can declare any size
    stored = StoredWeights(folder)
    refuse_other_weights(folder, stored.headers)
    check_depth(config, len(stored.headers), folder)
    has_tokenizer = os.path.lexists(folder / TOKENIZER_FILE)
    tokenizer = load_tokenizer(folder, config.llm.rows) if has_tokenizer else None
    with th.device("meta"):
        model = OpenVLA(config, tokenizer, info.record)
    stored.read_into(model, device, dtype)
    return model


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path, CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing. A checkpoint folder holds {CONFIG_FILE}, {WEIGHTS_FILE}, tokenizer files and "
            f"{STATISTICS_FILE}; vla_algos.models.save_vla writes one."
        ) from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
