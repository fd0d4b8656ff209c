import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vla_gym.errors import FolderInUseError, FolderNotWritableError
from vla_gym.owned import own_folder

HOLDER = """
import sys
from vla_gym.owned import own_folder
with own_folder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_folder_that_another_process_writes_is_refused_with_its_pid(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUseError, match=rf"is being written by process {holder.pid} on .*another folder"):
            with own_folder(tmp_path):
                pass
        holder.kill()
    with own_folder(tmp_path) as folder:
        assert json.loads((folder / ".owner.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".owner.json").exists(), "a lock dies with its owner"


def test_another_thread_is_refused_and_the_same_one_is_not(tmp_path):
    refusals = []

    def other():
        try:
            with own_folder(tmp_path / "run"):
                pass
        except FolderInUseError as error:
            refusals.append(str(error))

    with own_folder(tmp_path / "run"), own_folder(tmp_path / "x" / ".." / "run"):
        pass
    with own_folder(tmp_path / "run"):
        with own_folder(tmp_path / "run"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another thread of this process" in refusals[0]
    with own_folder(tmp_path / "run"):
        pass


def test_folders_in_which_nothing_was_put_are_removed(tmp_path):
    with pytest.raises(ValueError), own_folder(tmp_path / "a" / "b"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    with own_folder(tmp_path / "a" / "b") as folder:
        (folder / "result").touch()
    assert (tmp_path / "a" / "b" / "result").exists()
    (tmp_path / "empty").mkdir()
    with own_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir(), "it was there before"


@pytest.mark.parametrize(
    "make", [Path.touch, lambda path: path.symlink_to("/proc/self"), lambda path: path.symlink_to(path)]
)
def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path, make):
    make(tmp_path / "taken")
    with pytest.raises(FolderNotWritableError, match=r"taken.* cannot be written: .*another folder"):
        with own_folder(tmp_path / "taken" / "run"):
            pass


def test_what_processes_that_are_gone_left_behind_is_swept(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f".last-{gone.pid}.zip", f".history-{gone.pid}.json"):
        (tmp_path / name).touch()
    (tmp_path / f".model-{gone.pid}-x1_y").mkdir()
    (tmp_path / f".model-{gone.pid}-x1_y" / "weights").touch()
    kept = {
        f".last-{os.getpid()}.zip",
        ".last-1.zip",
        "last.zip",
        f".last-{gone.pid}.txt",
        f"last-{gone.pid}.zip",
        ".zip",
    }
    for name in kept:
        (tmp_path / name).touch()
    with own_folder(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} - {".lock", ".owner.json"} == kept
