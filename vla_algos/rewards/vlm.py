"""A process reward model that is any image-text-to-text model of transformers, asked a question."""

from __future__ import annotations

import os
import string
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional as F

from vla_algos.common.devices import check_device, has_native_bf16
from vla_algos.errors import CheckpointError, MissingPackageError, RewardModelError
from vla_algos.models import transformers_import  # noqa: F401 - before transformers, so that it does not fail
from vla_algos.rewards.answers import ANSWERS, answer_ids, answer_loss
from vla_algos.rewards.model import OUTPUTS, REWARD_FILE, read_reward_file, write_reward_file
from vla_gym.files import named_errors
from vla_gym.spec import AGENTVIEW
from vla_gym.type_aliases import Float32Array

QUESTION = (
    "The first image shows a robot at the start of a task, the second one shows it now. The task is: {instruction}. "
    "Has it been completed? Answer {yes} or {no}."
)


KIND = "vlm"
"""This class in ``reward.json``."""
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_FIELDS = {"instruction", "yes", "no"}


class VLMRewardModel:
    """
    Progress as the probability of the answer "yes" to "no", the next token after a question about two images.

    The images are the first one of the episode and the one to judge. The prompt is made by the model's own chat
    template. Nothing of a checkpoint is executed, and weights are read from safetensors alone.

    :param model: such as ``AutoModelForImageTextToText`` loads, a peft model around it included
    :param processor: of the model, with a chat template
    :param key: camera whose images it looks at
    :param question: with the fields ``{instruction}``, ``{yes}`` and ``{no}``
    :param answers: yes and no, each a single token of the model's tokenizer
    :param batch_size: questions per forward pass
    :param revision: branch, tag or commit of a model on the Hub, which a saved adapter names
    :raises RewardModelError: if an answer is not a single token, the question has other fields, or there is no chat
        template
    """

    outputs: tuple[str, ...] = OUTPUTS[:1]

    def __init__(
        self,
        model: Any,
        processor: Any,
        key: str = AGENTVIEW,
        question: str = QUESTION,
        answers: tuple[str, str] = ANSWERS,
        batch_size: int = 16,
        revision: str | None = None,
    ) -> None:
        if not getattr(processor, "chat_template", None):
            raise RewardModelError(
                f"{type(processor).__name__} has no chat template; expected that of an instruction-tuned model. Choose "
                "the model's 'Instruct' version."
            )
        if not _fields(question) >= {"instruction"} or not _fields(question) <= _FIELDS:
            raise RewardModelError(
                f"question is {question!r}; expected the field {{instruction}} and, if wanted, {{yes}} and {{no}}."
            )
        self.model, self.processor, self.key = model.eval(), processor, key
        self.question, self.answers, self.batch_size = question, answers, batch_size
        self.revision = revision
        self._answer_ids = answer_ids(processor.tokenizer, answers)

    @classmethod
    def start_from(
        cls,
        name: str | Path,
        revision: str | None = None,
        rank: int = 32,
        alpha: int | None = None,
        dropout: float = 0.0,
        device: th.device | str = "cpu",
        dtype: th.dtype | None = None,
        **kwargs: Any,
    ) -> VLMRewardModel:
        """
        Begin with a model and its processor, and new adapters to be trained.

        :param name: id on the Hugging Face Hub, or a folder
        :param revision: branch, tag or commit of a model on the Hub; None: the main branch
        :param rank: of the LoRA adapters, see :func:`add_reward_adapter`; 0: none, the model as it is
        :param alpha: see :func:`add_reward_adapter`
        :param dropout: see :func:`add_reward_adapter`
        :param device: where it goes
        :param dtype: of the weights; None: bfloat16 where the device computes in it, else float32. Adapters are float32
        :param kwargs: further keywords of the class
        :return: the reward model
        :raises RewardModelError: if there is no such model, or it is no image-text-to-text model
        :raises MissingPackageError: if peft is not installed
        :raises DeviceError: if the device is not there
        """
        model, processor = _pretrained(name, revision, device, dtype)
        if rank:
            model = add_reward_adapter(model, rank, alpha, dropout)
        return cls(model, processor, revision=revision, **kwargs)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: th.device | str = "cpu",
        dtype: th.dtype | None = None,
        base: str | Path | None = None,
    ) -> VLMRewardModel:
        """
        Load what :meth:`save` wrote.

        :param folder: of the model
        :param device: where it goes
        :param dtype: see :meth:`start_from`
        :param base: id or folder of the model that the adapters were trained for; None: where it was then
        :return: the model
        :raises CheckpointError: if the folder is missing or damaged, or holds something else
        :raises RewardModelError: if the base cannot be loaded, or the answers are not single tokens
        :raises MissingPackageError: if peft is not installed and there are adapters
        :raises DeviceError: if the device is not there
        """
        folder = Path(folder)
        content = read_reward_file(folder)
        found, revision, question = (content.get(name) for name in ("base", "revision", "question"))
        are_texts = all(value is None or isinstance(value, str) for value in (found, revision))
        if content["kind"] != KIND or not are_texts or not isinstance(question, str):
            raise CheckpointError(
                f"{folder / REWARD_FILE} is {content}; expected kind {KIND!r}, a 'question' and a 'base'. Load other "
                "kinds with load_reward_model."
            )
        if found is None:
            model, processor = _pretrained(folder, None, device, dtype)
        else:
            model, processor = _pretrained(base or found, None if base else revision, device, dtype)
            model = _with_adapter(model, folder)
        yes, no = content["answers"]
        return cls(model, processor, content["key"], question, (yes, no), revision=revision)

    def save(self, folder: str | Path) -> None:
        """
        Write the adapters and the name of their base or, without adapters, the model and its processor.

        :param folder: where to; other files in an existing folder are kept
        :raises RewardModelError: if the base of the adapters is not known by name
        """
        folder = Path(folder)
        base = None
        if self._has_adapter():
            base = str(getattr(self.model.config, "name_or_path", None) or "")
            if not base:
                raise RewardModelError(
                    "The model that the adapters were trained for has no name, so that nothing could find it again. "
                    "Make it with VLMRewardModel.start_from."
                )
            # absolute, so that it is found from any working directory
            base = str(Path(base).resolve()) if Path(base).is_dir() else base
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            self.model.save_pretrained(temporary)
            if base is None:
                self.processor.save_pretrained(temporary)
            written = [name for name in os.listdir(temporary) if base is None or name in _ADAPTER]
            for name in written:
                os.replace(Path(temporary) / name, folder / name)
        # last, as it says that the rest is there
        write_reward_file(
            folder,
            {
                "kind": KIND,
                "key": self.key,
                "answers": list(self.answers),
                "question": self.question,
                "base": base,
                "revision": self.revision,
            },
        )

    def restore(self, folder: str | Path) -> None:
        """
        Take the weights of a folder that this model has saved.

        :param folder: of the model
        :raises CheckpointError: if it is missing, damaged or of another architecture
        """
        folder = Path(folder)
        try:
            if self._has_adapter():
                from peft import set_peft_model_state_dict

                found: Any = set_peft_model_state_dict(self.model, load_file(folder / _ADAPTER[1]))
                wrong = list(found.unexpected_keys)
            else:
                # in shards, if it is large
                other, _ = _pretrained(folder, None, self.model.device, self.model.dtype)
                wrong = list(self.model.load_state_dict(other.state_dict()).unexpected_keys)
        except (OSError, SafetensorError, RuntimeError, RewardModelError) as error:
            raise CheckpointError(f"{folder} holds no weights of this model: {error} Save it again.") from error
        if wrong:
            raise CheckpointError(f"{folder} holds weights that this model has not, such as {wrong[0]}. Save it again.")

    def _has_adapter(self) -> bool:
        return hasattr(self.model, "peft_config")

    def describe(self) -> str:
        """Say what it is, for its card."""
        name = getattr(self.model.config, "name_or_path", None) or type(self.model).__name__
        learned = sum(parameter.numel() for parameter in self.parameters())
        return f"{Path(name).name if Path(name).is_dir() else name}, of which {learned:,} parameters were trained"

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off, see ``torch.nn.Module.train``."""
        self.model.train(mode)

    def log_probs(self, seen: NDArray[Any], instructions: Sequence[str]) -> th.Tensor:
        """
        Log-probabilities of both answers among all tokens, with gradients.

        :param seen: first and current image, (N, 2, H, W, 3) uint8 RGB
        :param instructions: N texts
        :return: yes and no, (N, 2) float32, nats
        """
        inputs = self.processor.apply_chat_template(
            [self._conversation(pair, text) for pair, text in zip(seen, instructions, strict=True)],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            # the answer follows the last column of every row
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(self.model.device)
        logits = self.model(**inputs, logits_to_keep=1).logits[:, -1]
        return F.log_softmax(logits.float(), dim=-1)[:, self._answer_ids.to(logits.device)]

    @th.no_grad()
    def score(self, seen: NDArray[Any], instructions: Sequence[str]) -> Float32Array:
        """
        Progress, see :class:`vla_algos.rewards.model.RewardModel`.

        :param seen: first and current image, (N, 2, H, W, 3) uint8 RGB
        :param instructions: N texts
        :return: P(yes) / (P(yes) + P(no)), (N,) float32
        """
        scores = [np.zeros(0, np.float32)]
        for begin in range(0, len(instructions), self.batch_size):
            part = slice(begin, begin + self.batch_size)
            log_probs = self.log_probs(seen[part], instructions[part])
            scores.append(log_probs.softmax(dim=-1)[:, 0].float().cpu().numpy())
        return np.concatenate(scores)

    @th.no_grad()
    def progress(self, seen: th.Tensor, instructions: Sequence[str]) -> th.Tensor:
        """
        Progress of images as :meth:`encode` returns them.

        :param seen: first and current image, (N, 2, H, W, 3) uint8
        :param instructions: N texts
        :return: (N,) float32
        """
        return self.log_probs(seen.numpy(), instructions).softmax(dim=-1)[:, 0]

    def parameters(self) -> list[th.nn.Parameter]:
        """Return those that learn: of the adapters, if there are any."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def begin(self, encoded: Sequence[th.Tensor]) -> None:
        """Do nothing: it has learned to see before."""

    def encode(self, images: NDArray[Any]) -> th.Tensor:
        """
        What :meth:`loss` needs of images: the images themselves, as no part of the model is frozen for certain.

        :param images: (N, H, W, 3) uint8 RGB
        :return: the same
        """
        return th.from_numpy(images)

    def loss(self, seen: th.Tensor, instructions: Sequence[str], targets: th.Tensor) -> th.Tensor:
        """
        Negative log-likelihood of the answers, weighted by the pseudo-reward: -(p log P(yes) + (1 - p) log P(no)).

        :param seen: first and current image as :meth:`encode` gives them, (N, 2, H, W, 3) uint8
        :param instructions: N texts
        :param targets: p, (N,) or (N, 1) in [0, 1]: a label of 0 or 1, or progress
        :return: mean over N, scalar
        """
        return answer_loss(self.log_probs(seen.numpy(), instructions), targets.reshape(len(targets)))

    def _conversation(self, pair: NDArray[Any], instruction: str) -> list[dict[str, Any]]:
        from PIL import Image

        yes, no = self.answers
        text = self.question.format(instruction=instruction, yes=yes, no=no)
        images = [{"type": "image", "image": Image.fromarray(image)} for image in pair]
        return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def _fields(question: str) -> set[str]:
    """Names in braces; none where braces do not match."""
    try:
        return {field for _, field, _, _ in string.Formatter().parse(question) if field is not None}
    except ValueError:
        return set()


