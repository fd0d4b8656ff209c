"""Faithful evaluation on LIBERO suites."""
