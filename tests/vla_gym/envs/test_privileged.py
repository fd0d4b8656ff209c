from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import vla_gym
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.envs.privileged import (
    MAX_ATOMS,
    PRIVILEGED_DIM,
    PRIVILEGED_LIMIT,
    PRIVILEGED_NAMES,
    PrivilegedObserver,
)
from vla_gym.scenes.libero_files import task_files
from vla_gym.tasks.goals import SPELLING
from vla_gym.tasks.registry import SUITES, get_suite
from vla_gym.vector import BACKENDS

pytestmark = pytest.mark.usefixtures("goal_scenes")

ENV_ID = "LIBERO-Goal-v0"
NO_MOTION = np.array([127] * 6 + [255])
MIDDLE_DRAWER, DRAWER_AND_BOWL, STOVE, BOWL_ON_PLATE = 0, 3, 7, 8


def make(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make(ENV_ID, assets="primitive", **{"cameras": (), "privileged_obs": True, **kwargs})


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    env = make()
    yield env.unwrapped  # type: ignore[misc]
    env.close()


def named(vector: np.ndarray) -> dict[str, Any]:
    """Entries by name, those that differ in the last part alone (x, y, z) together."""
    groups: dict[str, list[float]] = {}
    for name, value in zip(PRIVILEGED_NAMES, vector.tolist(), strict=True):
        groups.setdefault(re.sub(r"/[xyz01]$", "", name), []).append(value)
    return {name: values[0] if len(values) == 1 else np.array(values) for name, values in groups.items()}


def assert_near(value: Any, expected: Any) -> None:
    np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_environment_checker_passes() -> None:
    env = make(settle_steps=1)
    check_env(env.unwrapped)
    space = env.observation_space["privileged"]
    assert space == gym.spaces.Box(-PRIVILEGED_LIMIT, PRIVILEGED_LIMIT, (PRIVILEGED_DIM,), np.float32)
    env.close()


def test_names_are_unique_and_hold_a_block_for_each_atom() -> None:
    assert len(set(PRIVILEGED_NAMES)) == len(PRIVILEGED_NAMES) == PRIVILEGED_DIM == 9 + 20 * MAX_ATOMS
    assert "atom0/target_from_subject/x" in PRIVILEGED_NAMES
    assert f"{PRIVILEGED_DIM},)" in (LiberoEnv.__doc__ or "")


def test_the_longest_goal_of_all_suites_fits() -> None:
    atom = re.compile(rf"\((?:{'|'.join(SPELLING)})\b", re.IGNORECASE)
    goals = [task_files(task)[0].read_text().split("(:goal")[1] for suite in SUITES.values() for task in suite.tasks]
    counts = [len(atom.findall(goal)) for goal in goals]
    assert len(counts) == 130 and min(counts) == 1 and max(counts) == MAX_ATOMS


def test_default_environments_have_no_such_key_and_move_alike(env: LiberoEnv) -> None:
    plain = make(privileged_obs=False).unwrapped
    assert "privileged" not in plain.observation_space.spaces
    states = []
    for candidate in (env, plain):
        observation, _ = candidate.reset(seed=0)
        assert ("privileged" in observation) is (candidate is env)
        observation, *_ = candidate.step(np.array([200, 90, 40, 127, 150, 127, 0]))
        assert ("privileged" in observation) is (candidate is env)
        states.append(candidate.get_state())
    np.testing.assert_array_equal(*states)


def test_entries_follow_the_object_and_its_target(env: LiberoEnv) -> None:
    env.reset(options={"task_id": BOWL_ON_PLATE, "init_state_id": 0})
    model, data = env.core.model, env.core.data
    observer = PrivilegedObserver(env.core)
    state = env.get_state()
    qpos, qvel = state[1 : 1 + model.nq], state[1 + model.nq :]
    bowl, plate = (model.joint(f"{name}_joint0") for name in ("akita_black_bowl_1", "plate_1"))
    resting = float(data.xpos[model.jnt_bodyid[bowl.id]][2])
    qpos[bowl.qposadr[0] :][:3] += [0.05, -0.1, 0.2]
    qvel[bowl.dofadr[0] :][:3] = [0.3, -0.2, 0.1]
    qvel[model.joint("robot0_joint2").dofadr[0]] = 0.4
    env.set_state(state)
    entries = named(observer.observe(0.25))

    eef, bowl_pos, plate_pos = env.core.robot_state().eef_pos, qpos[bowl.qposadr[0] :][:3], qpos[plate.qposadr[0] :][:3]
    jacobian = np.zeros((3, model.nv))
    mujoco.mj_jacSite(model, data, jacobian, None, env.core.robot.eef_site)
    assert_near(entries["eef_pos"], eef)
    assert_near(entries["eef_velocity"], jacobian @ qvel)
    assert np.linalg.norm(entries["eef_velocity"]) > 0.05
    assert_near(entries["finger_pos"], env.core.robot_state().fingers)
    assert_near(entries["elapsed"], 0.25)
    assert_near(entries["atom0/subject_from_eef"], bowl_pos - eef)
    assert_near(entries["atom0/subject_velocity"], [0.3, -0.2, 0.1])
    assert_near(entries["atom0/subject_lift"], bowl_pos[2] - resting)
    assert_near(entries["atom0/target_from_subject"], plate_pos - bowl_pos)
    assert (entries["atom0/exists"], entries["atom0/satisfied"], entries["atom0/is_on"]) == (1.0, 0.0, 1.0)
    ones = {name for name, value in entries.items() if name.startswith("atom0/is_") and value}
    assert ones == {"atom0/is_on"}
    assert entries["atom0/joint_pos"] == entries["atom0/joint_distance"] == 0.0


def test_absent_atoms_are_zeros(env: LiberoEnv) -> None:
    for task_id in range(10):
        observation, _ = env.reset(options={"task_id": task_id, "init_state_id": 0})
        entries = named(observation["privileged"])
        n_atoms = len(env.goal_predicates())
        assert [entries[f"atom{i}/exists"] for i in range(MAX_ATOMS)] == [float(i < n_atoms) for i in range(MAX_ATOMS)]
        absent = observation["privileged"][9 + 20 * n_atoms :]
        assert len(absent) == 20 * (MAX_ATOMS - n_atoms) and not absent.any()


def test_a_region_is_the_target_where_the_goal_names_one(env: LiberoEnv) -> None:
    observation, _ = env.reset(options={"task_id": DRAWER_AND_BOWL, "init_state_id": 0})
    entries = named(observation["privileged"])
    (i,) = (i for i, atom in enumerate(env.core.goal.atoms) if atom.predicate == "in")
    atom, data = env.core.goal.atoms[i], env.core.data
    assert atom.target_site and entries[f"atom{i}/is_in"] == 1.0
    region, bowl = data.site(atom.target_site).xpos, data.body(atom.body).xpos
    assert_near(entries[f"atom{i}/target_from_subject"], region - bowl)


def test_a_drawer_that_an_object_belongs_into_is_seen(env: LiberoEnv) -> None:
    observation, _ = env.reset(options={"task_id": DRAWER_AND_BOWL, "init_state_id": 0})
    before, state = named(observation["privileged"]), env.get_state()
    assert (before["atom0/is_in"], before["atom0/joint_pos"]) == (1.0, 0.0)
    assert_near(before["atom0/joint_distance"], 0.14)
    for opening, distance in ((-0.1, 0.04), (-0.15, 0.0)):
        state[env.state_names.index("qpos/wooden_cabinet_1_top_level")] = opening
        after = named(env.set_state(state, return_observation=True)["privileged"])
        assert_near(after["atom0/joint_pos"], opening)
        assert_near(after["atom0/joint_distance"], distance)
        # the region moves with the drawer, whichever drawer it is
        moved = after["atom0/target_from_subject"] - before["atom0/target_from_subject"]
        assert_near(np.linalg.norm(moved), -opening)
    observation, _ = env.reset(options={"task_id": 1, "init_state_id": 0})
    entries = named(observation["privileged"])
    assert entries["atom0/joint_pos"] == entries["atom0/joint_distance"] == 0.0


@pytest.mark.parametrize(
    ("task_id", "joint", "value", "distance_before", "predicate"),
    [
        (MIDDLE_DRAWER, "wooden_cabinet_1_middle_level", -0.15, 0.14, "open"),
        (STOVE, "flat_stove_1_button", 0.6, 0.5, "turnon"),
    ],
)
def test_a_joint_that_reaches_its_goal(
    env: LiberoEnv, task_id: int, joint: str, value: float, distance_before: float, predicate: str
) -> None:
    observation, _ = env.reset(options={"task_id": task_id, "init_state_id": 0})
    before = named(observation["privileged"])
    state, address = env.get_state(), env.core.model.joint(joint).qposadr[0]
    np.testing.assert_allclose(before["atom0/joint_pos"], state[1 + address], atol=1e-6)
    np.testing.assert_allclose(before["atom0/joint_distance"], distance_before, atol=1e-3)
    assert before["atom0/satisfied"] == before["elapsed"] == 0.0 and before[f"atom0/is_{predicate}"] == 1.0

    state[1 + address] = value
    env.set_state(state)
    observation, _, terminated, _, _ = env.step(NO_MOTION)
    after = named(observation["privileged"])
    assert terminated and after["atom0/satisfied"] == 1.0 and after["atom0/joint_distance"] == 0.0
    np.testing.assert_allclose(after["atom0/joint_pos"], value, atol=0.02)
    assert_near(after["elapsed"], 1 / get_suite("goal").horizon)
    assert not after["atom0/target_from_subject"].any()
    if predicate == "open":  # the drawer's middle moves with it
        moved = (
            after["atom0/subject_from_eef"] + after["eef_pos"] - before["atom0/subject_from_eef"] - before["eef_pos"]
        )
        np.testing.assert_allclose(np.linalg.norm(moved), 0.15, atol=0.01)


def test_diverged_physics_leaves_it_finite_and_in_bounds(env: LiberoEnv) -> None:
    env.reset(options={"task_id": BOWL_ON_PLATE, "init_state_id": 0})
    state = env.get_state()
    state[1 + env.core.model.nq :] = 1e12
    env.set_state(state)
    observation, _, _, truncated, info = env.step(NO_MOTION)
    assert truncated and info["unstable"] and env.observation_space["privileged"].contains(observation["privileged"])
    observer = PrivilegedObserver(env.core)
    for bad in (np.nan, np.inf):
        env.core.data.xpos[:] = bad
        env.core.data.site_xpos[:] = bad
        vector = observer.observe(0.0)
        assert np.isfinite(vector).all() and np.abs(vector).max() == PRIVILEGED_LIMIT


def test_too_long_a_goal_is_refused(env: LiberoEnv) -> None:
    env.reset(options={"task_id": BOWL_ON_PLATE, "init_state_id": 0})
    env.core.goal.atoms *= MAX_ATOMS + 1
    with pytest.raises(ValueError, match=f"{MAX_ATOMS + 1} atoms; privileged observations hold {MAX_ATOMS}"):
        PrivilegedObserver(env.core)


def test_every_backend_carries_it() -> None:
    rollouts = []
    for backend in BACKENDS:
        keywords = {"assets": "primitive", "cameras": (), "settle_steps": 1, "task_ids": [BOWL_ON_PLATE]}
        venv = vla_gym.make_vec(ENV_ID, 2, backend, privileged_obs=True, **keywords)
        observations, _ = venv.reset(seed=3)
        rollout = [observations["privileged"].copy()]
        for _ in range(3):
            observations, *_ = venv.step(np.tile([200, 90, 40, 127, 150, 127, 0], (2, 1)))
            rollout.append(observations["privileged"].copy())
        venv.close()
        rollouts.append(np.stack(rollout))
        assert rollouts[-1].shape == (4, 2, PRIVILEGED_DIM) and rollouts[-1].dtype == np.float32
        assert (rollouts[-1][1] != rollouts[-1][0]).any()
        np.testing.assert_array_equal(rollouts[-1], rollouts[0])
