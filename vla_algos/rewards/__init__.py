"""Process rewards: dense feedback, learned from labelled trajectories, beside the sparse reward."""

from vla_algos.rewards.callback import ProcessRewardCallback
from vla_algos.rewards.loading import load_reward_model
from vla_algos.rewards.refresh import RewardRefreshCallback
from vla_algos.rewards.vec_process_reward import VecProcessReward

__all__ = ["ProcessRewardCallback", "RewardRefreshCallback", "VecProcessReward", "load_reward_model"]
