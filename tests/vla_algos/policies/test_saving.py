"""What was saved by something else is refused by name."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from vla_algos import BC, TokenGRPO, TokenPPO
from vla_algos.errors import CheckpointError
from vla_algos.policies.saving import FORMAT_VERSION
from vla_gym.envs.toy_env import ToyLiberoEnv


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.zip"
    make().save(path)
    return path


def make(**policy_kwargs) -> TokenPPO:
    env = ToyLiberoEnv(image_size=32, horizon=3)
    return TokenPPO(
        "VLAPolicy", env, n_steps=4, batch_size=4, policy_kwargs={"vla": "nano", **policy_kwargs}, device="cpu"
    )


def rewrite(source: Path, target: Path, **changes) -> Path:
    """Copy a saved file with other entries in its header."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                content = json.dumps({**json.loads(content), **changes}).encode()
            new.writestr(name, content)
    return target


@pytest.mark.parametrize("other", [TokenGRPO, BC])
def test_another_algorithm_is_named(saved, other):
    with pytest.raises(CheckpointError, match=rf"saved by TokenPPO, not by {other.__name__}. Use TokenPPO.load"):
        other.load(saved)


def test_a_subclass_loads_what_its_base_saved(saved):
    class MyPPO(TokenPPO):
        pass

    assert isinstance(MyPPO.load(saved, device="cpu"), MyPPO)


def test_another_version_of_the_format_is_named(saved, tmp_path):
    path = rewrite(saved, tmp_path / "new.zip", saved_as={"format": FORMAT_VERSION + 1, "algorithm": "TokenPPO"})
    with pytest.raises(CheckpointError, match=rf"version {FORMAT_VERSION + 1} .* reads {FORMAT_VERSION}"):
        TokenPPO.load(path)


def test_a_file_of_something_else_is_refused(saved, tmp_path):
    with pytest.raises(CheckpointError, match="does not say that TokenPPO saved it"):
        TokenPPO.load(rewrite(saved, tmp_path / "stock.zip", saved_as=None))
    (tmp_path / "text.zip").write_text("no zip file")
    with pytest.raises(CheckpointError, match="not a file that an algorithm has saved"):
        TokenPPO.load(tmp_path / "text.zip")


def test_another_architecture_is_named_weight_by_weight(saved):
    replaced = {"policy_kwargs": {"vla": "nano", "lora": {}}}
    with pytest.raises(CheckpointError, match=r"Missing: .*lora_A"):
        TokenPPO.load(saved, device="cpu", custom_objects=replaced)
    with pytest.raises(CheckpointError, match=r"the model 'compact'.*Of another shape: vla\..* instead of"):
        make(vla="compact").set_parameters(str(saved), device="cpu")


def test_an_open_file_is_loaded_too(saved):
    with saved.open("rb") as file:
        assert isinstance(TokenPPO.load(file, device="cpu"), TokenPPO)
    assert isinstance(TokenPPO.load(io.BytesIO(saved.read_bytes()), device="cpu"), TokenPPO)
