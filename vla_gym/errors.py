"""Named errors of ``vla_gym``; each message states the value, what was expected, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class VLAGymError(Exception):
    """Base class of all errors raised by ``vla_gym``."""


class UnknownNameError(VLAGymError, ValueError):
    """A name or number (suite, task, initial state, camera, predicate, ...) that does not exist."""

    def __init__(self, kind: str, value: object, valid: Iterable[object], remedy: str = "") -> None:
        names = [str(v) for v in valid]
        listing = f"{names[0]}..{names[-1]}" if isinstance(valid, range) and names else ", ".join(names)
        close = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"Unknown {kind} {value!r}.{hint} Valid: {listing}.{' ' + remedy if remedy else ''}")

    def __reduce__(self) -> tuple[Any, ...]:
        # rebuilt from its message when it is unpickled
        return _with_message, (type(self), str(self))


def _with_message(cls: type[UnknownNameError], message: str) -> UnknownNameError:
    return cls.__new__(cls, message)


class InvalidArgumentError(VLAGymError, ValueError):
    """An argument of the wrong type or out of range."""


class FolderInUseError(VLAGymError, RuntimeError):
    """A folder or file that another process is writing."""


class FolderNotWritableError(VLAGymError, OSError):
    """A folder that cannot be written."""


class AssetsError(VLAGymError, FileNotFoundError):
    """An asset folder that is missing or incomplete."""


class MissingPackageError(VLAGymError, ImportError):
    """A package of an optional extra that is not installed."""


class SceneBuildError(VLAGymError, RuntimeError):
    """LIBERO could not build or compile a scene."""


class SceneFileError(VLAGymError, ValueError):
    """Imported scenes, or an archive of scenes, that are damaged, unsafe or of another version."""


class InitStatesError(VLAGymError, ValueError):
    """A file of initial states that is damaged or not of the expected shape."""


class ActionStatisticsError(VLAGymError, ValueError):
    """Action statistics that are missing, damaged, or have the wrong number of dimensions."""


class DemonstrationFileError(VLAGymError, ValueError):
    """A file of demonstrations that is damaged, has another layout, or was recorded with other settings."""


class InvalidEpisodeError(VLAGymError, ValueError):
    """An episode whose arrays do not fit together, or contain values that are impossible in LIBERO."""


class InvalidActionError(VLAGymError, ValueError):
    """An action of the wrong shape, type or range; the simulation was not touched."""


class RenderingError(VLAGymError, RuntimeError):
    """No OpenGL back end could be started."""


class SnapshotError(VLAGymError, ValueError):
    """A snapshot that is damaged, or comes from an environment with other keywords or wrappers."""


class WorkerError(VLAGymError, RuntimeError):
    """A worker process that keeps dying, or an exception in one that cannot be pickled."""
