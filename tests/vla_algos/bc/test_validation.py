import numpy as np
import pytest
import torch as th

from vla_algos.bc.validation import prediction_figures
from vla_algos.models import load_vla


def test_figures_by_hand(chunked):
    """Free-running predictions are what decoding gives, and filled-up commands do not count."""
    data = chunked(5)
    vla = load_vla("nano", seed=0, config_changes={"chunk_size": 2}).eval()
    figures = prediction_figures(vla, data, np.arange(len(data)), 3, "cpu")
    inputs, bins, mask = data.batch(np.arange(len(data)), "cpu")
    assert not mask.all()
    with th.no_grad():
        forced = vla.action_logits(**inputs, bins=bins).argmax(-1)
    predictions = {"forced": forced, "free": vla.decode_actions(**inputs, deterministic=True).bins}
    decode = data.action_tokenizer.decode
    for mode, predicted in predictions.items():
        distance = (predicted - bins).abs()[mask].float()
        assert figures[f"accuracy_{mode}"] == pytest.approx((distance == 0).float().mean().item())
        assert figures[f"bin_error_{mode}"] == pytest.approx(distance.mean().item())
        commands = [decode(b.numpy().reshape(-1, 2, 7)).reshape(len(data), 14) for b in (predicted, bins)]
        error = np.abs(commands[0] - commands[1])[mask.numpy()]
        assert figures[f"l1_error_{mode}"] == pytest.approx(error.mean())


def test_perfect_predictions(chunked):
    data = chunked(4)

    class Perfect:
        config = load_vla("nano").config

        def action_logits(self, bins, **_):
            return th.nn.functional.one_hot(bins, 256).float()

        def decode_actions(self, images, **_):
            rows = [
                int((data.images[:, 0, 0] == images[i, :, 0, 0].numpy()).all(1).argmax()) for i in range(len(images))
            ]
            return type("Decoded", (), {"bins": th.from_numpy(data.bins[rows])})

    figures = prediction_figures(Perfect(), data, np.arange(len(data)), 4, "cpu")
    assert figures["accuracy_forced"] == figures["accuracy_free"] == 1.0
    assert figures["l1_error_free"] == figures["bin_error_free"] == 0.0
