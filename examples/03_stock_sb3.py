"""Stable-Baselines3's own algorithms on the same environment, with its policies and with the VLA's."""

from __future__ import annotations

import argparse

import gymnasium as gym
from stable_baselines3 import A2C, PPO

import vla_gym  # noqa: F401  (registers the environments)
from vla_algos import VLAPolicy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=64)
    args = parser.parse_args()

    env = gym.make("LIBERO-Goal-v0", task_ids=[8], image_size=64, render_quality="fast")
    PPO("MultiInputPolicy", env, n_steps=16, batch_size=16, n_epochs=1).learn(args.timesteps)
    A2C("MultiInputPolicy", env, n_steps=8).learn(args.timesteps)
    PPO(VLAPolicy, env, n_steps=16, batch_size=16, n_epochs=1, policy_kwargs={"vla": "nano"}).learn(args.timesteps)
    print("three algorithms, one environment")
    env.close()


if __name__ == "__main__":
    main()
