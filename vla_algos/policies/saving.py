"""How the algorithms of this package are saved: whole or not at all, and without what the model's checkpoint has."""

from __future__ import annotations

import inspect
import io
import json
import logging
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch as th
from safetensors import SafetensorError
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, open_path
from stable_baselines3.common.type_aliases import GymEnv

from vla_algos.common.state_dicts import describe_mismatch
from vla_algos.common.unpickling import load_entries
from vla_algos.errors import (
    CheckpointError,
    FixedSettingError,
    RemovedKeywordError,
    SavingError,
    UnknownNameError,
    VLAAlgosError,
)
from vla_algos.models.openvla.config import PRESETS
from vla_gym.files import write_then_rename
from vla_gym.owned import own_folder

logger = logging.getLogger(__name__)

LAST_FILE = "last.zip"
"""In the folder of a run: what it goes on from."""
DIVERGED_FILE = "diverged.zip"
"""Beside it: what a run had come to when its updates were no longer finite."""
FORMAT_VERSION = 1
"""Of what the algorithms save; goes up when a file of before can no longer be loaded."""
_NOT_FOR_LOADING = ("self", "policy", "env", "device", "_init_setup_model")
"""What constructors take and ``load`` does not, or takes by itself."""
_RUN_STATE = ("_moment", "_stream")
"""Attributes that hold the generators of a run in progress."""


class SavedWithoutFrozenWeights(BaseAlgorithm):
    """SB3's saving for algorithms whose policy is a :class:`vla_algos.policies.VLAPolicy`."""

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save as SB3 does, and never leave half a file.

        :param path: file, ``.zip`` is added if it has no suffix
        :param exclude: attributes to leave out
        :param include: attributes to keep although they are left out by default
        """
        self.saved_as = {"format": FORMAT_VERSION, "algorithm": type(self).__name__}
        save_zip(super().save, path, exclude=exclude, include=include)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        Load as SB3 does; only what this class, in this version, has saved, and without running code of the file.

        A zip file holds pickles. Share models as folders (``save_vla``), never as zip files.

        :param path: file written by :meth:`save`, or opened for reading
        :param env: as SB3's
        :param device: as SB3's
        :param custom_objects: as SB3's: entries that replace the file's, which are then not unpickled
        :param print_system_info: as SB3's
        :param force_reset: as SB3's
        :param trust: unpickle everything, which runs any code that the file names: for files of your own whose
            schedules, policies or buffers are classes or functions of your own
        :param kwargs: keywords of the constructor that replace what the file says
        :return: the algorithm
        :raises CheckpointError: if the file is damaged, of another algorithm, of another version of the format, would
            run code, or if its weights do not fit the model that it names
        :raises UnknownNameError: if the constructor has no such keyword
        :raises RemovedKeywordError: if a keyword has no meaning for the algorithm
        :raises FixedSettingError: if the file holds a run in progress, and a keyword is part of its state
        """
        _check_keywords(cls, kwargs)
        data = _read_saved(path, [base.__name__ for base in cls.__mro__])
        if "seed" in kwargs and any(data.get(name) is not None for name in _RUN_STATE):
            raise FixedSettingError(
                f"seed cannot be changed to {kwargs['seed']}: {path} holds a run in progress, whose random numbers "
                "continue where they were. Leave seed out, or train the model in a new run."
            )
        if kwargs.get("checkpoint_folder") is not None:
            kwargs["checkpoint_folder"] = str(kwargs["checkpoint_folder"])
        if "stats_window_size" in kwargs:
            # SB3 keeps it under this name, and its windows are saved with the length that they had
            kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")
            kwargs |= {"ep_info_buffer": None, "ep_success_buffer": None}
        if not trust:
            custom_objects = {**load_entries(data, path, custom_objects or {}), **(custom_objects or {})}
        with _damage_named(path):
            return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)  # type: ignore[arg-type]

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """
        Weights and optimizer; frozen weights of a checkpoint are left out, as it has them.

        :return: name -> state dictionary
        """
        parameters = super().get_parameters()
        frozen = self._frozen_names()
        parameters["policy"] = {name: value for name, value in parameters["policy"].items() if name not in frozen}
        return parameters

    def set_parameters(  # type: ignore[override]
        self,
        load_path_or_dict: str | dict[str, dict[str, Any]],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        Inverse of :meth:`get_parameters`.

        :param load_path_or_dict: file written by :meth:`save`, or dictionary
        :param exact_match: whether every part and every weight that is not frozen must be there
        :param device: of the tensors read from a file
        :raises CheckpointError: if the weights are of another architecture
        """
        parameters = read_parameters(load_path_or_dict, device)
        own = self.policy.state_dict()
        frozen = {name: own[name] for name in self._frozen_names()}
        if "policy" in parameters:
            parameters = {**parameters, "policy": {**frozen, **parameters["policy"]}}
            mismatch = describe_mismatch(own, parameters["policy"])
            if mismatch and exact_match:
                raise CheckpointError(
                    f"The saved weights are not those of the model {self.policy_kwargs.get('vla', 'compact')!r} with "
                    f"policy_kwargs={self.policy_kwargs}. {mismatch} Load them into the architecture that was saved."
                )
        super().set_parameters(parameters, exact_match, device)

    def _frozen_names(self) -> set[str]:
        # fresh weights of a preset are nowhere else
        if str(self.policy_kwargs.get("vla", "compact")) in PRESETS:
            return set()
        # not by requires_grad, which an algorithm may switch off for a while
        learned = {id(parameter) for group in self.policy.optimizer.param_groups for parameter in group["params"]}
        return {name for name, parameter in self.policy.named_parameters() if id(parameter) not in learned}


def load_keywords(algorithm: type[BaseAlgorithm]) -> list[str]:
    """
    List the keywords of an algorithm's constructor that ``load`` takes, too.

    A constructor that passes ``*args`` and ``**kwargs`` on takes those of its parent.

    :param algorithm: the class
    :return: their names
    """
    names: list[str] = []
    for base in algorithm.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        named = (p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
        names += [name for name in named if name not in (*_NOT_FOR_LOADING, *names)]
        if not {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= {p.kind for p in parameters}:
            break
    return names


def _check_keywords(algorithm: type[BaseAlgorithm], keywords: Iterable[str]) -> None:
    """SB3 makes attributes of all of them, whether anything reads them or not."""
    removed: Mapping[str, str] = getattr(algorithm, "removed_keywords", {})
    valid = load_keywords(algorithm)
    for name in keywords:
        if name in removed:
            raise RemovedKeywordError(f"{algorithm.__name__} has no {name}: {removed[name]}")
        if name not in valid:
            raise UnknownNameError(f"keyword of {algorithm.__name__}.load", name, valid)


def read_parameters(path_or_dict: str | dict[str, Any], device: th.device | str = "auto") -> dict[str, Any]:
    """
    Weights and optimizer as a dictionary.

    :param path_or_dict: file written by ``save``; a dictionary is returned as it is
    :param device: of the tensors read from a file
    :return: name -> state dictionary
    """
    if isinstance(path_or_dict, dict):
        return path_or_dict
    with _damage_named(path_or_dict):
        return load_from_zip_file(path_or_dict, device=device, load_data=False)[1]


@contextmanager
def _damage_named(path: object) -> Iterator[None]:
    """Weights that torch refuses to unpickle, as they are not tensors alone, are an error of the file."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was not loaded: its weights are not tensors alone ({str(error).splitlines()[0]}). "
            "Save the run again, or load another file."
        ) from error


