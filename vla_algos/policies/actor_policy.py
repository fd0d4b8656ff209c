"""An actor as an SB3 policy."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecEnv

from vla_algos.errors import SpaceError
from vla_algos.models.base import Actor


class ActorPolicy(BasePolicy, Actor):
    """
    What SB3 asks of a policy, answered by the methods of :class:`vla_algos.models.base.Actor`.

    A policy of your own derives from this class and implements them. Its constructor takes the two spaces, the schedule
    of the learning rate and its own keywords, makes the networks, and ends with ``self.setup_optimizer(...)``. Then it
    learns with the algorithms of this package, and with SB3's own PPO and A2C, which get log-probabilities and
    entropies of whole actions, (N,). ``examples/own_policy.py`` is one. As with SB3's policies, ``policy.save`` keeps
    the keywords that ``_get_constructor_parameters`` returns; an algorithm's ``save`` keeps its ``policy_kwargs``.

    The optimizer has two parameter groups, ``name`` "actor" and "value", by ``value_parts``. SB3's own algorithms give
    both the same learning rate.

    :param observation_space: of the environment
    :param action_space: of the environment
    :param use_sde: must be False; SB3's algorithms pass it
    :param temperature: of sampled actions and of all log-probabilities
    :param optimizer_class: the optimizer
    :param optimizer_kwargs: its keywords without the learning rate; None: epsilon 1e-5 and no weight decay for AdamW
    :raises SpaceError: if ``use_sde`` is asked for
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        use_sde: bool = False,
        temperature: float = 1.0,
        optimizer_class: type[th.optim.Optimizer] = th.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if use_sde:
            raise SpaceError(
                f"use_sde=True is for SB3's own policies with continuous actions; {type(self).__name__} samples by "
                "itself. Pass use_sde=False."
            )
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 1e-5, "weight_decay": 0.0} if optimizer_class is th.optim.AdamW else {}
        super().__init__(
            observation_space,
            action_space,
            normalize_images=False,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.temperature = temperature

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            # as in SB3, a schedule may not be picklable and is not needed to predict
            "lr_schedule": self._dummy_schedule,
            "temperature": self.temperature,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }

    @property
    def is_preset(self) -> bool:
        """Whether random weights stand where a checkpoint is likelier to be meant."""
        return False

    def setup_optimizer(self, learning_rate: float) -> None:
        """
        Make a new optimizer for the parameters that learn. Call it after wrapping the model, such as by adapters or
        FSDP2's ``fully_shard``, which replace parameters.

        :param learning_rate: of both parameter groups
        """
        groups: dict[str, list[th.nn.Parameter]] = {"actor": [], "value": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["value" if self.is_of_value(name) else "actor"].append(parameter)
        self.optimizer: th.optim.Optimizer = self.optimizer_class(  # type: ignore[call-arg]
            [{"params": parameters, "name": name} for name, parameters in groups.items()],
            lr=learning_rate,
            **self.optimizer_kwargs,
        )

    def is_of_value(self, name: str) -> bool:
        """
        Whether only values depend on a parameter.

        :param name: its name in this policy
        """
        return name.startswith(tuple(f"{part}." for part in self.value_parts))

    def check_env(self, env: VecEnv) -> None:
        """
        Make sure that an environment means by actions and observations what the model means; by default it does.

        :param env: with all wrappers
        :raises SpaceError: if it does not
        """

    def observe_critic_inputs(self, inputs: th.Tensor) -> None:
        """
        Take into account what the critic is about to learn from, such as by its mean; by default not at all.

        :param inputs: (N, D), of one roll-out
        """

    def record_training(self, env: VecEnv) -> None:
        """
        Note what the model is trained on, for everyone who later evaluates it; by default nothing.

        :param env: of the training
        """

    def release_caches(self) -> None:
        """Give back memory that acting keeps between calls, before an update needs it; by default there is none."""

    def forward(self, obs: TensorDict, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Choose actions, for SB3's own algorithms.

        :param obs: per key (N, ...)
        :param deterministic: greedy instead of sampled
        :return: actions (N, ...), values (N, 1), log-probabilities of whole actions (N,)
        """
        sample = self.act(obs, self.temperature, deterministic)
        return sample.action, sample.values.unsqueeze(1), sample.log_prob.sum(dim=1)

    def evaluate_actions(self, obs: TensorDict, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """
        Judge actions that were taken, with gradients, for SB3's own algorithms.

        :param obs: per key (N, ...)
        :param actions: (N, ...)
        :return: values (N, 1), log-probabilities and entropies of whole actions (N,), or None for the latter
        """
        scores = self.score(obs, actions, {}, self.temperature)
        entropy = None if scores.entropy is None else scores.entropy.sum(dim=1)
        return scores.values.unsqueeze(1), scores.log_prob.sum(dim=1), entropy

    def predict_values(self, obs: TensorDict) -> th.Tensor:
        """
        Values of observations, with gradients.

        :param obs: per key (N, ...)
        :return: (N, 1) float32
        """
        return self.values_of(self.critic_inputs(obs)).unsqueeze(1)

    def _predict(  # type: ignore[override]
        self, observation: TensorDict, deterministic: bool = False
    ) -> th.Tensor:
        return self.act(observation, self.temperature, deterministic).action
