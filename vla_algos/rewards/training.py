"""Train a process reward model on films, and stop when it gets no better on films that it has not seen."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from vla_algos.common.progress import progress_bar
from vla_algos.errors import FilmError, TrainingDivergedError
from vla_algos.rewards.audit import auc
from vla_algos.rewards.compact import CompactRewardModel
from vla_algos.rewards.films import Film
from vla_algos.rewards.targets import Example, Targets, frame_targets, make_examples
from vla_gym.files import write_then_rename
from vla_gym.type_aliases import Float32Array, Float64Array

logger = logging.getLogger(__name__)

LAST, BEST, EPOCHS = "last", "best", "epochs.json"
"""In the folder of a training: the model to resume from, the best one so far, and what was measured."""


@dataclass(frozen=True)
class Epoch:
    """
    Figures of one pass.

    :param epoch: counted from 1
    :param train_loss: mean over its batches
    :param held_out_loss: over all frames of the held-out films, and as many negatives in proportion
    :param auc_last: of the progress in the last frames of held-out films, between successes and failures
    """

    epoch: int
    train_loss: float
    held_out_loss: float
    auc_last: float


def train_reward_model(
    model: CompactRewardModel,
    films: Sequence[Film],
    held_out: Sequence[Film],
    folder: str | Path,
    *,
    targets: Targets = "truth",
    instructions: Mapping[int, Sequence[str]] | None = None,
    negatives: float = 0.5,
    epochs: int = 10,
    patience: int = 3,
    batch_size: int = 64,
    learning_rate: float = 3e-4,
    weight_decay: float = 0.01,
    max_grad_norm: float = 1.0,
    seed: int = 0,
    resume: bool = False,
    show_progress: bool = False,
) -> list[Epoch]:
    """
    Train in place; afterwards the model is the best one.

    Every pass shows every frame of every film once, and negatives drawn anew. Examples that are more than half done are
    drawn as often as the others.

    :param model: to train
    :param films: to learn from
    :param held_out: of other initial states or policies; the pass with the smallest loss on them counts
    :param folder: where the model is kept
    :param targets: what frames are taught to be, see :func:`vla_algos.rewards.targets.frame_targets`
    :param instructions: by task_id, texts that ask for something else in its scene; None: the instructions of all other
        films of these tasks
    :param negatives: share of negatives, see :func:`vla_algos.rewards.targets.make_examples`
    :param epochs: passes at most
    :param patience: passes without a smaller loss after which training stops
    :param batch_size: examples per gradient step
    :param learning_rate: of AdamW
    :param weight_decay: of AdamW
    :param max_grad_norm: gradients are scaled down to this norm
    :param seed: of order and negatives
    :param resume: go on after the last pass that is in ``folder``
    :param show_progress: show a bar per pass
    :return: figures of all passes
    :raises FilmError: if there are no films, or they lack what the targets need
    :raises TrainingDivergedError: if a loss is not finite
    """
    folder = Path(folder)
    if not films or not held_out:
        raise FilmError(
            f"There are {len(films)} films to train on and {len(held_out)} held out; expected some of both."
        )
    texts = other_instructions([*films, *held_out]) if instructions is None else instructions
    seen, judged = _Reel(model, films, targets), _Reel(model, held_out, targets)
    optimizer = th.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = _resume(model, optimizer, folder) if resume else []
    for epoch in range(len(history) + 1, epochs + 1):
        if _has_stopped(history, patience):
            break
        # a pass depends on its number alone, so that a resumed training draws what an uninterrupted one does
        rng = np.random.default_rng([seed, epoch])
        examples = make_examples(films, seen.targets, texts, negatives, rng)
        order = rng.choice(len(examples), len(examples), p=_balance(examples))
        losses = []
        model.vla.train()
        batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
        with progress_bar(total=len(batches), disable=not show_progress, desc=f"epoch {epoch}") as bar:
            for batch in batches:
                loss = model.loss(*seen.batch([examples[i] for i in batch]))
                if not th.isfinite(loss):
                    raise TrainingDivergedError(
                        f"The loss is {loss} in epoch {epoch}. Lower learning_rate={learning_rate}."
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                th.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
                optimizer.step()
                losses.append(float(loss.detach()))
                bar.update()
        model.vla.eval()
        held_out_examples = make_examples(held_out, judged.targets, texts, negatives, np.random.default_rng(seed))
        history.append(
            Epoch(
                epoch, float(np.mean(losses)), judged.loss(held_out_examples, batch_size), judged.auc_last(batch_size)
            )
        )
        logger.info("%s", history[-1])
        _save(model, optimizer, folder, history)
    model.vla.load_state_dict(CompactRewardModel.load(folder / BEST).vla.state_dict())
    return history


def other_instructions(films: Sequence[Film]) -> dict[int, list[str]]:
    """
    By task, the instructions of all other tasks.

    :param films: of several tasks of one scene or suite
    """
    texts = {film.task_id: film.instruction for film in films}
    return {task_id: [text for other, text in texts.items() if other != task_id] for task_id in texts}


class _Reel:
    """Films as the model sees them, and their targets."""

    def __init__(self, model: CompactRewardModel, films: Sequence[Film], targets: Targets) -> None:
        self.model, self.films = model, films
        self.targets: list[Float32Array] = [frame_targets(film, targets) for film in films]
        # once for all passes: the vision towers stay as they are
        self.encoded = [model.encode(film.frames) for film in films]

    def batch(self, examples: Sequence[Example]) -> tuple[th.Tensor, list[str], th.Tensor]:
        pairs = th.stack([self.encoded[e.film][[e.first, e.now]] for e in examples])
        return pairs, [e.instruction for e in examples], th.tensor([e.target for e in examples], device=pairs.device)

    @th.no_grad()
    def loss(self, examples: Sequence[Example], batch_size: int) -> float:
        parts = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
        return float(sum(len(part) * self.model.loss(*self.batch(part)).item() for part in parts) / len(examples))

    @th.no_grad()
    def auc_last(self, batch_size: int) -> float:
        last = [Example(i, 0, len(film) - 1, film.instruction, 0.0) for i, film in enumerate(self.films)]
        scores: list[Any] = []
        for i in range(0, len(last), batch_size):
            pairs, texts, _ = self.batch(last[i : i + batch_size])
            scores += self.model.log_probs(pairs, texts).softmax(dim=-1)[:, 0].tolist()
        return auc(scores, [film.is_success for film in self.films])


def _balance(examples: Sequence[Example]) -> Float64Array:
    """Probability of each example, so that both halves of the targets are drawn alike."""
    is_high = np.array([example.target > 0.5 for example in examples])
    weights = np.where(is_high, 1.0 / max(1, is_high.sum()), 1.0 / max(1, (~is_high).sum()))
    return weights / weights.sum()


def _has_stopped(history: Sequence[Epoch], patience: int) -> bool:
    return bool(history) and len(history) - _best(history).epoch >= patience


def _best(history: Sequence[Epoch]) -> Epoch:
    return min(history, key=lambda epoch: epoch.held_out_loss)


def _save(model: CompactRewardModel, optimizer: th.optim.Optimizer, folder: Path, history: list[Epoch]) -> None:
    if _best(history) is history[-1]:
        model.save(folder / BEST)
    model.save(folder / LAST)
    with write_then_rename(folder / LAST / "optimizer.pt") as temporary:
        th.save(optimizer.state_dict(), temporary)
    # last, as it says how many passes there are
    with write_then_rename(folder / EPOCHS) as temporary:
        temporary.write_text(json.dumps([asdict(epoch) for epoch in history], indent=2) + "\n", encoding="utf-8")


def _resume(model: CompactRewardModel, optimizer: th.optim.Optimizer, folder: Path) -> list[Epoch]:
    if not (folder / EPOCHS).is_file():
        return []
    model.vla.load_state_dict(CompactRewardModel.load(folder / LAST).vla.state_dict())
    optimizer.load_state_dict(th.load(folder / LAST / "optimizer.pt", weights_only=True))
    return [Epoch(**entry) for entry in json.loads((folder / EPOCHS).read_text(encoding="utf-8"))]
