"""Demonstrations in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th

from vla_gym.actions.tokenizer import N_BINS, ActionTokenizer
from vla_gym.datasets.collect import Episode
from vla_gym.tasks.registry import COMMAND_DIM


@dataclass(frozen=True)
class DemonstrationSet:
    """
    M decisions of demonstrated episodes.

    :param images: (M, H, W, 3) uint8
    :param instructions: the distinct instructions
    :param instruction_ids: index into ``instructions``, (M,) int64
    :param proprio: (M, 8) float32, m and rad
    :param bins: action bins, (M, 7 * chunk_size) int64, 0..255
    :param episode_ids: number of the episode that a decision belongs to, (M,) int64
    :raises ValueError: if lengths, shapes, types or ranges do not fit together
    """

    images: np.ndarray
    instructions: tuple[str, ...]
    instruction_ids: np.ndarray
    proprio: np.ndarray
    bins: np.ndarray
    episode_ids: np.ndarray

    def __post_init__(self) -> None:
        m = len(self.images)
        expected: dict[str, tuple[tuple[int, ...], type]] = {
            "images": ((m, *self.images.shape[1:3], 3), np.uint8),
            "instruction_ids": ((m,), np.int64),
            "proprio": ((m, *self.proprio.shape[1:2]), np.float32),
            "bins": ((m, *self.bins.shape[1:2]), np.int64),
            "episode_ids": ((m,), np.int64),
        }
        for name, (shape, dtype) in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} is {array.shape} {array.dtype}; expected {shape} {np.dtype(dtype)}.")
        if self.n_tokens % COMMAND_DIM:
            raise ValueError(f"bins has {self.n_tokens} columns; expected a multiple of {COMMAND_DIM}.")
        if m and not (0 <= self.bins.min() and self.bins.max() < N_BINS):
            raise ValueError(f"bins range over {self.bins.min()}..{self.bins.max()}; expected 0..{N_BINS - 1}.")
        if m and not (0 <= self.instruction_ids.min() and self.instruction_ids.max() < len(self.instructions)):
            raise ValueError(f"instruction_ids go beyond the {len(self.instructions)} instructions.")

    @classmethod
    def from_episodes(
        cls, episodes: Sequence[Episode], tokenizer: ActionTokenizer, chunk_size: int = 1
    ) -> DemonstrationSet:
        """
        One decision per control step: what was seen, and the commands from there on.

        A chunk that reaches beyond the end of its episode is filled up with standing still.

        :param episodes: demonstrations
        :param tokenizer: commands -> bins
        :param chunk_size: commands per decision
        :return: the set
        :raises ValueError: without any episode
        """
        if len(episodes) == 0:
            raise ValueError("There are no episodes; collect at least one.")
        instructions = tuple(dict.fromkeys(episode.instruction for episode in episodes))
        bins = []
        for episode in episodes:
            rest = np.zeros((chunk_size - 1, COMMAND_DIM))
            rest[:, -1] = episode.commands[-1, -1]
            encoded = tokenizer.encode(np.concatenate([episode.commands, rest]))
            windows = np.lib.stride_tricks.sliding_window_view(encoded, chunk_size, axis=0)  # (T, 7, chunk_size)
            bins.append(windows.transpose(0, 2, 1).reshape(len(episode), chunk_size * COMMAND_DIM))
        lengths = [len(episode) for episode in episodes]
        return cls(
            images=np.concatenate([episode.images for episode in episodes]),
            instructions=instructions,
            instruction_ids=np.repeat([instructions.index(episode.instruction) for episode in episodes], lengths),
            proprio=np.concatenate([episode.proprio for episode in episodes]),
            bins=np.concatenate(bins),
            episode_ids=np.repeat(np.arange(len(episodes)), lengths),
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def n_tokens(self) -> int:
        """Tokens per action."""
        return self.bins.shape[1]

    def select(self, indices: np.ndarray) -> DemonstrationSet:
        """
        Some of the decisions.

        :param indices: (K,) int64, or a mask (M,) bool
        :return: set of these
        """
        names = ("images", "instruction_ids", "proprio", "bins", "episode_ids")
        return replace(self, **{name: getattr(self, name)[indices] for name in names})

    def split_by_episode(
        self, fraction: float, generator: np.random.Generator
    ) -> tuple[DemonstrationSet, DemonstrationSet]:
        """
        Keep whole episodes apart: neighbouring images of one episode are too alike to judge by.

        :param fraction: share of the episodes in the second set; rounded, at least one if above 0
        :param generator: chooses the episodes
        :return: training set and validation set
        """
        episodes = np.unique(self.episode_ids)
        n_held_out = max(1, round(fraction * len(episodes))) if fraction > 0 else 0
        if n_held_out >= len(episodes):
            raise ValueError(
                f"validation_fraction={fraction} of {len(episodes)} episodes leaves none to train on. "
                "Give more demonstrations, or validation_fraction=0."
            )
        is_held_out = np.isin(self.episode_ids, generator.permutation(episodes)[:n_held_out])
        return self.select(~is_held_out), self.select(is_held_out)

    def batch(self, indices: np.ndarray, device: th.device | str) -> tuple[dict[str, Any], th.Tensor]:
        """
        Some of the decisions as a model takes them.

        :param indices: (K,) int64
        :param device: of the tensors
        :return: ``images`` (K, 3, H, W) uint8, ``instructions`` K texts, ``proprio`` (K, 8) float32; bins (K, A) int64
        """
        inputs = {
            "images": th.from_numpy(self.images[indices]).to(device).permute(0, 3, 1, 2),
            "instructions": [self.instructions[i] for i in self.instruction_ids[indices]],
            "proprio": th.from_numpy(self.proprio[indices]).to(device),
        }
        return inputs, th.from_numpy(self.bins[indices]).to(device)
