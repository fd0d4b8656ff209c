"""What the algorithms share that learn from a policy's own experience."""
