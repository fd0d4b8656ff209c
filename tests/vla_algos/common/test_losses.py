import math

import numpy as np
import pytest
import torch as th
from torch.nn import functional as F

from vla_algos.common.losses import (
    clipped_value_loss,
    episode_preference_loss,
    exact_kl,
    kl_estimate,
    masked_mean,
    preference_loss,
    reinforce_loss,
    smoothing_table,
    soft_cross_entropy,
    token_ppo_loss,
)
from vla_algos.errors import UnknownNameError

LN2 = math.log(2.0)
ALL = th.ones(1, 2, dtype=th.bool)


def ppo(log_ratio, advantages, mask=None, clip_range=0.2, **kwargs):
    log_ratio = th.tensor(log_ratio)
    mask = th.ones_like(log_ratio, dtype=th.bool) if mask is None else th.tensor(mask)
    old = th.full_like(log_ratio, -3.0)
    return token_ppo_loss(old + log_ratio, old, th.tensor(advantages), mask, clip_range, **kwargs)


def test_ratio_one_gives_minus_the_mean_advantage():
    for level in ("token", "action"):
        result = ppo([[0.0, 0.0], [0.0, 0.0]], [1.0, 4.0], ratio_level=level)
        assert result.loss.item() == pytest.approx(-2.5)
        assert result.approx_kl == result.clip_fraction == result.ratio_deviation == 0


@pytest.mark.parametrize(
    ("advantage", "ratio", "surrogate"),
    [(1.0, 1.1, 1.1), (1.0, 1.5, 1.2), (1.0, 0.5, 0.5), (-1.0, 1.5, -1.5), (-1.0, 0.5, -0.8), (-1.0, 0.9, -0.9)],
)
def test_the_six_cases_of_clipping(advantage, ratio, surrogate):
    assert ppo([[math.log(ratio)]], [advantage], ratio_level="token").loss.item() == pytest.approx(-surrogate)
    # the same ratio, spread over two tokens
    halves = [[0.5 * math.log(ratio)] * 2]
    assert ppo(halves, [advantage], ratio_level="action").loss.item() == pytest.approx(-surrogate)


@pytest.mark.parametrize("level", ["token", "action"])
@pytest.mark.parametrize(
    ("advantage", "ratio", "surrogate", "has_gradient"),
    [
        (1.0, 1.25, 1.25, True),  # beyond the lower clip mirrored, not beyond the higher one
        (1.0, 1.3, 1.28, False),
        (1.0, 0.5, 0.5, True),
        (-1.0, 0.79, -0.8, False),
        (-1.0, 0.81, -0.81, True),
        (-1.0, 1.5, -1.5, True),
    ],
)
def test_the_clip_above_one_is_its_own(level, advantage, ratio, surrogate, has_gradient):
    old = th.tensor([[-3.0]])
    log_probs = (old + math.log(ratio)).requires_grad_()
    mask = th.ones(1, 1, dtype=th.bool)
    result = token_ppo_loss(log_probs, old, th.tensor([advantage]), mask, 0.2, level, clip_range_high=0.28)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-surrogate)
    # d ratio / d log-probability is the ratio
    assert log_probs.grad.item() == pytest.approx(-advantage * ratio if has_gradient else 0.0)
    assert result.clip_fraction.item() == (ratio > 1.28 or ratio < 0.8)


def test_levels_differ_where_the_tokens_cancel():
    log_ratio = [[LN2, -LN2]]
    assert ppo(log_ratio, [1.0], ratio_level="action").loss.item() == pytest.approx(-1.0)
    # ratios 2 and 1/2: min(2, 1.2) and 0.5
    result = ppo(log_ratio, [1.0], ratio_level="token")
    assert result.loss.item() == pytest.approx(-(1.2 + 0.5) / 2)
    assert result.clip_fraction.item() == 1.0
    assert result.ratio_deviation.item() == pytest.approx(1.0)
    assert result.approx_kl.item() == pytest.approx(((2 - 1 - LN2) + (0.5 - 1 + LN2)) / 2)


@pytest.mark.parametrize("level", ["token", "action"])
def test_masked_tokens_carry_no_loss_and_no_gradient(level):
    log_probs = th.tensor([[-1.0, -2.0, float("nan")], [-1.0, -1.0, -1.0]], requires_grad=True)
    old = th.tensor([[-1.0, -2.0, -9.0], [-1.0, -1.0, -1.0]])
    mask = th.tensor([[True, True, False], [True, True, True]])
    loss = token_ppo_loss(log_probs, old, th.tensor([2.0, -1.0]), mask, 0.2, level).loss
    loss.backward()
    assert log_probs.grad[0, 2] == 0.0
    # at ratio 1 the gradient of each executed token is -advantage / number of ratios
    n_ratios = 5 if level == "token" else 2
    expected = th.tensor([[-2.0, -2.0, 0.0], [1.0, 1.0, 1.0]]) / n_ratios
    assert th.allclose(log_probs.grad, expected)


