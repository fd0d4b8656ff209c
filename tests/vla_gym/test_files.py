import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vla_gym.files import check_sums, locked, read_bounded, write_sums, write_then_rename


def test_file_appears_only_at_the_end(tmp_path):
    target = tmp_path / "new" / "result.json"
    with write_then_rename(target) as path:
        path.write_text("half")
        assert path.parent == target.parent and path.suffix == ".json"
        assert not target.exists()
        path.write_text("whole")
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["result.json"]


def test_an_error_keeps_the_earlier_file_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("earlier")
    with pytest.raises(RuntimeError, match="power cut"), write_then_rename(target) as path:
        path.write_text("half")
        raise RuntimeError("power cut")
    assert target.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_reading_is_bounded_and_never_waits(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bounded(tmp_path / "file", 5) == b"12345"
    with pytest.raises(ValueError, match="has 5 bytes, expected at most 4"):
        read_bounded(tmp_path / "file", 4)
    with open(tmp_path / "sparse", "wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(ValueError, match="has 1,099,511,627,776 bytes"):
        read_bounded(tmp_path / "sparse", 1000)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises((ValueError, IsADirectoryError)):
            read_bounded(path, 10)


def test_checksums_are_those_of_sha256sum_and_follow_changes(tmp_path: Path) -> None:
    files = [tmp_path / "a.bin", tmp_path / "b.bin"]
    for file in files:
        file.write_bytes(file.name.encode())
    write_sums(tmp_path / "SUMS", files)
    subprocess.run(["sha256sum", "--check", "--strict", "SUMS"], cwd=tmp_path, check=True, capture_output=True)
    check_sums(tmp_path / "SUMS", files)
    with pytest.raises(ValueError, match=r"SUMS does not name a\.bin"):
        check_sums(tmp_path / "SUMS", files[:1])
    files[0].write_bytes(b"b.bin")
    with pytest.raises(ValueError, match=r"checksum of a\.bin differs"):
        check_sums(tmp_path / "SUMS", files)
    (tmp_path / "SUMS").write_bytes(b"\xff\n" + (tmp_path / "SUMS").read_bytes())
    with pytest.raises(ValueError, match="SUMS does not name"):
        check_sums(tmp_path / "SUMS", files)


def test_a_lock_is_held_by_one_and_ends_with_its_holder(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from vla_gym.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True); sys.stdin.read(); os._exit(9)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with open(tmp_path / "lock") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.communicate()
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
