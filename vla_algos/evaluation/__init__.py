"""Evaluation protocol and statistics."""

from vla_algos.evaluation.episode_log import EpisodeRecord
from vla_algos.evaluation.harness import EvaluationResult, evaluate_policy_on_suite
from vla_algos.evaluation.statistics import bootstrap_difference, bootstrap_interval, wilson_interval

__all__ = [
    "EpisodeRecord",
    "EvaluationResult",
    "bootstrap_difference",
    "bootstrap_interval",
    "evaluate_policy_on_suite",
    "wilson_interval",
]