def _pretrained(
    name: str | Path, revision: str | None, device: th.device | str, dtype: th.dtype | None
) -> tuple[Any, Any]:
    """A model and its processor; nothing of a checkpoint is executed."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = check_device(device)
    if dtype is None:
        dtype = th.bfloat16 if has_native_bf16(device) else th.float32
    loader: Any = AutoProcessor
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            name, revision=revision, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
        processor = loader.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        # transformers goes on to list all classes that it has
        first, *_ = [*str(error).splitlines(), type(error).__name__]
        raise RewardModelError(
            f"{name} cannot be loaded as an image-text-to-text model: {first} Give the id or "
            "folder of one, such as 'Qwen/Qwen2-VL-2B-Instruct'."
        ) from error
    return model.to(device), processor


def add_reward_adapter(model: Any, rank: int = 32, alpha: int | None = None, dropout: float = 0.0) -> Any:
    """
    Put LoRA adapters on every linear layer of the language model but its head, and freeze everything else.

    :param model: an image-text-to-text model
    :param rank: of the adapters; VLA-RL's is 32
    :param alpha: scale of the adapters, times the rank; None: the rank
    :param dropout: probability
    :return: a peft model around it
    :raises MissingPackageError: if peft is not installed
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise MissingPackageError("Adapters need peft. Run: pip install vla-gym[lora]") from error
    # by identity: vision towers are called "vision_tower", "visual" or "vision_model", as their authors liked
    inside = {id(module) for module in model.get_decoder().modules()}
    names = [
        name for name, module in model.named_modules() if isinstance(module, th.nn.Linear) and id(module) in inside
    ]
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, lora_dropout=dropout, target_modules=names)
    return get_peft_model(model, config)


def _with_adapter(model: Any, folder: Path) -> Any:
    """Adapters that go on learning."""
    missing = [name for name in _ADAPTER if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} holds no {missing[0]}; expected what VLMRewardModel.save has written.")
    try:
        from peft import PeftModel
    except ModuleNotFoundError as error:
        raise MissingPackageError("Adapters need peft. Run: pip install vla-gym[lora]") from error
    with named_errors(CheckpointError, f"{folder}: expected adapters for {model.config.name_or_path}"):
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
