"""Checkpoints that look like OpenVLA and compute something else, recognised by entries, files and weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vla_algos.errors import CheckpointError
from vla_gym.files import check_shared_file

MODEL_TYPE = "openvla"
MODELLING_FILE = "modeling_prismatic.py"
_OFT_KEY = re.compile(
    r"proprio|film|diffusion|l1_regression|action_head|actions?_chunk|chunk_len|num_images|wrist|^action_dim$"
)
"""Entries of ``config.json`` that OpenVLA-OFT and the systems built on it add; OpenVLA has none of them."""
_OFT_PARTS = ("action_head", "proprio_projector", "noisy_action_projector", "vision_backbone--", "film")
_OFT_FILE = re.compile(rf"({'|'.join(_OFT_PARTS)}).*\.(pt|pth|bin|ckpt|safetensors)", re.IGNORECASE)
_OFT_MARK = b"NUM_ACTIONS_CHUNK"
"""Stands in OpenVLA-OFT's modelling file and not in OpenVLA's."""
_MAX_CODE_BYTES = 4 * 2**20
_ADAPTER_CONFIG = "adapter_config.json"


def refuse_other_config(values: Mapping[str, Any]) -> None:
    """
    Refuse a ``config.json`` in OpenVLA's layout that says it is OpenVLA-OFT's.

    :param values: its content
    :raises CheckpointError: naming the entries
    """
    found = [f"{key}={value!r:.40}" for key, value in values.items() if _OFT_KEY.search(key)]
    if found:
        raise _oft("config.json", f"says {', '.join(found)}")


def refuse_other_kind(values: Mapping[str, Any]) -> None:
    """
    Refuse a ``config.json`` of another kind of model by its name.

    :param values: its content
    :raises CheckpointError: naming the kind that was found
    """
    kind = values.get("model_type")
    if kind is None and not {"input_features", "output_features"}.isdisjoint(values):
        raise CheckpointError(
            f"config.json is that of a LeRobot policy (type={values.get('type')!r}); expected one of an OpenVLA. "
            "LeRobot loads it; here give a checkpoint such as 'openvla/openvla-7b'."
        )
    if kind is not None and kind != MODEL_TYPE:
        raise CheckpointError(
            f"config.json says model_type={kind!r}; expected {MODEL_TYPE!r}. Give a checkpoint fine-tuned for actions, "
            "such as 'openvla/openvla-7b'."
        )


def refuse_other_files(where: str | Path, names: Iterable[str]) -> None:
    """
    Refuse a checkpoint by the names of its files.

    :param where: its folder, or its id on the Hub
    :param names: of all of its files; those of a folder on this machine are looked into where that tells more
    :raises CheckpointError: if it is OpenVLA-OFT's, or holds adapters alone
    """
    names = list(names)
    parts = sorted(name for name in names if _OFT_FILE.fullmatch(name.rsplit("/", 1)[-1]))
    if parts:
        raise _oft(where, f"has {', '.join(parts)}")
    if isinstance(where, Path) and MODELLING_FILE in names and _has_mark(where / MODELLING_FILE):
        raise _oft(where, f"comes with OpenVLA-OFT's {MODELLING_FILE}")
    if _ADAPTER_CONFIG in names and "config.json" not in names:
        raise CheckpointError(
            f"{where} holds adapters, not a model. Load the model they belong to, then load_adapters(model, folder)."
        )


def refuse_other_weights(where: str | Path, names: Iterable[str]) -> None:
    """
    Refuse a checkpoint by the names of its weights.

    :param where: its folder
    :param names: of all of its weights
    :raises CheckpointError: if they hold parts of OpenVLA-OFT
    """
    parts = sorted(name for name in names if name.startswith(_OFT_PARTS[:3]))
    if parts:
        raise _oft(where, f"has the weights {', '.join(parts[:4])}")


def refuse_other_language_model(text: Mapping[str, Any]) -> None:
    """
    Refuse a ``text_config`` that is not that of a Llama as OpenVLA has it.

    :param text: the entry of ``config.json``; what it does not say is taken to be Llama's default
    :raises CheckpointError: naming the entry
    """
    kind = text.get("model_type", "llama")
    if kind != "llama":
        raise CheckpointError(
            f"config.json says that the language model (text_config) has model_type={kind!r}; only 'llama' is read."
        )
    rope = text.get("rope_parameters") or {}
    differing = {
        **{key: text[key] for key, usual in _LLAMA.items() if text.get(key, usual) not in (usual, None)},
        **({"rope_parameters": rope} if not _is_plain_rope(rope) else {}),
    }
    heads, hidden, width = text.get("num_attention_heads"), text.get("hidden_size"), text.get("head_dim")
    if width is not None and isinstance(heads, int) and isinstance(hidden, int) and width * heads != hidden:
        differing["head_dim"] = width
    if differing:
        raise CheckpointError(
            f"config.json says of the language model (text_config) {differing}, which is not read and changes what it "
            "computes."
        )


_LLAMA: dict[str, Any] = {
    "hidden_act": "silu",
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}
"""Entries of ``text_config`` that change what a Llama computes, and the values that OpenVLA has."""


def _is_plain_rope(rope: Any) -> bool:
    return isinstance(rope, dict) and rope.get("rope_type", "default") == "default" and "factor" not in rope


def _has_mark(path: Path) -> bool:
    with check_shared_file(path, CheckpointError).open("rb") as file:
        return _OFT_MARK in file.read(_MAX_CODE_BYTES)


def _oft(where: str | Path, sign: str) -> CheckpointError:
    return CheckpointError(
        f"{where} {sign}: this is OpenVLA-OFT (parallel decoding, action chunks), which is not read yet; as plain "
        "OpenVLA it would act wrongly. Give one of OpenVLA, such as 'openvla/openvla-7b-finetuned-libero-goal'."
    )
