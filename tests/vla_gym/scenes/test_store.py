from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mujoco
import numpy as np
import pytest

from vla_gym.assets.resolve import AssetPack, cache_dir, resolve_assets, scene_cache
from vla_gym.errors import SceneBuildError
from vla_gym.files import locked
from vla_gym.scenes import build, builder, store
from vla_gym.scenes.bundle import SceneBundle, bundle_keys
from vla_gym.scenes.store import load_bundles
from vla_gym.tasks.registry import TaskSpec, get_suite

pytestmark = pytest.mark.usefixtures("goal_scenes")

SUITE = get_suite("goal")


@pytest.fixture(scope="module")
def pack() -> AssetPack:
    return resolve_assets("primitive")


def test_all_tasks_of_the_suite_share_one_model(pack: AssetPack) -> None:
    bundles = load_bundles(SUITE.tasks, pack)
    assert len({bundle.scene for bundle in bundles}) == len({bundle.model_file("physics") for bundle in bundles}) == 1
    model = bundles[0].load_model()
    for bundle in bundles:
        assert bundle.init_states.shape == (50, 1 + model.nq + model.nv)
        assert bundle.fixture_pos.shape == (50, 3, 3) and bundle.fixture_quat.shape == (50, 3, 4)
        assert bundle.pack == "primitive"
    assert model.opt.timestep == 0.002


def test_fixture_draws_lie_in_their_regions_and_differ(pack: AssetPack) -> None:
    (bundle,) = load_bundles([SUITE.task(0)], pack)
    assert len(np.unique(bundle.fixture_pos[:, 0, 0])) == 50
    for i, name in enumerate(bundle.fixture_names):
        region = bundle.fixture_regions[name]
        for axis, ranges in enumerate((region["x_ranges"], region["y_ranges"])):
            inside = [
                (low <= bundle.fixture_pos[:, i, axis]) & (bundle.fixture_pos[:, i, axis] <= high)
                for low, high in ranges
            ]
            assert np.any(inside, axis=0).all()


def test_collision_geoms_alone_give_mass(pack: AssetPack) -> None:
    # a model compiled from a re-saved XML would weigh the bowl's visual geoms too
    model = load_bundles([SUITE.task(0)], pack)[0].load_model()
    assert 0.0056 * 0.8 < model.body("akita_black_bowl_1_main").subtreemass[0] < 0.0056 * 1.2


@pytest.fixture
def copied(pack: AssetPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SceneBundle:
    """A bundle in a cache of its own, without LIBERO's slow builder."""
    load_bundles([SUITE.task(0)], pack, "fast")
    # other processes may be building scenes there
    unfinished = shutil.ignore_patterns("building-*", "build.lock")
    shutil.copytree(cache_dir(), tmp_path / "cache", ignore=unfinished)
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))
    return load_bundles([SUITE.task(0)], pack, "fast")[0]


def files_of(bundle: SceneBundle) -> dict[str, Path]:
    """Every file that a bundle consists of."""
    (key,) = bundle_keys([bundle.task], resolve_assets("primitive")).values()
    (folder,) = bundle.models.parent.glob(f"{key}-*")
    files = {path.name: path for path in folder.iterdir()}
    for kind in ("physics", "fast"):
        files |= {f"{kind}{end}": Path(f"{bundle.model_file(kind)}{end}") for end in ("", ".sha256")}
    return files


def scribble(path: Path, seed: int, n: int = 20) -> None:
    """Change random bytes."""
    rng = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    for i in rng.choice(len(data), min(n, len(data)), replace=False):
        data[i] ^= int(rng.integers(1, 256))
    path.write_bytes(data)


ALL_FILES = ("meta.json", "arrays.npz", "SHA256SUMS", "physics", "physics.sha256", "fast", "fast.sha256")


def test_random_bytes_in_any_file_are_noticed(
    copied: SceneBundle, pack: AssetPack, caplog: pytest.LogCaptureFixture
) -> None:
    files = files_of(copied)
    assert set(files) == set(ALL_FILES)
    root, folder = copied.models.parent, files["meta.json"].parent
    for name in ALL_FILES:
        content = files[name].read_bytes()
        for seed in range(10):
            scribble(files[name], seed)
            caplog.clear()
            assert store._load_all(root, {copied.task: folder}, pack, "fast") == {}, (name, seed)
            assert "damaged" in caplog.text and copied.task.name in caplog.text
        files[name].write_bytes(content)
        assert copied.task in store._load_all(root, {copied.task: folder}, pack, "fast")


DAMAGES = {"scribble": ("meta.json", "fast"), "truncate": ("physics",), "remove": ("arrays.npz",)}


