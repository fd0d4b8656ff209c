"""Scripted experts over privileged simulator state."""
