"""Model card of a fine-tuned checkpoint: what it is, what it was trained on, and how often it succeeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_algos.evaluation.harness import EvaluationResult
from vla_algos.evaluation.statistics import wilson_interval
from vla_algos.experiments.results import RunResult
from vla_algos.experiments.settings import SFTSettings
from vla_gym.files import write_then_rename

CARD_FILE = "README.md"
_METADATA = """---
license: mit
library_name: vla-gym
pipeline_tag: robotics
tags: [vision-language-action, LIBERO, imitation-learning]
---
"""


def write_model_card(result: RunResult, folder: Path) -> None:
    """
    Write ``README.md`` beside a checkpoint; the file appears whole or not at all.

    :param result: of the fine-tuning
    :param folder: the checkpoint
    """
    with write_then_rename(folder / CARD_FILE) as temporary:
        temporary.write_text(model_card(result), encoding="utf-8")


def model_card(result: RunResult) -> str:
    """
    Markdown with the metadata block of the Hugging Face Hub.

    :param result: of the fine-tuning
    :return: text of ``README.md``
    """
    settings, origin = result.settings, result.provenance
    assert isinstance(settings, SFTSettings)
    hours = result.seconds["training"] / 3600
    sections = [
        f"# {settings.vla}, fine-tuned on demonstrations of {settings.env_id}",
        "A vision-language-action model for the Panda arm in LIBERO's scenes: "
        f"camera {' and '.join(settings.cameras)}{', proprioception' if settings.use_proprio else ''} and an "
        f"instruction in, {settings.chunk_size} commands of seven action tokens out. For research in simulation.",
        "## Training",
        f"Supervised fine-tuning on {result.n_episodes} demonstrations ({result.n_decisions:,} control steps) "
        f"of {len(result.seen)} tasks, {result.n_timesteps:,} gradient steps, {hours:.2f} hours on "
        f"{origin['hardware']}, seed {settings.seed}, commit {origin['commit'] or 'unknown'}.",
    ]
    if "command" in origin:
        sections.append(f"```\n{origin['command']}\n```")
    if "data" in origin:
        sections.append(f"Demonstrations: {_listed(origin['data'])}.")
    sections.append(f"Versions: {_listed(origin['versions'])}.")
    if result.validations:
        sections += ["### Validation on held-out demonstrations", _validation_table(result.validations)]
    sections.append("## Success")
    if not result.after:
        sections.append("Not evaluated.")
    for mode, evaluation in result.after.items():
        split = "; ".join(
            f"{name} initial states {_share(*counts)}" for name, counts in result.split_success(evaluation).items()
        )
        sections += [
            f"### {mode.capitalize()} actions",
            f"Assets: {evaluation.assets}; rendering: {settings.render_quality}; seed {evaluation.seed}; "
            f"commit {evaluation.commit or 'unknown'}. {split[0].upper()}{split[1:]}.",
            _success_table(evaluation),
        ]
    return _METADATA + "\n" + "\n\n".join(sections) + "\n"


def _validation_table(validations: Sequence[Mapping[str, float]]) -> str:
    lines = [
        "| step | token accuracy, forced / free | L1 error, forced / free | bin error, forced / free |",
        "|---" * 4 + "|",
    ]
    for row in validations:
        pairs = (
            f"{row['accuracy_forced']:.3f} / {row['accuracy_free']:.3f}",
            f"{row['l1_error_forced']:.3f} / {row['l1_error_free']:.3f}",
            f"{row['bin_error_forced']:.1f} / {row['bin_error_free']:.1f}",
        )
        lines.append(f"| {int(row['step'])} | {' | '.join(pairs)} |")
    return "\n".join(lines)


def _success_table(evaluation: EvaluationResult) -> str:
    lines = ["| task | instruction | success | 95 % interval |", "|---" * 4 + "|"]
    rows = [(str(task_id), text, evaluation.of_task(task_id)) for task_id, text in evaluation.instructions.items()]
    for name, instruction, part in [*rows, ("all", "", evaluation)]:
        lower, upper = part.interval
        counts = f"{part.successes}/{part.n_episodes}"
        lines.append(f"| {name} | {instruction} | {counts} | {100 * lower:.0f}-{100 * upper:.0f} % |")
    return "\n".join(lines)


def _share(successes: int, n: int) -> str:
    lower, upper = wilson_interval(successes, n)
    return f"{successes}/{n} ({100 * lower:.0f}-{100 * upper:.0f} %)"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()
    )
