"""Whether to compute in bfloat16 is settled by what the device has, not by assumption."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest
import torch as th

from vla_algos.common import devices
from vla_algos.common.devices import computes_in_bf16, has_native_bf16
from vla_algos.errors import UnknownNameError

CPU = th.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_settled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    computes_in_bf16.cache_clear()
    yield
    computes_in_bf16.cache_clear()


def processor_with(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(devices, "processor_flags", lambda: frozenset(flags))


@pytest.mark.parametrize(
    ("flags", "is_native"),
    [
        (("sse4_2", "avx2"), False),
        (("avx2", "avx512f", "avx512_vnni"), False),
        (("avx2", "avx512f", "avx512_bf16"), True),
        (("avx2", "amx_tile", "amx_bf16"), True),
        (("asimd", "bf16"), True),
        (("asimd", "sve"), False),
        ((), False),
    ],
)
def test_processors_have_bfloat16_where_their_flags_say_so(
    flags: tuple[str, ...], is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor_with(monkeypatch, *flags)
    assert has_native_bf16("cpu") is is_native
    assert computes_in_bf16("auto", CPU) is is_native


@pytest.mark.parametrize("limit", ["AVX2", "avx512_core", "AVX2_VNNI_2", "SSE41"])
def test_a_limit_on_instruction_sets_takes_bfloat16_away(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processor_with(monkeypatch, "avx512_bf16", "amx_bf16")
    assert has_native_bf16("cpu")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert not has_native_bf16("cpu")


@pytest.mark.parametrize("limit", ["avx512_core_bf16", "AVX512_CORE_AMX", "DEFAULT", "ALL"])
def test_a_limit_above_bfloat16_leaves_it(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processor_with(monkeypatch, "avx512_bf16", "amx_bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert has_native_bf16("cpu")


@pytest.mark.parametrize("is_native", [True, False])
def test_cuda_is_asked_without_emulation(is_native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or is_native

    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    monkeypatch.setattr(th.cuda, "is_bf16_supported", is_bf16_supported)
    assert has_native_bf16("cuda:1") is is_native


def test_the_choice_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    processor_with(monkeypatch, "avx2")
    with caplog.at_level(logging.INFO, logger=devices.__name__):
        assert [computes_in_bf16("auto", CPU) for _ in range(3)] == [False] * 3
    assert len(caplog.messages) == 1 and "use_bf16='auto': computing in float32" in caplog.messages[0]


def test_true_is_obeyed_with_a_warning_of_the_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    processor_with(monkeypatch, "avx2")
    with pytest.warns(UserWarning, match=r"no bfloat16 arithmetic: a matrix product takes \d+ times as long.*'auto'"):
        assert computes_in_bf16(True, CPU)


def test_true_is_silent_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    processor_with(monkeypatch, "amx_bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert computes_in_bf16(True, CPU)
        assert not computes_in_bf16(False, CPU)


def test_other_values_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown use_bf16 'yes'.*True, False, .?auto"):
        computes_in_bf16("yes", CPU)  # type: ignore[arg-type]