def test_samples_without_any_executed_token_do_not_count():
    result = ppo([[0.0], [0.5]], [1.0, 100.0], mask=[[True], [False]], ratio_level="action")
    assert result.loss.item() == pytest.approx(-1.0)
    assert result.ratio_deviation == 0


@pytest.mark.parametrize("level", ["token", "action"])
def test_micro_batches_add_up_to_the_minibatch(level):
    generator = th.Generator().manual_seed(0)
    old = -th.rand(6, 4, generator=generator)
    log_probs = old + 0.3 * th.randn(6, 4, generator=generator)
    advantages = th.randn(6, generator=generator)
    mask = th.rand(6, 4, generator=generator) > 0.4
    mask[:, 0] = True
    whole = token_ppo_loss(log_probs, old, advantages, mask, 0.2, level)
    count = mask.sum() if level == "token" else 6
    parts = [
        token_ppo_loss(log_probs[s], old[s], advantages[s], mask[s], 0.2, level, normalizer=count)
        for s in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    for name in ("loss", "approx_kl", "clip_fraction"):
        assert sum(getattr(p, name) for p in parts).item() == pytest.approx(getattr(whole, name).item(), abs=1e-6)


def test_unknown_level_and_estimator_list_the_valid_names():
    with pytest.raises(ValueError, match=r"'step'. Valid: token, action"):
        ppo([[0.0]], [1.0], ratio_level="step")
    with pytest.raises(ValueError, match=r"'k4'. Valid: k1, k2, k3"):
        kl_estimate(th.zeros(1), "k4")


def test_kl_estimators_against_the_exact_divergence():
    old = th.tensor([0.1, 0.2, 0.3, 0.4], dtype=th.float64)
    new = th.tensor([0.25, 0.15, 0.35, 0.25], dtype=th.float64)
    log_ratio = new.log() - old.log()
    exact = (old * (old / new).log()).sum().item()
    for estimator in ("k1", "k3"):
        assert (old * kl_estimate(log_ratio, estimator)).sum().item() == pytest.approx(exact)
    assert kl_estimate(th.tensor([0.3]), "k2").item() == pytest.approx(0.045)
    assert (kl_estimate(log_ratio, "k3") >= 0).all() and (kl_estimate(log_ratio, "k1") < 0).any()


def test_value_loss_without_clipping_is_the_squared_error():
    loss = clipped_value_loss(th.tensor([1.0, 2.0]), th.tensor([5.0, 5.0]), th.tensor([0.0, 4.0]))
    assert loss.item() == pytest.approx((1.0 + 4.0) / 2)


def test_value_clipping_stops_progress_but_not_the_way_back():
    old, returns = th.tensor([0.0, 0.0, 0.0]), th.tensor([1.0, 1.0, 1.0])
    # inside the range; beyond it towards the target; beyond it away from the target
    values = th.tensor([0.1, 0.5, -0.5], requires_grad=True)
    loss = clipped_value_loss(values, old, returns, clip_range_vf=0.2)
    assert loss.item() == pytest.approx((0.9**2 + 0.8**2 + 1.5**2) / 3)
    loss.backward()
    assert th.allclose(values.grad, th.tensor([2 * -0.9, 0.0, 2 * -1.5]) / 3)


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(th.tensor([[5.0, 6.0]]), ~ALL).item() == 0.0
    assert masked_mean(th.tensor([[5.0, 6.0]]), th.tensor([[True, False]])).item() == 5.0


def test_smoothing_spreads_mass_over_neighbours_only():
    table = smoothing_table(256, smoothing=0.2, width=2.0)
    assert th.allclose(table.sum(dim=1), th.ones(256))
    row = table[100]
    assert th.allclose(row[80:100].flip(0), row[101:121])
    assert row[100].item() == pytest.approx(0.8 + 0.2 / (2.0 * math.sqrt(2 * math.pi)), abs=1e-6)
    assert (row[101] / row[102]).item() == pytest.approx(math.exp((4 - 1) / 8), rel=1e-4)
    assert row[120:].sum() < 1e-6 and table[0, 0] > table[100, 100]
    assert th.equal(smoothing_table(8, 0.0, 1.0), th.eye(8))


def test_soft_cross_entropy_of_hard_targets_is_the_usual_one():
    logits = th.randn(5, 3, 8, generator=th.Generator().manual_seed(0))
    bins = th.arange(15).reshape(5, 3) % 8
    loss = soft_cross_entropy(logits, th.eye(8)[bins])
    assert loss.item() == pytest.approx(F.cross_entropy(logits.flatten(0, 1), bins.flatten()).item(), rel=1e-6)


def test_soft_cross_entropy_counts_what_the_mask_keeps():
    logits = th.randn(2, 3, 8, generator=th.Generator().manual_seed(0))
    bins = th.tensor([[1, 2, 3], [4, 5, 6]])
    mask = th.tensor([[True, True, False], [False, True, False]])
    losses = F.cross_entropy(logits.flatten(0, 1), bins.flatten(), reduction="none").view(2, 3)
    targets = th.eye(8)[bins]
    assert soft_cross_entropy(logits, targets, mask).item() == pytest.approx(losses[mask].mean().item())
    assert soft_cross_entropy(logits, targets, mask, 6).item() == pytest.approx(losses[mask].sum().item() / 6)


def test_reinforce_is_advantage_times_gradient_of_the_log_probability():
    log_probs = th.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    mask = th.tensor([[True, True], [True, False]])
    result = reinforce_loss(log_probs, log_probs.detach() - 0.1, th.tensor([2.0, -1.0]), mask)
    assert result.loss.item() == pytest.approx(-(2.0 * -3.0 + -1.0 * -0.5) / 2)
    result.loss.backward()
    assert th.equal(log_probs.grad, th.tensor([[-1.0, -1.0], [0.5, 0.0]]))
    assert result.ratio_deviation.item() == pytest.approx(np.exp(0.2) - 1, rel=1e-5)


def test_preference_is_the_logistic_loss_of_the_difference():
    success, failure = th.tensor([1.0, -2.0]), th.tensor([0.0, 1.0])
    expected = [np.log1p(np.exp(-0.5)), np.log1p(np.exp(1.5))]
    np.testing.assert_allclose(preference_loss(success, failure, beta=0.5).numpy(), expected, rtol=1e-6)


def softplus(x):
    return math.log1p(math.exp(x))


def test_the_length_of_episodes_is_handled_in_three_ways():
    success, failure = th.tensor([0.5, 1.0, -0.5]), th.tensor([0.25, 0.25, 0.25, 2.0, 3.0])
    # sums: 1 and 5.75; means: 1/3 and 1.15; windows of two: 1.5, 0.5 against 0.5, 0.5, and what comes later is not read
    expected = {
        "sum": softplus(2.0 * (5.75 - 1.0)),
        "mean": softplus(2.0 * (1.15 - 1 / 3)),
        "windows": (softplus(2.0 * (0.5 - 1.5)) + softplus(0.0)) / 2,
    }
    for handling, loss in expected.items():
        ours = episode_preference_loss(success, failure, 2.0, handling, window_size=2)
        assert ours.shape == () and ours.item() == pytest.approx(loss, rel=1e-6)
    # episodes shorter than a window are one window
    ours = episode_preference_loss(success, failure, 2.0, "windows", window_size=8)
    assert ours.item() == pytest.approx(softplus(2.0 * (0.75 - 1.0)), rel=1e-6)
    with pytest.raises(UnknownNameError, match=r"length_handling 'median'.*sum, mean, windows"):
        episode_preference_loss(success, failure, 2.0, "median")


@pytest.mark.parametrize(
    ("handling", "success_weights", "failure_weights"),
    [
        ("sum", [1.0] * 2, [1.0] * 4),
        ("mean", [1 / 2] * 2, [1 / 4] * 4),
        ("windows", [1.0] * 2, [1.0, 1.0, 0.0, 0.0]),
    ],
)
def test_gradients_of_preferences_at_the_reference_policy(handling, success_weights, failure_weights):
    success, failure = th.zeros(2, requires_grad=True), th.zeros(4, requires_grad=True)
    loss = episode_preference_loss(success, failure, 0.1, handling)
    loss.backward()
    assert loss.item() == pytest.approx(LN2)
    # half of beta, and no more for a long failure than for a short success but with "sum"
    assert success.grad.tolist() == pytest.approx([-0.05 * weight for weight in success_weights])
    assert failure.grad.tolist() == pytest.approx([0.05 * weight for weight in failure_weights])


@pytest.mark.parametrize("ratio_level", ["token", "action"])
def test_exact_kl_and_its_gradient_are_those_of_the_closed_form(ratio_level):
    """d KL / d logit_k = p_k (log p_k - log q_k - KL), in double precision and written out."""
    generator = th.Generator().manual_seed(0)
    logits, other = th.randn(2, 3, 4, 256, generator=generator, dtype=th.float64)
    mask = th.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    logits.requires_grad_()
    reference = th.log_softmax(other, dim=-1)
    value = exact_kl(th.log_softmax(logits, dim=-1), reference, mask, ratio_level)
    value.backward()
    with th.no_grad():
        p, q = logits.softmax(dim=-1), other.softmax(dim=-1)
        kl = (p * (p / q).log()).sum(dim=-1)
        count = 6 if ratio_level == "token" else 2
        assert value.item() == pytest.approx((kl[mask].sum() / count).item())
        gradient = p * ((p / q).log() - kl[..., None]) * mask[..., None] / count
    th.testing.assert_close(logits.grad, gradient)
    assert exact_kl(reference, reference, mask, ratio_level).item() == 0.0
