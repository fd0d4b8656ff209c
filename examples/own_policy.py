"""
A network of your own instead of a VLA: continuous actions from a camera image, trained with TokenPPO.

In a recipe (`vla-rl train --recipe mine.yml`), with this file beside it:

    env: {suite: goal, tasks: [8], kwargs: {action_type: continuous, image_size: 64, chunk_size: 8}}
    algorithm: {name: TokenPPO, policy: "own_policy.py:SmallPolicy", n_steps: 32, policy_kwargs: {width: 128}}
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import torch as th
from torch import nn
from torch.distributions import Normal

import vla_gym  # noqa: F401  (registers the environments)
from vla_algos import ActorPolicy, TokenPPO
from vla_algos.errors import SpaceError
from vla_algos.models.base import CRITIC_INPUTS, Sample, Scores
from vla_gym.spec import COMMAND_DIM


class SmallPolicy(ActorPolicy):
    """A convolutional network; each number of an action has a normal distribution, and so a log-probability."""

    has_entropy = True  # so that ent_coef is allowed
    value_parts = ("value_head",)

    def __init__(self, observation_space, action_space, lr_schedule, width=64, **kwargs):
        super().__init__(observation_space, action_space, **kwargs)
        if not isinstance(action_space, gym.spaces.Box):
            raise SpaceError(f'Action space is {action_space}. Make the environment with action_type="continuous".')
        self.trunk = nn.Sequential(
            *(nn.Conv2d(3, 16, kernel_size=8, stride=4), nn.ReLU()),
            *(nn.Conv2d(16, 32, kernel_size=4, stride=2), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * 16, width), nn.ReLU()),
        )
        (self.n_numbers,) = action_space.shape
        self.mean = nn.Linear(width, self.n_numbers)
        self.log_std = nn.Parameter(th.full((self.n_numbers,), -0.5))
        self.value_head = nn.Linear(width, 1)
        self.setup_optimizer(lr_schedule(1))

    def critic_inputs(self, obs):
        return self.trunk(obs["agentview"].float() / 255)  # SB3 has put the channels first

    def values_of(self, inputs):
        return self.value_head(inputs).squeeze(-1)

    def distributions(self, features, temperature):
        return Normal(self.mean(features), temperature * self.log_std.exp())

    def act(self, obs, temperature=1.0, deterministic=False):
        features = self.critic_inputs(obs)
        numbers = self.distributions(features, temperature)
        action = numbers.mean if deterministic else numbers.sample()
        return Sample(action, numbers.log_prob(action), self.values_of(features), {CRITIC_INPUTS: features})

    def score(self, obs, action, extras, temperature=1.0):
        features = self.critic_inputs(obs)
        numbers = self.distributions(features, temperature)
        return Scores(numbers.log_prob(action), self.values_of(features), numbers.entropy())

    def action_mask(self, executed):
        return th.arange(self.n_numbers) < COMMAND_DIM * executed.unsqueeze(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--timesteps", type=int, default=256)
    parser.add_argument("--n-steps", type=int, default=32)
    args = parser.parse_args()

    env = gym.make(
        "LIBERO-Goal-v0", task_ids=[8], action_type="continuous", image_size=64, chunk_size=8, render_quality="fast"
    )
    settings = {"learning_rate": 3e-4, "ent_coef": 1e-3, "temperature": 1.0, "critic_warmup_iterations": 1}
    model = TokenPPO(SmallPolicy, env, n_steps=args.n_steps, verbose=1, **settings)
    model.learn(args.timesteps)
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    print("first command:", action[:COMMAND_DIM].round(2))
    env.close()


if __name__ == "__main__":
    main()
