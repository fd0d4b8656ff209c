import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv

from vla_algos import TokenPPO
from vla_algos.errors import CheckpointError, ModelInputError, SpaceError, UnknownNameError
from vla_algos.models import load_vla, merge_adapters, save_vla, unmerge_adapters
from vla_algos.models.base import CRITIC_INPUTS, check_sample, check_scores
from vla_algos.policies import VLAPolicy, spaces_of
from vla_gym import ActionTokenizer
from vla_gym.envs.toy_env import ToyLiberoEnv


def make_policy(env=None, **kwargs):
    env = env or ToyLiberoEnv()
    return VLAPolicy(env.observation_space, env.action_space, lambda _: 1e-3, **{"vla": "nano", "seed": 0, **kwargs})


def observations(n=6, **kwargs):
    env = ToyLiberoEnv(**kwargs)
    rows = [env.reset(seed=3)[0], *(env.reset()[0] for _ in range(n - 1))]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_stock_algorithms_learn_with_the_vla(algorithm, toy_vec_env):
    steps = {"n_steps": 8, "batch_size": 8, "n_epochs": 2} if algorithm is PPO else {"n_steps": 4}
    model = algorithm(VLAPolicy, toy_vec_env(2), policy_kwargs={"vla": "nano"}, seed=0, device="cpu", **steps)
    before = {name: p.clone() for name, p in model.policy.named_parameters()}
    model.learn(32)
    changed = {name for name, p in model.policy.named_parameters() if not th.equal(p, before[name])}
    assert "vla.language_model.lm_head.weight" in changed and "vla.value_head.fc1.weight" in changed
    if algorithm is PPO:
        assert abs(model.logger.name_to_value["train/approx_kl"]) < 1.0


