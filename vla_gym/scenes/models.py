"""
Compile the models of a scene: one to simulate, two to render.

- ``physics_model`` lacks all that is only visible: 3 MB instead of 100 to 200, loaded in a millisecond, with the same
  numbers in every field that physics reads.
- ``full_model`` is upstream's.
- ``fast_model`` has meshes with a tenth of the triangles, pictures of at most 512 pixels and no multisampling.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from PIL import Image

from vla_gym.scenes.decimation import TriangleMesh, decimate, read_mesh
from vla_gym.tasks.registry import COLLISION_GROUP, VISUAL_GROUP
from vla_gym.type_aliases import UInt8Array

MAX_PICTURE = 512
"""Largest width (px) of a picture in the fast model."""


def physics_model(xml: str) -> mujoco.MjModel:
    """
    Compile the model to simulate.

    :param xml: LIBERO's scene
    """
    spec = mujoco.MjSpec.from_string(xml)
    for geom in list(spec.geoms):
        # a geom that collides with nothing has no mass either: only the collision group counts for inertia
        if not geom.contype and not geom.conaffinity and geom.group != COLLISION_GROUP:
            spec.delete(geom)
    for element in [*spec.geoms, *spec.sites]:
        element.material = ""
    meshes_in_use = {geom.meshname for geom in spec.geoms}
    unused = [mesh for mesh in spec.meshes if mesh.name not in meshes_in_use]
    for element in [*unused, *spec.materials, *spec.textures]:
        spec.delete(element)
    return spec.compile()


def full_model(xml: str) -> mujoco.MjModel:
    """
    Compile the model that upstream renders, triangle by triangle.

    :param xml: LIBERO's scene
    """
    return mujoco.MjModel.from_xml_string(xml)


def fast_model(xml: str, decimated: dict[str, TriangleMesh]) -> mujoco.MjModel:
    """
    Compile the model for fast rendering.

    :param xml: LIBERO's scene
    :param decimated: results of decimation by content, read and added to; scenes share the robot and most objects
    """
    full = full_model(xml)
    spec = mujoco.MjSpec.from_string(xml)
    visible = {geom.meshname for geom in spec.geoms if geom.group == VISUAL_GROUP}
    textured = _textured_meshes(full)
    for mesh in spec.meshes:
        if mesh.name in visible:
            number = full.mesh(mesh.name).id
            original = read_mesh(full, number, number in textured)
            digest = original.digest()
            if digest not in decimated:
                decimated[digest] = decimate(original)
            _replace_mesh(mesh, decimated[digest])
    for texture in spec.textures:
        if texture.name:
            _shrink(texture, full)
    # otherwise the compiler would derive the camera's depth range from the changed meshes
    spec.stat.extent, spec.stat.center, spec.stat.meansize = full.stat.extent, full.stat.center, full.stat.meansize
    quality = spec.visual.quality
    quality.offsamples, quality.numquads, quality.numslices, quality.numstacks = 0, 1, 14, 8
    return spec.compile()


def _textured_meshes(model: mujoco.MjModel) -> set[int]:
    is_mesh = model.geom_type == mujoco.mjtGeom.mjGEOM_MESH
    has_picture = (model.geom_matid >= 0) & (model.mat_texid[model.geom_matid] >= 0).any(axis=1)
    return {int(mesh) for mesh in model.geom_dataid[is_mesh & has_picture] if model.mesh_texcoordadr[mesh] >= 0}


def _replace_mesh(mesh: Any, content: TriangleMesh) -> None:
    """Replace a mesh's file by triangles."""
    mesh.file = ""
    mesh.scale, mesh.refpos, mesh.refquat = [1, 1, 1], [0, 0, 0], [1, 0, 0, 0]
    mesh.uservert = content.vertices.ravel().tolist()
    mesh.userface = content.triangles.ravel().tolist()
    if content.normals is not None:
        mesh.usernormal = content.normals.ravel().tolist()
    if content.texcoords is not None:
        mesh.usertexcoord = content.texcoords.ravel().tolist()
        mesh.userfacetexcoord = content.triangles.ravel().tolist()
    # a decimated mesh need not be watertight
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL


def _shrink(texture: Any, model: mujoco.MjModel) -> None:
    """Shrink a picture wider than ``MAX_PICTURE`` by averaging its pixels."""
    number = model.texture(texture.name).id
    width, height = int(model.tex_width[number]), int(model.tex_height[number])
    channels, start = int(model.tex_nchannel[number]), int(model.tex_adr[number])
    factor = -(-width // MAX_PICTURE)
    if factor == 1:
        return
    picture: UInt8Array = model.tex_data[start : start + width * height * channels].reshape(height, width, channels)
    new_width = width // factor
    new_height = height * new_width // width  # six times the width stays six times the width
    small = Image.fromarray(picture).resize((new_width, new_height), Image.Resampling.BOX)
    texture.file = ""
    texture.width, texture.height, texture.nchannel = new_width, new_height, channels
    texture.data = np.asarray(small).tobytes()
