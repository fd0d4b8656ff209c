"""FSDP2 over a mesh of one process: every layer is a group of its own, and results stay the same."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch as th
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from vla_algos import TokenPPO
from vla_algos.models import OpenVLA


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    th.distributed.init_process_group("gloo", store=th.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    th.distributed.destroy_process_group()


def shard(model: OpenVLA, mesh: DeviceMesh) -> OpenVLA:
    for layer in model.language_model.model.layers:
        fully_shard(layer, mesh=mesh)
    for tower in model.vision_backbone.children():
        for block in tower.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    return model


def whole(tensor: th.Tensor) -> th.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert all(th.equal(whole(found[name]), expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:.*returned a view tensor")
@pytest.mark.parametrize(("recompute", "fixed_steps"), [(False, None), (True, True)])
def test_a_model_sharded_layer_by_layer_scores_decodes_and_learns_as_before(
    lively_nano, inputs, mesh, recompute, fixed_steps
):
    results = []
    for model in (copy.deepcopy(lively_nano), shard(copy.deepcopy(lively_nano), mesh)):
        model.gradient_checkpointing, model.fixed_steps = recompute, fixed_steps
        args = (inputs.images, inputs.instructions)
        decoded = model.decode_actions(*args, inputs.proprio, generator=th.Generator().manual_seed(0))
        scored = model.score_actions(*args, inputs.bins, inputs.proprio)
        features = model.encode_images(inputs.images)
        hidden = model.prompt_hidden(features, inputs.instructions, inputs.proprio)
        values = model.predict_values(*args, inputs.proprio)
        logits = model.action_logits(*args, inputs.bins, inputs.proprio)
        embeds = model.embed_prompts(features, th.ones(4, 3, dtype=th.int64), inputs.proprio)
        outputs = {"features": features, "hidden": hidden, "values": values, "logits": logits, "embeds": embeds}
        outputs |= {"values_of": model.values_of(hidden), **decoded._asdict(), **scored._asdict()}
        (scored.log_probs.mean() + scored.values.mean() + logits.square().mean()).backward()
        th.optim.SGD(model.parameters(), lr=0.1).step()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((outputs, gradients, model.state_dict()))
    for expected, found in zip(*results, strict=True):
        assert_same(found, expected)


@pytest.mark.filterwarnings("ignore:.*returned a view tensor")
@pytest.mark.parametrize("policy_kwargs", [{}, {"detach_value": True, "freeze_vision": True}])
def test_an_update_of_token_ppo_changes_sharded_weights_as_it_changes_whole_ones(policy_kwargs, toy_vec_env, mesh):
    weights = []
    for is_sharded in (False, True):
        kwargs = {"n_steps": 4, "batch_size": 8, "n_epochs": 1, "critic_warmup_iterations": 0, "seed": 0}
        policy_kwargs = {"vla": "nano", "seed": 0, **policy_kwargs}
        model = TokenPPO("VLAPolicy", toy_vec_env(2), device="cpu", policy_kwargs=policy_kwargs, **kwargs)
        before = {name: whole(p).clone() for name, p in model.policy.vla.state_dict().items()}
        if is_sharded:
            shard(model.policy.vla, mesh)
        model.policy.setup_optimizer(1e-3)
        model.learn(8)
        weights.append({name: whole(p) for name, p in model.policy.vla.state_dict().items()})
        assert any(not th.equal(before[name], weights[-1][name]) for name in before)
    assert_same(weights[1], weights[0])
