"""Demonstrations as decisions to learn from: frames stored once, everything else as small arrays over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th

from vla_algos.models.openvla.resampling import resize_bicubic
from vla_gym.actions.statistics import dataset_statistics
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.conventions import Conventions
from vla_gym.datasets.episode import Episode
from vla_gym.spec import AGENTVIEW, COMMAND_DIM, N_BINS, WRIST

_RESIZED_AT_ONCE = 64
"""Frames."""


class Batch(NamedTuple):
    """Some decisions, K of them, as a model takes them."""

    inputs: dict[str, Any]
    """``images`` (K, 3 * cameras, H, W) uint8, ``instructions`` K texts, ``proprio`` (K, 8) float32"""
    bins: th.Tensor
    """(K, A) int64"""
    mask: th.Tensor
    """(K, A) bool, True for tokens of commands that were demonstrated"""

    def part(self, start: int, end: int) -> Batch:
        """
        Some of the rows.

        :param start: first row
        :param end: one beyond the last row
        :return: batch of these
        """
        inputs = {key: value[start:end] for key, value in self.inputs.items()}
        return Batch(inputs, self.bins[start:end], self.mask[start:end])


@dataclass(frozen=True)
class DemonstrationSet:
    """
    M decisions of demonstrated episodes on F frames.

    Selections share the frames, which may be memory-mapped files.

    :param images: of camera ``agentview``, (F, H, W, 3) uint8
    :param instructions: the distinct instructions
    :param instruction_ids: index into ``instructions``, (M,) int64
    :param proprio: (M, 8) float32, m and rad
    :param bins: action bins, (M, 7 * chunk_size) int64, 0..255
    :param episode_ids: number of the episode that a decision belongs to, (M,) int64
    :param start_ids: number of the initial state that its episode began in, (M,) int64; default: each its own
    :param n_commands: commands of the chunk that were demonstrated, the rest fills it up, (M,) int64; default: all
    :param frame_ids: row of ``images`` that a decision sees, (M,) int64; default: row by row
    :param wrist: images of camera ``wrist``, as ``images``; None: none
    :param camera_size: height and width of the images before they were made smaller (px); default: as ``images``
    :param action_tokenizer: bins <-> commands
    :param norm_stats: action statistics to store with a model, data set -> entry; empty: none
    :raises ValueError: if lengths, shapes, types or ranges do not fit together
    """

    images: np.ndarray
    instructions: tuple[str, ...]
    instruction_ids: np.ndarray
    proprio: np.ndarray
    bins: np.ndarray
    episode_ids: np.ndarray
    start_ids: np.ndarray = field(default=None)  # type: ignore[arg-type]
    n_commands: np.ndarray = field(default=None)  # type: ignore[arg-type]
    frame_ids: np.ndarray = field(default=None)  # type: ignore[arg-type]
    wrist: np.ndarray | None = None
    camera_size: tuple[int, int] = field(default=None)  # type: ignore[assignment]
    action_tokenizer: ActionTokenizer = field(default_factory=ActionTokenizer)
    norm_stats: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        m = len(self.bins)
        n_frames = m if self.frame_ids is None else len(self.images)
        if self.frame_ids is None:
            object.__setattr__(self, "frame_ids", np.arange(m))
        if self.start_ids is None:
            object.__setattr__(self, "start_ids", self.episode_ids)
        if self.camera_size is None:
            object.__setattr__(self, "camera_size", self.images.shape[1:3])
        if self.n_commands is None:
            object.__setattr__(self, "n_commands", np.full(m, self.bins.shape[-1] // COMMAND_DIM))
        expected: dict[str, tuple[tuple[int, ...], type]] = {
            "images": ((n_frames, *self.images.shape[1:3], 3), np.uint8),
            "instruction_ids": ((m,), np.int64),
            "proprio": ((m, *self.proprio.shape[1:2]), np.float32),
            "bins": ((m, *self.bins.shape[1:2]), np.int64),
            "episode_ids": ((m,), np.int64),
            "start_ids": ((m,), np.int64),
            "n_commands": ((m,), np.int64),
            "frame_ids": ((m,), np.int64),
        }
        if self.wrist is not None:
            expected["wrist"] = (self.images.shape, np.uint8)
        for name, (shape, dtype) in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} is {array.shape} {array.dtype}; expected {shape} {np.dtype(dtype)}.")
        if self.n_tokens % COMMAND_DIM:
            raise ValueError(f"bins has {self.n_tokens} columns; expected a multiple of {COMMAND_DIM}.")
        limits = {
            "bins": N_BINS - 1,
            "instruction_ids": len(self.instructions) - 1,
            "frame_ids": len(self.images) - 1,
            "n_commands": self.n_tokens // COMMAND_DIM,
        }
        for name, highest in limits.items():
            array = getattr(self, name)
            if m and not (0 <= array.min() and array.max() <= highest):
                raise ValueError(f"{name} range over {array.min()}..{array.max()}; expected 0..{highest}.")

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Episode],
        tokenizer: ActionTokenizer | None = None,
        chunk_size: int = 1,
        image_size: int | None = None,
        name: str = "demonstrations",
        image_folder: str | Path | None = None,
    ) -> DemonstrationSet:
        """
        One decision per control step: what was seen, and the commands from there on.

        A chunk that reaches beyond the end of its episode is filled up with standing still, which is not to be learnt.
        Episodes are read one after the other, and only their frames at the size asked for are kept.

        :param episodes: demonstrations; read once, so that they may come from a file one by one
        :param tokenizer: commands -> bins; None: by the statistics of these demonstrations, which the set then carries
        :param chunk_size: commands per decision
        :param image_size: height and width to keep frames at (px); None: as they are
        :param name: of the statistics
        :param image_folder: where to put frames that are too many for the memory; None: keep them in memory
        :return: the set
        :raises ValueError: without any episode, or with one that was recorded without camera ``agentview``
        :raises DemonstrationFileError: if gripper commands are not -1 (open) and 1 (close)
        """
        frames = _Frames(image_folder, image_size)
        instructions, commands, proprio, starts = [], [], [], []
        for episode in episodes:
            frames.add(episode)
            starts.append(_start(episode))
            instructions.append(episode.instruction)
            commands.append(np.asarray(episode.commands))
            proprio.append(np.asarray(episode.proprio, dtype=np.float32))
        if not commands:
            raise ValueError("There are no episodes; collect at least one.")
        fingers = (one[:, -2:] for one in proprio)
        Conventions().check_gripper(zip(commands, fingers, strict=True), name)
        norm_stats: dict[str, Any] = {}
        if tokenizer is None:
            norm_stats = {name: dataset_statistics(commands, proprio)}
            tokenizer = ActionTokenizer.from_norm_stats(norm_stats[name])
        lengths = [len(one) for one in commands]
        distinct = tuple(dict.fromkeys(instructions))
        places = {start: i for i, start in enumerate(dict.fromkeys(starts))}
        arrays = frames.finish()
        return cls(
            images=arrays["images"],
            instructions=distinct,
            instruction_ids=np.repeat([distinct.index(text) for text in instructions], lengths),
            proprio=np.concatenate(proprio),
            bins=np.concatenate([_chunks(one, tokenizer, chunk_size) for one in commands]),
            episode_ids=np.repeat(np.arange(len(lengths)), lengths),
            start_ids=np.repeat([places[start] for start in starts], lengths),
            n_commands=np.concatenate([np.minimum(chunk_size, np.arange(n, 0, -1)) for n in lengths]),
            wrist=arrays.get("wrist"),
            camera_size=frames.camera_size,
            action_tokenizer=tokenizer,
            norm_stats=norm_stats,
        )

    def __len__(self) -> int:
        return len(self.bins)

    @property
    def n_tokens(self) -> int:
        """Tokens per action."""
        return self.bins.shape[1]

    def select(self, indices: np.ndarray) -> DemonstrationSet:
        """
        Some of the decisions, on the same frames.

        :param indices: (K,) int64, or a mask (M,) bool
        :return: set of these
        """
        names = ("instruction_ids", "proprio", "bins", "episode_ids", "start_ids", "n_commands", "frame_ids")
        return replace(self, **{name: getattr(self, name)[indices] for name in names})

    def split_by_episode(
        self, fraction: float, generator: np.random.Generator
    ) -> tuple[DemonstrationSet, DemonstrationSet]:
        """
        Keep whole episodes apart, and those from the same initial state together.

        Neighbouring images of one episode, and first images of episodes from one state, are too alike to judge by.

        :param fraction: share of the episodes in the second set; rounded, at least one if above 0, and more where
            episodes share their initial state
        :param generator: chooses the initial states
        :return: training set and validation set
        :raises ValueError: if no episode would be left in the training set
        """
        episodes, firsts = np.unique(self.episode_ids, return_index=True)
        starts, n_episodes = np.unique(self.start_ids[firsts], return_counts=True)
        n_wanted = max(1, round(fraction * len(episodes))) if fraction > 0 else 0
        order = generator.permutation(len(starts))
        n_starts = int(np.searchsorted(np.cumsum(n_episodes[order]), n_wanted)) + 1 if n_wanted else 0
        if n_starts >= len(starts):
            raise ValueError(
                f"Holding out {fraction} of {len(episodes)} episodes leaves none to train on, as those from one of the "
                f"{len(starts)} initial states stay together. Give more demonstrations, or hold none out."
            )
        is_held_out = np.isin(self.start_ids, starts[order[:n_starts]])
        return self.select(~is_held_out), self.select(is_held_out)

    def batch(self, indices: np.ndarray, device: th.device | str, cameras: Iterable[str] = (AGENTVIEW,)) -> Batch:
        """
        Some of the decisions as a model takes them.

        :param indices: (K,) int64
        :param device: of the tensors
        :param cameras: whose images, ``agentview`` and/or ``wrist``
        :return: the batch
        :raises ValueError: if a camera was not recorded
        """
        rows = self.frame_ids[indices]
        views = []
        for camera in cameras:
            frames = {AGENTVIEW: self.images, WRIST: self.wrist}.get(camera)
            if frames is None:
                raise ValueError(f"The demonstrations have no camera {camera!r}. Collect them with it.")
            views.append(th.from_numpy(frames[rows]).to(device).permute(0, 3, 1, 2))
        inputs = {
            "images": views[0] if len(views) == 1 else th.cat(views, dim=1),
            "instructions": [self.instructions[i] for i in self.instruction_ids[indices]],
            "proprio": th.from_numpy(self.proprio[indices]).to(device),
        }
        n_valid = COMMAND_DIM * th.from_numpy(self.n_commands[indices])
        mask = th.arange(self.n_tokens) < n_valid.unsqueeze(1)
        return Batch(inputs, th.from_numpy(self.bins[indices]).to(device), mask.to(device))


def _chunks(commands: np.ndarray, tokenizer: ActionTokenizer, chunk_size: int) -> np.ndarray:
    """Bins of the chunk that begins at each step, (T, 7 * chunk_size)."""
    rest = np.zeros((chunk_size - 1, COMMAND_DIM))
    rest[:, -1] = commands[-1, -1]
    encoded = tokenizer.encode(np.concatenate([commands, rest]))
    windows = np.lib.stride_tricks.sliding_window_view(encoded, chunk_size, axis=0)  # (T, 7, chunk_size)
    return windows.transpose(0, 2, 1).reshape(len(commands), chunk_size * COMMAND_DIM)


def _start(episode: Episode) -> tuple[Any, ...]:
    """Initial state of an episode: its number, else the state itself, else what is seen first."""
    if episode.init_state_id >= 0:
        return episode.instruction, episode.task_id, episode.init_state_id
    if episode.trace is not None:
        return episode.instruction, episode.trace.init_state.tobytes()
    return episode.instruction, episode.proprio[0].tobytes(), episode.images[0].tobytes()


class _Frames:
    """Frames of one episode after the other, in memory or in one growing file per camera."""

    def __init__(self, folder: str | Path | None, size: int | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._size = size
        self._parts: dict[str, list[np.ndarray]] = {}
        self._shape: tuple[int, ...] = ()
        self.camera_size: tuple[int, int] = (0, 0)
        self._n_frames = 0

    def add(self, episode: Episode) -> None:
        if not episode.images.size:
            raise ValueError("An episode has no images of camera 'agentview'. Record it with that camera.")
        views = {"images": episode.images, "wrist": episode.wrist_images}
        self.camera_size = episode.images.shape[1:3]
        for name, images in views.items():
            if images is None:
                continue
            images = _resized(np.asarray(images), self._size)
            self._shape = self._shape or images.shape[1:]
            if images.shape[1:] != self._shape:
                raise ValueError(
                    f"An episode has {name} of {images.shape[1:]}, others before {self._shape}; expected one size for "
                    "all episodes and cameras. Give image_size."
                )
            if self._folder is None:
                self._parts.setdefault(name, []).append(images)
                continue
            self._folder.mkdir(parents=True, exist_ok=True)
            is_first = name not in self._parts
            self._parts[name] = []
            with (self._folder / f"{name}.bin").open("wb" if is_first else "ab") as file:
                images.tofile(file)
        self._n_frames += len(episode.images)

    def finish(self) -> dict[str, np.ndarray]:
        """Per camera (F, H, W, 3) uint8."""
        if self._folder is None:
            return {name: np.concatenate(parts) for name, parts in self._parts.items()}
        shape = (self._n_frames, *self._shape)
        return {name: np.memmap(self._folder / f"{name}.bin", np.uint8, "r", shape=shape) for name in self._parts}


def _resized(images: np.ndarray, size: int | None) -> np.ndarray:
    """As the model's processor resizes, so that it makes no difference who does it."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    # a few at a time, as this is computed in double precision
    images_first = th.from_numpy(images).permute(0, 3, 1, 2)
    resized = th.cat([resize_bicubic(part, size) for part in th.split(images_first, _RESIZED_AT_ONCE)])
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())
