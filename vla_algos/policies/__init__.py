"""Stable-Baselines3 policies around a VLA."""
