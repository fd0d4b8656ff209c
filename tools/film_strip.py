"""
Draw film strips of the scripted expert: one episode of each suite on the built-in assets, from left to right.

    python tools/film_strip.py docs/experts.png
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

# read at the first import of mujoco
os.environ.setdefault("MUJOCO_GL", "egl")

import matplotlib.pyplot as plt
import numpy as np

from vla_gym.datasets.collect import collect_episode
from vla_gym.datasets.episode import Episode
from vla_gym.datasets.recorder import RecordingSettings
from vla_gym.experts.scripted import ScriptedExpert
from vla_gym.tasks.registry import get_suite

EPISODES = (("spatial", 0), ("object", 2), ("goal", 2), ("10", 4), ("90", 0))
"""Suite and task; each in its initial state 0."""
N_FRAMES, IMAGE_SIZE, DPI = 8, 128, 100
TITLE_HEIGHT = 18
"""Room (px) for the instruction above each strip."""


def main() -> None:
    """Read the command line, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="PNG file to write")
    arguments = parser.parse_args()
    row_height = IMAGE_SIZE + TITLE_HEIGHT
    size = np.array([N_FRAMES * IMAGE_SIZE, len(EPISODES) * row_height]) / DPI
    figure = plt.figure(figsize=tuple(size), dpi=DPI)
    for row, (suite, task_id) in enumerate(EPISODES):
        episode = act_out(suite, task_id)
        top = 1.0 - row / len(EPISODES)
        title = f"{get_suite(suite).env_id}: {episode.instruction} ({len(episode)} steps)"
        figure.text(0.002, top - 0.005, title, fontsize=8, verticalalignment="top")
        # one pixel of the picture per pixel of the camera
        axis = figure.add_axes((0.0, top - 1.0 / len(EPISODES), 1.0, IMAGE_SIZE / row_height / len(EPISODES)))
        axis.imshow(strip(episode), interpolation="none", aspect="auto")
        axis.axis("off")
    figure.savefig(arguments.out, dpi=DPI)


def act_out(suite: str, task_id: int) -> Episode:
    """
    The expert's episode from initial state 0.

    :param suite: short name of the suite
    :param task_id: the task
    :raises RuntimeError: if it does not reach the goal
    """
    settings = RecordingSettings(suite, image_size=IMAGE_SIZE, cameras=("agentview",), assets="primitive")
    env = settings.make_env([task_id], settings.cameras)
    expert = ScriptedExpert(env, np.random.default_rng(0), settings.action_noise)
    episode = collect_episode(env, expert, {"task_id": task_id, "init_state_id": 0})
    env.close()
    if not episode.success:
        raise RuntimeError(f"The expert does not reach the goal of task {task_id} of {suite}; draw another.")
    return episode


def strip(episode: Episode) -> np.ndarray:
    """Frames at equal distances, the last one included, side by side, (IMAGE_SIZE, N_FRAMES * IMAGE_SIZE, 3) uint8."""
    steps = np.linspace(0, len(episode) - 1, N_FRAMES).round().astype(int)
    return np.concatenate(list(episode.images[steps]), axis=1)


if __name__ == "__main__":
    main()
