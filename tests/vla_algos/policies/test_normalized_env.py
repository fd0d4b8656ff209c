"""Wrappers that normalise observations are refused, as the model would read other numbers than it was trained on."""

from functools import partial

import gymnasium as gym
import pytest
from gymnasium.wrappers import NormalizeObservation
from gymnasium.wrappers.vector import NormalizeReward
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from vla_algos import TokenGRPO, TokenPPO, VLAPolicy
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.errors import SpaceError
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector import vector_env_class

TOYS = [partial(ToyLiberoEnv, image_size=32)] * 2
KWARGS = {"policy_kwargs": {"vla": "nano"}, "device": "cpu"}


class NormalizedParts(NormalizeObservation):
    """As somebody would write it for a dictionary."""

    def __init__(self, env):
        gym.ObservationWrapper.__init__(self, env)

    def observation(self, observation):
        return {**observation, "proprio": observation["proprio"] / 10.0}


def ours(wrap=lambda env: env, env_fns=TOYS):
    return SB3VecEnv(wrap(vector_env_class("sync")(env_fns)))


def normalized(env, **kwargs):
    return VecNormalize(env, **{"norm_obs_keys": ["proprio"], **kwargs})


WRAPPED = [partial(lambda make: NormalizedParts(make()), make) for make in TOYS]
REFUSED = {
    "VecNormalize": lambda: normalized(DummyVecEnv(TOYS)),
    "below a monitor": lambda: VecMonitor(normalized(ours())),
    "Gymnasium's, in SB3": lambda: DummyVecEnv(WRAPPED),
    "Gymnasium's": lambda: ours(env_fns=WRAPPED),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_normalised_proprioception_is_refused_with_the_remedy(kind):
    remedy = r"VecNormalize changes proprio.*norm_obs=False" if "monitor" in kind or "Vec" in kind else "without it"
    env = REFUSED[kind]()
    with pytest.raises(SpaceError, match=remedy):
        TokenPPO("VLAPolicy", env, **KWARGS)
    with pytest.raises(SpaceError, match=remedy):
        TokenGRPO("VLAPolicy", env, group_size=2, n_groups=1, **KWARGS)
    with pytest.raises(SpaceError, match=remedy):
        VLAPolicy.from_checkpoint("nano", env)
    model = TokenPPO("VLAPolicy", ours(), **KWARGS)
    before = model.env
    with pytest.raises(SpaceError, match=remedy):
        model.set_env(env)
    assert model.env is before


def test_normalised_images_are_refused():
    # by their type, which the space shows
    with pytest.raises(SpaceError, match="expected a uint8 image"):
        TokenPPO("VLAPolicy", normalized(DummyVecEnv(TOYS), norm_obs_keys=["agentview"]), **KWARGS)


def test_rewards_may_be_normalised():
    env = ours(NormalizeReward)
    for wrapped in (VecNormalize(ours(), norm_obs=False), env, VecMonitor(env)):
        TokenPPO("VLAPolicy", wrapped, n_steps=4, batch_size=4, **KWARGS).learn(8)