def _read_saved(path: str | Path | io.BufferedIOBase, loadable: list[str]) -> dict[str, Any]:
    """Read the settings in a file and see who saved it, without unpickling anything."""
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:  # type: ignore[arg-type]
            data = dict(json.loads(archive.read("data").decode()))
        saved_as = dict(data.get("saved_as") or {})
    except (zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a file that an algorithm has saved ({error}). Save it again, or load another."
        ) from error
    finally:
        file.seek(0)
        if file is not path:
            file.close()
    algorithm, version = saved_as.get("algorithm"), saved_as.get("format")
    if algorithm not in loadable:
        if algorithm is None:
            raise CheckpointError(
                f"{path} does not say that {loadable[0]} saved it: it is another library's, or from a version before "
                "files said so. Load it with what saved it and write its model out with save_vla."
            )
        raise CheckpointError(f"{path} was saved by {algorithm}, not by {loadable[0]}. Use {algorithm}.load.")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has version {version} of the format; this vla_algos reads {FORMAT_VERSION}. Load it with the "
            "version that saved it and write its model out with save_vla."
        )
    return data


def save_zip(save: Callable[..., None], path: str | Path | io.BufferedIOBase, **kwargs: Any) -> None:
    """
    Call SB3's ``save`` so that the zip file appears whole or not at all.

    :param save: bound ``BaseAlgorithm.save``
    :param path: file, ``.zip`` is added if it has no suffix; an open file is written to directly
    :param kwargs: further keywords of ``save``
    :raises SavingError: if the disk does not take it
    """
    if not isinstance(path, (str, Path)):
        save(path, **kwargs)
        return
    path = path if Path(path).suffix else f"{path}.zip"
    with disk_errors_named(path), write_then_rename(path) as temporary:
        save(temporary, **kwargs)


@contextmanager
def disk_errors_named(path: str | Path) -> Iterator[None]:
    """
    Give one name to what a full or failing disk raises in Python, torch and safetensors.

    :param path: what is written inside the block
    :raises SavingError: if the disk does not take it
    """
    try:
        yield
    except Exception as error:
        if not _is_of_disk(error):
            raise
        raise SavingError(f"{path} could not be written: {error} Free space on its disk.") from error


def _is_of_disk(error: BaseException | None) -> bool:
    while error is not None:
        # torch's and safetensors' writers say no more than that
        is_writer = isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error)
        is_writer = is_writer or (isinstance(error, RuntimeError) and "inline_container" in str(error))
        if is_writer or (isinstance(error, OSError) and not isinstance(error, VLAAlgosError)):
            return True
        if isinstance(error, SafetensorError) and "I/O error" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def saved_timesteps(path: str | Path) -> int | None:
    """
    Decisions, or gradient steps, after which a run was saved.

    :param path: file written by ``save``
    :return: the number; None if there is no such file, or it is damaged
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return int(json.loads(archive.read("data").decode())["num_timesteps"])
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError):
        return None


def owned_folder(folder: str | None) -> AbstractContextManager[object]:
    """
    As :func:`vla_gym.owned.own_folder`, for runs that may be saved nowhere.

    :param folder: of the run, or None
    :return: context manager
    """
    return nullcontext() if folder is None else own_folder(folder)


def save_or_warn(save: Callable[[], None]) -> bool:
    """
    Save a run that goes on; a disk that is full for a moment does not end it.

    :param save: raises :class:`SavingError` if the disk does not take it
    :return: whether it was saved
    """
    try:
        save()
    except SavingError as error:
        logger.warning("%s The run goes on, and is saved again at its next checkpoint.", error)
        return False
    return True