def test_stock_policy_learns_on_the_same_env(toy_vec_env):
    PPO("MultiInputPolicy", toy_vec_env(2), n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(16)


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_scores_equal_the_log_probs_of_sampling(temperature):
    policy = make_policy(temperature=temperature)
    obs = obs_as_tensor(observations(), "cpu")
    with th.no_grad():
        actions, values, log_prob = policy(obs)
    values_again, log_prob_again, entropy = policy.evaluate_actions(obs, actions.float())
    assert actions.shape == (6, 7) and actions.dtype == th.int64
    assert values.shape == (6, 1) and log_prob.shape == entropy.shape == (6,)
    assert th.allclose(log_prob, log_prob_again, atol=1e-4) and th.allclose(values, values_again, atol=1e-5)
    assert th.allclose(policy.predict_values(obs), values, atol=1e-5)
    scores = policy.score(obs, actions, {}, temperature)
    assert scores.log_prob.shape == scores.entropy.shape == (6, 7) and scores.all_log_probs.shape == (6, 7, 256)
    assert th.allclose(scores.log_prob.sum(1), log_prob, atol=1e-4) and th.allclose(scores.entropy.sum(1), entropy)
    check_scores(scores, policy, scores.log_prob)


@pytest.mark.parametrize("kwargs", [{}, {"detach_value": True, "freeze_vision": True}])
def test_what_acting_computed_spares_scoring_the_same(kwargs):
    policy, obs = make_policy(**kwargs), obs_as_tensor(observations(), "cpu")
    with th.no_grad():
        sample = policy.act(obs)
        check_sample(sample, 6)
        assert sample.extras.keys() == {CRITIC_INPUTS, *policy.encode(obs)}
        assert len(sample.extras) == 1 + bool(kwargs)
        with_extras, without = policy.score(obs, sample.action, sample.extras), policy.score(obs, sample.action, {})
    assert all(th.equal(one, other) for one, other in zip(with_extras, without, strict=True))
    assert th.allclose(policy.values_of(policy.critic_inputs(obs)), sample.values, atol=1e-6)
    executed = th.tensor([0, 1])
    assert policy.action_mask(executed).tolist() == [[False] * 7, [True] * 7]


def test_temperature_flattens_samples_but_not_greedy_actions():
    obs = observations()
    sharp, flat = make_policy(temperature=0.5), make_policy(temperature=2.0)
    assert np.array_equal(sharp.predict(obs, deterministic=True)[0], flat.predict(obs, deterministic=True)[0])
    tensors = obs_as_tensor(obs, "cpu")
    actions = th.zeros(6, 7)
    assert (sharp.evaluate_actions(tensors, actions)[2] < flat.evaluate_actions(tensors, actions)[2]).all()


def test_predict_ignores_entries_that_it_does_not_read_and_names_those_it_lacks():
    policy, obs = make_policy(), observations()
    expected, _ = policy.predict(obs, deterministic=True)
    more = {**obs, "wrist_depth": np.zeros((6, 3)), "state": None, 3: "robot"}
    assert np.array_equal(policy.predict(more, deterministic=True)[0], expected)
    for lacking in ("agentview", "instruction", "proprio"):
        rest = {key: value for key, value in obs.items() if key != lacking}
        with pytest.raises(ModelInputError, match=rf"lacks {lacking}; it has .*reads agentview, instruction, proprio"):
            policy.predict(rest)
    with pytest.raises(ModelInputError, match="lacks agentview, instruction, proprio; it has nothing"):
        policy.predict({})
    for wrong in (obs["agentview"], (obs, {}), None):
        with pytest.raises(ModelInputError, match="expected a dictionary with agentview"):
            policy.predict(wrong)


def test_a_robot_has_no_privileged_entry_to_predict_from():
    env = ToyLiberoEnv()
    with_state = spaces.Dict({**env.observation_space.spaces, "privileged": spaces.Box(-1, 1, (5,), np.float32)})
    policy = VLAPolicy(with_state, env.action_space, lambda _: 1e-3, vla="nano", seed=0, critic="privileged")
    obs = observations()
    assert np.array_equal(policy.predict(obs, deterministic=True)[0], make_policy().predict(obs, deterministic=True)[0])


def test_predict_takes_single_and_batched_images_of_either_layout():
    env = ToyLiberoEnv()
    channels_first = dict(env.observation_space.spaces)
    channels_first["agentview"] = spaces.Box(0, 255, (3, 64, 64), np.uint8)
    transposed = VLAPolicy(spaces.Dict(channels_first), env.action_space, lambda _: 1e-3, vla="nano", seed=0)
    obs = observations()
    expected, _ = make_policy().predict(obs, deterministic=True)
    assert expected.shape == (6, 7)
    assert np.array_equal(transposed.predict(obs, deterministic=True)[0], expected)
    first = {**obs, "agentview": obs["agentview"].transpose(0, 3, 1, 2)}
    assert np.array_equal(transposed.predict(first, deterministic=True)[0], expected)
    for i in range(6):
        single = {key: value[i] for key, value in obs.items()}
        assert np.array_equal(transposed.predict(single, deterministic=True)[0], expected[i])


def test_image_and_instruction_reach_the_model():
    policy = make_policy()
    obs = observations(2)
    base = policy.predict_values(obs_as_tensor(obs, "cpu"))
    for key in ("agentview", "instruction", "proprio"):
        # both rows get the other row's entry
        swapped = {**obs, key: obs[key][::-1].copy()}
        if key == "proprio":
            swapped["proprio"] = obs["proprio"] + 0.5
        elif np.array_equal(obs[key][0], obs[key][1]):
            pytest.fail(f"rows agree in {key}, choose another seed")
        assert not th.allclose(policy.predict_values(obs_as_tensor(swapped, "cpu")), base)


def test_saved_policy_predicts_the_same(tmp_path):
    policy = make_policy(temperature=1.3, seed=None)
    policy.save(tmp_path / "policy.pt")
    loaded = VLAPolicy.load(tmp_path / "policy.pt", device="cpu")
    obs = observations()
    assert loaded.temperature == 1.3
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], policy.predict(obs, deterministic=True)[0])


def test_optimizer_groups_share_out_all_parameters():
    policy = make_policy()
    groups = {group["name"]: group for group in policy.optimizer.param_groups}
    assert isinstance(policy.optimizer, th.optim.AdamW) and groups["actor"]["eps"] == 1e-5
    assert {id(p) for p in groups["value"]["params"]} == {id(p) for p in policy.vla.value_head.parameters()}
    n_parameters = len(groups["value"]["params"]) + len(groups["actor"]["params"])
    assert n_parameters == len(list(policy.parameters()))


def test_seed_makes_fresh_weights_reproducible():
    first, again, other = make_policy(seed=4), make_policy(seed=4), make_policy(seed=5)
    assert np.array_equal(first.parameters_to_vector(), again.parameters_to_vector())
    assert not np.array_equal(first.parameters_to_vector(), other.parameters_to_vector())


def test_chunks_follow_the_action_space_or_the_checkpoint(tmp_path):
    policy = make_policy(ToyLiberoEnv(chunk_size=3))
    assert policy.predict(observations(2), deterministic=True)[0].shape == (2, 21)
    save_vla(policy.vla, tmp_path / "vla")
    env = ToyLiberoEnv(chunk_size=2)
    with pytest.raises(SpaceError, match=r"chooses 3 commands per action, the action space holds 2.*chunk_size=3"):
        make_policy(env, vla=tmp_path / "vla")


