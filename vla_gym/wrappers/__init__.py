"""Wrappers around single environments."""

from vla_gym.wrappers.episode_sequence import EpisodeSequence

__all__ = ["EpisodeSequence"]
