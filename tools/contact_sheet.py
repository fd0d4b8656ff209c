"""
Draw a contact sheet of an asset pack: a scene in each of LIBERO's arenas, and every object by itself.

    python tools/contact_sheet.py primitive docs/primitive_pack.png
    python tools/contact_sheet.py FOLDER docs/libero_pack.png --note "..."
"""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

# read at the first import of mujoco
os.environ.setdefault("MUJOCO_GL", "egl")

import gymnasium as gym
import matplotlib.pyplot as plt
import mujoco
import numpy as np
from matplotlib.figure import SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

import vla_gym  # noqa: F401  (registers the environments)
from vla_gym.assets.objects import OBJECTS
from vla_gym.assets.resolve import AssetPack, resolve_assets

# title, environment, task
SCENES = (
    ("tabletop: LIBERO-Goal", "LIBERO-Goal-v0", 3),
    ("tabletop: LIBERO-Spatial", "LIBERO-Spatial-v0", 0),
    ("floor: LIBERO-Object", "LIBERO-Object-v0", 0),
    ("kitchen: LIBERO-10", "LIBERO-10-v0", 9),
    ("living room: LIBERO-90", "LIBERO-90-v0", 60),
    ("study: LIBERO-10", "LIBERO-10-v0", 5),
)
SCENE_SIZE, OBJECT_SIZE = 320, 240
OBJECT_COLUMNS = 11
VISUAL_GROUP = 1


def main() -> None:
    """Read the command line, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", help="primitive, or a folder in LIBERO's layout")
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("--note", default="", help="text below the pictures")
    arguments = parser.parse_args()
    pack = resolve_assets(arguments.pack)
    figure = plt.figure(figsize=(13.2, 6.7), layout=ConstrainedLayoutEngine(h_pad=0.06))
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.3, 4.2))
    draw_scenes(upper, pack)
    draw_objects(lower, pack)
    if arguments.note:
        figure.supxlabel(arguments.note, fontsize=8)
    figure.savefig(arguments.out, dpi=100)


def draw_scenes(figure: SubFigure, pack: AssetPack) -> None:
    """Agent's view of one task in each arena, after the objects have settled."""
    axes = figure.subplots(1, len(SCENES))
    for axis, (title, env_id, task_id) in zip(axes, SCENES, strict=True):
        env = gym.make(env_id, task_ids=[task_id], assets=pack.path, cameras=("agentview",), image_size=SCENE_SIZE)
        observation, _ = env.reset(options={"task_id": task_id, "init_state_id": 0})
        env.close()
        # policies see LIBERO's images upside down
        show(axis, observation["agentview"], title)


def draw_objects(figure: SubFigure, pack: AssetPack) -> None:
    """Every object and fixture, each scaled to fill its picture."""
    names = sorted(OBJECTS, key=lambda name: Path(name).stem)
    rows = -(-len(names) // OBJECT_COLUMNS)
    axes = figure.subplots(rows, OBJECT_COLUMNS).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, name in zip(axes, names, strict=False):
        show(axis, object_picture(pack.path / name), textwrap.fill(Path(name).stem.replace("_", " "), 18))


def object_picture(file: Path) -> np.ndarray:
    """The visual geoms of one file from the front and above, (OBJECT_SIZE, OBJECT_SIZE, 3) uint8."""
    spec = read_spec(file)
    light = {"type": mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, "castshadow": False, "specular": [0.1] * 3}
    spec.worldbody.add_light(pos=[0, 0, 2], dir=[0.3, 0.5, -1], **light)
    sky = {"type": mujoco.mjtTexture.mjTEXTURE_SKYBOX, "builtin": mujoco.mjtBuiltin.mjBUILTIN_FLAT}
    spec.add_texture(name="backdrop", **sky, rgb1=[1, 1, 1], rgb2=[1, 1, 1], width=16, height=16)
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    seen = np.flatnonzero(model.geom_group == VISUAL_GROUP)
    corners = np.concatenate([box_corners(model, data, geom) for geom in seen])
    low, high = corners.min(axis=0), corners.max(axis=0)
    camera = mujoco.MjvCamera()
    camera.lookat, camera.azimuth, camera.elevation = (low + high) / 2, 65, -28
    camera.distance = 1.3 * np.linalg.norm(high - low)
    # the distance at which something is too near to be drawn is relative to this
    model.stat.extent = np.linalg.norm(high - low)
    options = mujoco.MjvOption()
    options.geomgroup[:] = 0
    options.geomgroup[VISUAL_GROUP] = 1
    options.sitegroup[:] = 0
    with mujoco.Renderer(model, OBJECT_SIZE, OBJECT_SIZE) as renderer:
        renderer.update_scene(data, camera, options)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = 0
        return renderer.render().copy()


def read_spec(file: Path) -> mujoco.MjSpec:
    """The file, without the assets that it names a second time, as one of LIBERO's does."""
    root = ElementTree.parse(file).getroot()
    assets, seen = root.find("asset"), set()
    for asset in [] if assets is None else list(assets):
        key = (asset.tag, asset.get("name"))
        if key in seen:
            assets.remove(asset)
        seen.add(key)
    spec = mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"))
    spec.modelfiledir = str(file.parent)
    # only collision geoms weigh, as in robosuite
    spec.compiler.inertiagrouprange = [0, 0]
    return spec


def box_corners(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> np.ndarray:
    """Corners of the box around a geom, in the world, (8, 3) m."""
    signs = np.stack(np.meshgrid(*[(-1, 1)] * 3), axis=-1).reshape(-1, 3)
    centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
    return data.geom_xpos[geom] + (centre + signs * half) @ data.geom_xmat[geom].reshape(3, 3).T


def show(axis: Any, picture: np.ndarray, title: str) -> None:
    """Put one labelled picture in its place."""
    axis.imshow(picture)
    axis.set_title(title, fontsize=8, pad=2)
    axis.axis("off")


if __name__ == "__main__":
    main()
