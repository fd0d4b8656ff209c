"""A trained process reward: from films to a model, and from a model to its audit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from stable_baselines3.common.utils import get_device

from vla_algos.errors import CheckpointError, FilmError, SettingsError, UnknownNameError
from vla_algos.experiments.value_types import check_fields, check_range
from vla_algos.rewards.audit import Audit, audit, audit_controls
from vla_algos.rewards.compact import CompactRewardModel
from vla_algos.rewards.controls import Inputs
from vla_algos.rewards.films import Film, describe_films, film_files, load_films, split_films
from vla_algos.rewards.loading import load_reward_model
from vla_algos.rewards.model import OUTPUTS, TrainableRewardModel, truly_held
from vla_algos.rewards.report import write_audit
from vla_algos.rewards.shaping import Shaping
from vla_algos.rewards.targets import Targets
from vla_algos.rewards.training import BEST, Epoch, train_reward_model
from vla_gym.files import read_json_object, write_then_rename
from vla_gym.owned import own_folder
from vla_gym.provenance import recorded_with

COMPACT = "compact"
"""The backend that is the backbone of a small VLA; any other is a model of transformers."""
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Split:
    """
    Which films are held out of a training, and audited.

    :param last_states: so many of the highest initial states of the films, of every task
    :param sources: who acted
    :param tasks: of the suite
    """

    last_states: int = 10
    sources: tuple[str, ...] = ()
    tasks: tuple[int, ...] = ()

    def divide(self, films: Sequence[Film]) -> tuple[list[Film], list[Film]]:
        """
        Divide films.

        :param films: all
        :return: to train on; held out
        :raises FilmError: if a source is not among the films
        """
        known = {film.source for film in films}
        for source in self.sources:
            if source not in known:
                raise FilmError(f"No film is of {source!r}; expected one of {', '.join(sorted(known))}.")
        states = sorted({film.init_state_id for film in films})
        held_out = states[len(states) - self.last_states :] if self.last_states else []
        return split_films(films, held_out, self.sources, self.tasks)


@dataclass(frozen=True)
class RewardSettings:
    """
    Settings of a training.

    :param data: file or folder of films
    :param backend: "compact", or id or folder of an image-text-to-text model of transformers
    :param vla: what a compact model starts from: a shipped checkpoint or a checkpoint folder
    :param targets: what frames are taught to be: "truth", "progress" or "paper"
    :param outputs: what a compact model is taught beside progress: "held", "success"; None: what the films know
    :param split: which films are held out
    :param revision: branch, tag or commit of a model on the Hub
    :param rank: of a transformers model's adapters
    :param device: "auto", "cpu" or "cuda"
    :param training: keywords of :func:`vla_algos.rewards.training.train_reward_model`
    :raises SettingsError: for a value of another type
    :raises UnknownNameError: for unknown targets
    """

    data: str
    backend: str = COMPACT
    vla: str = "compact-libero-goal"
    targets: Targets = "truth"
    outputs: tuple[str, ...] | None = None
    split: Split = field(default_factory=Split)
    revision: str | None = None
    rank: int = 32
    device: str = "auto"
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        check_range("last_states", self.split.last_states, 0)
        if self.targets not in get_args(Targets):
            raise UnknownNameError("targets", self.targets, get_args(Targets))


def train_reward(
    settings: RewardSettings,
    folder: str | Path,
    resume: bool = False,
    announce: Callable[[str], None] = lambda text: None,
) -> list[Epoch]:
    """
    Train a reward model on films.

    ``folder`` gets ``settings.json`` and what :func:`vla_algos.rewards.training.train_reward_model` writes; ``best`` in
    it is the model.

    :param settings: of the training
    :param folder: where to
    :param resume: continue an interrupted training with the same settings
    :param announce: called with a description of each stage
    :return: figures of all passes
    :raises FilmError: if there are no films, on either side of the split
    :raises CheckpointError: if ``folder`` holds a training and is not to be resumed
    :raises FolderInUseError: if another process trains there
    """
    with own_folder(folder) as folder:
        if not resume and (folder / SETTINGS).exists():
            raise CheckpointError(f"{folder} holds a training already. Resume it, or name another folder.")
        films, held_out = settings.split.divide(load_films(settings.data))
        model = _new_model(settings, films)
        with write_then_rename(folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
        announce(f"{len(films)} films to learn from, {len(held_out)} held out")
        return train_reward_model(
            model,
            films,
            held_out,
            folder,
            targets=settings.targets,
            resume=resume,
            show_progress=True,
            **settings.training,
        )


def _new_model(settings: RewardSettings, films: Sequence[Film]) -> TrainableRewardModel:
    device = get_device(settings.device)
    if settings.backend == COMPACT:
        outputs = _known_outputs(films) if settings.outputs is None else ("progress", *settings.outputs)
        return CompactRewardModel.start_from(settings.vla, outputs=outputs, device=device)
    # its models come with transformers, which takes seconds
    from vla_algos.rewards.vlm import VLMRewardModel

    return VLMRewardModel.start_from(settings.backend, settings.revision, settings.rank, device=device)


def _known_outputs(films: Sequence[Film]) -> tuple[str, ...]:
    """Without an object to be moved, or the simulator's word, nothing says whether one is held."""
    knows_held = any(film.privileged is not None and np.isfinite(truly_held(film.privileged)).any() for film in films)
    return tuple(name for name in OUTPUTS if name != "held" or knows_held)


