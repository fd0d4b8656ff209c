import signal
from functools import partial

import numpy as np
import pytest
import torch as th

from vla_algos import BC, DemonstrationSet, env_kwargs_for, evaluate_policy_on_suite
from vla_algos.common.schedules import warmup_cosine
from vla_algos.errors import TrainingDivergedError
from vla_algos.models import load_vla, save_vla
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.envs.toy_env import ToyLiberoEnv

PLAIN = {"label_smoothing": 0.0, "full_dropout": 0.0, "token_dropout": 0.0}


def make_bc(dataset, **kwargs):
    return BC("VLAPolicy", dataset=dataset, policy_kwargs={"vla": "nano"}, **{"seed": 0, "device": "cpu", **kwargs})


def test_rate_rises_straight_and_falls_as_a_cosine():
    factors = [warmup_cosine(step, 101, warmup_fraction=0.2, final_fraction=0.2) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 21) and factors[9] == pytest.approx(10 / 21)
    assert factors[20] == 1.0 == max(factors)
    assert factors[60] == pytest.approx(0.6) and factors[100] == pytest.approx(0.2)
    assert warmup_cosine(0, 1, 0.05) == 1.0


def test_only_translation_targets_are_smoothed(demonstrations):
    tables = make_bc(demonstrations(20), label_smoothing=0.2)._target_tables
    assert tables.shape == (7, 256, 256)
    assert all(th.equal(tables[d], th.eye(256)) == (d >= 3) for d in range(7))


def step(bc, batch):
    bc.learn(0)
    return bc._train_step(batch, bc._stream)


def test_smoothing_changes_the_loss_of_its_dimensions_only(demonstrations):
    data = demonstrations(8)
    bc = make_bc(
        data, label_smoothing=0.2, smoothed_dims=(1,), smoothing_width=2.0, full_dropout=0.0, token_dropout=0.0
    )
    batch = data.batch(np.arange(8), "cpu")
    bins = batch.bins
    with th.no_grad():
        log_probs = bc.policy.vla.action_logits(**batch.inputs, bins=bins).log_softmax(-1)
    exact = log_probs.gather(-1, bins.unsqueeze(-1)).squeeze(-1)
    spread = th.exp(-0.5 * ((th.arange(256) - bins[:, 1:2]) / 2.0) ** 2)
    neighbours = (spread / spread.sum(1, keepdim=True) * log_probs[:, 1]).sum(1)
    exact[:, 1] = 0.8 * exact[:, 1] + 0.2 * neighbours
    assert step(bc, batch) == pytest.approx(-exact.mean().item(), rel=1e-6)


def test_starting_loss_and_its_targets(demonstrations):
    """A fresh model is close to uniform, and the loss is that of the right tokens at the right places."""
    data = demonstrations(32)
    bc = make_bc(data, **PLAIN)
    batch = data.batch(np.arange(32), "cpu")
    with th.no_grad():
        log_probs = bc.policy.vla.score_actions(**batch.inputs, bins=batch.bins).log_probs
    loss = step(bc, batch)
    assert loss == pytest.approx(-log_probs.mean().item(), rel=1e-5)
    assert loss == pytest.approx(np.log(256), abs=0.3)


def test_the_filling_of_a_chunk_teaches_nothing(chunked):
    data = chunked(6)
    n_valid = int(7 * data.n_commands.sum())
    assert n_valid < data.bins.size
    bc = make_bc(data, **PLAIN)
    batch = data.batch(np.arange(len(data)), "cpu")
    with th.no_grad():
        log_probs = bc.policy.vla.score_actions(**batch.inputs, bins=batch.bins).log_probs
    assert step(bc, batch) == pytest.approx(-log_probs[batch.mask].sum().item() / n_valid, rel=1e-5)

    # what the filling is makes no difference to a step
    other = batch._replace(bins=batch.bins.masked_fill(~batch.mask, 77))
    stepped = []
    for one in (batch, other):
        bc = make_bc(data, token_dropout=0.0, full_dropout=1.0)
        step(bc, one)
        stepped.append(bc.policy.parameters_to_vector())
    assert np.array_equal(*stepped)


