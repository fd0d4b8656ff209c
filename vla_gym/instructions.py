"""Instructions as fixed-size arrays, so that they travel in a flat ``Dict`` observation."""

from __future__ import annotations

import numpy as np

from vla_gym.type_aliases import UInt8Array

INSTRUCTION_BYTES = 256


def encode_instruction(text: str) -> UInt8Array:
    """
    Encode an instruction as UTF-8 bytes, zero padded.

    :param text: the instruction; at most 256 bytes in UTF-8, without NUL characters
    :return: (256,) uint8
    :raises ValueError: if the text is too long or contains a NUL character
    """
    raw = text.encode("utf-8")
    if len(raw) > INSTRUCTION_BYTES:
        raise ValueError(
            f"Instruction of {len(raw)} UTF-8 bytes; at most {INSTRUCTION_BYTES} fit. Shorten it: {text!r}"
        )
    if b"\0" in raw:
        raise ValueError(f"Instruction contains a NUL character, which marks the padding: {text!r}")
    array = np.zeros(INSTRUCTION_BYTES, dtype=np.uint8)
    array[: len(raw)] = np.frombuffer(raw, dtype=np.uint8)
    return array


def decode_instruction(array: UInt8Array) -> str:
    """
    Decode an instruction.

    :param array: (256,) uint8 (any integer or float type with whole values is accepted)
    :return: the instruction
    :raises ValueError: if the shape is wrong
    """
    array = np.asarray(array)
    if array.shape != (INSTRUCTION_BYTES,):
        raise ValueError(f"Encoded instruction has shape {array.shape}; expected ({INSTRUCTION_BYTES},).")
    return array.astype(np.uint8).tobytes().rstrip(b"\0").decode("utf-8")
