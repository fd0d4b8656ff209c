from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_gym.errors import InitStatesError
from vla_gym.scenes import init_states
from vla_gym.scenes.init_states import read_init_states
from vla_gym.scenes.libero_files import task_files
from vla_gym.tasks.registry import get_suite


def archive(path: Path, payload: object) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(payload, protocol=2))
    return path


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch should_not_exist",)


def test_reads_what_libero_ships() -> None:
    states = read_init_states(task_files(get_suite("goal").task(0))[1])
    assert states.shape == (50, 79) and states.dtype == np.float64
    assert len(np.unique(states, axis=0)) == 50


def test_round_trip(tmp_path: Path) -> None:
    expected = np.random.default_rng(0).normal(size=(3, 5))
    np.testing.assert_array_equal(read_init_states(archive(tmp_path / "a", expected)), expected)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InitStatesError, match="refused to load"):
        read_init_states(archive(tmp_path / "evil", Malicious()))
    assert not (tmp_path / "should_not_exist").exists()


def test_damaged_or_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not an archive")
    with pytest.raises(InitStatesError, match="text"):
        read_init_states(tmp_path / "text")
    with pytest.raises(InitStatesError, match="missing"):
        read_init_states(tmp_path / "missing")
    with pytest.raises(InitStatesError, match="two-dimensional"):
        read_init_states(archive(tmp_path / "flat", np.zeros(3)))
    with pytest.raises(InitStatesError, match="not finite"):
        read_init_states(archive(tmp_path / "nan", np.full((2, 2), np.nan)))
    whole = archive(tmp_path / "whole", np.zeros((50, 79))).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InitStatesError, match="cut"):
        read_init_states(tmp_path / "cut")


def test_a_zip_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init_states, "MAX_BYTES", 100_000)
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(1_000_000))
    with pytest.raises(InitStatesError, match="unpacks to more than 100000 bytes"):
        read_init_states(tmp_path / "bomb")
    (tmp_path / "large").write_bytes(bytes(100_001))
    with pytest.raises(InitStatesError, match="large has 100,001 bytes, expected at most 100,000"):
        read_init_states(tmp_path / "large")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused_at_once(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "states")
    with pytest.raises(InitStatesError, match="states is not a regular file"):
        read_init_states(tmp_path / "states")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(compression: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "states", "w", compression) as file:
        file.writestr("archive/data.pkl", pickle.dumps(np.zeros((2, 3)), protocol=2))
    with pytest.raises(InitStatesError, match=rf"compression {compression}; expected stored or deflated"):
        read_init_states(tmp_path / "states")


def test_an_archive_with_two_pickles_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(archive(tmp_path / "states", np.zeros((2, 3))), "a") as file:
        file.writestr("other/data.pkl", b"")
    with pytest.raises(InitStatesError, match=r"2 members named data\.pkl; expected one"):
        read_init_states(tmp_path / "states")


HUGE = 10**12
DECLARATIONS = {
    "an array that is never filled": b"cnumpy\nndarray\n((I%d\ntR." % HUGE,
    "a shape without the numbers": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    b"(I1\n(I%d\nI79\ntcnumpy\ndtype\n(S'f8'\nI00\nI01\ntRI00\nS'12345678'\ntb." % HUGE,
    "a type of a terabyte": b"cnumpy\ndtype\n(S'V%d'\nI00\nI01\ntR." % HUGE,
    "a memory slot far away": b"N" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f.",
    "bytes that are not there": pickle.PROTO + b"\x04" + pickle.BINBYTES8 + HUGE.to_bytes(8, "little") + b"x.",
    "an encoding that runs code": b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.",
    "an object for each number": b"cnumpy.core.multiarray\n_reconstruct\n(tR"
    b"(I1\n(I1\nI1\ntcnumpy\ndtype\n(S'O8'\ntRI00\n(lNatb.",
    "no array": b"}.",
    "no pickle": b"",
}


@pytest.mark.parametrize("pickled", DECLARATIONS.values(), ids=DECLARATIONS)
def test_a_pickle_allocates_no_more_than_it_holds(pickled: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "states", "w") as file:
        file.writestr("archive/data.pkl", pickled)
    with pytest.raises(InitStatesError, match="states: expected a"):
        read_init_states(tmp_path / "states")


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_layouts_of_numbers_are_read_as_numpy_reads_them(dtype: str, order: str, tmp_path: Path) -> None:
    expected = np.array([[1, 2, 3], [4, 5, 6]], dtype=dtype, order=order)
    states = read_init_states(archive(tmp_path / "states", expected))
    assert states.dtype == np.float64
    np.testing.assert_array_equal(states, expected)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), min_size=1, max_size=5), data=st.data()
)
def test_damaged_bytes_end_in_the_named_error_or_in_states(
    damage: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    """Bytes of the archive, or of the pickle in a whole archive."""
    whole = pickle.dumps(np.zeros((2, 3)), protocol=2)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "states"
        if data.draw(st.booleans()):
            path.write_bytes(damaged(archive(path, np.zeros((2, 3))).read_bytes(), damage))
        else:
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("archive/data.pkl", damaged(whole, damage))
        try:
            states = read_init_states(path)
        except InitStatesError as error:
            assert "states" in str(error)
        else:
            assert states.ndim == 2 and np.isfinite(states).all()


def damaged(content: bytes, damage: list[tuple[int, bytes]]) -> bytes:
    """Overwrite some bytes; a place without any cuts the rest off."""
    for place, new in damage:
        place %= max(1, len(content))
        content = content[:place] + new + (content[place + len(new) :] if new else b"")
    return content
