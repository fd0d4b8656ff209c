"""Descriptions of scenes, whoever wrote them, are read or refused; nothing else comes out."""

from __future__ import annotations

import copy
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla_gym.assets.resolve import resolve_assets
from vla_gym.files import write_sums
from vla_gym.scenes.bundle import SUMS, SceneBundle, check_names, load_bundle
from vla_gym.scenes.meta import check_model_header, read_arrays, read_bundle_meta
from vla_gym.scenes.store import load_bundles
from vla_gym.tasks.registry import get_suite

TASK = get_suite("goal").task(8)
BOUNDED = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("plate_1_main"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def bundle() -> SceneBundle:
    return load_bundles([TASK], resolve_assets("primitive"))[0]


@pytest.fixture(scope="module")
def meta(bundle: SceneBundle) -> dict[str, Any]:
    return read_bundle_meta(bundle.folder / "meta.json")


@pytest.fixture
def copied(bundle: SceneBundle, tmp_path: Path) -> Path:
    """The description and arrays of the bundle, to be damaged."""
    for name in ("meta.json", "arrays.npz"):
        (tmp_path / name).write_bytes((bundle.folder / name).read_bytes())
    return tmp_path


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


@BOUNDED
@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused(
    data: st.DataObject, meta: dict[str, Any], bundle: SceneBundle, copied: Path
) -> None:
    place = data.draw(st.sampled_from(places(meta)))
    changed = replaced(meta, place, data.draw(VALUES))
    (copied / "meta.json").write_text(json.dumps(changed))
    write_sums(copied / SUMS, [copied / "meta.json", copied / "arrays.npz"])
    try:
        found = load_bundle(bundle.models.parent, copied, TASK, resolve_assets("primitive"), None)
        assert found is not None
        check_names(found)
    except (ValueError, FileNotFoundError):
        return


@BOUNDED
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes, copied: Path) -> None:
    for name in ("meta.json", "arrays.npz", "model.mjb"):
        (copied / name).write_bytes(data)
    with pytest.raises(ValueError):
        read_bundle_meta(copied / "meta.json")
    with pytest.raises(ValueError, match=r"arrays\.npz"):
        read_arrays(copied / "arrays.npz", 3)
    with pytest.raises(ValueError, match=r"model\.mjb"):
        check_model_header(copied / "model.mjb")


@BOUNDED
@given(changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=20))
def test_arrays_with_changed_bytes_are_read_or_refused(
    changes: list[tuple[float, int]], bundle: SceneBundle, copied: Path
) -> None:
    data = bytearray((bundle.folder / "arrays.npz").read_bytes())
    for position, value in changes:
        # half of them in the headers of members, which lie at the beginning and the end
        data[int(position * len(data))] = value
        data[int(position * 200) - 100] = value
    (copied / "arrays.npz").write_bytes(data)
    try:
        arrays = read_arrays(copied / "arrays.npz", 3)
    except ValueError:
        return
    assert arrays["fixture_quat"].shape == (50, 3, 4) and np.isfinite(arrays["init_states"]).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scene", "../../../etc", "invalid 'scene'"),
        ("goal", [], "invalid 'goal'"),
        ("goal", [{"predicate": "open", "arguments": ["x"], "joints": [], "category": "microwave"}], "invalid 'goal'"),
        ("goal", [{"predicate": "fly", "arguments": []}], "invalid 'goal'"),
        ("fixtures", [], "invalid 'fixtures'"),
        ("fixture_regions", {"stove": {"x_ranges": [], "y_ranges": [], "yaw_range": [0, 1]}}, "invalid"),
        ("robot", {}, "invalid 'robot'"),
        ("heat_sites", [{"site": "s", "joints": ["j"], "category": "toaster"}], "invalid 'heat_sites'"),
        ("version", True, "invalid 'version'"),
        ("pack_digest", "abc", "invalid 'pack_digest'"),
        ("objects", {"a": "b\0c"}, "invalid 'objects'"),
    ],
)
def test_wrong_values_are_named(key: str, value: Any, message: str, meta: dict[str, Any], copied: Path) -> None:
    (copied / "meta.json").write_text(json.dumps(meta | {key: value}))
    with pytest.raises(ValueError, match=message):
        read_bundle_meta(copied / "meta.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[]", "holds list, expected an object"),
        ("{}", "lacks 'version'"),
        ('{"a": ' + "1" * 5000 + "}", "digits"),
        (" " * (1 << 20) + "{}", "expected at most 1,048,576"),
    ],
)
def test_descriptions_of_odd_form_are_refused(content: str, message: str, copied: Path) -> None:
    (copied / "meta.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_bundle_meta(copied / "meta.json")


@pytest.mark.parametrize("name", ["meta.json", "arrays.npz"])
def test_a_fifo_does_not_block(name: str, copied: Path) -> None:
    (copied / name).unlink()
    os.mkfifo(copied / name)
    with pytest.raises(ValueError, match="is not a regular file"):
        read_bundle_meta(copied / name) if name == "meta.json" else read_arrays(copied / name, 3)


def npz(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (npy(np.zeros((50, 4))).replace(b"(50, 4)", b"(9999999999, 9999999)"), "cannot be read"),
        (npy(np.zeros((50, 4))).replace(b"(50, 4), ", b"(50, 40),"), "do not hold"),
        (npy(np.zeros((50, 4), np.float32)), "do not hold"),
        (npy(np.array([{}])), "do not hold"),
        (npy(np.asfortranarray(np.ones((50, 4)))), "do not hold"),
        (npy(np.zeros((49, 4))), r"shape \(49, 4\), expected \(50, 4\)"),
        (npy(np.zeros(50)), "expected"),
        (npy(np.full((50, 4), np.nan)), "finite"),
        (b"\0" * (1 << 25), "is too large"),
        (b"", "cannot be read"),
    ],
)
def test_arrays_that_are_not_what_they_declare_are_refused(states: bytes, message: str, tmp_path: Path) -> None:
    npz(
        tmp_path / "arrays.npz",
        init_states=states,
        fixture_pos=npy(np.zeros((50, 2, 3))),
        fixture_quat=npy(np.zeros((50, 2, 4))),
    )
    with pytest.raises(ValueError, match=message):
        read_arrays(tmp_path / "arrays.npz", 2)
