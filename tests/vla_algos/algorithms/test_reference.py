"""The policy that a run started from can be asked at any time, and holds the run back."""

import pytest
import torch as th

from vla_algos import TokenGRPO, TokenPPO, TokenRLOO
from vla_algos.algorithms.updates import Update
from vla_algos.models import save_vla
from vla_algos.policies import VLAPolicy
from vla_algos.policies.reference import ReferenceWeights
from vla_gym.envs.toy_env import ToyLiberoEnv


def make_policy(action_space=None, **kwargs):
    env = ToyLiberoEnv()
    return VLAPolicy(
        env.observation_space, action_space or env.action_space, lambda _: 1e-3, **{"vla": "nano", "seed": 0, **kwargs}
    )


def logits(policy):
    generator = th.Generator().manual_seed(0)
    images = th.randint(0, 256, (3, 3, 64, 64), dtype=th.uint8, generator=generator)
    with th.no_grad():
        return policy.vla.action_logits(images, ["left", "right", "up"], th.ones(3, 7, dtype=th.int64), th.zeros(3, 8))


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
@pytest.mark.parametrize("freeze_vision", [False, True])
def test_reference_is_what_the_policy_was(lora, freeze_vision, tmp_path):
    if lora is not None:
        pytest.importorskip("peft")
    save_vla(make_policy().vla, tmp_path)
    policy = make_policy(vla=tmp_path, lora=lora, freeze_vision=freeze_vision)
    reference = ReferenceWeights(policy)
    before = logits(policy)
    learning = {name for name, p in policy.named_parameters() if p.requires_grad}
    with th.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    moved = logits(policy)
    assert (moved - before).abs().max() > 1e-3
    with reference.put_into(policy):
        th.testing.assert_close(logits(policy), before, atol=1e-6, rtol=0)
    assert th.equal(logits(policy), moved)
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == learning
    if lora is not None:
        # adapters are switched off, not copied
        assert len(reference.names) < 20


def distance(kl_coef, toy_vec_env):
    """How far some updates with rewards that say nothing lead."""
    model = TokenPPO(
        "VLAPolicy",
        toy_vec_env(8),
        learning_rate=1e-3,
        n_steps=8,
        n_epochs=4,
        critic_warmup_iterations=0,
        kl_coef=kl_coef,
        policy_kwargs={"vla": "nano", "seed": 0},
        seed=0,
        device="cpu",
    ).learn(8 * 8 * 4)
    start = make_policy(seed=0)
    p, q = (th.log_softmax(logits(policy), dim=-1) for policy in (start, model.policy))
    return (p.exp() * (p - q)).sum(-1).mean().item(), model.logger.name_to_value


def test_the_penalty_holds_the_policy_back(toy_vec_env):
    free, figures = distance(0.0, toy_vec_env)
    assert "train/reference_kl" not in figures
    held, figures = distance(10.0, toy_vec_env)
    assert figures["train/reference_kl"] > 0
    assert held < 0.5 * free


def test_the_first_estimate_of_the_distance_is_zero(toy_vec_env):
    model = TokenPPO(
        "VLAPolicy",
        toy_vec_env(2),
        n_steps=4,
        batch_size=8,
        critic_warmup_iterations=0,
        kl_coef=0.1,
        policy_kwargs={"vla": "nano"},
        device="cpu",
    ).learn(8)
    assert abs(model.logger.name_to_value["train/reference_kl"]) < 1e-6


@pytest.mark.parametrize("algorithm", [TokenPPO, TokenGRPO, TokenRLOO])
def test_what_is_penalised_is_the_exact_kl_at_the_temperature(algorithm, toy_vec_env, monkeypatch):
    kwargs = {"group_size": 4, "n_groups": 2} if algorithm is not TokenPPO else {"n_steps": 8}
    if algorithm is TokenPPO:
        kwargs |= {"critic_warmup_iterations": 0, "normalize_advantage": False}
    if algorithm is not TokenRLOO:  # which takes one step over the whole roll-out
        kwargs["batch_size"] = 1000
    model = algorithm(
        "VLAPolicy",
        toy_vec_env(4, chunk_size=2, horizon=3),
        kl_coef=0.1,
        temperature=1.3,
        policy_kwargs={"vla": "nano", "seed": 0},
        seed=0,
        device="cpu",
        **kwargs,
    )
    start = make_policy(seed=0, action_space=model.action_space).vla
    with th.no_grad():
        for name, parameter in model.policy.vla.named_parameters():
            if "lm_head" in name:
                parameter += 0.3 * th.randn(parameter.shape, generator=th.Generator().manual_seed(1))

    seen = []
    apply = Update.apply
    parts = []
    evaluate = Update.evaluate

    def remember(update, part):
        parts.append(part)
        return evaluate(update, part)

    def spy(update, learner):
        part = parts[-1]
        inputs = model.policy.reader.inputs(part.observations)
        with th.no_grad():
            p, q = (
                (vla.action_logits(**inputs, bins=part.actions) / 1.3).log_softmax(dim=-1)
                for vla in (model.policy.vla, start)
            )
        per_token = (p.exp() * (p - q)).sum(dim=-1) * part.token_mask
        level = "action" if algorithm is TokenRLOO else model.ratio_level
        count = part.token_mask.sum() if level == "token" else len(per_token)
        seen.append((update.figures["reference_kl"], (per_token.sum() / count).item()))
        apply(update, learner)

    monkeypatch.setattr(Update, "evaluate", remember)
    monkeypatch.setattr(Update, "apply", spy)
    model._start_anew = lambda: None  # which would take the model as it is now for the start
    model.learn(1)
    assert seen and all(kl == pytest.approx(expected, rel=1e-3) and kl > 1e-3 for kl, expected in seen)


def test_parameters_from_a_file_may_come_with_a_reference_or_without(tmp_path, toy_vec_env):
    def make(kl_coef):
        return TokenPPO("VLAPolicy", toy_vec_env(1), kl_coef=kl_coef, policy_kwargs={"vla": "nano"}, device="cpu")

    models = {kl_coef: make(kl_coef) for kl_coef in (0.0, 0.1)}
    for kl_coef, model in models.items():
        model.save(tmp_path / f"{kl_coef}.zip")
    other = make(0.0)
    other.set_parameters(str(tmp_path / "0.1.zip"), device="cpu")
    assert all(th.equal(p, q) for p, q in zip(other.policy.parameters(), models[0.1].policy.parameters(), strict=True))
    # without one in the file, the reference is the policy that goes on from there
    other = make(0.1)
    other.set_parameters(str(tmp_path / "0.0.zip"), device="cpu")
    weights = dict(models[0.0].policy.named_parameters())
    assert other.reference.names
    for i, name in enumerate(other.reference.names):
        assert th.equal(getattr(other.reference, f"weight_{i}"), weights[name])
