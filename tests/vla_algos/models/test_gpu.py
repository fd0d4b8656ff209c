"""The models on a CUDA device."""

from __future__ import annotations

import pytest
import torch as th

from vla_algos.models import load_vla

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def inputs() -> dict[str, object]:
    if not th.cuda.is_available():
        pytest.skip("needs a CUDA device and a CUDA build of torch")
    generator = th.Generator().manual_seed(0)
    return {
        "images": th.randint(0, 256, (4, 3, 128, 128), generator=generator, dtype=th.uint8).cuda(),
        "instructions": ["put the bowl on the plate", "turn on the stove"] * 2,
        "proprio": th.randn(4, 8, generator=generator).cuda(),
    }


def test_decoding_and_scoring_agree(inputs: dict[str, object]) -> None:
    model = load_vla("compact", device="cuda", seed=0)
    decoded = model.decode_actions(**inputs, temperature=1.5)
    scored = model.score_actions(**inputs, bins=decoded.bins, temperature=1.5)
    th.testing.assert_close(scored.log_probs, decoded.log_probs, atol=1e-4, rtol=0.0)


def test_gpu_and_cpu_agree(inputs: dict[str, object]) -> None:
    bins = load_vla("compact", device="cuda", seed=0).decode_actions(**inputs, deterministic=True).bins
    on_cpu = {name: value.cpu() if isinstance(value, th.Tensor) else value for name, value in inputs.items()}
    gpu = load_vla("compact", device="cuda", seed=0).score_actions(**inputs, bins=bins)
    cpu = load_vla("compact", seed=0).score_actions(**on_cpu, bins=bins.cpu())
    th.testing.assert_close(gpu.log_probs.cpu(), cpu.log_probs, atol=1e-3, rtol=0.0)
