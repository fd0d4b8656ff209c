"""Wrappers around single environments."""

from vla_gym.wrappers.episode_sequence import EpisodeSequence, make_sequence

__all__ = ["EpisodeSequence", "make_sequence"]
