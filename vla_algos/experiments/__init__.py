"""Whole experiments: what they are told, what they keep in their folder, and how they run."""
