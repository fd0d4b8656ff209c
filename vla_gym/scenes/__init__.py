"""Build scenes with LIBERO once, store them as bundles, and load them."""
