"""
What a process reward model costs: frames that it scores per second, and its time beside a policy's decision.

    python benchmarks/reward_model.py [--model FOLDER] [--batches 1 16 32] [--threads 1] [--repeats 5]
    python benchmarks/reward_model.py --vlm 2b --device cuda

The first form times a compact model (a trained folder, or fresh answers on the weights of the shipped VLA) and the
shipped policy in turns, on frames of 96 px; the first frames of episodes are known, as in a roll-out. The second times
a model of Qwen2-VL's architecture with random weights, two frames of 224 px and a question of 60 tokens, against the
time that its matrix products take at the speed of one large product in the same run; ``nano`` is for trying it out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

from vla_gym.processors import processor_name
from vla_gym.provenance import commit, peak_memory_mb

VLMS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    # Qwen2-VL-2B's sizes: https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct/blob/main/config.json
    "2b": (
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        {"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": 1536},
    ),
    "nano": (
        {
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 512,
        },
        {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 48},
    ),
}
TEXT_TOKENS = 60
SIZE, PATCH, MERGED = 224, 14, 2


def seconds(call: Callable[[], Any], device: str, repeats: int) -> float:
    """Median time of a call, the first one not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device != "cpu":
            th.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def time_compact(args: argparse.Namespace) -> None:
    import gymnasium as gym

    import vla_gym  # noqa: F401  (registers the environments)
    from vla_algos.policies import VLAPolicy, env_kwargs_for
    from vla_algos.rewards.compact import CompactRewardModel

    vla = "compact-libero-goal"
    model = CompactRewardModel.load(args.model) if args.model else CompactRewardModel.start_from(vla)
    kwargs = env_kwargs_for(vla, env_id="LIBERO-Goal-v0") | {"assets": "primitive", "render_quality": "fast"}
    with gym.make("LIBERO-Goal-v0", **kwargs) as env:
        policy = VLAPolicy.from_checkpoint(vla, env)
        first, info = env.reset(seed=0)
        frames = [env.step(env.action_space.sample())[0] for _ in range(max(args.batches))]
    print("| batch | frames/s | ms per frame: score / decision of the policy | ratio |\n|---|---|---|---|")
    for n in args.batches:
        batch = {key: np.stack([frame[key] for frame in frames[:n]]) for key in first}
        pairs = np.stack([np.stack([first[model.key]] * n), batch[model.key]], axis=1)
        texts = [info["instruction"]] * n
        score = seconds(lambda pairs=pairs, texts=texts: model.score(pairs, texts), "cpu", args.repeats)
        decide = seconds(lambda batch=batch: policy.predict(batch), "cpu", args.repeats)
        print(
            f"| {n} | {n / score:.0f} | {1e3 * score / n:.1f} / {1e3 * decide / n:.1f} | {score / decide:.2f} |",
            flush=True,
        )


def time_vlm(args: argparse.Namespace) -> None:
    from vla_algos.models import transformers_import  # noqa: F401  (before transformers)

    # isort: split
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text, vision = VLMS[args.vlm]
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    part = half * 3 // 8
    rope = {"rope_type": "default", "mrope_section": [half - 2 * part, part, part]}
    config = Qwen2VLConfig(
        text_config={**text, "rope_parameters": rope},
        vision_config={**vision, "patch_size": PATCH, "spatial_merge_size": MERGED},
        image_token_id=5,
        vision_start_token_id=6,
        vision_end_token_id=7,
    )
    dtype = th.bfloat16 if args.device != "cpu" else th.float32
    th.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).to(args.device, dtype).eval()
    side = SIZE // PATCH
    per_image = (side // MERGED) ** 2
    n_weights = sum(parameter.numel() for name, parameter in model.named_parameters() if "embed_tokens" not in name)
    n_vision = sum(parameter.numel() for parameter in model.model.visual.parameters())
    print("| batch | pairs/s | ms per pair | share of the limit | peak memory (MB) |\n|---|---|---|---|---|")
    for n in args.batches:
        pixels = th.randn(n * 2 * side * side, 3 * 2 * PATCH * PATCH, device=args.device, dtype=dtype)
        grid = th.tensor([[1, side, side]] * (2 * n), device=args.device)
        row = [6, *[5] * per_image, 7] * 2 + [10] * TEXT_TOKENS
        ids = th.tensor([row] * n, device=args.device)
        inputs = {
            "input_ids": ids,
            "attention_mask": th.ones_like(ids),
            "mm_token_type_ids": (ids == 5).int(),
            "pixel_values": pixels,
            "image_grid_thw": grid,
        }

        @th.no_grad()
        def score(inputs: dict[str, th.Tensor] = inputs) -> None:
            model(**inputs, logits_to_keep=1)

        took = seconds(score, args.device, args.repeats)
        flops = 2.0 * n * ((n_weights - n_vision) * len(row) + n_vision * 2 * side * side)
        limit = flops / products_per_second(args.device, dtype)
        memory = peak_memory_mb() if args.device == "cpu" else th.cuda.max_memory_allocated() / 1e6
        print(f"| {n} | {n / took:.1f} | {1e3 * took / n:.1f} | {limit / took:.2f} | {memory:.0f} |", flush=True)


def products_per_second(device: str, dtype: th.dtype) -> float:
    """Floating-point operations per second of one large matrix product."""
    size = 4096 if device != "cpu" else 1024
    left, right = (th.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / seconds(lambda: left @ right, device, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a trained compact model")
    parser.add_argument("--vlm", choices=VLMS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    (time_vlm if args.vlm else time_compact)(args)
    print(json.dumps({**vars(args), "processor": processor_name(), "torch": th.__version__, "commit": commit()}))


if __name__ == "__main__":
    main()
