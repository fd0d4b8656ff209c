"""From camera images and instructions to what the model reads: normalised pixels and token ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch as th

from vla_algos.errors import ModelInputError, UnknownNameError
from vla_algos.models.openvla.config import OpenVLAConfig
from vla_algos.models.openvla.jpeg import jpeg_round_trip
from vla_algos.models.openvla.resampling import crop_centre, resize_bicubic, resize_lanczos
from vla_algos.models.transformers_import import PreTrainedTokenizerBase, PreTrainedTokenizerFast

BUILTIN_TOKENIZER = Path(__file__).parent / "tokenizer"
EMPTY_PIECE = "\u2581"
"""A space by itself; 29871 in the tokenizer of Llama 2."""


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """
    Tokenizer saved in Hugging Face format.

    :param folder: folder with ``tokenizer.json``
    :return: the tokenizer
    """
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


IMAGE_STEPS: dict[str, Callable[[th.Tensor, int], th.Tensor]] = {
    "jpeg": lambda images, size: jpeg_round_trip(images),
    "lanczos": resize_lanczos,
    "crop": lambda images, size: crop_centre(images),
}
"""Steps of an image pipeline, by name: images (N, 3, H, W) uint8 and the model's image size -> images."""


class PromptBatch(NamedTuple):
    """Prompts of one batch, aligned on the left."""

    ids: th.Tensor
    """(N, L) int64 token ids, ``<s>`` first; rows shorter than L are filled with 0."""
    lengths: list[int]
    """Tokens of each row that are not filling."""


class Processor:
    """
    Prepares images and instructions.

    :param config: architecture
    :param tokenizer: tokenizer of the language model; None takes the shipped one if the architecture wants it
    :raises UnknownNameError: if the image pipeline has an unknown step
    """

    def __init__(self, config: OpenVLAConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        for step in config.image_pipeline:
            if step not in IMAGE_STEPS:
                raise UnknownNameError("step of image_pipeline", step, IMAGE_STEPS)
        if tokenizer is None and config.builtin_tokenizer:
            tokenizer = load_tokenizer(BUILTIN_TOKENIZER)
        if tokenizer is not None and config.released is not None:
            # OpenVLA's rule: a prompt ends with the empty piece, by whatever id the tokenizer has for it
            config.prompt_end_id = tokenizer.get_vocab().get(EMPTY_PIECE)
        self.config = config
        self.tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer was loaded from, if that is still there."""
        folder = None if self.tokenizer is None else Path(self.tokenizer.name_or_path)
        return folder if folder is not None and folder.is_dir() else None

    def images(self, images: th.Tensor) -> th.Tensor:
        """
        Work off ``config.image_pipeline``, resize, normalise.

        :param images: (N, 3 * cameras, H, W) uint8 RGB
        :return: (N * cameras, 3 * towers, image_size, image_size) float32, the cameras of a row adjacent
        :raises ModelInputError: if the type or the shape is wrong
        """
        channels = 3 * len(self.config.cameras)
        if images.ndim != 4 or images.shape[1] != channels or images.dtype != th.uint8:
            raise ModelInputError(
                f"Images are {tuple(images.shape)} {images.dtype}; expected (N, {channels}, H, W) torch.uint8, "
                f"cameras: {', '.join(self.config.cameras)}. "
                "Transpose height x width x channel images, and do not scale them."
            )
        images, size = images.reshape(-1, 3, *images.shape[-2:]), self.config.image_size
        for step in self.config.image_pipeline:
            images = IMAGE_STEPS[step](images, size)
        if images.shape[-2:] != (size, size):
            images = resize_bicubic(images, size)
        pixels = images.float() / 255
        parts = []
        for tower in self.config.towers:
            mean, std = (th.tensor(v, device=pixels.device).view(3, 1, 1) for v in (tower.mean, tower.std))
            parts.append((pixels - mean) / std)
        return parts[0] if len(parts) == 1 else th.cat(parts, dim=1)

    def prompt_ids(self, instruction: str) -> list[int]:
        """
        Token ids of one prompt, remembered per text.

        :param instruction: what the robot is told
        :return: ids, ``<s>`` first
        :raises ModelInputError: if there is no tokenizer
        """
        if instruction not in self._ids:
            if self.tokenizer is None:
                raise ModelInputError("This model has no tokenizer. Load it from a checkpoint folder that holds one.")
            prompt = self.config.prompt_template.format(instruction=instruction.lower())
            ids = [self.tokenizer.bos_token_id, *self.tokenizer(prompt, add_special_tokens=False).input_ids]
            end = self.config.prompt_end_id
            self._ids[instruction] = ids if end is None or ids[-1] == end else [*ids, end]
        return self._ids[instruction]

    def prompts(self, instructions: list[str], device: th.device | str = "cpu") -> PromptBatch:
        """
        Token ids of a batch.

        :param instructions: N texts
        :param device: where the ids go
        :return: ids and lengths
        """
        rows = [self.prompt_ids(text) for text in instructions]
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        ids = th.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        return PromptBatch(ids, lengths)
