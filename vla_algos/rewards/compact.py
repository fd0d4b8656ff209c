"""A process reward model that is the backbone of a small VLA: everything on a CPU, in milliseconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from vla_algos.errors import CheckpointError, RewardModelError, UnknownNameError
from vla_algos.models.loading import load_vla, save_vla
from vla_algos.models.openvla.model import OpenVLA
from vla_algos.rewards.answers import ANSWERS, answer_ids, answer_loss
from vla_algos.rewards.model import OUTPUTS, REWARD_FILE, read_reward_file, write_reward_file
from vla_gym.files import write_then_rename
from vla_gym.spec import AGENTVIEW
from vla_gym.type_aliases import Float32Array

KIND = "compact"
"""This class in ``reward.json``."""
_FURTHER_FILE = "reward.safetensors"
"""Beside the checkpoint: statistics of the inputs, and heads."""
_LEAST_STD = 0.02
"""Added to the deviation of a channel (0.15 on average over films), so that what hardly changes is not blown up."""


class CompactRewardModel:
    """
    Progress as the probability of the answer "yes" to "no", the next token after two images and an instruction.

    The sequence is that of the VLA, with the patches of the episode's first image before those of the image to judge,
    without proprioception, by which a model could tell the time instead of looking. Vision towers stay as they are:
    what they see of an image can be kept while the rest is trained. Of that, most is the same in every image: each
    channel of each patch is standardised, by the films that the model learns from first.

    Further outputs are linear heads on the last hidden state, taught beside progress; ``score`` leaves them out.

    :param vla: without proprioception
    :param key: camera whose images it looks at
    :param answers: yes and no, each a single token of the model's tokenizer
    :param batch_size: images per forward pass
    :param outputs: ``progress`` and, if wanted, ``held`` and ``success``, see ``OUTPUTS``
    :raises RewardModelError: if the model reads proprioception, an answer is not a single token, or ``outputs`` lacks
        progress
    :raises UnknownNameError: for an unknown output
    """

    def __init__(
        self,
        vla: OpenVLA,
        key: str = AGENTVIEW,
        answers: tuple[str, str] = ANSWERS,
        batch_size: int = 64,
        outputs: Sequence[str] = OUTPUTS[:1],
    ) -> None:
        if vla.config.proprio_dim or len(vla.config.cameras) != 1:
            raise RewardModelError(
                f"The model reads {', '.join(vla.config.cameras)} and {vla.config.proprio_dim} numbers of "
                "proprioception; expected one camera and none. Make it with CompactRewardModel.start_from."
            )
        self.vla, self.key, self.answers, self.batch_size = vla.eval(), key, answers, batch_size
        self.vla.vision_backbone.requires_grad_(False)
        self._answer_ids = answer_ids(vla.processor.tokenizer, answers)
        self._firsts: dict[bytes, th.Tensor] = {}
        self.input_mean = self.input_std = th.empty(0)
        """Of what the towers see, (patches, channels) float32; empty before the model has learned."""
        self.outputs = _checked(outputs)
        self.heads: nn.Linear | None = None
        if len(self.outputs) > 1:
            self.heads = nn.Linear(vla.config.llm.hidden, len(self.outputs) - 1, device=vla.device)
            # zeros: until it has learned, a head says "one half" of everything
            for parameter in self.heads.parameters():
                nn.init.zeros_(parameter)

    @classmethod
    def start_from(
        cls,
        vla: str | Path = "compact-libero-goal",
        key: str = AGENTVIEW,
        outputs: Sequence[str] = OUTPUTS[:1],
        **kwargs: Any,
    ) -> CompactRewardModel:
        """
        Begin with the weights of a VLA, which has learned to see and to read its instructions.

        :param vla: preset, shipped checkpoint or folder, of one camera
        :param key: camera whose images it looks at
        :param outputs: what it will be taught, see ``OUTPUTS``
        :param kwargs: further keywords of :func:`vla_algos.models.load_vla`
        :return: the model, to be trained
        :raises UnknownNameError: if there is no such model
        :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture
        :raises RewardModelError: if it has several cameras
        """
        base = load_vla(vla, **kwargs)
        config = dataclasses.replace(
            base.config, proprio_dim=0, proprio_mean=(), proprio_std=(), value_head_width=0, chunk_size=1
        )
        model = OpenVLA(config, base.processor.tokenizer).to(base.device)
        own = model.state_dict()
        model.load_state_dict({name: tensor for name, tensor in base.state_dict().items() if name in own})
        return cls(model, key, outputs=outputs)

    @classmethod
    def load(cls, folder: str | Path, device: th.device | str = "cpu") -> CompactRewardModel:
        """
        Load what :meth:`save` wrote.

        :param folder: of the model
        :param device: where it goes
        :return: the model
        :raises CheckpointError: if the folder is missing or damaged, or holds something else
        :raises RewardModelError: if its answers are not single tokens
        """
        folder = Path(folder)
        content = read_reward_file(folder)
        outputs = content.get("outputs", OUTPUTS[:1])
        if content["kind"] != KIND or not isinstance(outputs, list | tuple):
            raise CheckpointError(
                f"{folder / REWARD_FILE} is {content}; expected kind {KIND!r} and a list of 'outputs'. Load other "
                "kinds with load_reward_model."
            )
        first, second = content["answers"]
        model = cls(load_vla(folder, device=device), content["key"], (first, second), outputs=outputs)
        model._read_further(folder)
        return model

    def save(self, folder: str | Path, dtype: th.dtype | None = None) -> None:
        """
        Write a checkpoint folder.

        :param folder: where to
        :param dtype: type of the weights in the file; None: as they are
        """
        save_vla(self.vla, folder, dtype)
        further = {"input_mean": self.input_mean, "input_std": self.input_std}
        if self.heads is not None:
            further |= self.heads.state_dict()
        with write_then_rename(Path(folder) / _FURTHER_FILE) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in further.items()}, temporary)
        content = {"kind": KIND, "key": self.key, "answers": list(self.answers), "outputs": list(self.outputs)}
        write_reward_file(Path(folder), content)

    def restore(self, folder: str | Path) -> None:
        """
        Take the weights of a folder that this model has saved.

        :param folder: of the model
        :raises CheckpointError: if it is missing, damaged or of another architecture
        """
        self.vla.load_state_dict(load_vla(folder, device=self.vla.device).state_dict())
        self._read_further(Path(folder))

    def _read_further(self, folder: Path) -> None:
        """Statistics of the inputs, and heads."""
        path = folder / _FURTHER_FILE
        try:
            found = load_file(path, device=str(self.vla.device))
            mean, std = found.pop("input_mean"), found.pop("input_std")
            if self.heads is not None:
                self.heads.load_state_dict(found)
        except (OSError, SafetensorError, RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"{path} is not what {REWARD_FILE} promises, statistics of the inputs and heads for "
                f"{', '.join(self.outputs[1:]) or 'nothing'}: {error} Save the model again."
            ) from error
        width = sum(tower.width for tower in self.vla.config.towers)
        shapes = {tuple(mean.shape), tuple(std.shape)}
        if len(shapes) != 1 or (mean.numel() and (mean.ndim != 2 or mean.shape[1] != width)) or not (std > 0).all():
            raise CheckpointError(
                f"{path} has statistics of shapes {tuple(mean.shape)} and {tuple(std.shape)}; expected (patches, "
                f"{width}), deviations above 0. Save the model again."
            )
        self.input_mean, self.input_std = mean, std

    def describe(self) -> str:
        """Say what it is, for its card."""
        return f"the backbone of a small VLA, {sum(p.numel() for p in self.vla.parameters()):,} parameters"

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off, see ``torch.nn.Module.train``."""
        self.vla.train(mode)

    def parameters(self) -> list[th.nn.Parameter]:
        """Return those that learn: all but the vision towers'."""
        return [
            p for p in [*self.vla.parameters(), *(self.heads.parameters() if self.heads else ())] if p.requires_grad
        ]

    @th.no_grad()
    def encode(self, images: NDArray[Any]) -> th.Tensor:
        """
        What the vision towers see.

        :param images: (N, H, W, 3) uint8 RGB
        :return: (N, patches, channels)
        """
        parts = [
            self.vla.encode_images(th.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2))
            for part in np.array_split(images, max(1, -(-len(images) // self.batch_size)))
        ]
        return th.cat(parts)

    @th.no_grad()
    def begin(self, encoded: Sequence[th.Tensor]) -> None:
        """
        Take the statistics of the inputs, unless the model has some.

        Channels that hardly change are not blown up: the deviation has a floor.

        :param encoded: see :meth:`encode`, of each film
        """
        if self.input_std.numel():
            return
        n = sum(map(len, encoded))
        mean = th.stack([film.double().sum(0) for film in encoded]).sum(0) / n
        variance = th.stack([((film.double() - mean) ** 2).sum(0) for film in encoded]).sum(0) / n
        self.input_mean, self.input_std = mean.float(), variance.sqrt().float() + _LEAST_STD

    def log_probs(self, features: th.Tensor, instructions: Sequence[str]) -> th.Tensor:
        """
        Log-probabilities of both answers among all tokens, with gradients.

        :param features: of the first image and of the one to judge, (N, 2, patches, channels), see :meth:`encode`
        :param instructions: N texts
        :return: yes and no, (N, 2) float32, nats
        """
        return self._answers(self._hidden(features, instructions))

    def _hidden(self, features: th.Tensor, instructions: Sequence[str]) -> th.Tensor:
        """(N, hidden)"""
        if self.input_std.numel():
            features = ((features - self.input_mean) / self.input_std).to(features.dtype)
        return self.vla.prompt_hidden(features.flatten(1, 2), list(instructions))

    def _answers(self, hidden: th.Tensor) -> th.Tensor:
        logits = self.vla.language_model.score(hidden, slice(0, self.vla.config.llm.rows))
        return F.log_softmax(logits.float(), dim=-1)[:, self._answer_ids.to(logits.device)]

    @th.no_grad()
    def score(self, seen: NDArray[Any], instructions: Sequence[str]) -> Float32Array:
        """
        Progress, see :class:`vla_algos.rewards.model.RewardModel`.

        :param seen: first and current image, (N, 2, H, W, 3) uint8 RGB
        :param instructions: N texts
        :return: P(yes) / (P(yes) + P(no)), (N,) float32
        """
        if not len(instructions):
            return np.zeros(0, np.float32)
        pairs = th.stack([self._encode_firsts(seen[:, 0]), self.encode(seen[:, 1])], dim=1)
        scores = [
            self.log_probs(part, instructions[i * self.batch_size : (i + 1) * self.batch_size]).softmax(dim=-1)[:, 0]
            for i, part in enumerate(th.split(pairs, self.batch_size))
        ]
        return th.cat(scores).float().cpu().numpy()

    def _encode_firsts(self, images: NDArray[Any]) -> th.Tensor:
        """As :meth:`encode`, for first images: an episode shows the same one in every decision."""
        keys = [image.tobytes() for image in images]
        new = {key: i for i, key in enumerate(keys) if key not in self._firsts}
        if new:
            self._firsts |= dict(zip(new, self.encode(images[list(new.values())]), strict=True))
        self._firsts = {key: self._firsts[key] for key in keys}
        return th.stack([self._firsts[key] for key in keys])

    @th.no_grad()
    def progress(self, features: th.Tensor, instructions: Sequence[str]) -> th.Tensor:
        """
        Progress from what the vision towers have seen already.

        :param features: of the first image and of the one to judge, (N, 2, patches, channels), see :meth:`encode`
        :param instructions: N texts
        :return: (N,) float32
        """
        return self.log_probs(features, instructions).softmax(dim=-1)[:, 0]

    @th.no_grad()
    def judge(self, seen: NDArray[Any], instructions: Sequence[str]) -> Mapping[str, Float32Array]:
        """
        Say all that it was taught.

        :param seen: first and current image, (N, 2, H, W, 3) uint8 RGB, at most ``batch_size`` of them
        :param instructions: N texts
        :return: by output, (N,) float32 in [0, 1]; ``progress`` is what :meth:`score` returns
        """
        features = self.encode(seen.reshape(-1, *seen.shape[2:]))
        hidden = self._hidden(features.reshape(-1, 2, *features.shape[1:]), instructions)
        columns = [self._answers(hidden).softmax(dim=-1)[:, 0]]
        if self.heads is not None:
            columns += self.heads(hidden.float()).sigmoid().unbind(dim=1)
        return {name: column.float().cpu().numpy() for name, column in zip(self.outputs, columns, strict=True)}

    def loss(self, features: th.Tensor, instructions: Sequence[str], targets: th.Tensor) -> th.Tensor:
        """
        Negative log-likelihood of the answers, weighted by the pseudo-reward: -(p log P(yes) + (1 - p) log P(no)).

        For each further output, the cross-entropy of its head is added, which is 0 in rows whose target is unknown.

        :param features: of the first image and of the one to judge, (N, 2, patches, channels)
        :param instructions: N texts
        :param targets: a column for each of ``outputs``, (N, outputs) in [0, 1]: p, a label of 0 or 1 or progress; then
            those of the heads, NaN where unknown; (N,) for p alone
        :return: mean over N, scalar
        """
        targets = targets.reshape(len(targets), -1)
        hidden = self._hidden(features, instructions)
        loss = answer_loss(self._answers(hidden), targets[:, 0])
        if self.heads is not None:
            wanted = targets[:, 1:].to(loss)
            is_known = ~wanted.isnan()
            entropy = F.binary_cross_entropy_with_logits(
                self.heads(hidden.float()), wanted.nan_to_num(), weight=is_known.to(loss), reduction="none"
            )
            loss = loss + entropy.sum() / len(targets)
        return loss


def _checked(outputs: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in outputs if name not in OUTPUTS]
    if unknown:
        raise UnknownNameError("output", unknown[0], OUTPUTS)
    if not outputs or outputs[0] != OUTPUTS[0] or len(set(outputs)) < len(outputs):
        raise RewardModelError(f"outputs is {tuple(outputs)}; expected 'progress' first, and each name once.")
    return tuple(outputs)