def test_a_checkpoint_without_value_head_gets_one(tmp_path):
    vla = load_vla("nano", seed=0)
    vla.config = replace(vla.config, value_head_width=0)
    del vla.value_head
    save_vla(vla, tmp_path / "actor")
    policy = make_policy(vla=str(tmp_path / "actor"))
    values = policy.predict_values(obs_as_tensor(observations(), "cpu"))
    assert values.shape == (6, 1) and values.isfinite().all()
    assert [group["name"] for group in policy.optimizer.param_groups if group["params"]] == ["actor", "value"]


def test_unsuitable_spaces_are_named():
    env = ToyLiberoEnv()
    for action_space in (spaces.Box(-1, 1, (7,)), spaces.MultiDiscrete([256] * 6), spaces.MultiDiscrete([255] * 7)):
        with pytest.raises(SpaceError, match='action_type="tokens"'):
            VLAPolicy(env.observation_space, action_space, lambda _: 0.0, vla="nano")
    for key in ("agentview", "instruction", "proprio"):
        rest = spaces.Dict({k: s for k, s in env.observation_space.spaces.items() if k != key})
        with pytest.raises(SpaceError, match=f"lacks {key}; it has"):
            VLAPolicy(rest, env.action_space, lambda _: 0.0, vla="nano")
    with pytest.raises(SpaceError, match="expected a Dict"):
        VLAPolicy(env.observation_space["agentview"], env.action_space, lambda _: 0.0, vla="nano")
    with pytest.raises(SpaceError, match="use_sde=True"):
        VLAPolicy(env.observation_space, env.action_space, lambda _: 0.0, use_sde=True, vla="nano")


def test_a_checkpoint_acts_without_an_algorithm(tmp_path):
    vla = load_vla("nano", seed=0, config_changes={"chunk_size": 2})
    stats = {name: {"action": {"q01": [-q] * 7, "q99": [q] * 7}} for name, q in (("a", 0.2), ("b", 0.3))}
    vla.record = replace(vla.record, norm_stats=stats)
    save_vla(vla, tmp_path / "vla")
    env = ToyLiberoEnv(chunk_size=2)
    env.action_tokenizer = ActionTokenizer.from_norm_stats(stats["b"])
    kwargs = {"temperature": 0.5, "unnorm_key": "b"}
    policies = [VLAPolicy.from_checkpoint(tmp_path / "vla", e, **kwargs) for e in (env, DummyVecEnv([lambda: env]))]
    obs = observations(3)
    bins = [policy.predict(obs, deterministic=True)[0] for policy in policies]
    assert bins[0].shape == (3, 14) and np.array_equal(*bins)
    assert {policy.temperature for policy in policies} == {0.5}
    with pytest.raises(SpaceError, match="other action statistics"):
        VLAPolicy.from_checkpoint(tmp_path / "vla", env, unnorm_key="a")
    with pytest.raises(SpaceError, match="Make the environment with chunk_size=2"):
        VLAPolicy.from_checkpoint(tmp_path / "vla", ToyLiberoEnv())
    with pytest.raises(UnknownNameError, match="nanno"):
        VLAPolicy.from_checkpoint("nanno", env)


def test_the_wrist_camera_reaches_a_model_that_asks_for_it(monkeypatch):
    toy = ToyLiberoEnv()
    space = spaces.Dict({**toy.observation_space.spaces, "wrist": toy.observation_space["agentview"]})
    changes = {"config_changes": {"cameras": ["agentview", "wrist"]}}
    policy = VLAPolicy(space, toy.action_space, lambda _: 0.0, vla="nano", seed=0, vla_kwargs=changes)
    obs = observations(3)
    obs["wrist"] = obs["agentview"][::-1].copy()
    inputs = policy.reader.inputs(obs_as_tensor(obs, "cpu"))
    assert np.array_equal(inputs["images"][:, 3:].permute(0, 2, 3, 1), obs["wrist"])
    assert np.array_equal(inputs["images"][:, :3].permute(0, 2, 3, 1), obs["agentview"])
    assert policy.predict(obs, deterministic=True)[0].shape == (3, 7)
    with pytest.raises(SpaceError, match="lacks wrist"):
        make_policy(vla_kwargs=changes)
    small = spaces.Dict({**toy.observation_space.spaces, "wrist": spaces.Box(0, 255, (32, 32, 3), np.uint8)})
    with pytest.raises(SpaceError, match=r"wrist is \(32, 32, 3\), agentview \(64, 64, 3\)"):
        VLAPolicy(small, toy.action_space, lambda _: 0.0, vla="nano", vla_kwargs=changes)


