"""A recipe runs the user's own policy, wrapper and reward."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vla_algos.cli.main import app
from vla_algos.errors import RecipeError, UnknownNameError
from vla_algos.experiments.components import Component, anchored, load_object
from vla_algos.experiments.names import algorithm_class
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.models import load_vla, save_vla

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_policy.py"
CODE = """
from stable_baselines3.common.vec_env import VecEnvWrapper

from vla_algos import VLAPolicy


class MyPolicy(VLAPolicy):
    pass


class Brighter(gym.ObservationWrapper):
    def __init__(self, env, by):
        super().__init__(env)
        self.by = by

    def observation(self, observation):
        return {**observation, "agentview": observation["agentview"] // 2 + self.by}


class StepCost(VecEnvWrapper):
    def __init__(self, venv, cost=0.0):
        super().__init__(venv)
        self.cost = cost

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards - self.cost, dones, infos
"""
RECIPE = """
vla: {vla}
total_timesteps: 4
env: {{suite: goal, tasks: [8], train_states: 1, assets: primitive, kwargs: {{{env}}}}}
wrappers:
  - mine.py:Brighter: {{by: 40}}
vec_wrappers:
  - mine.py:StepCost: {{cost: 0.5}}
algorithm: {{name: {algorithm}, policy: "mine.py:{policy}", n_steps: 4, batch_size: 2, n_epochs: 1{more}}}
evaluation: {{states: {states}}}
resources: {{n_envs: 1, backend: sync, device: cpu}}
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(EXAMPLE.read_text().replace("if __name__", CODE + "\n\nif __name__"))
    return tmp_path / "mine.py"


def train(folder: Path, name: str, *arguments: str, **recipe: object) -> RunFolder:
    """Run a recipe of four decisions that names policy, wrapper and reward of one file."""
    changes = {"image_size": 32, "chunk_size": 40}
    save_vla(load_vla("nano", seed=0, config_changes=changes), folder / "vla")
    defaults = {"vla": folder / "vla", "env": "", "more": "", "states": 0}
    (folder / "mine.yml").write_text(RECIPE.format(policy=name, **{**defaults, **recipe}))
    options = ["train", "--recipe", str(folder / "mine.yml"), "--out", str(folder / "run"), *arguments]
    result = CliRunner().invoke(app, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return RunFolder.load(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["TokenPPO", "PPO"])
def test_a_changed_policy_wrapper_and_reward_run_from_a_recipe(code: Path, tmp_path: Path, algorithm: str) -> None:
    run = train(tmp_path, "MyPolicy", algorithm=algorithm)
    assert run.settings.policy == f"{code}:MyPolicy" and run.settings.wrappers == ({f"{code}:Brighter": {"by": 40}},)
    assert run.results.n_timesteps == 4 and run.vla.is_dir() and run.last.is_file()
    assert train(tmp_path, "MyPolicy", "--resume", "--timesteps", "8", algorithm=algorithm).results.n_timesteps == 8


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["TokenPPO", "PPO"])
def test_own_policy_wrapper_and_reward_of_one_file_run_from_a_recipe(
    code: Path, tmp_path: Path, algorithm: str
) -> None:
    recipe = {"env": "action_type: continuous", "more": ", policy_kwargs: {width: 16}", "algorithm": algorithm}
    run = train(tmp_path, "SmallPolicy", **recipe)
    assert run.settings.policy == f"{code}:SmallPolicy" and run.settings.vec_wrappers == (
        {f"{code}:StepCost": {"cost": 0.5}},
    )
    assert run.results.n_timesteps == 4 and run.algorithm.is_file() and not run.vla.exists()
    resumed = train(tmp_path, "SmallPolicy", "--resume", "--timesteps", "8", **recipe)
    assert resumed.results.n_timesteps == 8
    own = {"policy_class": load_object(f"{code}:SmallPolicy")}
    model = algorithm_class(algorithm).load(run.algorithm, device="cpu", custom_objects=own)
    assert model.policy.mean.weight.shape == (280, 16)


@pytest.mark.slow
def test_own_policy_is_evaluated_before_and_after(code: Path, tmp_path: Path) -> None:
    recipe = {"env": "action_type: continuous", "algorithm": "TokenPPO", "states": 1}
    result = train(tmp_path, "SmallPolicy", **recipe).results
    assert [part["sampled"].temperature for part in (result.before, result.after)] == [1.5, 1.5]
    assert result.after["greedy"].n_episodes == 1


def test_a_component_is_imported_from_a_file_beside_the_recipe_wherever_it_is_used(code: Path, tmp_path: Path) -> None:
    path = anchored("mine.py:StepCost", tmp_path)
    assert path == f"{code}:StepCost" and anchored("gymnasium.wrappers.TimeLimit", tmp_path).startswith("gymnasium")
    assert load_object(path) is load_object(path)
    component = pickle.loads(pickle.dumps(Component(path, {"cost": 2.0})))
    component.check()
    with pytest.raises(UnknownNameError, match=r"keyword of .*StepCost 'costs'. Did you mean 'cost'\?"):
        Component(path, {"costs": 2.0}).check()
    with pytest.raises(UnknownNameError, match=r"name in .*mine\.py 'StepCosts'. Did you mean 'StepCost'\?"):
        load_object(f"{code}:StepCosts")


def test_code_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import not_installed_anywhere")
    with pytest.raises(RecipeError, match=r"broken\.py.* cannot be imported: No module named 'not_installed_anywhere'"):
        load_object(f"{tmp_path / 'broken.py'}:A")
    with pytest.raises(RecipeError, match=r"'A' is not an import path; expected 'package\.module\.Name'"):
        load_object("A")
    with pytest.raises(RecipeError, match="expected a class or a function"):
        Component("math.pi").check()
