"""LIBERO tasks as Gymnasium environments over VLA action tokens."""