def test_statistics_given_outlive_saving(tmp_path):
    assert (make_policy().action_tokenizer.q99 == 1.0).all()
    stats = {name: {"action": {"q01": [-q] * 7, "q99": [q] * 7}} for name, q in (("a", 0.2), ("b", 0.3))}
    policy = make_policy(norm_stats=stats, unnorm_key="b")
    policy.save(tmp_path / "policy.pt")
    assert (VLAPolicy.load(tmp_path / "policy.pt", device="cpu").action_tokenizer.q99 == 0.3).all()
    save_vla(policy.vla, tmp_path / "vla")
    assert (make_policy(vla=tmp_path / "vla", unnorm_key="a").action_tokenizer.q99 == 0.2).all()


class ToyWithTokenizer(ToyLiberoEnv):
    def __init__(self, q99):
        super().__init__()
        self.action_tokenizer = ActionTokenizer([-q99] * 7, [q99] * 7)


def test_an_environment_with_other_bins_is_refused():
    stats = {"mine": {"action": {"q01": [-0.2] * 7, "q99": [0.2] * 7}}}
    kwargs = {"vla": "nano", "norm_stats": stats}
    TokenPPO("VLAPolicy", ToyWithTokenizer(0.2), n_steps=4, policy_kwargs=kwargs, device="cpu")
    # the toy task has no tokenizer of its own
    TokenPPO("VLAPolicy", ToyLiberoEnv(), n_steps=4, policy_kwargs=kwargs, device="cpu")
    for q99, own in ((1.0, kwargs), (0.2, {"vla": "nano"})):
        with pytest.raises(SpaceError, match=r"other action statistics.*from_checkpoint"):
            TokenPPO("VLAPolicy", ToyWithTokenizer(q99), n_steps=4, policy_kwargs=own, device="cpu")


def test_merged_adapters_are_not_saved_beside_what_they_are_merged_into(tmp_path):
    pytest.importorskip("peft")
    policy = make_policy(lora={"rank": 2})
    merge_adapters(policy.vla)
    with pytest.raises(CheckpointError, match="unmerge_adapters"):
        policy.save(tmp_path / "policy.zip")
    with pytest.raises(CheckpointError, match="unmerge_adapters"):
        policy.load_state_dict({})
    unmerge_adapters(policy.vla)
    policy.save(tmp_path / "policy.zip")
    assert VLAPolicy.load(tmp_path / "policy.zip").vla is not None


def test_training_in_16_bits_is_warned_of():
    sixteen = {"vla_kwargs": {"dtype": th.bfloat16}}
    with pytest.warns(UserWarning, match=r"can learn are torch\.bfloat16.*use_bf16=True"):
        make_policy(**sixteen)
    pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_policy(**sixteen, lora={"rank": 2})
        make_policy()


@pytest.mark.parametrize("changes", [{}, {"cameras": ["agentview", "wrist"], "proprio_dim": 0, "image_size": 32}])
def test_a_policy_is_made_from_a_checkpoint_alone(changes, tmp_path):
    if changes:
        changes = {**changes, "chunk_size": 2, "proprio_mean": [], "proprio_std": []}
    save_vla(load_vla("nano", seed=0, config_changes=changes), tmp_path / "vla")
    observation_space, action_space = spaces_of(tmp_path / "vla")
    policy = VLAPolicy.from_checkpoint(tmp_path / "vla")
    assert policy.observation_space == observation_space and policy.action_space == action_space
    size, cameras = changes.get("image_size", 64), changes.get("cameras", ["agentview"])
    assert all(observation_space[camera].shape == (3, size, size) for camera in cameras)
    assert ("proprio" in observation_space.spaces) == (not changes)
    env = ToyLiberoEnv(image_size=size, chunk_size=len(action_space.nvec) // 7)
    obs = env.reset(seed=0)[0]
    obs = {**obs, **{camera: obs["agentview"] for camera in cameras}}
    known = VLAPolicy.from_checkpoint(tmp_path / "vla", env) if not changes else policy
    found, expected = (p.predict(obs, deterministic=True)[0] for p in (policy, known))
    assert action_space.contains(found) and (found == expected).all()


def test_spaces_of_a_preset_follow_the_changes_of_its_configuration():
    changes = {"image_size": 32, "chunk_size": 3}
    policy = VLAPolicy.from_checkpoint("nano", vla_kwargs={"config_changes": changes})
    assert policy.observation_space["agentview"].shape == (3, 32, 32) and len(policy.action_space.nvec) == 21
    assert (policy.observation_space, policy.action_space) == spaces_of("nano", config_changes=changes)
    with pytest.raises(UnknownNameError, match=r"Unknown VLA 'nanno'"):
        spaces_of("nanno")
    with pytest.raises(UnknownNameError, match="imagesize"):
        VLAPolicy.from_checkpoint("nano", vla_kwargs={"config_changes": {"imagesize": 32}})
