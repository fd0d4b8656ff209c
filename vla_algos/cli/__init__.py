"""The vla-rl command."""
