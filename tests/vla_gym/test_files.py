import pytest

from vla_gym.files import write_then_rename


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
