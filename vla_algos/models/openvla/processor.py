"""From camera images and instructions to what the model reads: normalised pixels and token ids."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch as th

from vla_algos.errors import CheckpointError, ModelInputError, UnknownNameError
from vla_algos.models.openvla.config import OpenVLAConfig
from vla_algos.models.openvla.jpeg import jpeg_round_trip
from vla_algos.models.openvla.resampling import crop_centre, resize_bicubic, resize_lanczos
from vla_algos.models.transformers_import import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from vla_gym.files import check_shared_file, read_json_object

BUILTIN_TOKENIZER = Path(__file__).parent / "tokenizer"
EMPTY_PIECE = "\u2581"
"""A space by itself; 29871 in the tokenizer of Llama 2."""


_TOKENIZER_JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_TOKENIZER_OTHER = ("tokenizer.model", "generation_config.json", "chat_template.jinja")
_FOREIGN_FILES = ("gguf_file", "fast_tokenizer_files")
"""Entries of ``tokenizer_config.json`` that name another file to read instead of ``tokenizer.json``."""


def load_tokenizer(folder: str | Path, rows: int | None = None) -> PreTrainedTokenizerBase:
    """
    Load a tokenizer saved in Hugging Face format.

    :param folder: folder with ``tokenizer.json``
    :param rows: rows of the model's embedding, which every token must have; None: not checked
    :return: the tokenizer
    :raises CheckpointError: if a file is damaged, lies elsewhere, or has tokens that the model has not
    """
    folder = Path(folder)
    _check_tokenizer_files(folder)
    remedy = "Save or download the checkpoint again."
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        start, highest = tokenizer.bos_token_id, max(tokenizer.get_vocab().values())
        tokenizer("open the drawer", add_special_tokens=False)
    except Exception as error:  # transformers raises what the content leads to
        raise CheckpointError(f"The tokenizer files in {folder} are damaged ({error!r:.300}). {remedy}") from error
    if not isinstance(start, int):
        raise CheckpointError(f"The tokenizer in {folder} has no token for the start of a text (bos_token). {remedy}")
    if rows is not None and highest >= rows:
        raise CheckpointError(
            f"The tokenizer in {folder} has token {highest}; the model's embedding has {rows} rows. It is another "
            f"model's. {remedy}"
        )
    return tokenizer


def _check_tokenizer_files(folder: Path) -> None:
    """Refuse pipes, links to elsewhere and other types before transformers opens the files."""
    for name in (*_TOKENIZER_JSON, *_TOKENIZER_OTHER):
        if os.path.lexists(folder / name):
            path = folder / name
            values = read_json_object(path, CheckpointError) if name in _TOKENIZER_JSON else {}
            check_shared_file(path, CheckpointError)
            foreign = [key for key in _FOREIGN_FILES if key in values]
            if foreign:
                raise CheckpointError(
                    f"{path} names other files to read ({', '.join(foreign)}); expected tokenizer.json alone. Save the "
                    "tokenizer again with transformers."
                )
    if (folder / "additional_chat_templates").exists():
        raise CheckpointError(
            f"{folder} has a folder additional_chat_templates; a VLA has no chat templates. Remove it."
        )


IMAGE_STEPS: dict[str, Callable[[th.Tensor, int], th.Tensor]] = {
    "jpeg": lambda images, size: jpeg_round_trip(images),
    "lanczos": resize_lanczos,
    "crop": lambda images, size: crop_centre(images),
}
"""Steps of an image pipeline, by name: images (N, 3, H, W) uint8 and the model's image size -> images."""


def with_prompt_end(config: OpenVLAConfig, tokenizer: PreTrainedTokenizerBase | None) -> OpenVLAConfig:
    """
    Complete a released configuration by OpenVLA's rule: a prompt ends with the empty piece.

    :param config: as the files of the checkpoint have it
    :param tokenizer: that knows the piece's id; None: there is none
    :return: with ``prompt_end_id``
    """
    if tokenizer is None:
        return config
    return dataclasses.replace(config, prompt_end_id=tokenizer.get_vocab().get(EMPTY_PIECE))


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
