"""``LiberoEnv``: the tasks of one LIBERO suite as a Gymnasium environment over action tokens."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.appearance import Appearance, checked_appearance
from vla_gym.arguments import checked_bool, checked_int, checked_list, checked_name
from vla_gym.assets.resolve import resolve_assets
from vla_gym.envs.privileged import PRIVILEGED_DIM, PRIVILEGED_LIMIT, PrivilegedObserver
from vla_gym.envs.starts import Starts
from vla_gym.errors import InvalidActionError, InvalidArgumentError, SnapshotError, UnknownNameError
from vla_gym.instructions import INSTRUCTION_BYTES, encode_instruction
from vla_gym.scenes.bundle import SceneBundle
from vla_gym.scenes.fixtures import sample_fixture_poses
from vla_gym.scenes.store import load_bundles
from vla_gym.sim.core import PHYSICS, SceneView, SimCore
from vla_gym.sim.render import CameraRenderer
from vla_gym.spec import AGENTVIEW, CAMERAS, COMMAND_DIM, INSTRUCTION, N_BINS, PRIVILEGED, PROPRIO, PROPRIO_DIM
from vla_gym.tasks.registry import CONTROL_HZ, N_INIT_STATES, RENDER_QUALITIES, SETTLE_COMMAND, SETTLE_STEPS, get_suite
from vla_gym.type_aliases import Float32Array, Float64Array, Observation, UInt8Array

_MADE_AGAIN = ("_bundles", "_cores", "_core", "_renderers", "_privileged")
"""Attributes that are not pickled."""
_OWN_KEYS = frozenset({*CAMERAS, PROPRIO, INSTRUCTION, PRIVILEGED})
"""Keys of observations that have a meaning already."""
RESET_OPTIONS = ("task_id", "init_state_id", "appearance")
ACTION_TYPES = ("tokens", "continuous")
MAX_IMAGE_SIZE = 4096
"""Largest images (px); not every OpenGL driver has larger off-screen buffers."""
MAX_SETTLE_STEPS = 1000
"""Most settle steps: 50 s of simulated time, after which everything is at rest."""
PROPRIO_LIMIT = 10.0
"""Bound of ``proprio`` (m, rad), far beyond the arm's reach."""


