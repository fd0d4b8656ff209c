"""Adapters on disk by themselves, in peft's own layout, beside the small parts that are trained in full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch as th
from safetensors.torch import save_file
from torch import nn

from vla_algos.common.state_dicts import describe_mismatch
from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.models.lora import (
    ADAPTER,
    TRAINED_IN_FULL,
    is_target,
    lora_of,
    put_adapters,
    unmatched_targets,
)
from vla_algos.models.openvla.model import OpenVLA
from vla_algos.models.weights import OWN_FILE, read_tensors
from vla_gym.files import read_json_object, write_then_rename

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"
_HARMLESS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
)
"""Of peft's configuration: what is read here, and what does not change what trained adapters compute."""
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (None, True, False, "gaussian"),
    "peft_type": ("LORA",),
}
"""Of everything else only these values, or none at all, are known to be harmless."""
_PREFIX = "base_model.model."
"""What peft puts before the names of the model it wraps."""
_EMBEDDINGS = (".lm_head.weight", ".embed_tokens.weight")
"""Weights of the base that peft stores too where the head over the vocabulary is a target, and loads again."""
_MERGE = "Merge them into their base with peft, and load the result."


def save_adapters(model: OpenVLA, folder: str | Path, base: str | Path = "") -> None:
    """
    Write the adapters of a model, which ``PeftModel.from_pretrained`` reads too, and what else was trained.

    :param model: with adapters
    :param folder: where to
    :param base: name of the checkpoint that they belong to
    :raises CheckpointError: if the model has no adapters
    """
    lora = lora_of(model)
    if lora is None:
        raise CheckpointError("The model has no adapters to save. Put some in with add_lora, or use save_vla.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    adapters = {_PREFIX + _plain(name): tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    config = {**lora, "peft_type": "LORA", "base_model_name_or_path": str(base), "bias": "none", "inference_mode": True}
    own = {
        _plain(name): tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(TRAINED_IN_FULL) and ".lora_" not in name
    }
    if own:
        _save(own, folder / OWN_FILE)
    _save(adapters, folder / WEIGHTS_FILE)
    with write_then_rename(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_adapters(model: OpenVLA, folder: str | Path) -> OpenVLA:
    """
    Put saved adapters around the model they were trained on: all layers that weights are stored for, the patch
    embedding's convolution and the head over the vocabulary included.

    :param model: without adapters, changed in place; after an error not to be used any more
    :param folder: written by :func:`save_adapters` or peft
    :return: the model
    :raises CheckpointError: if a file is missing or damaged, or the adapters are of another architecture or kind
    :raises MissingPackageError: without peft
    """
    folder = Path(folder)
    stored, own = _read_weights(folder)
    config = _read_config(folder)
    rank = config.rank
    layers = sorted({name.rsplit(".lora_", 1)[0] for name in stored if ".lora_" in name})
    _check_layers(model, folder, config, layers)
    wrong = [
        name for name, tensor in stored.items() if ".lora_" in name and tensor.shape[int(".lora_B." in name)] != rank
    ]
    if wrong:
        raise CheckpointError(
            f"The adapters in {folder} do not fit their {CONFIG_FILE}, which says r={rank}; {wrong[0]} is "
            f"{tuple(stored[wrong[0]].shape)}. Save them again."
        )
    if "value_head.fc1.weight" in own and not model.config.value_head_width:
        model.add_value_head(len(own["value_head.fc1.weight"]))
    put_adapters(model, layers, rank, config.alpha, config.dropout)
    state = model.state_dict()
    full_names = {_plain(name): name for name in state}
    expected = {
        name: state[full] for name, full in full_names.items() if ".lora_" in name or name in own or name in stored
    }
    mismatch = describe_mismatch(expected, {**stored, **own})
    if mismatch:
        raise CheckpointError(f"The adapters in {folder} do not fit the model. {mismatch}")
    model.load_state_dict({full_names[name]: tensor for name, tensor in {**stored, **own}.items()}, strict=False)
    return model


class _AdapterConfig(NamedTuple):
    """What ``adapter_config.json`` says that is read here."""

    rank: int
    alpha: float
    dropout: float
    targets: list[str] | str | None
    excluded: list[str] | str
    base: str


def _read_weights(folder: Path) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
    """Adapters by the model's names, and the small parts that are trained in full."""
    if (folder / PICKLED_FILE).exists() and not (folder / WEIGHTS_FILE).exists():
        raise CheckpointError(
            f"{folder} holds no adapters that can be read: {PICKLED_FILE} is a pickle, which runs code. Save them with "
            "peft's save_pretrained(folder, safe_serialization=True)."
        )
    try:
        stored = {
            _plain(name.removeprefix(_PREFIX)): tensor for name, tensor in read_tensors(folder / WEIGHTS_FILE).items()
        }
        own = read_tensors(folder / OWN_FILE) if (folder / OWN_FILE).exists() else {}
    except CheckpointError as error:
        raise CheckpointError(f"{folder} holds no adapters that can be read: {error}") from error
    strange = [
        name
        for name, tensor in stored.items()
        if not name.endswith((".lora_A.weight", ".lora_B.weight", *_EMBEDDINGS)) or tensor.ndim < 2
    ]
    if strange or not any(".lora_" in name for name in stored):
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} holds {strange[0] if strange else 'no weights'}; expected lora_A.weight and "
            f"lora_B.weight of linear layers and convolutions. {_MERGE}"
        )
    return stored, own


