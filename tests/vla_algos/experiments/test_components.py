"""A recipe runs the user's own policy, wrapper and reward."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vla_algos.cli.main import app
from vla_algos.errors import RecipeError, UnknownNameError
from vla_algos.experiments.components import Component, anchored, load_object
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.models import load_vla, save_vla

CODE = """
import gymnasium as gym
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
env: {{suite: goal, tasks: [8], train_states: 1, assets: primitive}}
wrappers:
  - mine.py:Brighter: {{by: 40}}
vec_wrappers:
  - mine.py:StepCost: {{cost: 0.5}}
algorithm: {{name: {algorithm}, policy: "mine.py:MyPolicy", n_steps: 4, batch_size: 2, n_epochs: 1}}
evaluation: {{states: 0}}
resources: {{n_envs: 1, backend: sync, device: cpu}}
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["TokenPPO", "PPO"])
def test_own_policy_wrapper_and_reward_run_from_a_recipe(code: Path, tmp_path: Path, algorithm: str) -> None:
    vla = load_vla("nano", seed=0, config_changes={"image_size": 32, "chunk_size": 40})
    save_vla(vla, tmp_path / "vla")
    (tmp_path / "mine.yml").write_text(RECIPE.format(vla=tmp_path / "vla", algorithm=algorithm))
    arguments = ["train", "--recipe", str(tmp_path / "mine.yml"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    run = RunFolder.load(tmp_path / "run")
    assert run.settings.policy == f"{code}:MyPolicy" and run.settings.wrappers == ({f"{code}:Brighter": {"by": 40}},)
    assert run.results.n_timesteps == 4 and run.vla.is_dir() and run.last.is_file()
    extended = [*arguments, "--resume", "--timesteps", "8"]
    assert CliRunner().invoke(app, extended, catch_exceptions=False).exit_code == 0
    assert run.results.n_timesteps == 8


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
    with pytest.raises(RecipeError, match=r"'A' is no import path; expected 'package\.module\.Name'"):
        load_object("A")
    with pytest.raises(RecipeError, match="expected a class or a function"):
        Component("math.pi").check()
