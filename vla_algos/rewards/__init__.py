"""Process rewards: dense feedback, learned from labelled trajectories, beside the sparse reward."""
