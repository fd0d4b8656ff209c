"""Fine-tuning on a CUDA device."""

import numpy as np
import pytest
import torch as th

from vla_algos import BC

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_training_and_validation_run_there(chunked, lora):
    if not th.cuda.is_available():
        pytest.skip("needs a CUDA device and a CUDA build of torch")
    data = chunked(8)
    bc = BC(
        "VLAPolicy",
        dataset=data,
        batch_size=8,
        micro_batch_size=4,
        augmentation={"shift": 1, "crop": 0.9, "contrast": 0.1},
        use_bf16=True,
        seed=0,
        device="cuda",
        policy_kwargs={"vla": "nano", "lora": lora},
    )
    before = {name: p.clone() for name, p in bc.policy.named_parameters() if p.requires_grad}
    bc.learn(3)
    assert any(not th.equal(p, before[name]) for name, p in bc.policy.named_parameters() if name in before)
    assert np.isfinite(list(bc.validations[-1].values())).all()
