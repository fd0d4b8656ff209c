"""The checkpoints that are part of the package."""

from __future__ import annotations

import pytest
import torch as th
from safetensors.torch import load_file

from vla_algos.models import load_vla
from vla_algos.models.loading import CHECKPOINTS_FOLDER, shipped_checkpoints
from vla_gym.actions.tokenizer import ActionTokenizer

MAX_BYTES = 12_000_000


def test_all_of_them_are_small() -> None:
    assert shipped_checkpoints()
    assert sum(path.stat().st_size for path in CHECKPOINTS_FOLDER.rglob("*") if path.is_file()) < MAX_BYTES


@pytest.mark.parametrize("name", shipped_checkpoints())
def test_it_loads_by_name_and_acts(name: str) -> None:
    folder = shipped_checkpoints()[name]
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {th.bfloat16}
    model = load_vla(name)
    size = model.config.image_size
    images = th.randint(0, 256, (2, 3 * len(model.config.cameras), size, size), dtype=th.uint8)
    actions = model.decode_actions(
        images, ["turn on the stove", "put the bowl on the plate"], th.zeros(2, 8), deterministic=True
    )
    assert actions.bins.shape == (2, 7 * model.config.chunk_size)
    tokenizer = ActionTokenizer.from_checkpoint(folder)
    # commands of the demonstrations lie well inside of the controller's range
    assert (tokenizer.q99[:3] > 0.3).all() and (tokenizer.q01[:3] < -0.3).all()


@pytest.mark.parametrize("name", shipped_checkpoints())
def test_its_card_states_data_training_and_success(name: str) -> None:
    card = (shipped_checkpoints()[name] / "README.md").read_text()
    for text in (
        "vla-rl sft",
        "commit",
        "hours",
        "action_noise",
        "### Greedy actions",
        "### Sampled actions",
        "95 % interval",
    ):
        assert text in card