def damage(change: str, copied: SceneBundle) -> None:
    for name in DAMAGES[change]:
        file = files_of(copied)[name]
        if change == "scribble":
            scribble(file, seed=0)
        elif change == "truncate":
            file.write_bytes(file.read_bytes()[:-100])
        else:
            file.unlink()


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_entry_has_to_be_built_again(
    change: str, copied: SceneBundle, pack: AssetPack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []
    monkeypatch.setattr(build, "build_bundles", lambda root, tasks, *_: asked.append(tasks))
    unfinished = [copied.models.parent / name for name in ("building-abc", "importing-def")]
    for folder in unfinished:
        folder.mkdir()
        (folder / "half.mjb").write_bytes(b"half")
    damage(change, copied)
    with caplog.at_level(logging.WARNING), pytest.raises(SceneBuildError, match="cannot be read back"):
        load_bundles([copied.task], pack, "fast")
    assert asked == [[copied.task]]
    assert "damaged" in caplog.text and copied.task.name in caplog.text
    assert not any(folder.exists() for folder in unfinished), "what killed builders left"


@pytest.mark.slow
def test_building_replaces_all_that_is_damaged_and_what_killed_builders_left(
    copied: SceneBundle, pack: AssetPack, tmp_path: Path
) -> None:
    root = copied.models.parent
    for name in ("building-abc", "importing-def"):
        (root / name).mkdir()
        (root / name / "half.mjb").write_bytes(b"half")
    for change in DAMAGES:
        damage(change, copied)
    (after,) = load_bundles([copied.task], pack, "fast")
    np.testing.assert_array_equal(after.init_states, copied.init_states)
    assert isinstance(after.load_model(), mujoco.MjModel)
    assert mujoco.MjModel.from_binary_path(str(after.model_file("fast"))).nq == after.load_model().nq
    assert not list(tmp_path.rglob("*ing-*"))


def test_temporary_folders_go_when_their_owner_is_gone(tmp_path: Path) -> None:
    abandoned, in_use, foreign = (tmp_path / f"vla_gym-{name}" for name in ("abandoned", "in_use", "foreign"))
    for folder in (abandoned, in_use, foreign):
        folder.mkdir()
    (abandoned / "owner.lock").touch()
    with locked(in_use / "owner.lock"):
        store._sweep_temporary(tmp_path)
        assert sorted(tmp_path.iterdir()) == [foreign, in_use]
    store._sweep_temporary(tmp_path)
    assert sorted(tmp_path.iterdir()) == [foreign]


_AUDIT = """
import os, sys
def record(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if not path.startswith((os.environ["VLA_GYM_CACHE"], "/dev/")):
            sys.__stdout__.write(f"wrote {path}\\n")
if "LIBERO_CONFIG_PATH" in os.environ:
    sys.addaudithook(record)
"""


def test_building_asks_nothing_and_writes_into_the_cache_alone(tmp_path: Path) -> None:
    home, site = tmp_path / "home", tmp_path / "site"
    home.mkdir()
    site.mkdir()
    # the process that runs LIBERO reports what it opens for writing
    (site / "sitecustomize.py").write_text(_AUDIT)
    program = (
        "from vla_gym.assets.resolve import resolve_assets\n"
        "from vla_gym.scenes import build\n"
        "from vla_gym.scenes.store import load_bundles\n"
        "from vla_gym.tasks.registry import get_suite\n"
        "run = build.run_libero\n"
        "def run_aloud(*arguments, **keywords):\n"
        "    for line in run(*arguments, **keywords):\n"
        "        print(line)\n"
        "        yield line\n"
        "build.run_libero = run_aloud\n"
        "load_bundles([get_suite('goal').task(0)], resolve_assets('primitive'))\n"
    )
    environment = {**os.environ, "HOME": str(home), "VLA_GYM_CACHE": str(tmp_path / "cache")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    environment.pop("LIBERO_CONFIG_PATH", None)
    with subprocess.Popen(
        [sys.executable, "-B", "-c", program],
        env=environment,
        stdin=subprocess.PIPE,  # never answered: a question would block
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "Building 1 scene(s) of libero_goal with the primitive assets" in output
    assert "built open_the_middle_drawer_of_the_cabinet" in output
    assert not [line for line in output.splitlines() if line.startswith("wrote ")]
    assert not list(home.iterdir())
    assert "Do you want" not in output


def test_a_scene_that_cannot_be_built_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pack").mkdir()
    with pytest.raises(SceneBuildError, match=r"could not build \['open_the_middle_drawer_of_the_cabinet'\]"):
        load_bundles([SUITE.task(0)], AssetPack("custom:pack", tmp_path / "pack"))
    assert not list((tmp_path / "cache").rglob("meta.json"))


def test_processes_that_build_one_scene_at_once_all_succeed(tmp_path: Path) -> None:
    program = (
        "from vla_gym.assets.resolve import resolve_assets\n"
        "from vla_gym.scenes.store import load_bundles\n"
        "from vla_gym.tasks.registry import get_suite\n"
        "bundles = load_bundles(get_suite('goal').tasks[:2], resolve_assets('primitive'), 'fast')\n"
        "print(bundles[1].load_model().nq, bundles[1].model_file('fast').stat().st_size)\n"
    )
    environment = {**os.environ, "VLA_GYM_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert not list(tmp_path.rglob("building-*"))


@pytest.fixture
def copying_builder(pack: AssetPack, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Stands for the slow builder, for tests of what is done with its results: copies what was built before."""
    load_bundles([SUITE.task(0)], pack)
    built = scene_cache()

    def copy(root: Path, tasks: Sequence[TaskSpec], folders: Mapping[TaskSpec, Path], *_: object) -> None:
        shutil.copytree(built / "models", root / "models")
        for task in tasks:
            shutil.copytree(built / folders[task].name, folders[task])

    monkeypatch.setattr(build, "build_bundles", copy)
    return copy


@pytest.fixture
def temporary_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(store, "_temporary_root", lambda: folder)
    return folder


def test_a_cache_that_cannot_be_written_is_replaced_by_memory(
    pack: AssetPack,
    tmp_path: Path,
    temporary_root: Path,
    copying_builder: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be: nobody can write below it")
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))
    with caplog.at_level(logging.WARNING):
        (bundle,) = load_bundles([SUITE.task(0)], pack)
    assert "Cannot write to the cache" in caplog.text and "cache" in caplog.text
    assert bundle.load_model().nq == 41
    assert bundle.models.is_relative_to(temporary_root)


def test_a_disk_that_fills_up_while_building_is_replaced_by_memory(
    pack: AssetPack,
    tmp_path: Path,
    temporary_root: Path,
    copying_builder: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))

    def build_on_a_small_disk(root: Path, *args: object) -> None:
        if not root.is_relative_to(temporary_root):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))
        copying_builder(root, *args)

    monkeypatch.setattr(build, "build_bundles", build_on_a_small_disk)
    with caplog.at_level(logging.WARNING):
        (bundle,) = load_bundles([SUITE.task(0)], pack)
    assert "No space left on device" in caplog.text
    assert bundle.init_states.shape[0] == 50


def test_the_builder_reports_a_full_disk_as_such(pack: AssetPack, tmp_path: Path) -> None:
    # /dev/full takes nothing; MuJoCo itself would not complain
    writer = builder.ModelWriter(tmp_path, None)
    model = load_bundles([SUITE.task(0)], pack)[0].load_model()
    with pytest.raises(OSError, match="No space left"):
        writer._save(model, Path("/dev/full"))


def test_a_render_model_is_added_when_it_is_first_asked_for(pack: AssetPack, tmp_path: Path) -> None:
    (bundle,) = load_bundles([SUITE.task(0)], pack, "fast")
    assert bundle.model_file("fast").is_file()
    fast = mujoco.MjModel.from_binary_path(str(bundle.model_file("fast")))
    (bundle,) = load_bundles([SUITE.task(0)], pack, "full")
    full = mujoco.MjModel.from_binary_path(str(bundle.model_file("full")))
    assert bundle.model_file("fast").is_file()
    assert fast.nmeshface < 0.4 * full.nmeshface
    for field in ("body_pos", "jnt_qposadr", "cam_pos", "site_rgba", "cam_fovy"):
        np.testing.assert_array_equal(getattr(fast, field), getattr(full, field), err_msg=field)
    assert fast.stat.extent == full.stat.extent and fast.vis.quality.offsamples == 0


def test_what_is_only_seen_is_not_simulated(pack: AssetPack) -> None:
    (bundle,) = load_bundles([SUITE.task(0)], pack, "full")
    full = mujoco.MjModel.from_binary_path(str(bundle.model_file("full")))
    model = bundle.load_model()
    assert model.ngeom < full.ngeom and model.ntex == 0
    for field in ("body_mass", "body_inertia", "dof_armature", "body_ipos", "jnt_range", "actuator_ctrlrange"):
        np.testing.assert_array_equal(getattr(model, field), getattr(full, field), err_msg=field)
    states = []
    for each in (model, full):
        data = mujoco.MjData(each)
        data.qpos[:] = bundle.init_states[0][1 : 1 + each.nq]
        mujoco.mj_step(each, data, 200)
        states.append(data.qpos.copy())
    np.testing.assert_array_equal(*states)
