"""Classes and functions that a recipe names by their import path, the user's own among them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from vla_algos.errors import RecipeError, SettingsError, UnknownNameError

_FORMS = "expected 'package.module.Name', 'package.module:Name' or 'file.py:Name'"
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*[.:][^\W\d]\w*")
_FILE_PATH = re.compile(r".+\.py:[^\W\d]\w*")


def is_import_path(text: str) -> bool:
    """
    Tell whether a text has the form of an import path, or of a file and a name in it.

    :param text: such as ``my_package.MyWrapper`` or ``mine.py:MyWrapper``
    """
    return bool(_FILE_PATH.fullmatch(text) or _IMPORT_PATH.fullmatch(text))


def anchored(text: str, folder: Path) -> str:
    """
    Make the file of an import path absolute.

    :param text: import path; a file is relative to ``folder``
    :param folder: of the recipe
    :return: the same, with an absolute file
    """
    if not _FILE_PATH.fullmatch(text):
        return text
    file, _, name = text.rpartition(":")
    return f"{(folder / file).resolve()}:{name}"


def load_object(text: str) -> Any:
    """
    Import the object that an import path names.

    :param text: ``package.module.Name``, ``package.module:Name`` or ``/folder/file.py:Name``
    :return: the object
    :raises RecipeError: if the text has another form, or the module does not exist or cannot be imported
    :raises UnknownNameError: if the module has nothing of that name
    """
    if not is_import_path(text):
        raise RecipeError(f"{text!r} is not an import path; {_FORMS}.")
    where, name = text.rsplit(":" if ":" in text else ".", 1)
    try:
        module = _module_of_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except ImportError as error:
        remedy = "Run: pip install vla-gym[contrib]" if where == "sb3_contrib" else "Install it, or correct its path."
        raise RecipeError(f"{where} of {text!r} cannot be imported: {error}. {remedy}") from error
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)]
        raise UnknownNameError(f"name in {where}", name, own)
    return getattr(module, name)


def _module_of_file(path: Path) -> ModuleType:
    """Import a file once per process, under a name that follows from its path."""
    name = f"recipe_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@dataclass(frozen=True)
class Component:
    """
    A class or function and its keywords; it can be sent to another process, which imports it there.

    :param path: import path
    :param kwargs: keywords
    """

    path: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Component:
        """
        Make one from an entry of a recipe.

        :param entry: ``{import path: keywords}``
        """
        ((path, kwargs),) = entry.items()
        return cls(path, kwargs or {})

    def check(self) -> None:
        """
        Import the object and compare the keywords with its signature.

        :raises RecipeError: if it cannot be imported, or cannot be called
        :raises UnknownNameError: for a keyword, or an object, that does not exist
        """
        made = load_object(self.path)
        if not callable(made):
            raise RecipeError(f"{self.path} is {made!r}; expected a class or a function.")
        parameters = inspect.signature(made).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return
        for key in self.kwargs:
            if key not in parameters:
                raise UnknownNameError(f"keyword of {self.path}", key, list(parameters)[1:])

    def __call__(self, *args: Any) -> Any:
        """Call the object with these arguments and the keywords."""
        return load_object(self.path)(*args, **self.kwargs)


def wrapper_entries(name: str, value: Any, folder: Path) -> tuple[dict[str, Any], ...]:
    """
    Normalise the forms in which a recipe may list wrappers.

    :param name: of the list, for errors
    :param value: None, an import path, ``{import path: keywords}``, or a list of these
    :param folder: of the recipe, for relative paths of the user's own files
    :return: one ``{import path: keywords}`` for each
    :raises SettingsError: for anything else
    """
    entries = value if isinstance(value, Sequence) and not isinstance(value, str) else [] if value is None else [value]
    found = []
    for entry in entries:
        pair = {entry: {}} if isinstance(entry, str) else entry
        path, kwargs = next(iter(pair.items())) if isinstance(pair, Mapping) and len(pair) == 1 else (None, None)
        if not isinstance(path, str) or not isinstance(kwargs or {}, Mapping):
            raise SettingsError(
                f"{name} has the entry {entry!r}; expected an import path, or one with keywords: "
                "- my_package.MyWrapper: {keyword: value}"
            )
        found.append({anchored(path, folder): dict(kwargs or {})})
    return tuple(found)


def components(entries: Sequence[Mapping[str, Any]]) -> list[Component]:
    """
    Make the components that wrapper entries name.

    :param entries: ``{import path: keywords}``
    """
    return [Component.from_entry(entry) for entry in entries]
