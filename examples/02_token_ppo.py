"""TokenPPO with the smallest VLA: learn, save, load, act."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import gymnasium as gym

import vla_gym  # noqa: F401  (registers the environments)
from vla_algos import TokenPPO
from vla_algos.errors import RandomWeightsWarning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=256)
    parser.add_argument("--n-steps", type=int, default=32)
    args = parser.parse_args()

    # what "nano" does is of no interest here: vla="compact-libero-goal" is where training would start
    warnings.simplefilter("ignore", RandomWeightsWarning)
    env = gym.make("LIBERO-Goal-v0", task_ids=[8], image_size=64, chunk_size=8, render_quality="fast")
    model = TokenPPO("VLAPolicy", env, n_steps=args.n_steps, policy_kwargs={"vla": "nano"}, verbose=1)
    model.learn(args.timesteps)

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "goal.zip")
        model = TokenPPO.load(Path(folder) / "goal.zip", env=env)
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    print("bins of the first command:", action[:7])
    env.close()


if __name__ == "__main__":
    main()
