"""A pickle gets plain data and listed classes, and calls nothing else."""

from __future__ import annotations

import builtins
import collections
import copyreg
import io
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from vla_algos.algorithms.episodes import EpisodeBuffer
from vla_algos.common.unpickling import CONSTRUCTORS, REFERENCES, load_restricted
from vla_algos.curriculum import SuccessSampler
from vla_algos.errors import CheckpointError
from vla_algos.policies import VLAPolicy
from vla_gym import ActionTokenizer


class Calls:
    """Pickled as a call of anything."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self._reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self._reduced


def seeded_box() -> spaces.Box:
    box = spaces.Box(-1.0, 1.0, (3,), np.float32)
    box.seed(3)
    return box


@pytest.mark.parametrize("protocol", [4, 5])
def test_plain_data_keeps_its_value(protocol: int) -> None:
    rng = np.random.default_rng(4)
    rng.random(5)
    data = {
        "arrays": [np.arange(6).reshape(2, 3), np.array(["a", "b"]), np.float32(2.5), np.array([None, {1}], object)],
        "containers": ({1, 2}, frozenset({3}), collections.deque([1], 4), collections.defaultdict(int, a=1), 1j, b"x"),
        "tensor": th.arange(4.0).view(2, 2),
        "named": (th.float32, th.device("cpu"), th.Size([2]), th.optim.AdamW, VLAPolicy, Path("a/b")),
        "generators": (rng, np.random.RandomState(3), rng.bit_generator.state),
        "spaces": spaces.Dict(a=seeded_box(), b=spaces.MultiDiscrete([256] * 7)),
        "schedules": [FloatSchedule(LinearSchedule(1.0, 0.0, 1.0)), ConstantSchedule(0.5)],
        "tokenizer": ActionTokenizer(),
        "sampler": SuccessSampler([(0, 0), (0, 1)]),
    }
    loaded = load_restricted(pickle.dumps(data, protocol))
    for one, other in zip(loaded["arrays"], data["arrays"], strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded["containers"] == data["containers"] and loaded["named"] == data["named"]
    assert th.equal(loaded["tensor"], data["tensor"])
    assert loaded["generators"][0].random() == rng.random()
    assert loaded["spaces"] == data["spaces"]
    assert [schedule(0.25) for schedule in loaded["schedules"]] == [0.25, 0.5]
    assert len(loaded["sampler"].starts) == 2


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (os.system, ("touch {}",), r"(posix|os)\.system"),
        (eval, ("open('{}', 'w')",), r"builtin\w*\.eval"),
        (exec, ("open('{}', 'w')",), r"builtin\w*\.exec"),
        (getattr, (Path, "touch"), r"builtin\w*\.getattr"),
        (builtins.open, ("{}", "w"), r"(io|_io)\.open"),
        (partial, (os.mkdir, "{}"), r"functools\.partial"),
        (copyreg._reconstructor, (Path, object, None), r"copy_?reg\._reconstructor"),
        (th.load, ("{}",), r"torch\.serialization\.load"),
        (th.hub.load, ("{}",), r"torch\.hub\.load"),
        (np.load, ("{}",), r"numpy.*load"),
        (np.memmap, ("{}", "uint8", "w+"), r"numpy.*memmap"),
        (bytearray, (10,), r"builtin\w*\.bytearray"),
        (range, (10**12,), r"builtin\w*\.x?range"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_runs_code_is_refused_by_name(function, args, name: str, protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    args = tuple(arg.format(trace) if isinstance(arg, str) else arg for arg in args)
    with pytest.raises(CheckpointError, match=name):
        load_restricted(pickle.dumps(Calls(function, *args), protocol))
    assert not trace.exists()


def test_a_class_that_may_be_named_is_not_called() -> None:
    with pytest.raises(CheckpointError, match=r"calls torch\.optim\.sgd\.SGD"):
        load_restricted(pickle.dumps(Calls(th.optim.SGD, [])))


def test_the_attributes_of_a_class_are_not_set() -> None:
    # a list, then the class, with a state for its slots
    content = pickle.dumps(VLAPolicy)[:-1] + pickle.dumps((None, {"forward": 1}))[2:-1] + pickle.BUILD + pickle.STOP
    before = VLAPolicy.forward
    with pytest.raises(CheckpointError, match=r"state of .*vla_policy\.VLAPolicy"):
        load_restricted(content)
    assert VLAPolicy.forward is before


def test_a_pickle_inside_of_a_tensor_is_restricted_too(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    inner = io.BytesIO()
    th.save(Calls(os.mkdir, str(trace)), inner, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"weights_only|Weights only"):
        load_restricted(pickle.dumps(Calls(th.storage._load_from_bytes, inner.getvalue())))
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"abc", pickle.dumps([1])[:-1], b"I1\nI2\nR."])
def test_a_damaged_pickle_is_called_so(content: bytes) -> None:
    with pytest.raises(CheckpointError):
        load_restricted(content)


def test_dotted_names_and_extension_codes_lead_nowhere() -> None:
    dotted = b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93."
    with pytest.raises(CheckpointError, match=r"numpy\.dtype\.__init__"):
        load_restricted(dotted)
    with pytest.raises(CheckpointError, match="in a way that saved runs are not"):
        load_restricted(b"\x80\x02\x82\x01.")


def test_every_listed_name_stands_for_itself_alone() -> None:
    dangerous = {
        "eval",
        "exec",
        "getattr",
        "setattr",
        "__import__",
        "open",
        "compile",
        "type",
        "object",
        "map",
        "apply",
    }
    for module, name in CONSTRUCTORS | REFERENCES:
        assert name not in dangerous and "*" not in module and name and "." not in name
    assert not CONSTRUCTORS & REFERENCES


def test_classes_that_have_moved_are_found() -> None:
    assert load_restricted(b"cvla_algos.on_policy.episodes\nEpisodeBuffer\n.") is EpisodeBuffer
