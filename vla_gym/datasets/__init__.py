"""Collect, store and read episodes."""