def test_micro_batches_add_up(chunked):
    data = chunked(8)
    gradients = []
    for micro_batch_size in (None, 3):
        bc = make_bc(data, micro_batch_size=micro_batch_size, max_grad_norm=1e9)
        step(bc, data.batch(np.arange(len(data)), "cpu"))
        gradients.append({name: p.grad for name, p in bc.policy.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        th.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-3)


def test_half_precision_is_close(demonstrations):
    data = demonstrations(16)
    losses = [step(make_bc(data, use_bf16=flag), data.batch(np.arange(16), "cpu")) for flag in (False, True)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_model_that_cannot_see_earlier_tokens_does_not_copy(demonstrations):
    """The sixth token equals the fifth plus one in the data: with dropout the loss cannot tell one from another."""
    data = demonstrations(8)
    batch = data.batch(np.arange(8), "cpu")
    changed = batch._replace(bins=batch.bins.clone())
    changed.bins[:, 4] = 200
    logits = []
    for rates in ({"token_dropout": 1.0}, {"token_dropout": 0.0, "full_dropout": 0.0}):
        bc = make_bc(data, **rates)
        bc.learn(0)
        dropped = bc._stream.hidden_tokens(batch.bins.shape, bc.token_dropout, bc.full_dropout)
        with th.no_grad():
            pair = [bc.policy.vla.action_logits(**b.inputs, bins=b.bins, dropped=dropped) for b in (batch, changed)]
        logits.append((pair[0] - pair[1]).abs().max().item())
    assert logits[0] == 0.0 < logits[1]


def test_images_are_augmented_in_training_only(demonstrations):
    data = demonstrations(16)
    seen = []
    for augmentation in (None, {"shift": 6, "brightness": 0.5}):
        bc = make_bc(data, augmentation=augmentation, **PLAIN)
        batch = data.batch(np.arange(16), "cpu")
        figures = bc.validate(data)
        bc.learn(0)
        bc._train_step(batch, bc._stream)
        seen.append((figures, batch.inputs["images"]))
    assert seen[0][0] == seen[1][0]
    assert not th.equal(seen[0][1], seen[1][1])


def test_learn_counts_gradient_steps_and_logs_validation(demonstrations):
    seen = []
    bc = make_bc(demonstrations(40), batch_size=16, validation_interval=2)
    bc.learn(3, callback=lambda variables, _: seen.append(variables["step"]) or True)
    assert bc.num_timesteps == bc._n_updates == 3 and seen == [0, 1, 2]
    assert [figures["step"] for figures in bc.validations] == [2, 3]
    assert bc.logger.name_to_value == {} and bc.remaining_steps == 0


def test_same_seed_gives_the_same_bits(demonstrations):
    runs = [make_bc(demonstrations(40), batch_size=8, seed=s).learn(3) for s in (0, 0, 1)]
    vectors = [bc.policy.parameters_to_vector() for bc in runs]
    assert np.array_equal(vectors[0], vectors[1]) and not np.array_equal(vectors[0], vectors[2])


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path, chunked, stop_after):
    data = chunked(8)
    options = {"batch_size": 5, "validation_interval": 2, "augmentation": {"shift": 2}}
    whole = make_bc(data, **options).learn(6)
    stopped = make_bc(data, **options)
    stopped.learn(6, callback=lambda variables, _: stopped.num_timesteps < stop_after)
    stopped.save(tmp_path / "stopped")
    resumed = BC.load(tmp_path / "stopped", dataset=data, device="cpu")
    assert resumed.remaining_steps == 6 - stop_after
    th.rand(3)  # the global generator is of no importance
    resumed.learn(resumed.remaining_steps, reset_num_timesteps=False)
    assert np.array_equal(resumed.policy.parameters_to_vector(), whole.policy.parameters_to_vector())
    assert resumed.validations == whole.validations
    assert resumed.policy.optimizer.param_groups[0]["lr"] == whole.policy.optimizer.param_groups[0]["lr"]


def test_ctrl_c_finishes_the_step_and_leaves_a_checkpoint(tmp_path, demonstrations):
    data = demonstrations(20)
    bc = make_bc(data, batch_size=8, checkpoint_folder=tmp_path)
    bc.learn(0)

    def press(variables, _):
        if variables["step"] == 1:
            signal.raise_signal(signal.SIGINT)
        return True

    with pytest.raises(KeyboardInterrupt):
        bc.learn(5, callback=press)
    resumed = BC.load(tmp_path / "last.zip", dataset=data, device="cpu")
    assert resumed.num_timesteps == 2 and resumed.remaining_steps == 3
    resumed.learn(resumed.remaining_steps, reset_num_timesteps=False)
    whole = make_bc(data, batch_size=8).learn(5)
    assert np.array_equal(resumed.policy.parameters_to_vector(), whole.policy.parameters_to_vector())


def test_steps_that_are_not_finite_are_counted_and_end_the_run(demonstrations, monkeypatch):
    model = BC("VLAPolicy", dataset=demonstrations(32), policy_kwargs={"vla": "nano"}, seed=0, device="cpu")
    model.learn(1)
    before = [p.detach().clone() for p in model.policy.parameters()]
    monkeypatch.setattr("vla_algos.bc.bc.soft_cross_entropy", lambda logits, *_: logits.sum() * float("nan"))
    model.learn(2, reset_num_timesteps=False)
    assert model._skipped_updates.total == 2 and model._n_updates == 1
    assert all(th.equal(p, q) for p, q in zip(before, model.policy.parameters(), strict=True))
    with pytest.raises(TrainingDivergedError, match="3 updates of the policy in a row"):
        model.learn(5, reset_num_timesteps=False)
    assert model.num_timesteps == 3


def test_the_size_of_the_images_travels_with_the_model(tmp_path, demonstrations):
    policy_kwargs = {"vla": "nano", "vla_kwargs": {"config_changes": {"image_size": 32}}}
    model = BC("VLAPolicy", dataset=demonstrations(32), policy_kwargs=policy_kwargs, seed=0, device="cpu")
    assert model.policy.vla.info.camera_size == 32
    save_vla(model.learn(1).policy.vla, tmp_path / "vla")
    assert env_kwargs_for(tmp_path / "vla")["image_size"] == demonstrations(32).camera_size[0] == 64


def test_the_best_model_is_kept(tmp_path, demonstrations, monkeypatch):
    bc = make_bc(demonstrations(20), batch_size=8, validation_interval=1, checkpoint_folder=tmp_path)
    errors, vectors = [0.3, 0.1, 0.2], []

    def validate(_):
        vectors.append({name: value.clone() for name, value in bc.policy.vla.state_dict().items()})
        names = [f"{f}_{m}" for f in ("accuracy", "l1_error", "bin_error") for m in ("forced", "free")]
        return dict.fromkeys(names, 0.0) | {"l1_error_free": errors[len(vectors) - 1]}

    monkeypatch.setattr(bc, "validate", validate)
    bc.learn(3)
    best = load_vla(tmp_path / "best").state_dict()
    assert all(th.equal(best[name], value) for name, value in vectors[1].items())


def test_saved_model_predicts_the_same_without_the_data(tmp_path, demonstrations):
    bc = make_bc(demonstrations(40), batch_size=8).learn(2)
    bc.save(tmp_path / "bc")
    loaded = BC.load(tmp_path / "bc.zip", env=ToyLiberoEnv(), device="cpu")
    obs, _ = ToyLiberoEnv().reset(seed=0)
    assert np.array_equal(bc.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    assert (tmp_path / "bc.zip").stat().st_size < 8e6
    with pytest.raises(ValueError, match="nothing to learn from"):
        loaded.learn(1)


def test_action_statistics_travel_with_the_model(tmp_path, episodes):
    data = DemonstrationSet.from_episodes(episodes(6), name="mine")
    bc = make_bc(data, batch_size=8, validation_fraction=0.0).learn(1)
    bc.save(tmp_path / "bc")
    save_vla(bc.policy.vla, tmp_path / "vla")
    loaded = BC.load(tmp_path / "bc", device="cpu")
    for tokenizer in (
        bc.policy.action_tokenizer,
        loaded.policy.action_tokenizer,
        ActionTokenizer.from_checkpoint(tmp_path / "vla"),
        ActionTokenizer.from_checkpoint(tmp_path / "vla", "mine"),
    ):
        assert np.array_equal(tokenizer.q99, data.action_tokenizer.q99)
        assert not np.array_equal(tokenizer.q99, ActionTokenizer().q99)
    wrong = DemonstrationSet.from_episodes(episodes(6), ActionTokenizer())
    with pytest.raises(ValueError, match=r"The bins of the demonstrations span .* those of the model"):
        BC("VLAPolicy", None, wrong, policy_kwargs={"vla": str(tmp_path / "vla")}, device="cpu").learn(1)


def test_adapters_learn_while_the_checkpoint_stays(tmp_path, demonstrations):
    pytest.importorskip("peft")
    data = demonstrations(20)
    save_vla(load_vla("nano", seed=3), tmp_path / "base")
    kwargs = {"vla": str(tmp_path / "base"), "lora": {"rank": 4}}
    bc = BC("VLAPolicy", None, data, batch_size=8, seed=0, device="cpu", policy_kwargs=kwargs, learning_rate=1e-2)
    bc.learn(3)
    base = load_vla(tmp_path / "base").state_dict()
    own = bc.policy.vla.state_dict()
    name = "language_model.model.layers.0.self_attn.q_proj"
    assert th.equal(own[f"{name}.base_layer.weight"], base[f"{name}.weight"])

    bc.save(tmp_path / "bc")
    loaded = BC.load(tmp_path / "bc", dataset=data, device="cpu")
    assert np.array_equal(loaded.policy.parameters_to_vector(), bc.policy.parameters_to_vector())
    assert len(bc.get_parameters()["policy"]) < len(bc.policy.state_dict())
    whole = BC("VLAPolicy", None, data, batch_size=8, seed=0, device="cpu", policy_kwargs=kwargs, learning_rate=1e-2)
    whole.learn(5, callback=lambda *_: whole.num_timesteps < 3).save(tmp_path / "stopped")
    whole.learn(whole.remaining_steps, reset_num_timesteps=False)
    resumed = BC.load(tmp_path / "stopped", dataset=data, device="cpu")
    resumed.learn(resumed.remaining_steps, reset_num_timesteps=False)
    assert np.array_equal(resumed.policy.parameters_to_vector(), whole.policy.parameters_to_vector())


def test_spaces_must_come_from_somewhere():
    with pytest.raises(ValueError, match="give dataset=, or env="):
        BC("VLAPolicy", policy_kwargs={"vla": "nano"})


@pytest.mark.slow
def test_imitation_solves_the_task(demonstrations):
    bc = make_bc(demonstrations(1000), learning_rate=2e-3, label_smoothing=0.0).learn(250)
    result = evaluate_policy_on_suite(bc, "toy", 8, env_fn=partial(ToyLiberoEnv, horizon=1))
    assert result.success_rate == 1.0
    figures = bc.validate(demonstrations(200, seed=1))
    assert figures["accuracy_forced"] > 0.95 and figures["bin_error_free"] < 5.0
