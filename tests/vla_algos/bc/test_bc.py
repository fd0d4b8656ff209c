from functools import partial

import numpy as np
import pytest
import torch as th

from vla_algos import BC, evaluate_policy_on_suite
from vla_algos.bc.bc import _batches, warmup_cosine
from vla_gym.envs.toy_env import ToyLiberoEnv


def make_bc(dataset, **kwargs):
    return BC("VLAPolicy", dataset=dataset, policy_kwargs={"vla": "nano"}, **{"seed": 0, "device": "cpu", **kwargs})


def test_rate_rises_straight_and_falls_as_a_cosine():
    factors = [warmup_cosine(step, 101, warmup_fraction=0.2, final_fraction=0.2) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 21) and factors[9] == pytest.approx(10 / 21)
    assert factors[20] == 1.0 == max(factors)
    assert factors[60] == pytest.approx(0.6) and factors[100] == pytest.approx(0.2)
    assert warmup_cosine(0, 1, 0.05) == 1.0


def test_batches_use_every_sample_once_per_pass():
    batches = list(_batches(5, 2, 5, np.random.default_rng(0)))
    order = np.concatenate(batches)
    assert [len(b) for b in batches] == [2] * 5
    assert sorted(order[:5]) == sorted(order[5:]) == list(range(5))


def test_token_dropout_hides_the_stated_shares(demonstrations):
    dropped = make_bc(demonstrations(20))._draw_dropped(th.Size([4000, 7]))
    is_full = dropped.all(dim=1)
    assert is_full.float().mean() == pytest.approx(0.5, abs=0.03)
    assert dropped[~is_full].float().mean() == pytest.approx(0.3, abs=0.02)


def test_only_translation_targets_are_smoothed(demonstrations):
    tables = make_bc(demonstrations(20), label_smoothing=0.2)._target_tables
    assert tables.shape == (7, 256, 256)
    assert all(th.equal(tables[d], th.eye(256)) == (d >= 3) for d in range(7))


def test_smoothing_changes_the_loss_of_its_dimensions_only(demonstrations):
    data = demonstrations(8)
    bc = make_bc(data, label_smoothing=0.2, smoothed_dims=(1,), full_dropout=0.0, token_dropout=0.0)
    inputs, bins = data.batch(np.arange(8), "cpu")
    with th.no_grad():
        log_probs = bc.policy.vla.action_logits(**inputs, bins=bins).log_softmax(-1)
    exact = log_probs.gather(-1, bins.unsqueeze(-1)).squeeze(-1)
    spread = th.exp(-0.5 * ((th.arange(256) - bins[:, 1:2]) / 2.0) ** 2)
    neighbours = (spread / spread.sum(1, keepdim=True) * log_probs[:, 1]).sum(1)
    exact[:, 1] = 0.8 * exact[:, 1] + 0.2 * neighbours
    assert bc._train_step(inputs, bins) == pytest.approx(-exact.mean().item(), rel=1e-6)


def test_starting_loss_and_its_targets(demonstrations):
    """A fresh model is close to uniform, and the loss is that of the right tokens at the right places."""
    data = demonstrations(32)
    bc = make_bc(data, label_smoothing=0.0, full_dropout=0.0, token_dropout=0.0)
    bc.learn(0)
    inputs, bins = data.batch(np.arange(32), "cpu")
    with th.no_grad():
        log_probs = bc.policy.vla.score_actions(**inputs, bins=bins).log_probs
    loss = bc._train_step(inputs, bins)
    assert loss == pytest.approx(-log_probs.mean().item(), rel=1e-5)
    assert loss == pytest.approx(np.log(256), abs=0.3)


def test_learn_counts_gradient_steps_and_logs_validation(demonstrations):
    seen = []
    bc = make_bc(demonstrations(40), batch_size=16, validation_interval=2)
    bc.learn(3, callback=lambda variables, _: seen.append(variables["step"]) or True)
    assert bc.num_timesteps == bc._n_updates == 3 and seen == [0, 1, 2]
    figures = bc.validate(demonstrations(16, seed=1))
    assert 0.0 <= figures["token_accuracy"] <= 1.0 and 0.0 < figures["bin_error"] < 256.0


def test_validation_figures_by_hand(demonstrations):
    data = demonstrations(8)
    bc = make_bc(data, batch_size=3)
    inputs, bins = data.batch(np.arange(8), "cpu")
    greedy = bc.policy.vla.decode_actions(**inputs, deterministic=True).bins
    forced = bc.policy.vla.action_logits(**inputs, bins=bins).argmax(-1)
    figures = bc.validate(data)
    assert figures["bin_error"] == pytest.approx((greedy - bins).abs().float().mean().item())
    assert figures["token_accuracy"] == pytest.approx((forced == bins).float().mean().item())


def test_same_seed_gives_the_same_bits(demonstrations):
    runs = [make_bc(demonstrations(40), batch_size=8, seed=s).learn(3) for s in (0, 0, 1)]
    vectors = [bc.policy.parameters_to_vector() for bc in runs]
    assert np.array_equal(vectors[0], vectors[1]) and not np.array_equal(vectors[0], vectors[2])


def test_saved_model_predicts_the_same_without_the_data(tmp_path, demonstrations):
    bc = make_bc(demonstrations(40), batch_size=8).learn(2)
    bc.save(tmp_path / "bc")
    loaded = BC.load(tmp_path / "bc.zip", env=ToyLiberoEnv(), device="cpu")
    obs, _ = ToyLiberoEnv().reset(seed=0)
    assert np.array_equal(bc.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    assert (tmp_path / "bc.zip").stat().st_size < 8e6
    with pytest.raises(ValueError, match="nothing to learn from"):
        loaded.learn(1)


def test_spaces_must_come_from_somewhere():
    with pytest.raises(ValueError, match="give dataset=, or env="):
        BC("VLAPolicy", policy_kwargs={"vla": "nano"})


@pytest.mark.slow
def test_imitation_solves_the_task(demonstrations):
    bc = make_bc(demonstrations(1000), learning_rate=2e-3, label_smoothing=0.0).learn(250)
    result = evaluate_policy_on_suite(bc, "toy", 8, env_fn=partial(ToyLiberoEnv, horizon=1))
    assert result.success_rate == 1.0
    figures = bc.validate(demonstrations(200, seed=1))
    assert figures["token_accuracy"] > 0.95 and figures["bin_error"] < 5.0