def _read_config(folder: Path) -> _AdapterConfig:
    remedy = "Save them again."
    try:
        config = read_json_object(folder / CONFIG_FILE, CheckpointError)
    except (FileNotFoundError, CheckpointError) as error:
        raise CheckpointError(f"{folder} holds no adapters that can be read ({error}). {remedy}") from error
    for option, value in config.items():
        if option not in _HARMLESS and value not in _DEFAULTS.get(option, (None, False, {}, [], "")):
            raise CheckpointError(
                f"The adapters in {folder} were made with {option}={value!r:.80}, which is not known here and may "
                f"change what they compute. {_MERGE}"
            )
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout", 0.0)
    targets, excluded = config.get("target_modules"), config.get("exclude_modules") or []
    is_known = {
        "r": isinstance(rank, int) and not isinstance(rank, bool) and rank > 0,
        "lora_alpha": _is_number(alpha),
        "lora_dropout": _is_number(dropout) and 0 <= dropout < 1,
        "target_modules": targets is None or _are_names(targets),
        "exclude_modules": _are_names(excluded),
    }
    for option, is_right in is_known.items():
        if not is_right:
            raise CheckpointError(
                f"{folder} holds no adapters that can be read: {CONFIG_FILE} says {option}={config.get(option)!r:.80}. "
                f"Expected r, a whole number above 0, lora_alpha and lora_dropout, numbers, and target_modules, a list "
                f"of names or a text. {remedy}"
            )
    base = str(config.get("base_model_name_or_path") or "unknown")
    return _AdapterConfig(cast(int, rank), cast(float, alpha), cast(float, dropout), targets, excluded, base)


def _check_layers(model: OpenVLA, folder: Path, config: _AdapterConfig, layers: list[str]) -> None:
    """Compare the layers that adapters are stored for with the model's and with what the configuration names."""
    modules = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    # a text may be an expression that takes for ever to match; what it named when it was saved has weights
    targets = config.targets if isinstance(config.targets, list) else []
    strangers = [
        *(("target of LoRA", target) for target in unmatched_targets(list(modules), targets)),
        *(("layer", name) for name in layers if name not in modules),
    ]
    if strangers:
        unknown = UnknownNameError(*strangers[0], sorted({name.rsplit(".", 1)[-1] for name in modules}))
        raise CheckpointError(
            f"The adapters in {folder} are of another model: {unknown} They belong to: {config.base}."
        ) from unknown
    if not targets or isinstance(config.excluded, str):
        return
    named = {name for name in modules if is_target(name, targets) and not is_target(name, config.excluded)}
    # parts of this library's own, which adapters that its own code writes leave out
    missing = sorted(name for name in named - set(layers) if not name.startswith(TRAINED_IN_FULL))
    unnamed = sorted(set(layers) - named)
    if missing or unnamed:
        raise CheckpointError(
            f"The adapters in {folder} do not fit the model. Named in {CONFIG_FILE} without weights: "
            f"{', '.join(missing[:4]) or 'none'}. Weights of layers that are not named there: "
            f"{', '.join(unnamed[:4]) or 'none'}. Save them again."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _are_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _plain(name: str) -> str:
    """peft's name on disk of a weight of an adapted model."""
    return name.replace(f".{ADAPTER}.", ".").replace(".base_layer.", ".")


def _save(state: dict[str, Any], path: Path) -> None:
    with write_then_rename(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)
