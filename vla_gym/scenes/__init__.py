"""Scenes: built by LIBERO once, kept as bundles, found again."""
