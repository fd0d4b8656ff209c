"""
Unpickling that runs no code: saved runs may be other people's.

Pickle can call anything that can be imported. Here it gets two lists of exact names: constructors of plain data, which
it may call, and classes that settings refer to, which it may name but not call. It may set the state of what these
constructors made, and of nothing else. All other names are refused.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch as th

from vla_algos.errors import CheckpointError

SERIALIZED = ":serialized:"
"""Key by which SB3 marks the pickled entries of ``data`` in a zip file."""


def _names(module: str, *names: str) -> set[tuple[str, str]]:
    return {(module, name) for name in names}


def _in_numpy_core(module: str, *names: str) -> set[tuple[str, str]]:
    """NumPy 2 calls the package ``_core``, NumPy 1 ``core``; either reads files of the other."""
    return _names(f"numpy._core.{module}", *names) | _names(f"numpy.core.{module}", *names)


CONSTRUCTORS: frozenset[tuple[str, str]] = frozenset(
    _names("builtins", "dict", "list", "set", "frozenset", "tuple", "int", "float", "complex", "bool", "str")
    | _names("collections", "deque", "OrderedDict", "defaultdict", "Counter")
    | _names("pathlib", "PosixPath", "PurePosixPath")
    | _names("pathlib._local", "PosixPath", "PurePosixPath")
    | _names("datetime", "timedelta")
    | _names("numpy", "dtype", "ndarray")
    | _in_numpy_core("numeric", "_frombuffer")
    | _in_numpy_core("multiarray", "_reconstruct", "scalar")
    | _names("numpy.random._pickle", "__generator_ctor", "__bit_generator_ctor", "__randomstate_ctor")
    | _names("numpy.random._generator", "Generator")
    | _names("numpy.random.bit_generator", "SeedSequence", "__pyx_unpickle_SeedSequence")
    | _names("numpy.random._pcg64", "PCG64", "PCG64DXSM")
    | _names("numpy.random._mt19937", "MT19937")
    | _names("torch", "device", "Size")
    | _names("torch._utils", "_rebuild_tensor_v2")
    | _names("torch.storage", "_load_from_bytes")
    | _names("gymnasium.spaces.box", "Box")
    | _names("gymnasium.spaces.dict", "Dict")
    | _names("gymnasium.spaces.discrete", "Discrete")
    | _names("gymnasium.spaces.multi_binary", "MultiBinary")
    | _names("gymnasium.spaces.multi_discrete", "MultiDiscrete")
    | _names("gymnasium.spaces.tuple", "Tuple")
    | _names("stable_baselines3.common.utils", "FloatSchedule", "LinearSchedule", "ConstantSchedule")
    | _names("vla_algos.bc.stream", "TrainingStream")
    | _names("vla_algos.common.divergence", "SkippedUpdates")
    | _names("vla_algos.curriculum.sampler", "SuccessSampler")
    | _names("vla_gym.actions.normalizer", "ActionNormalizer")
    | _names("vla_gym.actions.tokenizer", "ActionTokenizer")
)
"""(module, name) of what builds plain data, and is called."""

REFERENCES: frozenset[tuple[str, str]] = frozenset(
    _names("torch", *(str(dtype).removeprefix("torch.") for dtype in vars(th).values() if isinstance(dtype, th.dtype)))
    | _names("torch.optim.adam", "Adam")
    | _names("torch.optim.adamw", "AdamW")
    | _names("torch.optim.rmsprop", "RMSprop")
    | _names("torch.optim.sgd", "SGD")
    | _names("torch.nn.modules.activation", "ELU", "GELU", "LeakyReLU", "ReLU", "SiLU", "Tanh")
    | _names("stable_baselines3.common.buffers", "RolloutBuffer", "DictRolloutBuffer")
    | _names("stable_baselines3.common.sb2_compat.rmsprop_tf_like", "RMSpropTFLike")
    | _names("vla_algos.policies.vla_policy", "VLAPolicy")
    | _names("vla_algos.common.buffers", "TokenRolloutBuffer")
    | _names("vla_algos.algorithms.episodes", "EpisodeBuffer")
)
"""(module, name) of what is named, and never called while a file is read."""

_MOVED: Mapping[tuple[str, str], tuple[str, str]] = {
    ("vla_algos.on_policy.episodes", "EpisodeBuffer"): ("vla_algos.algorithms.episodes", "EpisodeBuffer"),
}
"""Names in files that were saved before a class moved, and where it is now."""


def _load_storage(content: bytes) -> Any:
    """What torch pickles tensors by, without the pickle inside of it that could run code."""
    return th.load(io.BytesIO(content), map_location="cpu", weights_only=True)


_SUBSTITUTES: Mapping[tuple[str, str], Callable[..., Any]] = {("torch.storage", "_load_from_bytes"): _load_storage}


class _Refused(pickle.UnpicklingError):
    """Something that would run code."""


# typeshed knows little of the unpickler in Python, which has hooks where the one in C has none
_Unpickler: Any = vars(pickle)["_Unpickler"]


class RestrictedUnpickler(_Unpickler):  # type: ignore[misc]
    """
    Python's unpickler, over the two lists.

    :param file: opened for reading, binary
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file)
        self._callable: dict[int, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """
        Look a name up.

        :param module: where it is
        :param name: without dots
        :return: the object
        :raises UnpicklingError: if it is on neither list
        """
        key = module, name = _MOVED.get((module, name), (module, name))
        if key not in CONSTRUCTORS and key not in REFERENCES:
            raise _Refused(f"names {module}.{name}")
        try:
            found = _SUBSTITUTES.get(key) or getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise pickle.UnpicklingError(f"names {module}.{name}, which is not installed ({error})") from error
        if key in CONSTRUCTORS:
            self._callable[id(found)] = found
        return found

    def _check_callable(self, found: Any) -> None:
        if id(found) not in self._callable:
            raise _Refused(f"calls {_described(found)}")

    def _reduce(self) -> None:
        self._check_callable(self.stack[-2])
        super().load_reduce()

    def _new_object(self) -> None:
        self._check_callable(self.stack[-2])
        super().load_newobj()

    def _new_object_with_keywords(self) -> None:
        self._check_callable(self.stack[-3])
        super().load_newobj_ex()

    def _build(self) -> None:
        kind = type(self.stack[-2])
        if id(kind) not in self._callable and not issubclass(kind, _STATEFUL):
            raise _Refused(f"sets the state of {_described(self.stack[-2])}")
        super().load_build()

    def _refuse(self) -> None:
        raise _Refused("is pickled in a way that saved runs are not")

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.NEWOBJ[0]] = _new_object
    dispatch[pickle.NEWOBJ_EX[0]] = _new_object_with_keywords
    dispatch[pickle.BUILD[0]] = _build
    for _opcode in (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID):
        dispatch[_opcode[0]] = _refuse


