"""Adapters on disk by themselves, in peft's own layout, beside the small parts that are trained in full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vla_algos.common.state_dicts import describe_mismatch
from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.models.lora import ADAPTER, TRAINED_IN_FULL, adapted_names, add_lora, lora_of
from vla_algos.models.openvla.model import OpenVLA
from vla_algos.models.weights import OWN_FILE
from vla_gym.files import write_then_rename

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
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
    adapters = {_PREFIX + name.replace(f".{ADAPTER}.", "."): tensor for name, tensor in _adapters(model).items()}
    config = {**lora, "peft_type": "LORA", "base_model_name_or_path": str(base), "bias": "none", "inference_mode": True}
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(TRAINED_IN_FULL)}
    if own:
        _save(own, folder / OWN_FILE)
    _save(adapters, folder / WEIGHTS_FILE)
    with write_then_rename(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_adapters(model: OpenVLA, folder: str | Path) -> OpenVLA:
    """
    Put saved adapters around the model they were trained on.

    :param model: without adapters, changed in place; after an error not to be used any more
    :param folder: written by :func:`save_adapters`
    :return: the model
    :raises CheckpointError: if a file is missing or damaged, or the adapters are of another architecture or kind
    :raises MissingPackageError: without peft
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        rank, alpha, targets = config["r"], config["lora_alpha"], config["target_modules"]
        stored = {name.removeprefix(_PREFIX): tensor for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
        own = load_file(folder / OWN_FILE) if (folder / OWN_FILE).exists() else {}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no adapters that can be read ({error!r}). Save them again.") from error
    for option, value in config.items():
        if option not in _HARMLESS and value not in _DEFAULTS.get(option, (None, False, {}, [], "")):
            raise CheckpointError(
                f"The adapters in {folder} were made with {option}={value!r}, which is not known here and may change "
                "what they compute. Merge them into their base with peft, and load the result."
            )
    if targets == "all-linear":
        targets = None
    try:
        adapted_names(model, targets)
    except UnknownNameError as error:
        base = config.get("base_model_name_or_path") or "unknown"
        raise CheckpointError(
            f"The adapters in {folder} are of another model: {error} They belong to: {base}."
        ) from error
    if "value_head.fc1.weight" in own and not model.config.value_head_width:
        model.add_value_head(len(own["value_head.fc1.weight"]))
    add_lora(model, rank=rank, alpha=alpha, dropout=config.get("lora_dropout", 0.0), targets=targets)
    state = model.state_dict()
    names = {name.replace(f".{ADAPTER}.", "."): name for name in state if ".lora_" in name}
    expected = {name: state[full] for name, full in names.items()}
    expected |= {name: tensor for name, tensor in state.items() if name in own}
    mismatch = describe_mismatch(expected, {**stored, **own})
    if mismatch:
        raise CheckpointError(f"The adapters in {folder} do not fit the model. {mismatch}")
    renamed: dict[str, Any] = {names[name]: tensor for name, tensor in stored.items()}
    model.load_state_dict({**renamed, **own}, strict=False)
    return model


def _adapters(model: OpenVLA) -> dict[str, Any]:
    return {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}


def _save(state: dict[str, Any], path: Path) -> None:
    with write_then_rename(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)
