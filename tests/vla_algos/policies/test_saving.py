"""What was saved by something else is refused by name."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import resource
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from vla_algos import BC, TokenGRPO, TokenPPO, VLAPolicy
from vla_algos.errors import CheckpointError, SavingError
from vla_algos.evaluation.subject import evaluation_env_kwargs
from vla_algos.models import save_vla
from vla_algos.policies.saving import FORMAT_VERSION, disk_errors_named
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.errors import VLAGymError
from vla_gym.owned import own_folder


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


@contextmanager
def full_disk(n_bytes: int = 20_000):
    """No file of this process can grow beyond a few bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("n_bytes", [0, 100, 20_000, 300_000])
def test_a_disk_that_is_full_gets_one_name_and_the_earlier_file_stays(n_bytes, tmp_path):
    path = tmp_path / "model.zip"
    path.write_text("earlier")
    with full_disk(n_bytes), pytest.raises(SavingError, match=r"model\.zip could not be written: .*Free space"):
        make().save(path)
    with full_disk(n_bytes), pytest.raises(SavingError, match=r"folder could not be written"):
        with disk_errors_named("folder"):
            save_vla(make().policy.vla, tmp_path / "folder")
    assert path.read_text() == "earlier" and [p.name for p in tmp_path.iterdir()] == ["model.zip"]


def test_errors_that_are_not_the_disks_keep_their_name(tmp_path):
    model = make()
    model.cannot_be_pickled = threading.Lock()
    with pytest.raises(TypeError, match="pickle"):
        model.save(tmp_path / "model.zip")


class FullFor(BaseCallback):
    """The disk is full during some roll-outs and their updates."""

    def __init__(self, iterations: tuple[int, ...]) -> None:
        super().__init__()
        self._iterations, self._n = iterations, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = 20_000 if self._n in self._iterations else limits[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        self._n += 1


def test_a_disk_that_is_full_for_a_moment_does_not_end_a_run(tmp_path, caplog):
    env = ToyLiberoEnv(image_size=32, horizon=3)
    model = TokenPPO(
        "VLAPolicy",
        env,
        n_steps=4,
        batch_size=4,
        policy_kwargs={"vla": "nano"},
        device="cpu",
        checkpoint_folder=tmp_path,
        checkpoint_interval=1,
    )
    with full_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[0]):
        model.learn(16, FullFor((1, 2)))
    warnings = [record.message for record in caplog.records if "saved again at its next checkpoint" in record.message]
    assert len(warnings) == 2 and "last.zip could not be written" in warnings[0]
    assert TokenPPO.load(tmp_path / "last.zip", device="cpu").num_timesteps == 16
    assert {path.name for path in tmp_path.iterdir()} <= {"last.zip", ".lock"}


def test_a_run_is_saved_at_its_end_whatever_the_interval(tmp_path):
    model = make()
    model.checkpoint_folder, model.checkpoint_interval = str(tmp_path), 100
    model.learn(8)
    assert TokenPPO.load(tmp_path / "last.zip", device="cpu").num_timesteps == 8


def test_two_runs_in_one_folder_and_a_folder_that_cannot_be_written_are_refused(tmp_path):
    model, refused = make(), []

    def learn(folder: Path) -> None:
        model.checkpoint_folder = str(folder)
        try:
            model.learn(4)
        except VLAGymError as error:
            refused.append(str(error))

    with own_folder(tmp_path):
        thread = threading.Thread(target=learn, args=(tmp_path,))
        thread.start()
        thread.join()
    (tmp_path / "file").touch()
    learn(tmp_path / "file")
    assert str(os.getpid()) in refused[0] and "cannot be written" in refused[1] and model.num_timesteps == 0


class Rendered(ToyLiberoEnv):
    render_quality = "full"


def test_a_trained_model_knows_its_temperature_and_rendering(tmp_path):
    env = Rendered(image_size=32, horizon=3)
    kwargs = {"vla": "nano", "vla_kwargs": {"config_changes": {"image_size": 32}}}
    model = TokenPPO("VLAPolicy", env, n_steps=4, batch_size=4, temperature=1.5, policy_kwargs=kwargs, device="cpu")
    model.learn(4)
    save_vla(model.policy.vla, tmp_path)
    policy = VLAPolicy.from_checkpoint(tmp_path, env)
    assert policy.temperature == 1.5 and policy.vla.record.trained_render_quality == "full"
    assert VLAPolicy.from_checkpoint(tmp_path, env, temperature=0.5).temperature == 0.5
    assert evaluation_env_kwargs(policy, None)["render_quality"] == "full"
    assert evaluation_env_kwargs(policy, {"render_quality": "fast"})["render_quality"] == "fast"
