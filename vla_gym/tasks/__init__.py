"""Suites, tasks and goals."""