def load_reward_settings(folder: str | Path) -> RewardSettings:
    """
    Read the settings of a training.

    :param folder: of the training
    :raises CheckpointError: if no training was started there, or the file is damaged
    """
    path = Path(folder) / SETTINGS
    try:
        content = read_json_object(path, CheckpointError)
        content["split"] = Split(**{name: _as_tuple(value) for name, value in content["split"].items()})
        return RewardSettings(**{name: _as_tuple(value) for name, value in content.items()})
    except (FileNotFoundError, AttributeError, KeyError, TypeError, SettingsError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}). Name the folder of a training.") from error


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def audit_reward(
    model: str,
    folder: str | Path,
    shaping: Shaping,
    gamma: float = 0.99,
    data: str | None = None,
    split: Split | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> tuple[Audit, dict[Inputs, Audit]]:
    """
    Judge a reward model on films that it did not learn from, beside controls that see no image.

    :param model: folder of a training, folder of a model, the name of a shipped one, or "true-progress"
    :param folder: where the report goes
    :param shaping: what it is paid by
    :param gamma: discount of the returns, per decision
    :param data: films; None: those of the training
    :param split: which of them are held out, the others teach the controls; None: as in the training
    :param announce: called with a description of each stage
    :return: figures of the model, and of the controls
    :raises FilmError: if films are missing, or there are only successes or failures
    :raises UnknownNameError: for an unknown model
    """
    is_training = (Path(model) / SETTINGS).is_file()
    settings = load_reward_settings(model) if is_training else None
    if settings is not None:
        data, split = data or settings.data, split or settings.split
    if data is None:
        raise FilmError(f"{model} is no folder of a training, so its films are not known. Name some with data.")
    split = split or Split()
    judge = load_reward_model(str(Path(model) / BEST) if is_training else model)
    films, held_out = split.divide(load_films(data))
    announce(f"{len(held_out)} films judged, {len(films)} teach the controls")
    found = audit(judge, held_out, shaping, gamma)
    targets = "truth" if settings is None else settings.targets
    controls = audit_controls(films, held_out, shaping, gamma, targets)
    provenance = {
        "model": model,
        "data": {path.name: describe_films(path)[0] for path in film_files(data)},
        "held_out": asdict(split),
        **recorded_with(),
    }
    write_audit(folder, model, found, controls, provenance)
    return found, controls
