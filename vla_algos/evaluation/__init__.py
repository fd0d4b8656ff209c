"""Evaluation protocol and statistics."""

from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult, evaluate_policy_on_suite
from vla_algos.evaluation.statistics import wilson_interval

__all__ = ["EpisodeRecord", "EvaluationResult", "evaluate_policy_on_suite", "wilson_interval"]
