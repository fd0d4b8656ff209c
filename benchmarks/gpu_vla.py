"""
Decoding and PPO updates of a VLA against what the device can do, and against transformers' own ``generate``.

    python benchmarks/gpu_vla.py                                    # openvla-7b, random weights, bfloat16, CUDA
    python benchmarks/gpu_vla.py --vla nano --device cpu --batches 1 8 --micro-batches 4 --lora-rank 2

Peak arithmetic and bandwidth are measured in the same run, with a large matrix product and a large copy. The floor of a
decode is the time that its multiplications take at that peak (prefill and vision), and that reading the language
model's weights and cached keys and values takes at that bandwidth, or the arithmetic if that takes longer (each further
token). Model FLOPs of an update are four per weight and token: forward, and gradients of activations; frozen weights
need none of their own, and what is computed twice for want of memory counts once.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch as th
from torch.nn import functional as F

from vla_algos.common.provenance import hardware
from vla_algos.models import OpenVLA, add_lora
from vla_algos.models.openvla.config import get_preset
from vla_algos.models.openvla.llm import Llama
from vla_algos.models.openvla.processor import BUILTIN_TOKENIZER, load_tokenizer
from vla_gym.provenance import peak_memory_mb, versions

# behind the library, which keeps a broken torchvision away from it
from transformers import LlamaConfig, LlamaForCausalLM  # isort: skip
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding  # isort: skip

INSTRUCTION = "put the wine bottle on top of the cabinet"
DTYPES = {"bfloat16": th.bfloat16, "float32": th.float32}


@dataclass(frozen=True)
class Peaks:
    """What the device can do: multiply-adds count twice (1/s), bytes (1/s)."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Sizes:
    """Of a model: weights of its parts, their bytes each, and tokens of one prompt."""

    vision: int
    projector: int
    llm: int
    bytes_each: int
    patches: int
    prompt: int
    actions: int
    kv_bytes_per_token: int


def build(preset: str, device: th.device, dtype: th.dtype) -> OpenVLA:
    """A model with random weights, made where it is needed, in the type it is needed in."""
    config = get_preset(preset, image_pipeline=())
    with th.device("meta"):
        model = OpenVLA(config, load_tokenizer(BUILTIN_TOKENIZER))
    model = model.to(dtype).to_empty(device=device)
    with th.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    if not config.value_head_width:
        model.add_value_head()
    return model


def sizes_of(model: OpenVLA) -> Sizes:
    """Sizes of a model."""

    def count(*modules: th.nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    config = model.config
    text = len(model.processor.prompt_ids(INSTRUCTION))
    # of the vocabulary only the rows of the action tokens are multiplied, and of the embedding none
    llm = count(model.language_model.model.layers)
    patches = config.patches * len(config.cameras)
    per_token = 2 * config.llm.layers * config.llm.hidden * model.dtype.itemsize
    prompt = text + patches + (1 if config.proprio_dim else 0)
    return Sizes(
        # the last block of a tower may not be run
        sum(count(tower.patch_embed, *tower.blocks[: tower.blocks_run]) for tower in model.vision_backbone.children()),
        count(model.projector),
        llm,
        model.dtype.itemsize,
        patches,
        prompt,
        config.action_tokens,
        per_token,
    )


def synchronize(device: th.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        th.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: th.device, repeats: int) -> float:
    """Median time of a call, after two that do not count."""
    times = []
    for i in range(repeats + 2):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        if i >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_peaks(device: th.device, dtype: th.dtype) -> Peaks:
    """A large product and a large copy."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (th.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    flops = 2 * n**3 / seconds(lambda: a @ b, device, 10)
    x = th.empty(2**30 if device.type == "cuda" else 2**26, device=device, dtype=th.uint8)
    y = th.empty_like(x)
    # a copy reads and writes
    bandwidth = 2 * x.numel() / seconds(lambda: y.copy_(x), device, 10)
    return Peaks(flops, bandwidth)


def inputs_of(model: OpenVLA, n: int) -> dict[str, object]:
    """A batch of observations."""
    config = model.config
    size, channels = config.image_size, 3 * len(config.cameras)
    return {
        "images": th.randint(0, 256, (n, channels, size, size), dtype=th.uint8, device=model.device),
        "instructions": [INSTRUCTION] * n,
        "proprio": th.zeros(n, config.proprio_dim, device=model.device) if config.proprio_dim else None,
    }


def decoding_floor(sizes: Sizes, peaks: Peaks, n: int) -> float:
    """Seconds that a decode of N observations takes at the peaks."""
    multiplied = sizes.vision * sizes.patches + sizes.projector * sizes.patches + sizes.llm * sizes.prompt
    prefill = max(2 * n * multiplied / peaks.flops, (sizes.vision + sizes.llm) * sizes.bytes_each / peaks.bandwidth)
    read = sizes.llm * sizes.bytes_each + n * sizes.prompt * sizes.kv_bytes_per_token
    step = max(read / peaks.bandwidth, 2 * n * sizes.llm / peaks.flops)
    return prefill + (sizes.actions - 1) * step


def transformers_llama(llm: Llama) -> LlamaForCausalLM:
    """Transformers' own model on the same weights, not copies."""
    sizes = llm.config
    config = LlamaConfig(
        vocab_size=sizes.rows,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        rms_norm_eps=sizes.rms_eps,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_base},
    )
    with th.device("meta"):
        theirs = LlamaForCausalLM(config)
    theirs.load_state_dict(llm.state_dict(), assign=True)
    theirs.model.rotary_emb = LlamaRotaryEmbedding(config).to(llm.lm_head.weight.device)
    return theirs.eval()


