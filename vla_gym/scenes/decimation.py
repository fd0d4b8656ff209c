"""Reduce the triangles of meshes, for fast rendering."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import fast_simplification
import mujoco
import numpy as np

from vla_gym.type_aliases import Float64Array, Int64Array

PLAIN_SHARE = 0.1
"""Share of triangles kept in a mesh of one colour; the robot's 150,000 dominate LIBERO's scenes."""
TEXTURED_SHARE = 0.15
"""Share kept in a mesh with a picture on it, where every shift is visible."""
MIN_TRIANGLES = 400


@dataclass(frozen=True)
class TriangleMesh:
    """
    A triangle mesh in the frame of its file.

    :param vertices: (n, 3) m
    :param triangles: corners of each triangle, (f, 3)
    :param normals: (n, 3), or ``None`` to have them computed from the triangles
    :param texcoords: (n, 2), or ``None``
    """

    vertices: Float64Array
    triangles: Int64Array
    normals: Float64Array | None = None
    texcoords: Float64Array | None = None

    def digest(self) -> str:
        """Compute a hash of the content."""
        arrays = (self.vertices, self.triangles, self.normals, self.texcoords)
        content = hashlib.sha256()
        for array in arrays:
            content.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        return content.hexdigest()


def read_mesh(model: mujoco.MjModel, mesh: int, textured: bool) -> TriangleMesh:
    """
    Read a mesh of a compiled model.

    Corners at the same position are merged into one vertex; if ``textured``, corners at a seam of the picture stay
    separate.

    :param model: compiled model
    :param mesh: number of the mesh
    :param textured: keep texture coordinates and normals
    """
    triangles = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, model.mesh_quat[mesh])
    rotation = matrix.reshape(3, 3)
    # undo the compiler's move into the mesh's inertial frame
    vertices = _rows(model.mesh_vert, model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]) @ rotation.T
    vertices += model.mesh_pos[mesh]
    corners = vertices[model.mesh_face[triangles]].reshape(-1, 3).astype(np.float32)
    if not textured:
        unique, index = np.unique(corners, axis=0, return_inverse=True)
        return TriangleMesh(unique.astype(np.float64), index.reshape(-1, 3))
    texcoords = _rows(model.mesh_texcoord, model.mesh_texcoordadr[mesh], model.mesh_texcoordnum[mesh])
    normals = _rows(model.mesh_normal, model.mesh_normaladr[mesh], model.mesh_normalnum[mesh]) @ rotation.T
    corner_texcoords = texcoords[model.mesh_facetexcoord[triangles]].reshape(-1, 2)
    both = np.concatenate((corners, corner_texcoords), axis=1, dtype=np.float32, casting="same_kind")
    unique, first, index = np.unique(both, axis=0, return_index=True, return_inverse=True)
    return TriangleMesh(
        vertices=unique[:, :3].astype(np.float64),
        triangles=index.reshape(-1, 3),
        normals=normals[model.mesh_facenormal[triangles]].reshape(-1, 3)[first],
        texcoords=unique[:, 3:].astype(np.float64),
    )


def decimate(mesh: TriangleMesh) -> TriangleMesh:
    """
    Decimate a mesh by quadric edge collapse; small meshes are returned unchanged.

    Each new vertex takes normal and texture coordinates from the nearest of the vertices that were merged into it.

    :param mesh: the mesh
    """
    share = PLAIN_SHARE if mesh.texcoords is None else TEXTURED_SHARE
    target = max(MIN_TRIANGLES, int(share * len(mesh.triangles)))
    if target >= len(mesh.triangles):
        return mesh
    points, triangles = mesh.vertices.astype(np.float32), mesh.triangles.astype(np.int32)
    *_, collapses = fast_simplification.simplify(points, triangles, target_count=target, return_collapses=True)
    vertices, _, new_index = fast_simplification.replay_simplification(points, triangles, collapses)
    nearest = _nearest(mesh.vertices, vertices, new_index)
    triangles = new_index[triangles]
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (c != a)]
    return TriangleMesh(
        vertices=vertices.astype(np.float64),
        triangles=triangles.astype(np.int64),
        normals=None if mesh.normals is None else mesh.normals[nearest],
        texcoords=None if mesh.texcoords is None else mesh.texcoords[nearest],
    )


def _nearest(points: Float64Array, vertices: Float64Array, new_index: Int64Array) -> Int64Array:
    """Find, for each new vertex, the nearest of the old points that were merged into it, (len(vertices),)."""
    distance = np.linalg.norm(points - vertices[new_index], axis=1)
    order = np.lexsort((distance, new_index))
    _, first = np.unique(new_index[order], return_index=True)
    return np.asarray(order[first], dtype=np.int64)


def _rows(values: Float64Array, start: int, count: int) -> Float64Array:
    return np.asarray(values[start : start + count], dtype=np.float64)
