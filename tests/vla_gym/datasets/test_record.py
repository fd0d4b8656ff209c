"""Recordings are deterministic, complete after any interruption, and hold only what succeeds when it is replayed."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from vla_gym.datasets import recorder
from vla_gym.datasets.collect import replay_episode
from vla_gym.datasets.hdf5 import DemonstrationFile, load_episodes
from vla_gym.datasets.record import describe_demonstrations, record_demonstrations
from vla_gym.datasets.recorder import EpisodeRecorder, RecordingSettings
from vla_gym.errors import AssetsError, DemonstrationFileError, FolderInUseError, UnknownNameError
from vla_gym.experts import scripted
from vla_gym.owned import own_folder

pytestmark = pytest.mark.usefixtures("goal_scenes")

BOWL, UNKNOWN = 8, 7
NAME = "put_the_bowl_on_the_plate"
BLIND = RecordingSettings("goal", cameras=(), assets="primitive")
SEEING = replace(BLIND, cameras=("agentview", "wrist"), image_size=16)


def content(path: Path) -> dict[str, object]:
    """Everything in a file of demonstrations."""
    found: dict[str, object] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found.update({f"{name}@{key}": np.asarray(value).tolist() for key, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset):
            found[name] = (item.dtype, item.shape, item[()].tobytes())

    with h5py.File(path) as file:
        file.visititems(note)
    return found


def fail_for(monkeypatch: pytest.MonkeyPatch, *failing: int, error: type[BaseException] | None = None) -> list[int]:
    """Let the expert fail, or raise, in some initial states; returns where it acted."""
    original, acted = recorder.collect_episode, []

    def collect(env, expert, options):
        acted.append(options["init_state_id"])
        if options["init_state_id"] not in failing:
            return original(env, expert, options)
        if error is not None:
            raise error
        return replace(original(env, expert, options), success=False)

    monkeypatch.setattr(recorder, "collect_episode", collect)
    return acted


def test_every_demonstration_succeeds_open_loop_and_shows_what_is_seen(tmp_path: Path) -> None:
    (report,) = record_demonstrations(SEEING, tmp_path, 2, [BOWL], workers=0)
    assert (report.kept, report.attempted, report.lost, report.is_known) == (2, 2, 0, True)
    assert report.path == tmp_path / f"{NAME}_demo.hdf5"
    env = SEEING.make_env([BOWL], SEEING.cameras)
    for number, episode in enumerate(load_episodes(tmp_path)):
        assert (episode.task_id, episode.init_state_id, episode.success) == (BOWL, number, True)
        assert episode.images.shape == episode.wrist_images.shape == (len(episode), 16, 16, 3)
        assert episode.images.std() > 0 and episode.wrist_images.std() > 0
        replayed = replay_episode(env, episode.commands, {"task_id": BOWL, "init_state_id": number})
        assert replayed.success and len(replayed) == len(episode)
        for name in ("images", "wrist_images", "proprio", "commands"):
            np.testing.assert_array_equal(getattr(replayed, name), getattr(episode, name))
        np.testing.assert_array_equal(replayed.trace.states, episode.trace.states)
        # the stored initial state comes before ten steps of settling
        np.testing.assert_array_equal(episode.trace.init_state, env.bundle.init_states[number])
        assert episode.trace.states[0, 0] == pytest.approx(episode.trace.init_state[0] + 10 / 20)
        np.testing.assert_allclose(episode.trace.joint_states, episode.trace.states[:, 1:8], atol=0.02)
        np.testing.assert_array_equal(episode.commands, episode.commands.astype(np.float32))


def test_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    settings = replace(BLIND, seed=5)
    record_demonstrations(settings, tmp_path, 1, [BOWL], workers=0)
    with DemonstrationFile(tmp_path / f"{NAME}_demo.hdf5") as file:
        metadata = file.metadata
        assert file.episode_metadata(0)["episode"] == 0
    assert (metadata["assets"], metadata["seed"], metadata["image_size"]) == ("primitive", 5, 128)
    assert metadata["attempted"] == 1 and metadata["failed_expert"].size == metadata["failed_replay"].size == 0
    assert {"version", "commit", "version_mujoco"} <= set(metadata)
    assert json.loads(metadata["settings"])["suite"] == "libero_goal"


def test_processes_and_interruptions_change_nothing(tmp_path: Path) -> None:
    record_demonstrations(BLIND, tmp_path / "whole", 4, [BOWL], workers=0)

    def interrupt(n_over: int, n_episodes: int) -> None:
        if n_over == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt, match=rf"^2 of 3 episodes are over and kept in {folder}\.$"):
        record_demonstrations(BLIND, folder, 3, [BOWL], workers=1, on_progress=interrupt)
    assert not list(folder.glob("*.hdf5")), "an unfinished task has no file under a final name"
    progress = []
    record_demonstrations(BLIND, folder, 3, [BOWL], workers=0, on_progress=lambda *counts: progress.append(counts))
    assert progress[0] in [(2, 3), (3, 3)] and progress[-1] == (3, 3)
    assert len(list(load_episodes(folder))) == 3
    (report,) = record_demonstrations(BLIND, folder, 4, [BOWL], workers=2)
    assert report.kept == 4
    assert content(folder / f"{NAME}_demo.hdf5") == content(tmp_path / "whole" / f"{NAME}_demo.hdf5")
    assert not [file for file in folder.rglob("episode_*")], "parts are gone"


def test_a_killed_process_costs_one_episode_until_the_next_run(tmp_path: Path) -> None:
    def kill_first(n_over: int, n_episodes: int) -> None:
        if n_over == 1:
            (child,) = (c for c in multiprocessing.active_children() if c.name == "vla-gym-job-0")
            child.kill()
            child.join()

    (report,) = record_demonstrations(BLIND, tmp_path, 3, [BOWL], workers=1, on_progress=kill_first)
    assert (report.kept, report.attempted, report.lost) == (2, 2, 1)
    assert len(list(load_episodes(tmp_path))) == 2
    (report,) = record_demonstrations(BLIND, tmp_path, 3, [BOWL], workers=0)
    assert (report.kept, report.lost) == (3, 0)
    with DemonstrationFile(report.path) as file:
        assert [file.episode_metadata(i)["episode"] for i in range(3)] == [0, 1, 2]


def test_failures_are_counted_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acted = fail_for(monkeypatch, 0, 2)
    (report,) = record_demonstrations(BLIND, tmp_path, 3, [BOWL], workers=0)
    assert (report.kept, report.failed) == (1, {"expert": [0, 2], "replay": []})
    (report,) = record_demonstrations(BLIND, tmp_path, 4, [BOWL], workers=0)
    assert acted == [0, 1, 2, 3]
    assert (report.kept, report.attempted, report.failed["expert"]) == (2, 4, [0, 2])
    with DemonstrationFile(report.path) as file:
        assert file.metadata["attempted"] == 4 and file.metadata["failed_expert"].tolist() == [0, 2]
        assert [file.episode_metadata(i)["init_state_id"] for i in range(len(file))] == [1, 3]


def test_a_task_without_any_success_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acted = fail_for(monkeypatch, 0)
    for _ in range(2):
        (report,) = record_demonstrations(BLIND, tmp_path, 1, [BOWL], workers=0)
        assert (report.kept, report.attempted, report.path) == (0, 1, None)
    assert acted == [0] and not list(tmp_path.glob("*.hdf5"))


def test_an_error_leaves_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acted = fail_for(monkeypatch, 1, error=RuntimeError)
    with pytest.raises(RuntimeError):
        record_demonstrations(BLIND, tmp_path, 2, [BOWL], workers=0)
    stale = tmp_path / ".recording" / NAME / ".episode_000001-1.hdf5"
    stale.write_bytes(b"half a file of a killed process")
    merging = tmp_path / f".{NAME}_demo-{2**22 + 1}.hdf5"
    merging.write_bytes(b"and half a file of all of them")
    monkeypatch.undo()
    (report,) = record_demonstrations(BLIND, tmp_path, 2, [BOWL], workers=0)
    assert acted == [0, 1] and report.kept == 2 and not stale.exists() and not merging.exists()


def test_a_crash_before_the_parts_are_removed_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(OSError, match="power cut"):
            record_demonstrations(BLIND, tmp_path, 1, [BOWL], workers=0)
    assert len(list(tmp_path.rglob("episode_*"))) == 1
    before = content(tmp_path / f"{NAME}_demo.hdf5")
    (report,) = record_demonstrations(BLIND, tmp_path, 1, [BOWL], workers=0)
    assert report.kept == 1 and content(report.path) == before
    assert not list(tmp_path.rglob("episode_*"))


def refuse(path: Path, missing_ok: bool = False) -> None:
    if not missing_ok:
        raise OSError("power cut")


def test_commands_that_do_nothing_are_dropped_and_the_rest_must_succeed(tmp_path: Path) -> None:
    record_demonstrations(replace(BLIND, action_noise=0.0, keep_noops=True), tmp_path / "kept", 1, [BOWL], workers=0)
    (episode,) = load_episodes(tmp_path / "kept")
    standing_still = np.linalg.norm(episode.commands[:, :6], axis=1) < 1e-4
    assert standing_still.sum() > 5, "this expert stands still while it closes the gripper"
    (report,) = record_demonstrations(replace(BLIND, action_noise=0.0), tmp_path / "dropped", 1, [BOWL], workers=0)
    assert report.failed == {"expert": [], "replay": [0]}, "and without that time the bowl is not grasped"


def test_tasks_that_the_expert_does_not_know_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {predicate: skill for predicate, skill in scripted.SKILLS.items() if predicate != "turnon"}
    monkeypatch.setattr(scripted, "SKILLS", known)
    with caplog.at_level(logging.WARNING):
        reports = record_demonstrations(BLIND, tmp_path, 1, [UNKNOWN, BOWL], workers=0)
    assert [(report.kept, report.is_known) for report in reports] == [(0, False), (1, True)]
    assert "turn_on_the_stove" in caplog.text and NAME not in caplog.text


def test_initial_states_cycle_and_episodes_differ(tmp_path: Path) -> None:
    record = EpisodeRecorder(replace(BLIND, n_init_states=25), tmp_path, [BOWL])
    commands = []
    for number in (1, 26):
        assert record((BOWL, number)) == "kept"
        (episode,) = load_episodes(recorder.part_path(tmp_path, BLIND.spec.task(BOWL), number))
        assert episode.init_state_id == 1
        commands.append(episode.commands[:20])
    assert np.abs(commands[0] - commands[1]).max() > 0.01


def test_other_settings_another_origin_and_another_process_are_refused(tmp_path: Path) -> None:
    record_demonstrations(BLIND, tmp_path, 1, [BOWL], workers=0)
    path = tmp_path / f"{NAME}_demo.hdf5"
    before = path.read_bytes()
    with pytest.raises(DemonstrationFileError, match=rf"{NAME}_demo.hdf5 was recorded with seed 0 instead of 3"):
        record_demonstrations(replace(BLIND, seed=3), tmp_path, 2, [BOWL], workers=0)
    with pytest.raises(DemonstrationFileError, match="was recorded with n_init_states 50 instead of 25"):
        record_demonstrations(replace(BLIND, n_init_states=25), tmp_path, 2, [BOWL], workers=0)
    with pytest.raises(ValueError, match="n_init_states is 51; expected 1 to 50"):
        replace(BLIND, n_init_states=51)
    with own_folder(tmp_path), ThreadPoolExecutor(1) as other:
        writing = other.submit(record_demonstrations, BLIND, tmp_path, 2, [BOWL], workers=0)
        with pytest.raises(
            FolderInUseError, match=rf"is being written by another thread of this process \({os.getpid()}"
        ):
            writing.result()
    assert path.read_bytes() == before
    with h5py.File(path, "r+") as file:
        del file["data"].attrs["vla_gym_settings"]
    with pytest.raises(DemonstrationFileError, match="was not recorded by vla-rl collect"):
        record_demonstrations(BLIND, tmp_path, 2, [BOWL], workers=0)


@pytest.mark.parametrize("note", ["", "null", "[]", '{"settings": 3}', '{"settings": "[]"}', "[" * 100_000])
def test_a_damaged_note_is_refused_by_name(note: str, tmp_path: Path) -> None:
    path = recorder.part_path(tmp_path, BLIND.spec.task(BOWL), 0).with_suffix(".json")
    path.parent.mkdir(parents=True)
    path.write_text(note)
    with pytest.raises(DemonstrationFileError, match=r"episode_000000\.json.* vla-rl collect"):
        record_demonstrations(BLIND, tmp_path, 1, [BOWL], workers=0)


def test_damaged_attributes_of_the_recorder_are_refused_by_name(tmp_path: Path) -> None:
    record_demonstrations(BLIND, tmp_path, 1, [BOWL], workers=0)
    path = tmp_path / f"{NAME}_demo.hdf5"
    assert describe_demonstrations(tmp_path)["kept"] == 1
    with h5py.File(path, "r+") as file:
        del file["data"].attrs["vla_gym_failed_expert"]
    with pytest.raises(DemonstrationFileError, match=rf"{NAME}_demo\.hdf5: expected a recording of vla-rl collect"):
        record_demonstrations(BLIND, tmp_path, 2, [BOWL], workers=0)
    with h5py.File(path, "r+") as file:
        file["data"].attrs["vla_gym_settings"] = "3"
    with pytest.raises(DemonstrationFileError, match=rf"{NAME}_demo\.hdf5: expected notes of vla-rl collect"):
        describe_demonstrations(tmp_path)


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Unknown task_id"):
        record_demonstrations(BLIND, tmp_path, 1, [12], workers=0)
    with pytest.raises(UnknownNameError, match="Unknown camera 'front'"):
        record_demonstrations(replace(BLIND, cameras=("front",)), tmp_path, 1, [BOWL], workers=1)
    with pytest.raises(AssetsError, match="/nowhere"):
        record_demonstrations(replace(BLIND, assets="/nowhere"), tmp_path, 1, [BOWL], workers=1)
    with pytest.raises(ValueError, match="episodes is 0"):
        record_demonstrations(BLIND, tmp_path, 0, [BOWL])
    with pytest.raises(AssetsError, match="/nowhere"):
        record_demonstrations(replace(BLIND, assets="/nowhere"), tmp_path / "new", 1, [BOWL], workers=1)
    assert not (tmp_path / "new").exists()
