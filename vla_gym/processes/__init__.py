"""Processes that may hang or die: workers, programs, and messages and time limits for both."""
