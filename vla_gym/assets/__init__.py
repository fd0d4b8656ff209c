"""Primitive or downloaded assets: where they are, and the built-in pack."""
