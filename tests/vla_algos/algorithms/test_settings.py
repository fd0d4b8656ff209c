"""What is set after an algorithm was made takes effect, or is refused."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from vla_algos import BC, TPO, TokenGRPO, TokenPPO, TokenRLOO
from vla_algos.errors import FixedSettingError, RemovedKeywordError, UnknownNameError
from vla_algos.policies.saving import load_keywords
from vla_gym.envs.toy_env import ToyLiberoEnv

GROUPS = {"group_size": 2, "n_groups": 2}


def make_model(algorithm=TokenPPO, **kwargs):
    defaults = {"batch_size": 8, "learning_rate": 1e-3} if algorithm in (TokenPPO, TokenGRPO) else {}
    defaults |= {"n_steps": 8, "critic_warmup_iterations": 0} if algorithm is TokenPPO else GROUPS
    env = make_vec_env(lambda: ToyLiberoEnv(image_size=32, horizon=2), 2)
    kwargs = {"policy_kwargs": {"vla": "nano", "seed": 0}, "seed": 0, "device": "cpu", **defaults, **kwargs}
    return algorithm("VLAPolicy", env, **kwargs)


def weights(model):
    return [p.detach().clone() for p in model.policy.parameters()]


def same(first, second):
    return all(th.equal(p, q) for p, q in zip(first, second, strict=True))


CHANGES = {
    "temperature": 0.7,
    "kl_coef": 0.3,
    "ratio_level": "token",
    "target_kl": 1e-9,
    "ent_coef": 0.2,
    "vf_coef": 0.1,
    "clip_range": 1e-4,
    "clip_range_vf": 1e-4,
    "n_epochs": 1,
    "batch_size": 4,
    "learning_rate": 1e-4,
    "value_learning_rate": 1e-4,
    "gamma": 0.5,
    "gae_lambda": 0.5,
    "max_grad_norm": 1e-3,
    "normalize_advantage": False,
    "min_advantage_std": 50.0,
    "time_limit": "terminal",
    "critic_warmup_iterations": 1,
}


def learned(later=(), **given):
    """Weights after two roll-outs with some settings given at once, and others set later."""
    model = make_model(**{"n_epochs": 2, "n_steps": 4, **given})
    for name, value in later:
        setattr(model, name, value)
    model.set_random_seed(0)
    return weights(model.learn(16))


@pytest.fixture(scope="module")
def without_a_change():
    return learned()


@pytest.mark.parametrize(("name", "value"), CHANGES.items())
def test_set_later_it_is_as_if_given_at_once(name, value, without_a_change):
    given = learned(**{name: value})
    assert same(given, learned(later=[(name, value)]))
    assert not same(given, without_a_change), "a change that makes no difference shows nothing"


@pytest.mark.parametrize("algorithm", [TokenPPO, TokenGRPO, TokenRLOO, TPO])
def test_temperature_is_that_of_sampling_too(algorithm):
    model = make_model(algorithm)
    model.temperature = 0.25
    assert model.temperature == model.policy.temperature == 0.25
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"temperature is {wrong}; expected a number above 0"):
            model.temperature = wrong
    assert model.temperature == model.policy.temperature == 0.25


@pytest.mark.parametrize("algorithm", [TokenPPO, TokenGRPO, TokenRLOO])
def test_the_kl_is_to_the_policy_of_the_moment_it_was_asked_for(algorithm, tmp_path):
    model = make_model(algorithm)
    assert model.reference is None
    model.kl_coef = 0.1
    current = dict(model.policy.named_parameters())
    for i, name in enumerate(model.reference.names):
        assert th.equal(getattr(model.reference, f"weight_{i}"), current[name])
    model.learn(4)
    model.save(tmp_path / "model.zip")
    assert algorithm.load(tmp_path / "model.zip", device="cpu").reference is not None
    model.kl_coef = 0.0
    assert model.reference is None
    model.learn(4, reset_num_timesteps=False)
    with pytest.raises(ValueError, match=r"kl_coef is -0\.1; expected a number from 0 on"):
        model.kl_coef = -0.1


FIXED = [(TokenPPO, "n_steps"), (TokenPPO, "seed"), (TokenRLOO, "policy_kwargs"), (TPO, "reference_policy")]


@pytest.mark.parametrize(("algorithm", "name"), FIXED)
def test_what_cannot_be_changed_is_refused_with_the_remedy(algorithm, name, tmp_path):
    model = make_model(algorithm)
    before = getattr(model, name)
    with pytest.raises(FixedSettingError, match=rf"{name} of {algorithm.__name__} .*load\(path, env, {name}=4\)"):
        setattr(model, name, 4)
    assert getattr(model, name) is before


UNUSED = {
    TokenGRPO: ("n_steps", "gae_lambda", "vf_coef"),
    TokenRLOO: ("clip_range", "batch_size", "ratio_level", "target_kl"),
    TPO: ("kl_coef", "ent_coef", "gamma", "n_epochs", "credit"),
}


@pytest.mark.parametrize(("algorithm", "name"), [(a, name) for a, names in UNUSED.items() for name in names])
def test_what_an_algorithm_does_not_use_is_refused(algorithm, name):
    model = make_model(algorithm)
    before = getattr(model, name, None)
    with pytest.raises(FixedSettingError, match=f"{name} is 4, but {algorithm.__name__} does not use it"):
        setattr(model, name, 4)
    assert getattr(model, name, None) is before


def test_the_remedy_works(tmp_path):
    model = make_model()
    model.save(tmp_path / "model.zip")
    changes = {"n_steps": 4, "temperature": 0.5, "stats_window_size": 3, "checkpoint_folder": tmp_path / "run"}
    loaded = TokenPPO.load(tmp_path / "model.zip", model.env, device="cpu", **changes)
    loaded.learn(8)
    assert loaded.rollout_buffer.actions.shape[0] == 8 and loaded.policy.temperature == 0.5
    assert loaded.ep_info_buffer.maxlen == 3
    # what was given as a path is saved as a text, which loading does not refuse
    assert TokenPPO.load(tmp_path / "run" / "last.zip", device="cpu").n_steps == 4


LOADED = [*CHANGES.items(), ("seed", 3)]


def test_given_to_load_it_is_as_if_given_at_once(tmp_path):
    """All at once, but for those that hide what the others do."""
    hiding = ("target_kl", "normalize_advantage", "critic_warmup_iterations")
    changes = {name: value for name, value in LOADED if name not in hiding}
    given = make_model(n_steps=4, **changes)
    make_model(n_steps=4).save(tmp_path / "model.zip")
    loaded = TokenPPO.load(tmp_path / "model.zip", given.env, device="cpu", **changes)
    for name in changes:
        one, other = getattr(given, name), getattr(loaded, name)
        assert (one(1.0), other(1.0)) == (changes[name],) * 2 if callable(one) else one == other == changes[name]
    results = []
    for model in (given, loaded):
        model.set_random_seed(0)
        results.append(weights(model.learn(8)))
    assert same(*results)


@pytest.mark.parametrize("algorithm", [TokenPPO, TokenGRPO, TokenRLOO, TPO, BC])
def test_loading_refuses_keywords_that_nothing_reads(algorithm, tmp_path, demonstrations):
    if algorithm is BC:
        model = BC("VLAPolicy", None, demonstrations(8), policy_kwargs={"vla": "nano"}, device="cpu")
    else:
        model = make_model(algorithm)
    model.save(tmp_path / "model.zip")
    name = algorithm.__name__
    with pytest.raises(UnknownNameError, match=rf"keyword of {name}\.load 'lerning_rate'.*mean 'learning_rate'"):
        algorithm.load(tmp_path / "model.zip", device="cpu", lerning_rate=1.0)
    with pytest.raises(UnknownNameError, match=rf"keyword of {name}\.load 'policy'"):
        algorithm.load(tmp_path / "model.zip", device="cpu", policy="VLAPolicy")
    for keyword in load_keywords(algorithm):
        assert hasattr(model, f"_{keyword}" if keyword == "stats_window_size" else keyword)


@pytest.mark.parametrize("algorithm", [TokenRLOO, TPO])
def test_loading_names_keywords_of_related_algorithms_with_the_reason(algorithm, tmp_path):
    make_model(algorithm).save(tmp_path / "model.zip")
    for keyword in ("batch_size", "n_epochs"):
        with pytest.raises(RemovedKeywordError, match=f"{algorithm.__name__} has no {keyword}: it takes one"):
            algorithm.load(tmp_path / "model.zip", device="cpu", **{keyword: 4})


def test_loading_checks_values_as_constructors_do(tmp_path):
    make_model(TPO).save(tmp_path / "model.zip")
    with pytest.raises(UnknownNameError, match=r"reference_policy 'begin'. Valid: "):
        TPO.load(tmp_path / "model.zip", device="cpu", reference_policy="begin")
    with pytest.raises(ValueError, match="window_size is 0; expected at least 1 decision"):
        TPO.load(tmp_path / "model.zip", device="cpu", window_size=0)
    with pytest.raises(ValueError, match="temperature is 0; expected a number above 0"):
        TPO.load(tmp_path / "model.zip", device="cpu", temperature=0)


@pytest.mark.parametrize("algorithm", [TokenPPO, BC])
def test_the_seed_of_a_run_in_progress_is_refused(algorithm, tmp_path, demonstrations):
    if algorithm is BC:
        data = demonstrations(8)
        model = BC("VLAPolicy", None, data, batch_size=4, policy_kwargs={"vla": "nano"}, device="cpu")
        model.learn(1).save(tmp_path / "last.zip")
    else:
        make_model(checkpoint_folder=tmp_path).learn(8)
    with pytest.raises(FixedSettingError, match=r"seed cannot be changed to 4: .*last.zip holds a run in progress"):
        algorithm.load(tmp_path / "last.zip", device="cpu", seed=4)


def test_what_cannot_be_is_named():
    model = make_model()
    for name in ("n_epochs", "batch_size", "critic_epochs", "checkpoint_interval"):
        with pytest.raises(ValueError, match=f"{name} is 0; expected at least 1"):
            setattr(model, name, 0)
    with pytest.raises(UnknownNameError, match=r"ratio_level 'step'. Valid: token, action"):
        model.ratio_level = "step"
    with pytest.raises(UnknownNameError, match=r"time_limit 'none'. Valid: bootstrap, terminal"):
        model.time_limit = "none"


class Progress(BaseCallback):
    def _on_step(self):
        return True

    def _on_training_start(self):
        self.seen = []

    def _on_rollout_start(self):
        self.seen.append(self.model._current_progress_remaining)


@pytest.mark.parametrize("algorithm", [TokenPPO, TokenGRPO, TokenRLOO, TPO])
def test_progress_ends_at_zero_and_rates_never_fall_below(algorithm):
    """The last iteration is a whole one, and goes beyond the decisions asked for."""
    rates = []

    def schedule(progress):
        rates.append(progress)
        return 1e-3 * progress

    model = make_model(algorithm, learning_rate=schedule)
    model.learn(3)
    assert model.num_timesteps > 3
    assert min(rates) == 0.0 == model._current_progress_remaining
    assert all(group["lr"] >= 0.0 for group in model.policy.optimizer.param_groups)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [({}, 6), ({"critic_warmup_iterations": 1}, 6), ({"target_kl": 1e-12}, 2), ({"micro_batch_size": 2}, 6)],
)
def test_updates_are_counted_as_sb3_counts_them(kwargs, expected):
    model = make_model(n_epochs=3, **kwargs).learn(32)
    assert model._n_updates == expected == model.logger.name_to_value["train/n_updates"]
    assert np.isfinite(model.logger.name_to_value["train/value_loss"])
