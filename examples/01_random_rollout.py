"""One episode of random action tokens: what the environment gives and takes."""

from __future__ import annotations

import argparse

import gymnasium as gym

import vla_gym


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()

    env = gym.make("LIBERO-Goal-v0")  # MultiDiscrete([256] * 7): the VLA's token space
    observation, info = env.reset(seed=0, options={"task_id": 8, "init_state_id": 7})
    print("instruction:", vla_gym.decode_instruction(observation["instruction"]))
    print("assets:", info["assets"])
    print({key: (value.shape, value.dtype) for key, value in observation.items()})

    env.action_space.seed(0)
    total_reward = 0.0
    for _ in range(args.steps):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        total_reward += reward
        if terminated or truncated:
            break
    print(f"reward: {total_reward}, success: {info['is_success']}, goal: {env.unwrapped.goal_predicates()}")
    env.close()


if __name__ == "__main__":
    main()
