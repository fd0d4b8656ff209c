"""A process reward model that is the backbone of a small VLA: everything on a CPU, in milliseconds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch.nn import functional as F

from vla_algos.errors import CheckpointError, RewardModelError
from vla_algos.models.loading import load_vla, save_vla
from vla_algos.models.openvla.model import OpenVLA
from vla_algos.rewards.answers import ANSWERS, answer_id, answer_loss
from vla_gym.files import read_json_object, write_then_rename
from vla_gym.spec import AGENTVIEW
from vla_gym.type_aliases import Float32Array

REWARD_FILE = "reward.json"
"""Beside a checkpoint, what makes it a reward model."""


class CompactRewardModel:
    """
    Progress as the probability of the answer "yes" to "no", the next token after two images and an instruction.

    The sequence is that of the VLA, with the patches of the episode's first image before those of the image to judge,
    without proprioception, by which a model could tell the time instead of looking. Vision towers stay as they are:
    what they see of an image can be kept while the rest is trained.

    :param vla: without proprioception
    :param key: camera whose images it looks at
    :param answers: yes and no, each a single token of the model's tokenizer
    :param batch_size: images per forward pass
    :raises RewardModelError: if the model reads proprioception, or an answer is not a single token
    """

    def __init__(
        self, vla: OpenVLA, key: str = AGENTVIEW, answers: tuple[str, str] = ANSWERS, batch_size: int = 64
    ) -> None:
        if vla.config.proprio_dim or len(vla.config.cameras) != 1:
            raise RewardModelError(
                f"The model reads {', '.join(vla.config.cameras)} and {vla.config.proprio_dim} numbers of "
                "proprioception; expected one camera and none. Make it with CompactRewardModel.start_from."
            )
        self.vla, self.key, self.answers, self.batch_size = vla.eval(), key, answers, batch_size
        self.vla.vision_backbone.requires_grad_(False)
        self._answer_ids = th.tensor([answer_id(vla.processor.tokenizer, answer) for answer in answers])
        self._firsts: dict[bytes, th.Tensor] = {}

    @classmethod
    def start_from(
        cls, vla: str | Path = "compact-libero-goal", key: str = AGENTVIEW, **kwargs: Any
    ) -> CompactRewardModel:
        """
        Begin with the weights of a VLA, which has learned to see and to read its instructions.

        :param vla: preset, shipped checkpoint or folder, of one camera
        :param key: camera whose images it looks at
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
        return cls(model, key)

    @classmethod
    def load(cls, folder: str | Path, device: th.device | str = "cpu") -> CompactRewardModel:
        """
        Load what :meth:`save` wrote.

        :param folder: of the model
        :param device: where it goes
        :return: the model
        :raises CheckpointError: if the folder is missing or damaged, or holds something else
        """
        path = Path(folder) / REWARD_FILE
        try:
            content = read_json_object(path, CheckpointError)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder} holds no {REWARD_FILE}; expected a reward model that was saved."
            ) from error
        answers = content.get("answers")
        if not isinstance(content.get("key"), str) or not isinstance(answers, list) or len(answers) != 2:
            raise CheckpointError(f"{path} is {content}; expected a camera as 'key' and two 'answers'. Save it again.")
        return cls(load_vla(Path(folder), device=device), content["key"], (str(answers[0]), str(answers[1])))

    def save(self, folder: str | Path, dtype: th.dtype | None = None) -> None:
        """
        Write a checkpoint folder.

        :param folder: where to
        :param dtype: type of the weights in the file; None: as they are
        """
        save_vla(self.vla, folder, dtype)
        with write_then_rename(Path(folder) / REWARD_FILE) as temporary:
            temporary.write_text(json.dumps({"key": self.key, "answers": list(self.answers)}) + "\n", encoding="utf-8")

    def parameters(self) -> list[th.nn.Parameter]:
        """Those that learn: all but the vision towers'."""
        return [parameter for parameter in self.vla.parameters() if parameter.requires_grad]

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

    def log_probs(self, features: th.Tensor, instructions: Sequence[str]) -> th.Tensor:
        """
        Log-probabilities of both answers among all tokens, with gradients.

        :param features: of the first image and of the one to judge, (N, 2, patches, channels), see :meth:`encode`
        :param instructions: N texts
        :return: yes and no, (N, 2) float32, nats
        """
        hidden = self.vla.prompt_hidden(features.flatten(1, 2), list(instructions))
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

    def loss(self, features: th.Tensor, instructions: Sequence[str], targets: th.Tensor) -> th.Tensor:
        """
        Negative log-likelihood of the answers, weighted by the pseudo-reward: -(p log P(yes) + (1 - p) log P(no)).

        :param features: of the first image and of the one to judge, (N, 2, patches, channels)
        :param instructions: N texts
        :param targets: p, (N,) in [0, 1]: a label of 0 or 1, or progress
        :return: mean over N, scalar
        """
        return answer_loss(self.log_probs(features, instructions), targets)
