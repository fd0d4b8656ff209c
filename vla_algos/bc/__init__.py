"""Behaviour cloning (supervised fine-tuning)."""
