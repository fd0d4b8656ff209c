from __future__ import annotations

import numpy as np
import pytest

from vla_gym import decode_instruction, encode_instruction


@pytest.mark.parametrize(
    "text", ["", "put the bowl on the plate", "stelle die Schüssel auf den Teller", "把碗放在盘子上"]
)
def test_round_trip(text: str) -> None:
    array = encode_instruction(text)
    assert array.shape == (256,) and array.dtype == np.uint8
    assert decode_instruction(array) == text
    assert decode_instruction(array.astype(np.float32)) == text


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 256"):
        encode_instruction("x" * 257)
    with pytest.raises(ValueError, match="NUL"):
        encode_instruction("a\0b")
    with pytest.raises(ValueError, match=r"expected \(256,\)"):
        decode_instruction(np.zeros(255, np.uint8))
