"""
OpenVLA: image patches and an instruction in, action tokens (and, if asked for, a value) out.

Sequence: ``<s>``, patches of each camera, [proprioception token], rest of the prompt, action tokens. Batches are
aligned on the left: shorter prompts are filled up at the end, the filling is hidden from attention, and positions count
on without it, so a row of a batch is computed as if it were alone.

Letters in shapes: N observations, A action tokens (7 per action), S columns of the prompt, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch as th
from torch import nn

from vla_algos.models.decoding import DecodedActions, ScoredActions, choose, log_probs_of, look_up
from vla_algos.models.kv_cache import KVCache
from vla_algos.models.openvla.checks import check_bins, check_inputs, check_temperature
from vla_algos.models.openvla.config import OpenVLAConfig
from vla_algos.models.openvla.heads import ProprioEncoder, ValueHead
from vla_algos.models.openvla.info import ModelInfo, TrainingRecord
from vla_algos.models.openvla.init import init_weights
from vla_algos.models.openvla.llm import Llama
from vla_algos.models.openvla.processor import Processor, with_prompt_end
from vla_algos.models.openvla.steps import FixedSteps, GrowingSteps, Prompt, StepsPool, make_cache
from vla_algos.models.openvla.vision import Projector, VisionBackbone
from vla_algos.models.transformers_import import PreTrainedTokenizerBase
from vla_gym.spec import N_BINS

P = ParamSpec("P")
T = TypeVar("T")


class OpenVLA(nn.Module):
    """
    One class for all sizes.

    Every public method that computes with the weights goes through ``forward``, and every layer is called as a module,
    so FSDP2's ``fully_shard`` can wrap the layers of vision towers and language model, and then the model.

    Switches that may be turned at any time: ``detach_value`` stops the value's gradient at the hidden state, and is
    saved with the model; ``gradient_checkpointing`` computes activations again in the backward pass instead of keeping
    them; ``fixed_steps`` decodes in steps of one shape, on CUDA as a graph (None: on CUDA alone).

    :param config: architecture
    :param tokenizer: tokenizer of the language model; None takes the shipped one if the architecture wants it
    :param record: what it was trained on; None: nothing
    """

    def __init__(
        self,
        config: OpenVLAConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
        record: TrainingRecord | None = None,
    ) -> None:
        super().__init__()
        self.record = record or TrainingRecord()
        self.config = config if self.record.released is None else with_prompt_end(config, tokenizer)
        self.processor = Processor(self.config, tokenizer)
        self.detach_value = self.record.detach_value
        self.fixed_steps: bool | None = None
        self._recompute = False
        self._steps_pool = StepsPool()
        self.vision_backbone = VisionBackbone(config)
        self.projector = Projector(config)
        self.language_model = Llama(config.llm)
        if config.proprio_dim:
            self.proprio_encoder = ProprioEncoder(config)
        if config.value_head_width:
            self.value_head = ValueHead(config.llm.hidden, config.value_head_width)
        init_weights(self)

    def add_value_head(self, width: int = 256) -> None:
        """
        Give a model without value head one, such as a released checkpoint. It is in float32 whatever the model is in,
        and its values start close to 0.

        :param width: hidden channels of the head, kept in the configuration
        :raises ValueError: if there is one already
        """
        if self.config.value_head_width:
            raise ValueError(f"There is a value head already, of width {self.config.value_head_width}.")
        self.config = dataclasses.replace(self.config, value_head_width=width)
        head = ValueHead(self.config.llm.hidden, width)
        with th.no_grad():
            head.fc2.weight.mul_(0.01)
            head.fc2.bias.zero_()
        self.value_head = head.to(self.device)

    @property
    def info(self) -> ModelInfo:
        """All that is saved beside the weights."""
        return ModelInfo(self.config, dataclasses.replace(self.record, detach_value=self.detach_value))

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether backward passes compute activations again."""
        return self._recompute

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self._recompute = value
        for tower in self.vision_backbone.children():
            tower.recompute = value  # type: ignore[assignment]

    @property
    def device(self) -> th.device:
        """Where the parameters live."""
        return self.language_model.lm_head.weight.device

    @property
    def dtype(self) -> th.dtype:
        """Type of the parameters."""
        return self.language_model.lm_head.weight.dtype

    def forward(self, compute: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run one of the model's methods inside the module call, where hooks on the model apply.

        :param compute: bound method
        :param args: of the method
        :param kwargs: of the method
        :return: result of the method
        """
        return compute(*args, **kwargs)

    def release_steps(self) -> None:
        """Give back the memory that ``fixed_steps`` keeps between calls."""
        self._steps_pool = StepsPool()

    def bins_to_ids(self, bins: th.Tensor) -> th.Tensor:
        """
        Vocabulary ids of action bins.

        :param bins: any shape, int64, 0..255
        :return: same shape, int64
        """
        return self.config.llm.vocab - 1 - bins

    @th.no_grad()
    def decode_actions(
        self,
        images: th.Tensor,
        instructions: list[str],
        proprio: th.Tensor | None = None,
        *,
        temperature: float = 1.0,
        deterministic: bool = False,
        constrained: bool = True,
        generator: th.Generator | None = None,
    ) -> DecodedActions:
        """
        Choose actions token by token: one prefill, then one cached step per further token.

        :param images: (N, 3 * cameras, H, W) uint8 RGB, or what ``encode_images`` makes of it
        :param instructions: N texts
        :param proprio: (N, proprio_dim) float32, None for a model without it
        :param temperature: divides the logits, above 0
        :param deterministic: take the most likely token instead of sampling
        :param constrained: choose among the 256 action tokens; else among the whole vocabulary, where other tokens
            are clipped to bins 0..254 by OpenVLA's rule
        :param generator: source of randomness, on the model's device; None for torch's default
        :return: bins, log-probabilities and values
        :raises ModelInputError: if an input does not fit the model
        """
        check_temperature(temperature)
        return self(self._decode, images, instructions, proprio, temperature, deterministic, constrained, generator)

    def _decode(
        self,
        images: th.Tensor,
        instructions: list[str],
        proprio: th.Tensor | None,
        temperature: float,
        deterministic: bool,
        constrained: bool,
        generator: th.Generator | None,
    ) -> DecodedActions:
        prompt = self._prompt(images, instructions, proprio)
        n, s, _ = prompt.embeds.shape
        llm, steps, capacity = self.language_model, self.config.action_tokens, s + self.config.action_tokens - 1
        rows = self._action_rows() if constrained else slice(0, self.config.llm.rows)
        take_step: GrowingSteps | FixedSteps
        if self._has_fixed_steps():
            take_step = self._steps_pool.get(llm, rows, n, capacity, prompt.embeds.dtype)
            hidden = self._run_prompt(prompt, take_step.cache)
            take_step.start(prompt)
        else:
            cache = make_cache(llm, n, capacity, prompt.embeds.dtype)
            hidden = self._run_prompt(prompt, cache)
            take_step = GrowingSteps(llm, rows, prompt, cache)
        values = self._values(hidden)
        logits = llm.score(hidden, rows)
        ids: list[th.Tensor] = []
        log_probs: list[th.Tensor] = []
        for step in range(steps):
            if step:
                logits = take_step(ids[-1])
            # bins count down from the end of the vocabulary
            logits = logits.flip(-1) if constrained else logits
            index, log_prob = choose(logits, temperature, deterministic, generator)
            ids.append(self.bins_to_ids(index) if constrained else index)
            log_probs.append(log_prob)
        bins = self.bins_to_ids(th.stack(ids, dim=1))
        if not constrained:
            bins = bins.clamp(0, N_BINS - 2)
        return DecodedActions(bins, th.stack(log_probs, dim=1), values, hidden)

    def score_actions(
        self,
        images: th.Tensor,
        instructions: list[str],
        bins: th.Tensor,
        proprio: th.Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> ScoredActions:
        """
        Log-probabilities of given actions in one teacher-forced pass, with gradients.

        :param images: (N, 3 * cameras, H, W) uint8 RGB, or what ``encode_images`` makes of it
        :param instructions: N texts
        :param bins: (N, A) int64, 0..255
        :param proprio: (N, proprio_dim) float32, None for a model without it
        :param temperature: divides the logits, above 0
        :return: log-probabilities, entropies and values
        :raises ModelInputError: if an input does not fit the model
        """
        check_temperature(temperature)
        logits, values = self(self._teacher_forced, images, instructions, bins, proprio)
        bin_log_probs = log_probs_of(logits, temperature)
        return ScoredActions(*look_up(bin_log_probs, bins.to(self.device)), values, bin_log_probs)

    def action_logits(
        self,
        images: th.Tensor,
        instructions: list[str],
        bins: th.Tensor,
        proprio: th.Tensor | None = None,
        *,
        dropped: th.Tensor | None = None,
    ) -> th.Tensor:
        """
        Teacher-forced logits over the 256 bins, with gradients.

        :param images: (N, 3 * cameras, H, W) uint8 RGB, or what ``encode_images`` makes of it
        :param instructions: N texts
        :param bins: (N, A) int64, 0..255
        :param proprio: (N, proprio_dim) float32, None for a model without it
        :param dropped: (N, A) bool, True where later tokens see ``<unk>`` instead of this action token, so that
            imitation cannot lean on them; None for nowhere
        :return: (N, A, 256), index = bin
        :raises ModelInputError: if an input does not fit the model
        """
        return self(self._teacher_forced, images, instructions, bins, proprio, dropped)[0]

    def predict_values(self, images: th.Tensor, instructions: list[str], proprio: th.Tensor | None = None) -> th.Tensor:
        """
        Values of observations, with gradients.

        :param images: (N, 3 * cameras, H, W) uint8 RGB, or what ``encode_images`` makes of it
        :param instructions: N texts
        :param proprio: (N, proprio_dim) float32, None for a model without it
        :return: (N,) float32; NaN for a model without value head
        :raises ModelInputError: if an input does not fit the model
        """
        return self(lambda: self._values(self._run_prompt(self._prompt(images, instructions, proprio))))

    def values_of(self, hidden: th.Tensor) -> th.Tensor:
        """
        Values from hidden states, with gradients.

        :param hidden: (N, hidden), see :meth:`prompt_hidden`
        :return: (N,) float32; NaN for a model without value head
        """
        return self(self._values, hidden)

    def prompt_hidden(self, images: th.Tensor, instructions: list[str], proprio: th.Tensor | None = None) -> th.Tensor:
        """
        Hidden state of the prompt's last token, which the value head reads, with gradients.

        :param images: (N, 3 * cameras, H, W) uint8 RGB, or what ``encode_images`` makes of it
        :param instructions: N texts
        :param proprio: (N, proprio_dim) float32, None for a model without it
        :return: (N, hidden)
        :raises ModelInputError: if an input does not fit the model
        """
        return self(lambda: self._run_prompt(self._prompt(images, instructions, proprio)))

    def encode_images(self, images: th.Tensor) -> th.Tensor:
        """
        What the vision towers see; takes the place of ``images`` everywhere, to spare running them again.

        :param images: (N, 3 * cameras, H, W) uint8 RGB
        :return: (N, cameras * patches, channels) in the model's type
        :raises ModelInputError: if type or shape is wrong
        """
        return self(self._encode, images)

    def _encode(self, images: th.Tensor) -> th.Tensor:
        features = self.vision_backbone(self.processor.images(images.to(self.device)).to(self.dtype))
        return features.reshape(len(images), -1, features.shape[-1])

    def embed_prompts(self, features: th.Tensor, ids: th.Tensor, proprio: th.Tensor | None = None) -> th.Tensor:
        """
        Input embeddings of the language model: ``<s>``, patches, [proprioception token], rest of the prompt.

        :param features: (N, cameras * patches, channels), see ``encode_images``
        :param ids: (N, L) int64 prompt ids, ``<s>`` first
        :param proprio: (N, proprio_dim) float32, None for a model without it
        :return: (N, S, hidden)
        """
        return self(self._embed, features, ids, proprio)

    def _embed(self, features: th.Tensor, ids: th.Tensor, proprio: th.Tensor | None) -> th.Tensor:
        text = self.language_model.model.embed_tokens(ids)
        parts = [text[:, :1], self.projector(features)]
        if proprio is not None:
            parts.append(self.proprio_encoder(proprio).to(text.dtype))
        return th.cat([*parts, text[:, 1:]], dim=1)

    def _prompt(self, images: th.Tensor, instructions: list[str], proprio: th.Tensor | None) -> Prompt:
        check_inputs(self.config, len(images), instructions, proprio)
        batch = self.processor.prompts(instructions, self.device)
        features = images.to(self.device) if images.ndim == 3 else self._encode(images)
        embeds = self._embed(features, batch.ids, None if proprio is None else proprio.to(self.device))
        s, longest = embeds.shape[1], batch.ids.shape[1]
        if min(batch.lengths) == longest:
            return Prompt(embeds, th.full((1, 1), s, device=self.device), None)
        lengths = th.tensor(batch.lengths, device=self.device).unsqueeze(1) + (s - longest)
        return Prompt(embeds, lengths, th.arange(s, device=self.device) < lengths)

    def _run_prompt(self, prompt: Prompt, cache: KVCache | None = None) -> th.Tensor:
        """Hidden state of the prompt's last token, (N, hidden)."""
        positions = th.arange(prompt.embeds.shape[1], device=self.device).unsqueeze(0)
        return self.language_model(
            prompt.embeds,
            positions,
            is_real=prompt.is_real,
            rows=prompt.lengths - 1,
            cache=cache,
            recompute=self._recompute and th.is_grad_enabled(),
        ).squeeze(1)

    def _teacher_forced(
        self,
        images: th.Tensor,
        instructions: list[str],
        bins: th.Tensor,
        proprio: th.Tensor | None,
        dropped: th.Tensor | None = None,
    ) -> tuple[th.Tensor, th.Tensor]:
        """Logits (N, A, 256) and values (N,)."""
        prompt = self._prompt(images, instructions, proprio)
        n, s, _ = prompt.embeds.shape
        steps = self.config.action_tokens
        check_bins(bins, n, steps)
        ids = self.bins_to_ids(bins[:, :-1].to(self.device))
        if dropped is not None:
            ids = ids.masked_fill(dropped[:, :-1], 0)
        x = th.cat([prompt.embeds, self.language_model.model.embed_tokens(ids)], dim=1)
        more = th.arange(steps - 1, device=x.device).unsqueeze(0)
        prompt_positions = th.arange(s, device=x.device).expand(len(prompt.lengths), s)
        positions = th.cat([prompt_positions, prompt.lengths + more], dim=1)
        rows = th.cat([prompt.lengths - 1, (s + more).expand(len(prompt.lengths), -1)], dim=1)
        is_real = prompt.is_real_with(steps - 1)
        recompute = self._recompute and th.is_grad_enabled()
        hidden = self.language_model(x, positions, is_real=is_real, rows=rows, recompute=recompute)
        logits = self.language_model.score(hidden, self._action_rows())
        return logits.flip(-1), self._values(hidden[:, 0])

    def _action_rows(self) -> slice:
        """Rows of the vocabulary that are action tokens."""
        return slice(self.config.llm.vocab - N_BINS, self.config.llm.vocab)

    def _has_fixed_steps(self) -> bool:
        # a recording would miss the gathering of sharded weights
        if th.is_autocast_enabled(self.device.type) or self._is_sharded():
            return False
        return self.device.type == "cuda" if self.fixed_steps is None else self.fixed_steps

    def _is_sharded(self) -> bool:
        # whoever shards has imported it; to import it here would take a second
        fsdp = sys.modules.get("torch.distributed.fsdp")
        modules = (self, *self.language_model.model.layers)
        return fsdp is not None and any(isinstance(module, fsdp.FSDPModule) for module in modules)

    def _values(self, hidden: th.Tensor) -> th.Tensor:
        if not self.config.value_head_width:
            return hidden.new_full((len(hidden),), float("nan"), dtype=th.float32)
        return self.value_head(hidden.detach() if self.detach_value else hidden)