class LiberoEnv(gym.Env[Observation, Any]):
    """
    Tasks of one LIBERO suite; each episode is one task from one of its 50 stored initial states.

    Observation (``Dict``):

    =============== =========================== ====== ===================================================
    key             shape                       dtype  meaning
    =============== =========================== ====== ===================================================
    each camera     (image_size, image_size, 3) uint8  RGB as the policy sees it (raw render rotated by 180 degrees)
    each view       (size, size, 3)             uint8  the same, of another size, under a name of its own (``views``)
    ``proprio``     (8,)                        float  eef position (m), axis-angle (rad), finger positions (m)
    ``instruction`` (256,)                      uint8  UTF-8, zero padded
    ``privileged``  (69,)                       float  with ``privileged_obs``: robot and goal, for a critic alone;
                                                       ``vla_gym.envs.privileged.PRIVILEGED_NAMES`` names the entries
    =============== =========================== ====== ===================================================

    Action: ``tokens``: ``MultiDiscrete([256] * 7 * chunk_size)``, bins decoded by ``action_tokenizer``; ``continuous``:
    ``Box(-1, 1, (7 * chunk_size,))``, the controller's own command:

    ===== ================================== === === ====================
    index meaning                            min max unit at 1
    ===== ================================== === === ====================
    0-2   translation of the end effector    -1  1   0.05 m per 1/20 s
    3-5   rotation of the end effector       -1  1   0.5 rad per 1/20 s
    6     gripper: -1 opens, +1 closes       -1  1   only the sign counts
    ===== ================================== === === ====================

    Reward: 1.0 on the step that reaches the goal, else 0.0. Terminated: success. Truncated: the suite's horizon
    (control steps at 20 Hz, settle steps not counted) or physics that diverged (``info["unstable"]``). In the latter
    case the observation and ``render`` show the last state before, as the diverged one may not be finite.

    ``info``: ``is_success``, ``task_id``, ``init_state_id``, ``instruction``, ``assets`` (name of the asset pack),
    ``executed_steps`` (executed commands of the chunk), ``unstable``.

    ``reset(options={"task_id": t, "init_state_id": k})`` picks the episode; values left out are drawn from
    ``np_random``. Fixtures stand where they stand in OpenVLA's evaluation of initial state k. The option ``appearance``
    changes what the images of that episode show.

    Version history: v0, first release.

    :param suite: Gymnasium id or short name of the suite
    :param task_ids: tasks to draw from; default: all
    :param init_state_ids: initial states to draw from; default: all 50
    :param action_type: ``tokens`` or ``continuous``
    :param action_tokenizer: bins <-> commands; default: bins over the controller's whole range
    :param chunk_size: commands per action; images are rendered after the last one
    :param cameras: ``agentview`` and/or ``wrist``; may be empty
    :param image_size: height and width of the images (px)
    :param views: further images, for those who look at something else than the policy, such as a reward model: name of
        the observation -> (camera, height and width in px)
    :param assets: ``auto``, ``primitive`` or a folder in LIBERO's layout
    :param render_mode: ``rgb_array`` or ``None``
    :param render_quality: ``full`` (upstream's pixels) or ``fast`` (simpler meshes; no shadows or multisampling)
    :param randomize_fixtures: draw new fixture poses in every episode
    :param settle_steps: control steps with open gripper before the first observation
    :param physics: ``fast``, or ``exact`` for upstream's sequence of calls: same trajectories up to rounding, at twice
        the cost
    :param privileged_obs: whether observations have the key ``privileged``
    :param trace: whether ``info["trace"]`` shows what happened between observations: the proprioception before each
        command of the action, (chunk_size, 8) float32, NaN for commands that were not carried out; and
        ``info["state"]`` what ``get_state`` returns
    :param appearance: overrides of cameras, lights, colours and textures in every episode: an ``Appearance`` or its
        plain data; names are checked when an episode starts
    :raises UnknownNameError: for an unknown suite, task, initial state, camera, action type, quality or physics
    :raises InvalidArgumentError: for a keyword of the wrong type or out of range, or a list with a repeated entry
    :raises AssetsError: for an asset folder that is missing or incomplete
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012

    def __init__(
        self,
        suite: str,
        task_ids: Sequence[int] | None = None,
        init_state_ids: Sequence[int] | None = None,
        action_type: str = "tokens",
        action_tokenizer: ActionTokenizer | None = None,
        chunk_size: int = 1,
        cameras: Sequence[str] = (AGENTVIEW,),
        image_size: int = 256,
        views: Mapping[str, tuple[str, int]] | None = None,
        assets: str | os.PathLike[str] = "auto",
        render_mode: str | None = None,
        render_quality: str = "full",
        randomize_fixtures: bool = False,
        settle_steps: int = SETTLE_STEPS,
        physics: str = "fast",
        privileged_obs: bool = False,
        trace: bool = False,
        appearance: Appearance | Mapping[str, Any] | None = None,
    ) -> None:
        self.suite = get_suite(suite)
        self.starts = Starts(len(self.suite.tasks), N_INIT_STATES, task_ids, init_state_ids)
        self.task_ids, self.init_state_ids = self.starts.task_ids, self.starts.init_state_ids
        self.cameras = tuple(
            checked_name("camera", camera, CAMERAS) for camera in checked_list("cameras", cameras, "['agentview']")
        )
        self.action_type = checked_name("action_type", action_type, ACTION_TYPES)
        self.render_mode = checked_name("render_mode", render_mode, [None, *self.metadata["render_modes"]])
        self.render_quality = checked_name("render_quality", render_quality, RENDER_QUALITIES)
        self.physics = checked_name("physics", physics, PHYSICS)
        self.chunk_size = checked_int("chunk_size", chunk_size, 1, self.suite.horizon)
        self.image_size = checked_int("image_size", image_size, 16, MAX_IMAGE_SIZE)
        self.views = _checked_views(views)
        self.settle_steps = checked_int("settle_steps", settle_steps, 0, MAX_SETTLE_STEPS)
        self.randomize_fixtures = checked_bool("randomize_fixtures", randomize_fixtures)
        self.privileged_obs = checked_bool("privileged_obs", privileged_obs)
        self.trace = checked_bool("trace", trace)
        self.appearance = appearance  # type: ignore[assignment]
        if not (action_tokenizer is None or isinstance(action_tokenizer, ActionTokenizer)):
            raise InvalidArgumentError(
                f"action_tokenizer is {action_tokenizer!r}; expected an ActionTokenizer, or None for bins over the "
                "controller's whole range."
            )
        self.action_tokenizer = action_tokenizer or ActionTokenizer()
        if not isinstance(assets, (str, os.PathLike)):
            raise InvalidArgumentError(f"assets is {assets!r}; expected 'auto', 'primitive' or a folder.")
        self._pack = resolve_assets(assets)
        # cameras that are rendered, by image size
        self._rendered: dict[int, set[str]] = {}
        own = self.cameras if render_mode is None else (*self.cameras, AGENTVIEW)
        for camera, size in (*((camera, self.image_size) for camera in own), *self.views.values()):
            self._rendered.setdefault(size, set()).add(camera)
        self._bundle_quality = render_quality if self._rendered else None
        self._open_bundles()
        self._task_id = self.task_ids[0]
        self._init_state_id = self.init_state_ids[0]
        self._elapsed_steps = 0
        self._last_observation: Observation = {}
        # the last view before the physics diverged; None: it has not diverged
        self._last_view: SceneView | None = None
        self._is_over = False
        self.observation_space: spaces.Dict = self._make_observation_space()  # type: ignore[assignment]
        self.action_space = self._make_action_space()

    def _make_observation_space(self) -> spaces.Dict:
        image_shape = (self.image_size, self.image_size, 3)
        space = spaces.Dict(
            {
                **{name: spaces.Box(0, 255, image_shape, np.uint8) for name in self.cameras},
                PROPRIO: spaces.Box(-PROPRIO_LIMIT, PROPRIO_LIMIT, (PROPRIO_DIM,), np.float32),
                INSTRUCTION: spaces.Box(0, 255, (INSTRUCTION_BYTES,), np.uint8),
            }
        )
        if self.privileged_obs:
            # set last, so that it does not change what a seeded space samples for the other keys
            space[PRIVILEGED] = spaces.Box(-PRIVILEGED_LIMIT, PRIVILEGED_LIMIT, (PRIVILEGED_DIM,), np.float32)
        for name, (_, size) in self.views.items():
            space[name] = spaces.Box(0, 255, (size, size, 3), np.uint8)
        return space

    def _make_action_space(self) -> spaces.Space[Any]:
        size = COMMAND_DIM * self.chunk_size
        if self.action_type == "tokens":
            return spaces.MultiDiscrete([N_BINS] * size)
        return spaces.Box(-1.0, 1.0, (size,), np.float32)

    def _open_bundles(self) -> None:
        """Load what is not pickled; the simulation is made at the first reset."""
        tasks = [self.suite.task(task_id) for task_id in self.task_ids]
        bundles = load_bundles(tasks, self._pack, self._bundle_quality)
        self._bundles = dict(zip(self.task_ids, bundles, strict=True))
        self._cores: dict[str, SimCore] = {}
        self._core: SimCore | None = None
        self._renderers: dict[int, CameraRenderer] = {}
        self._privileged: PrivilegedObserver | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return attributes without simulation and renderer, and a snapshot of the current episode, if any."""
        has_episode = self._core is not None and self._core.is_stable()
        attributes = {name: value for name, value in self.__dict__.items() if name not in _MADE_AGAIN}
        return {**attributes, "_snapshot": self.snapshot() if has_episode else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        attributes = dict(state)
        snapshot = attributes.pop("_snapshot")
        self.__dict__.update(attributes)
        self._open_bundles()
        if snapshot is not None:
            is_over = self._is_over
            self.restore(snapshot)
            self._is_over = is_over

    @property
    def appearance(self) -> Appearance | None:
        """Overrides for the images of all episodes from the next reset on; plain data is accepted."""
        return self._default_appearance

    @appearance.setter
    def appearance(self, value: Appearance | Mapping[str, Any] | None) -> None:
        self._default_appearance = checked_appearance(value)

    @property
    def core(self) -> SimCore:
        """The running simulation."""
        if self._core is None:
            raise gym.error.ResetNeeded("Call reset() before using the simulation.")
        return self._core

    @property
    def bundle(self) -> SceneBundle:
        """Scene bundle of the current task."""
        return self._bundles[self._task_id]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """
        Start an episode and let the scene settle.

        :param seed: seeds ``np_random``
        :param options: ``task_id``, ``init_state_id`` and/or ``appearance``, for this episode only
        :raises UnknownNameError: for an unknown option, task or initial state, or a name in ``appearance`` that the
            scene lacks
        :raises InvalidArgumentError: for an appearance with a value of the wrong shape or out of range
        """
        super().reset(seed=seed)
        options = options or {}
        for name in options:
            if name not in RESET_OPTIONS:
                raise UnknownNameError("reset option", name, RESET_OPTIONS)
        appearance = checked_appearance(options.get("appearance"))
        task_id, init_state_id = self.starts.draw(self.np_random, options.get("task_id"), options.get("init_state_id"))
        self._start(task_id, init_state_id, self.appearance if appearance is None else appearance)
        return self._observation(), self._info()

    def set_start_weights(self, weights: Mapping[tuple[int, int], float] | None) -> None:
        """
        Set how often ``reset`` draws each start, from the next reset on; an error changes nothing.

        Options of ``reset`` take precedence; what they leave open is drawn by the weights of the starts that agree with
        them, uniformly if all of these are 0.

        :param weights: relative frequency by (task_id, init_state_id), finite and at least 0; starts that are left
            out are not drawn; None: uniform
        :raises UnknownNameError: for a start that is not among ``task_ids`` and ``init_state_ids``
        :raises ValueError: if a weight is negative or not finite, or none is positive
        """
        self.starts.set_weights(weights)

    def _start(self, task_id: int, init_state_id: int, appearance: Appearance | None) -> None:
        self._task_id, self._init_state_id, self._elapsed_steps = task_id, init_state_id, 0
        self._last_view = None
        self._is_over = False
        bundle = self.bundle
        core = self._enter_scene(appearance)
        if self.randomize_fixtures:
            pos, quat = sample_fixture_poses(bundle, self.np_random)
        else:
            pos, quat = bundle.fixture_pos[init_state_id], bundle.fixture_quat[init_state_id]
        core.reset(bundle.init_states[init_state_id], pos, quat)
        for _ in range(self.settle_steps):
            core.step(np.array(SETTLE_COMMAND))
        self._privileged = PrivilegedObserver(core) if self.privileged_obs else None

    def _enter_scene(self, appearance: Appearance | None) -> SimCore:
        """Switch to the simulation and the renderer of the current task's scene, and to an appearance."""
        bundle = self.bundle
        core = self._cores.get(bundle.scene)
        if core is None:
            core = self._cores[bundle.scene] = SimCore(bundle, self.physics)
        is_new_scene = core is not self._core
        self._core = core
        core.set_task(bundle)
        if is_new_scene:
            # made before the old ones are closed, so that what they share stays in memory
            renderers = {
                size: self.make_renderer(size, sorted(cameras), self.render_quality)
                for size, cameras in self._rendered.items()
            }
            self._close_renderers()
            self._renderers = renderers
        if appearance is not None and self._renderers:
            try:
                self._any_renderer().check_appearance(appearance)
            except ValueError:
                self._core = None  # there is no episode until the next reset
                raise
        core.appearance = appearance
        return core

    def snapshot(self) -> dict[str, Any]:
        """
        Take a snapshot of all that the rest of the episode and later draws depend on, for :meth:`restore`.

        Unlike ``get_state`` it contains clock, generator, controller, gripper and fixtures, so that an episode
        continues with the same bits, even in another process. An episode whose physics diverged cannot be continued:
        after ``restore`` the environment needs ``reset``.

        :return: numbers, strings and arrays
        """
        core = self._core if self._core is not None and self._core.is_stable() else None
        return {
            "suite": self.suite.env_id,
            "physics": self.physics,
            "chunk_size": self.chunk_size,
            "task_id": self._task_id,
            "init_state_id": self._init_state_id,
            "elapsed_steps": self._elapsed_steps,
            "np_random": self.np_random.bit_generator.state,
            "starts": self.starts.snapshot(),
            "core": None if core is None else core.snapshot(),
            "appearance": None if core is None or core.appearance is None else core.appearance.as_dict(),
            "initial_heights": None if self._privileged is None else self._privileged.initial_heights.copy(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """
        Resume from a snapshot, to the bit, with the same observation.

        :param snapshot: of an environment made with the same keywords
        :raises SnapshotError: if its suite, physics or chunk size differs, or it is damaged
        """
        for name, own in (("suite", self.suite.env_id), ("physics", self.physics), ("chunk_size", self.chunk_size)):
            if snapshot.get(name) != own:
                raise SnapshotError(
                    f"The snapshot has {name}={snapshot.get(name)!r}, this environment {own!r}. "
                    "Make the environment with the keywords of the one that the snapshot comes from."
                )
        task_id, init_state_id = snapshot["task_id"], snapshot["init_state_id"]
        if task_id not in self.task_ids:
            raise UnknownNameError("task_id", task_id, self.task_ids)
        self._task_id, self._init_state_id = int(task_id), int(init_state_id)
        if snapshot["core"] is None:
            self._core = self._privileged = None
        else:
            # snapshots of earlier versions have no appearance
            core = self._enter_scene(checked_appearance(snapshot.get("appearance")))
            heights = snapshot["initial_heights"]
            core.restore(snapshot["core"])
            if self.privileged_obs:
                self._privileged = PrivilegedObserver(
                    core, None if heights is None else np.asarray(heights, np.float64)
                )
        self._elapsed_steps = int(snapshot["elapsed_steps"])
        self._last_observation, self._last_view = {}, None
        self._is_over = False
        self.starts.restore(snapshot["starts"])
        self.np_random.bit_generator.state = snapshot["np_random"]

    def make_renderer(self, image_size: int, cameras: Sequence[str], render_quality: str = "full") -> CameraRenderer:
        """
        Make a renderer of the current scene, for views from ``core.view()``; the caller closes it.

        :param image_size: height and width (px)
        :param cameras: keys of ``CAMERAS``
        :param render_quality: ``full`` or ``fast``
        :raises UnknownNameError: for an unknown quality
        :raises RenderingError: if OpenGL cannot be started
        """
        if render_quality not in RENDER_QUALITIES:
            raise UnknownNameError("render_quality", render_quality, RENDER_QUALITIES)
        (bundle,) = load_bundles([self.bundle.task], self._pack, render_quality)
        return CameraRenderer(
            bundle.model_file(render_quality), image_size, [CAMERAS[name] for name in cameras], render_quality
        )

    def scene_appearance(self) -> Appearance:
        """
        Read the current scene's own values of everything that an appearance can override.

        :raises gymnasium.error.ResetNeeded: before the first reset
        :raises InvalidArgumentError: if the environment renders nothing
        """
        if not self._rendered:
            raise InvalidArgumentError("cameras is empty, so nothing is rendered; make the environment with cameras.")
        if not self._renderers:
            raise gym.error.ResetNeeded("Call reset() before scene_appearance().")
        return self._any_renderer().scene_appearance()

    def _any_renderer(self) -> CameraRenderer:
        """Return one of the renderers, which share their scene."""
        return next(iter(self._renderers.values()))

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """
        Execute one action of ``chunk_size`` commands, or fewer if success or the horizon ends the episode.

        After the end of an episode the simulation continues, with a warning at the first step.

        :param action: element of ``action_space``
        :raises InvalidActionError: for anything else; the simulation does not change
        """
        commands = self._commands(action)
        core = self.core
        if not self._last_observation:  # after restore, which shows nothing
            self._last_observation = self._observe()
        view = self._view().copy()
        if self._is_over:
            self._is_over = False  # one warning per episode
            warnings.warn(
                "step() was called after the end of the episode; call reset() first. Rewards from here on belong to "
                "no episode.",
                stacklevel=2,
            )
        success = truncated = unstable = False
        executed_steps = 0
        trace = np.full((self.chunk_size, PROPRIO_DIM), np.nan, np.float32) if self.trace else None
        for command in commands:
            if trace is not None:
                trace[executed_steps] = self._proprio()
            core.step(command)
            executed_steps += 1
            self._elapsed_steps += 1
            unstable = not core.is_stable()
            success = not unstable and core.is_success()
            truncated = unstable or (not success and self._elapsed_steps >= self.suite.horizon)
            if success or truncated:
                break
        self._last_view = view if unstable else None
        self._is_over = success or truncated
        info = self._info() | {"is_success": success, "executed_steps": executed_steps, "unstable": unstable}
        if trace is not None:
            info["trace"] = trace
        return self._observation(), float(success), success, truncated, info

    def _commands(self, action: Any) -> Float64Array:
        array = np.asarray(action)
        if array.shape != self.action_space.shape:
            raise InvalidActionError(f"Action has shape {array.shape}; expected {self.action_space.shape}.")
        array = array.reshape(self.chunk_size, COMMAND_DIM)
        if self.action_type == "tokens":
            return self.action_tokenizer.decode(array)
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InvalidActionError(f"Commands must be finite numbers, got {array}.")
        return np.clip(array.astype(np.float64), -1.0, 1.0)

    def get_state(self) -> Float64Array:
        """
        Return the simulation state: time (s), qpos, qvel, (1 + nq + nv,) float64, as in LIBERO's initial-state files.

        :attr:`state_names` names the entries.
        """
        return self.core.get_state()

    @property
    def state_names(self) -> tuple[str, ...]:
        """
        Names of the entries of ``get_state``: ``time``, ``qpos/JOINT`` and ``qvel/JOINT``.

        Free joints have ``/x``, ``/y``, ``/z`` (m) and ``/qw`` to ``/qz`` in qpos, ``/vx`` to ``/vz`` (m/s) and
        ``/wx`` to ``/wz`` (rad/s) in qvel.
        """
        return self.core.state_names

    def set_state(self, state: Float64Array, return_observation: bool = False) -> Observation | None:
        """
        Set the simulation to a state of the current task's scene; the episode's clock keeps running.

        :param state: as returned by ``get_state``
        :param return_observation: whether to render and return the observation
        :return: the observation, if asked for
        :raises ValueError: if it has the wrong shape or is not finite; the simulation does not change
        """
        array = np.asarray(state, dtype=np.float64)
        if array.shape != (self.core.state_size,) or not np.isfinite(array).all():
            raise ValueError(
                f"State of shape {array.shape}; expected ({self.core.state_size},) finite numbers: time, qpos, qvel."
            )
        self.core.set_state(array)
        self._last_view = None
        self._is_over = False
        return self._observation() if return_observation else None

    def observe(self) -> Observation:
        """Return the current observation without a step."""
        return self._observation()

    def is_success(self) -> bool:
        """Tell whether the goal holds in the current state."""
        return self.core.is_success()

    def goal_predicates(self) -> dict[str, bool]:
        """Evaluate each atom of the goal, as spelled in the BDDL file."""
        return self.core.goal.evaluate(self.core.data)

    def render(self) -> UInt8Array | None:  # type: ignore[override]
        """Render the agentview image, (image_size, image_size, 3) uint8; ``None`` without a render mode."""
        if self.render_mode is None:
            return None
        if not self._renderers:
            raise gym.error.ResetNeeded("Call reset() before render().")
        return self._renderers[self.image_size].render(CAMERAS[AGENTVIEW], self._view())

    def _view(self) -> SceneView:
        return self.core.view() if self._last_view is None else self._last_view

    def close(self) -> None:
        """Free the renderers."""
        self._close_renderers()
        self._core = self._privileged = None
        self._cores.clear()

    def _close_renderers(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    def _observation(self) -> Observation:
        """Return copies of the current observation, or of the last one before the physics diverged."""
        if self._last_view is None:
            self._last_observation = self._observe()
        return {name: array.copy() for name, array in self._last_observation.items()}

    def _observe(self) -> Observation:
        observation: Observation = {
            PROPRIO: self._proprio(),
            INSTRUCTION: encode_instruction(self.bundle.task.instruction),
        }
        if self._privileged is not None:
            observation[PRIVILEGED] = self._privileged.observe(self._elapsed_steps / self.suite.horizon)
        if self._renderers:
            view = self.core.view()
            images = {**{camera: (camera, self.image_size) for camera in self.cameras}, **self.views}
            for name, (camera, size) in images.items():
                observation[name] = self._renderers[size].render(CAMERAS[camera], view)
        return observation

    def _proprio(self) -> Float32Array:
        # unlike np.clip, these replace NaN too
        return np.fmin(np.fmax(self.core.proprio(), -PROPRIO_LIMIT), PROPRIO_LIMIT)

    def _info(self) -> dict[str, Any]:
        state = {"state": self.core.get_state()} if self.trace else {}
        return {
            **state,
            "is_success": False,
            "task_id": self._task_id,
            "init_state_id": self._init_state_id,
            "instruction": self.bundle.task.instruction,
            "assets": self.bundle.pack,
            "executed_steps": 0,
            "unstable": False,
        }


def _checked_views(value: Any) -> dict[str, tuple[str, int]]:
    """Check the names, cameras and sizes of further images."""
    expected = "expected a camera and a size in px for each name, like {'judge': ('agentview', 224)}"
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"views is {value!r} ({type(value).__name__}); {expected}.")
    views = {}
    for name, view in value.items():
        if not isinstance(name, str) or not name or name in _OWN_KEYS:
            raise InvalidArgumentError(
                f"views names {name!r}; expected a text other than {', '.join(sorted(_OWN_KEYS))}, which observations "
                "have anyway."
            )
        if not isinstance(view, (list, tuple)) or len(view) != 2:
            raise InvalidArgumentError(f"views[{name!r}] is {view!r}; {expected}.")
        camera = checked_name("camera", view[0], CAMERAS)
        views[name] = (camera, checked_int(f"size of the view {name!r}", view[1], 16, MAX_IMAGE_SIZE))
    return views
