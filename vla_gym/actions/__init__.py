"""Action tokens and data-set statistics."""
