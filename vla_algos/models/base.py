"""
What the algorithms ask of a model: to choose actions, and to say how likely given actions are.

Nothing here says what an action is. Buffers, losses and algorithms work on log-probabilities of shape (N, A), whose
product is the probability of the whole action: one entry per token that is decoded, whether one after the other or all
at once, one per dimension of a continuous action, or a single one.

Letters in shapes: N observations, A log-probabilities per action, D numbers that a value is read from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch as th

from vla_algos.errors import ActorError

Observations = dict[str, th.Tensor]
"""Per key of the observation space (N, ...)."""
CRITIC_INPUTS = "critic_inputs"
"""Name in ``Sample.extras`` of what values are read from, (N, D)."""


class Sample(NamedTuple):
    """Actions that an actor has chosen for N observations."""

    action: th.Tensor
    """(N, ...), of the action space"""
    log_prob: th.Tensor
    """(N, A) float32, nats, of the distribution that was sampled from"""
    values: th.Tensor
    """(N,) float32; NaN for an actor without values"""
    extras: dict[str, th.Tensor]
    """What ``act`` has computed and ``score`` or the critic can use again, per name (N, ...); the roll-out keeps it in
    main memory. An algorithm with a critic needs ``CRITIC_INPUTS``."""


class Scores(NamedTuple):
    """Given actions judged by an actor, with gradients."""

    log_prob: th.Tensor
    """(N, A) float32, nats"""
    values: th.Tensor
    """(N,) float32; NaN for an actor without values"""
    entropy: th.Tensor | None = None
    """(N, A) float32, nats, of the distribution of each entry; None for an actor without ``has_entropy``"""
    all_log_probs: th.Tensor | None = None
    """(N, A, K) float32, nats: of each of the K choices of each entry, given the entries before it; None for
    an actor without ``has_exact_kl``"""


class Actor(ABC):
    """
    A policy and its value, as the algorithms see them.

    :class:`vla_algos.policies.ActorPolicy` makes an SB3 policy of it. There ``VLAPolicy`` stands for OpenVLA, and
    ``examples/own_policy.py`` for a network of your own. Its constructor is given the spaces of the environment, and
    raises :class:`vla_algos.errors.SpaceError` for those that it cannot take.

    The temperature divides logits, or multiplies standard deviations. It is the same in ``act`` and ``score``, so that
    ratios start at 1.
    """

    has_entropy: bool = False
    """Whether scores have entropies; without them ``ent_coef`` is refused."""
    has_exact_kl: bool = False
    """Whether scores have ``all_log_probs``, by which KL is exact; without them ``kl_coef`` is refused."""
    value_parts: tuple[str, ...] = ()
    """Names of the modules that only values depend on, such as ``("value_head",)``. They have a learning rate of their
    own, and do not belong to the reference that ``kl_coef`` keeps the actor close to."""

    @property
    def has_own_critic(self) -> bool:
        """Whether values share no gradient with the actor, so that they can be learned apart from it."""
        return False

    @abstractmethod
    def act(self, obs: Observations, temperature: float = 1.0, deterministic: bool = False) -> Sample:
        """
        Choose actions.

        :param obs: per key (N, ...)
        :param temperature: above 0
        :param deterministic: take the likeliest action instead of sampling
        :return: actions, and what is known of them
        """

    @abstractmethod
    def score(
        self, obs: Observations, action: th.Tensor, extras: dict[str, th.Tensor], temperature: float = 1.0
    ) -> Scores:
        """
        Judge actions that were taken, with gradients.

        :param obs: per key (N, ...)
        :param action: (N, ...), as :meth:`act` gave them
        :param extras: as :meth:`act` gave them, per name (N, ...), with entries of algorithms; empty where actions were
            not chosen here
        :param temperature: as in :meth:`act`
        :return: the scores
        """

    @abstractmethod
    def action_mask(self, executed: th.Tensor) -> th.Tensor:
        """
        Tell which log-probabilities belong to what was carried out: of a chunk perhaps only the first commands.

        :param executed: commands carried out of each action, (N,) int64
        :return: (N, A) bool
        """

    def critic_inputs(self, obs: Observations) -> th.Tensor:
        """
        Compute what values are read from, with gradients; only algorithms with a critic ask for it.

        :param obs: per key (N, ...)
        :return: (N, D), as ``extras[CRITIC_INPUTS]`` has it
        :raises ActorError: by default, for an actor without values
        """
        raise ActorError(f"{type(self).__name__} has no values. Implement critic_inputs and values_of.")

    def values_of(self, inputs: th.Tensor) -> th.Tensor:
        """
        Read values, with gradients.

        :param inputs: (N, D), see :meth:`critic_inputs`
        :return: (N,) float32
        :raises ActorError: by default, for an actor without values
        """
        raise ActorError(f"{type(self).__name__} has no values. Implement critic_inputs and values_of.")

    def encode(self, obs: Observations) -> dict[str, th.Tensor]:
        """
        Compute what no update changes, such as features of frozen vision towers: once per observation, in :meth:`act`,
        whose extras pass it on to :meth:`score`.

        :param obs: per key (N, ...)
        :return: entries of the extras, per name (N, ...); by default none
        """
        return {}


def check_sample(sample: Sample, n: int) -> None:
    """
    Make sure that an actor has chosen as it should.

    :param sample: of the actor
    :param n: observations
    :raises ActorError: if a shape is wrong
    """
    _check("act", "action", sample.action, (n, *sample.action.shape[1:]))
    if sample.log_prob.ndim != 2 or len(sample.log_prob) != n:
        raise ActorError(
            f"act gave log_prob of shape {tuple(sample.log_prob.shape)} for {n} observations; expected ({n}, A), with "
            "one entry per token or dimension, or A = 1."
        )
    _check("act", "values", sample.values, (n,))
    for name, tensor in sample.extras.items():
        _check("act", f"extras[{name!r}]", tensor, (n, *tensor.shape[1:]))


def check_scores(scores: Scores, actor: Actor, like: th.Tensor) -> None:
    """
    Make sure that an actor has judged as it should.

    :param scores: of the actor
    :param actor: that says what its scores have
    :param like: log-probabilities at sampling time, (N, A)
    :raises ActorError: if a shape is wrong, or something is missing
    """
    shape = tuple(like.shape)
    _check("score", "log_prob", scores.log_prob, shape)
    _check("score", "values", scores.values, shape[:1])
    for flag, name, tensor in (
        ("has_entropy", "entropy", scores.entropy),
        ("has_exact_kl", "all_log_probs", scores.all_log_probs),
    ):
        if tensor is not None:
            _check("score", name, tensor, shape if name == "entropy" else (*shape, tensor.shape[-1]))
        elif getattr(actor, flag):
            raise ActorError(f"score gave no {name}, but {flag} is True. Return it, or set {flag} = False.")


def _check(method: str, name: str, tensor: th.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ActorError(f"{method} gave {name} of shape {tuple(tensor.shape)}; expected {shape}.")
