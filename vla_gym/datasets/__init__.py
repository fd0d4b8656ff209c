"""Episodes and how to collect them."""
