"""Every kind of file of a model folder, changed at random: it loads, or one named error says what is wrong."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vla_algos.errors import CheckpointError
from vla_algos.models import ModelInfo, OpenVLA, add_lora, load_adapters, load_vla, save_adapters, save_vla
from vla_algos.models.loading import load_info
from vla_algos.models.openvla.processor import load_tokenizer
from vla_algos.models.openvla.released import DINOV2_ID, SIGLIP_ID
from vla_algos.policies import env_kwargs_for
from vla_gym.errors import ActionStatisticsError, UnknownNameError

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

NAMED = (CheckpointError, ActionStatisticsError, UnknownNameError)
bounded = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, 1, 2, 8, 64, 10**7]))
TEXTS = st.one_of(st.text(max_size=4), st.sampled_from(["a/../b", "\0", "{}", "{0}", "false", "model.safetensors"]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda children: st.one_of(st.lists(children, max_size=3), st.dictionaries(TEXTS, children, max_size=3)),
    max_leaves=5,
)


@st.composite
def changed(draw: Callable[..., Any], values: Any) -> Any:
    """JSON with one to three entries, at any depth, replaced, removed or added."""
    values = copy.deepcopy(values)
    for _ in range(draw(st.integers(1, 3))):
        place, parent = values, None
        while isinstance(place, dict | list) and place and (parent is None or draw(st.integers(0, 2))):
            parent = place
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            place = place[key]
        if parent is None:
            return draw(VALUES)
        how = draw(st.integers(0, 5))
        if how == 0:
            del parent[key]
        elif how == 1 and isinstance(parent, dict):
            parent[draw(TEXTS)] = draw(VALUES)
        else:
            parent[key] = draw(VALUES)
    return values


@st.composite
def changed_bytes(draw: Callable[..., Any], content: bytes) -> bytes:
    """A file cut off, or with a few bytes of its beginning replaced."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, min(len(content), 4000)))]
    array = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        array[draw(st.integers(0, min(len(array), 3000) - 1))] = draw(st.integers(0, 255))
    return bytes(array)


def names_what_is_wrong(read: Callable[[], object]) -> None:
    try:
        read()
    except NAMED as error:
        assert len(str(error)) > 20
    # anything else fails the test


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of this library's layout, with action statistics."""
    model = load_vla("nano", seed=0, config_changes={"image_size": 32})
    entry = {"action": {"q01": [-0.5] * 7, "q99": [0.5] * 7, "mask": [True] * 6 + [False]}, "num_transitions": 3}
    model.record = replace(model.record, norm_stats={"libero_goal_no_noops": entry})
    folder = tmp_path_factory.mktemp("own")
    save_vla(model, folder / "model")
    save_adapters(add_lora(model, rank=2), folder / "adapters")
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the original's layout."""
    small = {"embed_dim": 16, "depth": 1, "num_heads": 2}
    text = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "vocab_size": 832}
    values = {
        "model_type": "openvla",
        "image_resize_strategy": "resize-naive",
        "n_action_bins": 256,
        "image_sizes": [28, 28],
        "pad_to_multiple_of": 64,
        "text_config": {**text, "num_attention_heads": 2, "num_hidden_layers": 1},
        "timm_model_ids": [DINOV2_ID, SIGLIP_ID],
        "timm_model_overrides": [small, {**small, "depth": 2}],
        "vla_gym": {"value_head_width": 8},
    }
    values["timm_model_overrides"] = [{**small, "depth": 2}, {**small, "depth": 2}]
    preprocessor = {"tvf_normalize_params": [{"mean": [0.1] * 3, "std": [0.2] * 3}] * 2}
    folder = tmp_path_factory.mktemp("released")
    info = ModelInfo.from_dict(values, preprocessor)
    save_vla(OpenVLA(info.config, record=info.record), folder / "model")
    return folder / "model"


@pytest.fixture
def other(own: Path, tmp_path: Path) -> Path:
    """A copy of the model to change."""
    return Path(shutil.copytree(own / "model", tmp_path / "model"))


def check_json(path: Path, read: Callable[[], object]) -> None:
    values = json.loads(path.read_text())

    @bounded
    @given(changed(values))
    def check(content: Any) -> None:
        path.write_text(json.dumps(content))
        names_what_is_wrong(read)

    check()


def check_bytes(path: Path, read: Callable[[], object]) -> None:
    content = path.read_bytes()

    @bounded
    @given(changed_bytes(content))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        names_what_is_wrong(read)

    check()


def test_configurations(other: Path) -> None:
    check_json(other / "config.json", lambda: load_vla(other))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_configurations_of_the_original(released: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(released, tmp_path / "model"))
    check_json(folder / name, lambda: (load_info(folder), load_vla(folder)))


def test_action_statistics(other: Path) -> None:
    check_json(other / "dataset_statistics.json", lambda: env_kwargs_for(other))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"])
def test_tokenizers(other: Path, name: str) -> None:
    check_json(other / name, lambda: load_tokenizer(other, 768)("open the drawer"))


def test_indices_of_shards(other: Path) -> None:
    names = dict.fromkeys(load_vla(other).state_dict(), "part.safetensors")
    (other / "model.safetensors").rename(other / "part.safetensors")
    index = other / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 3}, "weight_map": names}))
    check_json(index, lambda: load_vla(other))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_bytes(other: Path, name: str) -> None:
    check_bytes(other / name, lambda: load_vla(other))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapters(own: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("peft")
    folder = Path(shutil.copytree(own / "adapters", tmp_path / "adapters"))
    base = load_vla(own / "model")

    def read() -> object:
        return load_adapters(copy.deepcopy(base), folder)

    if name.endswith("json"):
        check_json(folder / name, read)
    else:
        check_bytes(folder / name, read)
