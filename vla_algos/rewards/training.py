"""
Train a process reward model on films, and stop when it gets no better on films that it has not seen.

The folder of a training has the best model (``best``, with a card), the last one with its optimizer, to resume from
(``last_<epoch>``), the figures of every epoch (``epochs.json``) and logs for TensorBoard (``logs``).
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.logger import configure

from vla_algos.common.progress import progress_bar
from vla_algos.errors import CheckpointError, FilmError, SettingsError, TrainingDivergedError
from vla_algos.rewards.audit import auc
from vla_algos.rewards.card import Side, write_reward_card
from vla_algos.rewards.films import Film
from vla_algos.rewards.model import TrainableRewardModel
from vla_algos.rewards.targets import (
    Example,
    Targets,
    frame_outputs,
    make_examples,
    other_instructions,
    other_targets,
    usable_films,
)
from vla_gym.files import read_json_object, write_then_rename
from vla_gym.type_aliases import Float32Array, Float64Array

logger = logging.getLogger(__name__)

LAST, BEST, EPOCHS, LOGS = "last", "best", "epochs.json", "logs"
_OPTIMIZER = "optimizer.pt"
_CHANGEABLE = ("epochs", "patience")
"""Settings that may change when a training is resumed."""
_DECAY = 0.7


@dataclass(frozen=True)
class Epoch:
    """
    Figures of one pass.

    :param epoch: counted from 1
    :param train_loss: mean over its gradient steps
    :param held_out_loss: over frames of the held-out films, and negatives in proportion
    :param auc_last: of the progress in the last frames of held-out films, between successes and failures; NaN if there
        is only one kind
    """

    epoch: int
    train_loss: float
    held_out_loss: float
    auc_last: float


def train_reward_model(
    model: TrainableRewardModel,
    films: Sequence[Film],
    held_out: Sequence[Film],
    folder: str | Path,
    *,
    targets: Targets = "truth",
    instructions: Mapping[int, Sequence[str]] | None = None,
    negatives: float | None = None,
    epochs: int = 10,
    patience: int = 3,
    batch_size: int = 64,
    micro_batch_size: int | None = None,
    max_examples: int | None = None,
    learning_rate: float = 3e-4,
    weight_decay: float = 0.01,
    max_grad_norm: float = 1.0,
    seed: int = 0,
    resume: bool = False,
    show_progress: bool = False,
) -> list[Epoch]:
    """
    Train in place; afterwards the model is the best one.

    Every pass draws from every frame of every film, and from negatives made again for each pass. Examples that are more
    than half done are drawn as often as the others. Films that cannot be labelled are left out and counted, in the log
    and in the card.

    The setting that VLA-RL released, with ``VLMRewardModel.start_from("Qwen/Qwen2-VL-2B-Instruct")``:
    ``targets="paper", learning_rate=1e-4, epochs=10, max_examples=1000, batch_size=8, micro_batch_size=1``.

    :param model: to train, see :class:`vla_algos.rewards.model.TrainableRewardModel`
    :param films: to learn from
    :param held_out: of other tasks, initial states or policies; the pass with the smallest loss on them counts
    :param folder: where the models are kept
    :param targets: what progress is taught to be, see :func:`vla_algos.rewards.targets.frame_targets`
    :param instructions: by task_id, texts that ask for something else in its scene; None: see
        :func:`vla_algos.rewards.targets.other_instructions`
    :param negatives: share of negatives, see :func:`vla_algos.rewards.targets.make_examples`; None: one half, and none
        for ``paper``, which learns from successes alone
    :param epochs: passes at most
    :param patience: passes without a smaller loss after which training stops
    :param batch_size: examples per gradient step
    :param micro_batch_size: examples per forward and backward pass, whose gradients add up to those of a gradient step;
        None: all of them at once
    :param max_examples: examples per pass at most, and as many of the held-out films; None: all
    :param learning_rate: of AdamW in the first pass; in each of the others, 0.7 times what it was before
    :param weight_decay: of AdamW
    :param max_grad_norm: gradients are scaled down to this norm
    :param seed: of order, negatives and dropout
    :param resume: continue after the last pass that is in ``folder``
    :param show_progress: show a bar per pass
    :return: figures of all passes
    :raises FilmError: if no films are left on one side, some are on both, or an output of the model is known in none
    :raises SettingsError: if a training with other settings is to be resumed
    :raises TrainingDivergedError: if a loss is not finite
    :raises ValueError: for a number out of its range
    """
    if negatives is None:
        negatives = 0.0 if targets == "paper" else 0.5
    settings: dict[str, Any] = {
        "targets": targets,
        "instructions": instructions,
        "negatives": negatives,
        "epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "micro_batch_size": micro_batch_size,
        "max_examples": max_examples,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "max_grad_norm": max_grad_norm,
        "seed": seed,
    }
    _check(settings)
    folder = Path(folder)
    learned, unseen = _films_to_learn(films, targets), Side(*usable_films(held_out, targets))
    _check_films(learned, unseen)
    seen = _Reel(model, learned.films, targets, _texts_to_learn(learned.films, unseen.films, instructions))
    judged = _Reel(model, unseen.films, targets, _texts_to_judge(learned.films, unseen.films, instructions))
    _check_outputs(seen)
    model.begin(seen.encoded)
    optimizer = th.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = _resume(model, optimizer, folder, settings) if resume else []
    micro_batch_size = micro_batch_size or batch_size
    teacher = _Teacher(model, optimizer, seen, batch_size, micro_batch_size, max_grad_norm)
    # the same questions in every epoch
    asked = make_examples(unseen.films, judged.targets, judged.others, negatives, np.random.default_rng(seed))
    asked = _drawn(asked, max_examples, np.random.default_rng(seed), None)
    is_success = [film.is_success for film in unseen.films]
    with closing(configure(str(folder / LOGS / f"from_{len(history)}"), ["csv", "tensorboard"])) as log:
        for epoch in range(len(history) + 1, epochs + 1):
            if _has_stopped(history, patience):
                break
            # a pass depends on its number alone, so that a resumed training draws what an uninterrupted one does
            rng = np.random.default_rng([seed, epoch])
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _DECAY ** (epoch - 1)
            examples = make_examples(learned.films, seen.targets, seen.others, negatives, rng)
            train_loss = teacher.run(_drawn(examples, max_examples, rng, _balance(examples)), epoch, rng, show_progress)
            loss = _finite(judged.loss(asked, micro_batch_size), "loss on held-out films", epoch)
            history.append(Epoch(epoch, train_loss, loss, auc(judged.last_scores(micro_batch_size), is_success)))
            logger.info("%s", history[-1])
            for name, value in asdict(history[-1]).items():
                log.record(f"reward/{name}", value)
            log.dump(epoch)
            _save(model, optimizer, folder, history, settings)
    model.restore(folder / BEST)
    rows = [asdict(epoch) for epoch in history]
    scores = judged.last_scores(micro_batch_size)
    write_reward_card(folder / BEST, model.describe(), settings, learned, unseen, rows, scores)
    return history


class _Reel:
    """Films as the model sees them, and their targets."""

    def __init__(
        self, model: TrainableRewardModel, films: Sequence[Film], targets: Targets, texts: Sequence[Sequence[str]]
    ) -> None:
        self.model, self.films = model, films
        self.others = [other_targets(film, own, targets) for film, own in zip(films, texts, strict=True)]
        self.targets: list[dict[str, Float32Array]] = [frame_outputs(film, model.outputs, targets) for film in films]
        # once for all passes
        self.encoded = [model.encode(film.frames) for film in films]

    def batch(self, examples: Sequence[Example]) -> tuple[th.Tensor, list[str], th.Tensor]:
        pairs = th.stack([self.encoded[e.film][[e.first, e.now]] for e in examples])
        wanted = th.tensor([[getattr(e, name) for name in self.model.outputs] for e in examples])
        return pairs, [e.instruction for e in examples], wanted

    @th.no_grad()
    def loss(self, examples: Sequence[Example], size: int) -> float:
        parts = _parts(examples, size)
        return sum(len(part) * float(self.model.loss(*self.batch(part))) for part in parts) / len(examples)

    def last_scores(self, size: int) -> list[float]:
        """Progress in the last frame of each film."""
        last = [Example(i, 0, len(film) - 1, film.instruction, 0.0) for i, film in enumerate(self.films)]
        scores: list[float] = []
        for part in _parts(last, size):
            pairs, texts, _ = self.batch(part)
            scores += self.model.progress(pairs, texts).tolist()
        return scores


class _Teacher:
    """Takes gradient steps."""

    def __init__(
        self,
        model: TrainableRewardModel,
        optimizer: th.optim.Optimizer,
        reel: _Reel,
        batch_size: int,
        micro_batch_size: int,
        max_grad_norm: float,
    ) -> None:
        self.model, self.optimizer, self.reel = model, optimizer, reel
        self.batch_size, self.micro_batch_size, self.max_grad_norm = batch_size, micro_batch_size, max_grad_norm

    def run(self, examples: Sequence[Example], epoch: int, rng: np.random.Generator, show_progress: bool) -> float:
        """One pass; the mean loss of its steps."""
        losses, batches = [], _parts(examples, self.batch_size)
        bar = progress_bar(total=len(batches), disable=not show_progress, desc=f"epoch {epoch}")
        # dropout draws from torch's global stream
        cuda = {parameter.device for parameter in self.model.parameters() if parameter.is_cuda}
        self.model.train()
        with th.random.fork_rng(list(cuda)), bar:
            th.manual_seed(int(rng.integers(2**31)))
            for batch in batches:
                losses.append(_finite(self._step(batch), "loss", epoch))
                bar.update()
        self.model.train(False)
        return float(np.mean(losses))

    def _step(self, batch: Sequence[Example]) -> float:
        self.optimizer.zero_grad()
        total = 0.0
        for part in _parts(batch, self.micro_batch_size):
            # weighted, so that the gradients of the parts add up to that of the batch's mean
            loss = self.model.loss(*self.reel.batch(part)) * (len(part) / len(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if math.isfinite(total):
            th.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
            self.optimizer.step()
        return total


def _films_to_learn(films: Sequence[Film], targets: Targets) -> Side:
    kept, skipped = usable_films(films, targets)
    successes = [film for film in kept if film.is_success]
    if targets != "paper" or len(successes) == len(kept):
        return Side(kept, skipped)
    reason = "failed (the paper learns from successes)"
    return Side(successes, {**skipped, reason: len(kept) - len(successes)})


def _parts(examples: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [examples[begin : begin + size] for begin in range(0, len(examples), size)]


def _drawn(
    examples: Sequence[Example], n: int | None, rng: np.random.Generator, p: Float64Array | None
) -> list[Example]:
    """
    A sample of examples.

    :param n: at most so many; None: as many as there are
    :param p: probability of each, with which they are drawn again and again; None: each at most once
    """
    n = min(len(examples), n or len(examples))
    return [examples[i] for i in rng.choice(len(examples), n, replace=p is not None, p=p)]


def _texts_to_learn(
    films: Sequence[Film], held_out: Sequence[Film], instructions: Mapping[int, Sequence[str]] | None
) -> list[list[str]]:
    """By film. "No" must not become the answer to the instruction of a held-out task."""
    if instructions is not None:
        return _chosen(films, instructions)
    hidden = {film.instruction for film in held_out} - {film.instruction for film in films}
    return [[text for text in texts if text not in hidden] for texts in other_instructions(films)]


def _texts_to_judge(
    films: Sequence[Film], held_out: Sequence[Film], instructions: Mapping[int, Sequence[str]] | None
) -> list[list[str]]:
    if instructions is not None:
        return _chosen(held_out, instructions)
    return other_instructions([*held_out, *films])[: len(held_out)]


def _chosen(films: Sequence[Film], instructions: Mapping[int, Sequence[str]]) -> list[list[str]]:
    for task_id, texts in instructions.items():
        if isinstance(texts, str):
            raise TypeError(f"instructions[{task_id}] is {texts!r}; expected a list of texts, such as [{texts!r}].")
    return [[text for text in instructions.get(film.task_id, ()) if text != film.instruction] for film in films]


def _check(settings: Mapping[str, Any]) -> None:
    for name in ("epochs", "patience", "batch_size", "micro_batch_size", "max_examples"):
        if settings[name] is not None and settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}; expected at least 1.")
    for name in ("learning_rate", "max_grad_norm"):
        if not 0 < settings[name] < math.inf:
            raise ValueError(f"{name} is {settings[name]}; expected a finite number above 0.")


def _check_films(learned: Side, held_out: Side) -> None:
    for name, side in (("to train on", learned), ("held out", held_out)):
        if side.skipped:
            logger.warning("Films %s that are left out: %s.", name, dict(side.skipped))
    if not learned.films or not held_out.films:
        left_out = ", ".join({**learned.skipped, **held_out.skipped})
        raise FilmError(
            f"There are {len(learned.films)} films to train on and {len(held_out.films)} held out; expected some of "
            f"both.{f' Left out were films with {left_out}.' if left_out else ''}"
        )
    known = {_identity(film) for film in learned.films}
    n_both = sum(_identity(film) in known for film in held_out.films)
    if n_both:
        raise FilmError(
            f"{n_both} of {len(held_out.films)} held-out films are among those to train on; expected others. Divide "
            "them with split_films."
        )


def _identity(film: Film) -> tuple[str, int, int, int]:
    return film.source, film.task_id, film.init_state_id, hash(film.frames.tobytes())


def _check_outputs(reel: _Reel) -> None:
    for name in reel.model.outputs:
        if all(np.isnan(each[name]).all() for each in reel.targets):
            raise FilmError(
                f"No film to train on says {name!r}, which the model is to learn. Record films of tasks with an object "
                "to be moved, with privileged_obs=True, or leave this output out."
            )


def _finite(loss: float, what: str, epoch: int) -> float:
    if not math.isfinite(loss):
        raise TrainingDivergedError(f"The {what} is {loss} in epoch {epoch}. Lower the learning rate.")
    return loss


def _balance(examples: Sequence[Example]) -> Float64Array:
    """Probability of each example, so that both halves of the targets are drawn alike."""
    is_high = np.array([example.progress > 0.5 for example in examples])
    weights = np.where(is_high, 1.0 / max(1, is_high.sum()), 1.0 / max(1, (~is_high).sum()))
    return weights / weights.sum()


def _has_stopped(history: Sequence[Epoch], patience: int) -> bool:
    return bool(history) and len(history) - _best(history).epoch >= patience


def _best(history: Sequence[Epoch]) -> Epoch:
    return min(history, key=lambda epoch: epoch.held_out_loss)


def _last(folder: Path, epoch: int) -> Path:
    return folder / f"{LAST}_{epoch}"


def _save(
    model: TrainableRewardModel,
    optimizer: th.optim.Optimizer,
    folder: Path,
    history: list[Epoch],
    settings: Mapping[str, Any],
) -> None:
    if _best(history) is history[-1]:
        model.save(folder / BEST)
    last = _last(folder, len(history))
    model.save(last)
    with write_then_rename(last / _OPTIMIZER) as temporary:
        th.save(optimizer.state_dict(), temporary)
    # a training that is broken off before this line repeats the pass
    content = {"settings": settings, "epochs": [asdict(epoch) for epoch in history]}
    with write_then_rename(folder / EPOCHS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for other in folder.glob(f"{LAST}_*"):
        if other != last:
            shutil.rmtree(other)


def _resume(
    model: TrainableRewardModel, optimizer: th.optim.Optimizer, folder: Path, settings: Mapping[str, Any]
) -> list[Epoch]:
    try:
        content = read_json_object(folder / EPOCHS, CheckpointError)
    except FileNotFoundError:
        return []
    earlier, own = content.get("settings", {}), json.loads(json.dumps(settings))
    for name, value in own.items():
        if name not in _CHANGEABLE and earlier.get(name) != value:
            raise SettingsError(
                f"{folder} was trained with {name}={earlier.get(name)!r}, not {value!r}. Resume with the same settings "
                "(epochs and patience may change), or train into another folder."
            )
    history = [Epoch(**entry) for entry in content["epochs"]]
    last = _last(folder, len(history))
    model.restore(last)
    optimizer.load_state_dict(th.load(last / _OPTIMIZER, weights_only=True))
    return history