@th.no_grad()
def generate(model: OpenVLA, llama: LlamaForCausalLM, inputs: dict[str, object]) -> th.Tensor:
    """The same by transformers' ``generate`` over the same weights, greedy."""
    ids = model.processor.prompts(inputs["instructions"], model.device).ids
    embeds = model.embed_prompts(model.encode_images(inputs["images"]), ids, inputs["proprio"])
    steps = model.config.action_tokens
    return llama.generate(
        inputs_embeds=embeds,
        attention_mask=th.ones(embeds.shape[:2], dtype=th.int64, device=model.device),
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        pad_token_id=0,
    )


def print_header(columns: tuple[str, ...]) -> None:
    """First two lines of a Markdown table."""
    print()
    print_row(*columns)
    print_row(*["---"] * len(columns))


def print_row(*cells: object) -> None:
    """A line of a Markdown table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def benchmark_decoding(model: OpenVLA, peaks: Peaks, batches: list[int], repeats: int) -> None:
    """Print a table: latency, throughput, ratio to the floor and to ``generate``."""
    sizes = sizes_of(model)
    print_header(
        (
            "batch",
            "ours (ms)",
            "growing (ms)",
            "fixed (ms)",
            "`generate` (ms)",
            "1/s",
            "`generate` / ours",
            "floor / ours",
        )
    )
    llama = transformers_llama(model.language_model)
    for n in batches:
        inputs = inputs_of(model, n)
        times = {}
        for fixed in (True, False):
            model.fixed_steps = fixed
            times[fixed] = seconds(lambda: model.decode_actions(**inputs, deterministic=True), model.device, repeats)  # noqa: B023
        model.fixed_steps = None
        theirs = seconds(lambda: generate(model, llama, inputs), model.device, repeats)  # noqa: B023
        ours = times[model.device.type == "cuda"]
        floor = decoding_floor(sizes, peaks, n)
        milliseconds = [f"{1000 * t:.1f}" for t in (ours, times[False], times[True], theirs)]
        print_row(n, *milliseconds, f"{n / ours:.1f}", f"{theirs / ours:.2f}", f"{floor / ours:.2f}")


def update(model: OpenVLA, optimizer: th.optim.Optimizer, inputs: dict[str, object], bins: th.Tensor) -> None:
    """One PPO step with a shared critic."""
    scored = model.score_actions(**inputs, bins=bins, temperature=1.0)
    ratio = (scored.log_probs - scored.log_probs.detach()).exp()
    loss = -ratio.clamp(0.8, 1.2).mean() + 0.5 * F.mse_loss(scored.values, th.ones_like(scored.values))
    loss.backward()
    th.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def benchmark_update(model: OpenVLA, peaks: Peaks, micro_batches: list[int], rank: int, repeats: int) -> None:
    """Print a table: time, model FLOP utilisation and peak memory of a LoRA update."""
    sizes = sizes_of(model)
    model.release_steps()
    add_lora(model, rank=rank)
    optimizer = th.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    device = model.device
    print_header(("micro-batch", "activations", "update (s)", "samples/s", "utilisation", "peak memory (GiB)"))
    for n in micro_batches:
        inputs = inputs_of(model, n)
        bins = th.randint(0, 256, (n, sizes.actions), device=device)
        tokens = sizes.prompt + sizes.actions - 1
        flops = 4 * n * (sizes.vision * sizes.patches + sizes.projector * sizes.patches + sizes.llm * tokens)
        for model.gradient_checkpointing in (False, True):
            gc.collect()
            if device.type == "cuda":
                th.cuda.empty_cache()
                th.cuda.reset_peak_memory_stats(device)
            kept = "computed again" if model.gradient_checkpointing else "kept"
            try:
                took = seconds(lambda: update(model, optimizer, inputs, bins), device, repeats)  # noqa: B023
            except th.cuda.OutOfMemoryError:
                print_row(n, kept, "out of memory", "", "", "")
                optimizer.zero_grad()
                continue
            is_cuda = device.type == "cuda"
            memory = th.cuda.max_memory_allocated(device) / 2**30 if is_cuda else peak_memory_mb() * 1e6 / 2**30
            print_row(n, kept, f"{took:.3f}", f"{n / took:.2f}", f"{flops / took / peaks.flops:.2f}", f"{memory:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vla", default="openvla-7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--lora-rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    device, dtype = th.device(args.device), DTYPES[args.dtype]
    th.manual_seed(0)
    peaks = measure_peaks(device, dtype)
    model = build(args.vla, device, dtype)
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.vla}, {args.dtype}, {hardware(device)}: {n_weights / 1e6:.1f} M weights")
    print(f"peaks: {peaks.flops / 1e12:.2f} TFLOP/s, {peaks.bandwidth / 1e9:.1f} GB/s")
    benchmark_decoding(model, peaks, args.batches, args.repeats)
    benchmark_update(model, peaks, args.micro_batches, args.lora_rank, args.repeats)
    print(json.dumps({**vars(args), "versions": versions()}))


if __name__ == "__main__":
    main()
