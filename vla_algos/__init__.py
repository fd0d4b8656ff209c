"""Stable-Baselines3-compatible reinforcement learning for vision-language-action models."""