_BIT_GENERATORS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937)
_STATEFUL = (
    np.dtype,
    np.ndarray,
    np.random.Generator,
    np.random.RandomState,
    np.random.SeedSequence,
    *_BIT_GENERATORS,
)
"""What functions on the list make, and what has a state to set."""


def _described(found: Any) -> str:
    named = found if hasattr(found, "__qualname__") else type(found)
    return f"{named.__module__}.{named.__qualname__}"


def load_restricted(content: bytes) -> Any:
    """
    Unpickle plain data and objects of the listed classes.

    :param content: of a pickle
    :return: the object
    :raises CheckpointError: if it would run code, or is damaged; says why, as the end of a sentence
    """
    try:
        return RestrictedUnpickler(io.BytesIO(content)).load()
    except Exception as error:
        # a damaged pickle can fail by any error at all
        reason = str(error) if isinstance(error, pickle.UnpicklingError) else f"is damaged ({error!r})"
        raise CheckpointError(reason) from error


def load_entries(data: Mapping[str, Any], path: object, known: Mapping[str, Any]) -> dict[str, Any]:
    """
    Unpickle the entries that SB3 pickles into a zip file.

    :param data: content of ``data`` in the file
    :param path: of the file, for messages
    :param known: entries that are given instead; these are not looked at
    :return: the pickled entries
    :raises CheckpointError: if one of them would run code, or is damaged
    """
    entries, refused = {}, {}
    for name, entry in data.items():
        if name in known or not isinstance(entry, dict) or SERIALIZED not in entry:
            continue
        try:
            entries[name] = load_restricted(base64.b64decode(entry[SERIALIZED], validate=True))
        except CheckpointError as error:
            refused[name] = str(error)
        except (binascii.Error, TypeError, ValueError) as error:
            refused[name] = f"is damaged ({error!r})"
    if refused:
        reasons = "; ".join(f"entry {name!r} {reason}" for name, reason in refused.items())
        replaced = ", ".join(f"{name!r}: ..." for name in refused)
        raise CheckpointError(
            f"{path} was not loaded: {reasons}. That could run code of whoever made the file; expected plain data and "
            f"the classes that saved runs consist of. Give these entries yourself, custom_objects={{{replaced}}}, or "
            "pass trust=True if you made the file. To share a model, write a folder with save_vla, never a zip file."
        )
    return entries
