"""A process reward model that is any image-text-to-text model of transformers, asked a question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch.nn import functional as F

from vla_algos.common.devices import check_device
from vla_algos.errors import MissingPackageError, RewardModelError
from vla_algos.models import transformers_import  # noqa: F401 - before transformers, so that it does not fail
from vla_algos.rewards.answers import ANSWERS, answer_id, answer_loss
from vla_gym.spec import AGENTVIEW
from vla_gym.type_aliases import Float32Array

QUESTION = (
    "The first image shows a robot at the start of a task, the second one shows it now. The task is: {instruction}. "
    "Has it been completed? Answer {yes} or {no}."
)


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
    :raises RewardModelError: if an answer is not a single token, or there is no chat template
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        key: str = AGENTVIEW,
        question: str = QUESTION,
        answers: tuple[str, str] = ANSWERS,
        batch_size: int = 16,
    ) -> None:
        if not getattr(processor, "chat_template", None):
            raise RewardModelError(
                f"{type(processor).__name__} has no chat template; expected that of an instruction-tuned model. Choose "
                "the model's 'Instruct' version."
            )
        self.model, self.processor, self.key = model.eval(), processor, key
        self.question, self.answers, self.batch_size = question, answers, batch_size
        self._answer_ids = th.tensor([answer_id(processor.tokenizer, answer) for answer in answers])

    @classmethod
    def load(
        cls,
        name: str | Path,
        revision: str | None = None,
        adapter: str | Path | None = None,
        device: str = "cpu",
        dtype: th.dtype | str = "auto",
        **kwargs: Any,
    ) -> VLMRewardModel:
        """
        Load a model and its processor.

        :param name: id on the Hugging Face Hub, or a folder
        :param revision: branch, tag or commit of a model on the Hub; None: the main branch
        :param adapter: folder of a LoRA adapter trained for it; None: none
        :param device: where it goes
        :param dtype: of the weights; "auto": as they are stored
        :param kwargs: further keywords of the class
        :return: the reward model
        :raises RewardModelError: if there is no such model, or it is no image-text-to-text model
        :raises MissingPackageError: if an adapter is given and peft is not installed
        :raises DeviceError: if the device is not there
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        loader: Any = AutoProcessor
        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(
                name, revision=revision, dtype=dtype, trust_remote_code=False, use_safetensors=True
            )
            processor = loader.from_pretrained(name, revision=revision, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            raise RewardModelError(
                # transformers goes on to list all classes that it has
                f"{name} cannot be loaded as an image-text-to-text model: {str(error).splitlines()[0]} Give the id or "
                "folder of one, such as 'Qwen/Qwen2-VL-2B-Instruct'."
            ) from error
        if adapter is not None:
            model = _with_adapter(model, adapter)
        return cls(model.to(check_device(device)), processor, **kwargs)

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

    def parameters(self) -> list[th.nn.Parameter]:
        """Those that learn: of the adapters, if there are any."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

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
        :param targets: p, (N,) in [0, 1]: a label of 0 or 1, or progress
        :return: mean over N, scalar
        """
        return answer_loss(self.log_probs(seen.numpy(), instructions), targets)

    def _conversation(self, pair: NDArray[Any], instruction: str) -> list[dict[str, Any]]:
        from PIL import Image

        yes, no = self.answers
        text = self.question.format(instruction=instruction, yes=yes, no=no)
        images = [{"type": "image", "image": Image.fromarray(image)} for image in pair]
        return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def add_reward_adapter(model: Any, rank: int = 32, alpha: int | None = None, dropout: float = 0.0) -> Any:
    """
    Put LoRA adapters on every linear layer of the language model, and freeze everything else.

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
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, th.nn.Linear) and "vision" not in name and not name.endswith("lm_head")
    ]
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, lora_dropout=dropout, target_modules=names)
    return get_peft_model(model, config)


def _with_adapter(model: Any, adapter: str | Path) -> Any:
    try:
        from peft import PeftModel
    except ModuleNotFoundError as error:
        raise MissingPackageError("Adapters need peft. Run: pip install vla-gym[lora]") from error
    if not (Path(adapter) / "adapter_model.safetensors").is_file():
        raise RewardModelError(
            f"{adapter} holds no adapter_model.safetensors; expected a folder that peft has written."
        )
    return PeftModel.from_pretrained(model, adapter)
