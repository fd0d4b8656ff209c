"""Whole experiments as functions: what the command line runs."""
