"""What was saved by something else is refused by name."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch as th

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


class Touch:
    """Pickled as a call that leaves a trace."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


def pickled(value: object) -> dict[str, str]:
    return {":type:": "anything", ":serialized:": base64.b64encode(pickle.dumps(value)).decode()}


@pytest.mark.parametrize("entry", ["learning_rate", "policy_class", "of_no_use"])
def test_loading_a_file_runs_none_of_its_code(saved, entry, tmp_path):
    trace = tmp_path / "trace"
    path = rewrite(saved, tmp_path / "evil.zip", **{entry: pickled(Touch(trace))})
    with pytest.raises(CheckpointError, match=rf"'{entry}' names (posix|os)\.mkdir.*trust=True.*save_vla") as refusal:
        TokenPPO.load(path, device="cpu")
    assert "evil.zip" in str(refusal.value) and not trace.exists()
    with pytest.raises(CheckpointError, match=r"mkdir"), path.open("rb") as file:
        TokenPPO.load(file, device="cpu")
    assert not trace.exists()


def test_weights_run_no_code_either(saved, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "evil.zip"
    content = io.BytesIO()
    th.save({"weight": Touch(trace)}, content)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, content.getvalue() if name == "policy.pth" else old.read(name))
    for load in (TokenPPO.load, make().set_parameters):
        with pytest.raises(CheckpointError, match="weights are not tensors alone"):
            load(str(path), device="cpu")
    assert not trace.exists()


def test_functions_of_ones_own_are_loaded_on_trust_alone(tmp_path):
    env = ToyLiberoEnv(image_size=32, horizon=3)
    model = TokenPPO(
        "VLAPolicy",
        env,
        n_steps=4,
        batch_size=4,
        learning_rate=lambda progress: 0.5 * progress,
        policy_kwargs={"vla": "nano"},
        device="cpu",
    )
    model.save(tmp_path / "mine.zip")
    with pytest.raises(CheckpointError, match=r"'learning_rate' .*'lr_schedule' .*custom_objects=.*trust=True"):
        TokenPPO.load(tmp_path / "mine.zip", device="cpu")
    assert TokenPPO.load(tmp_path / "mine.zip", device="cpu", trust=True).lr_schedule(0.5) == 0.25
    replaced = {"learning_rate": 0.1, "lr_schedule": None}
    assert TokenPPO.load(tmp_path / "mine.zip", device="cpu", custom_objects=replaced).lr_schedule(0.5) == 0.1
