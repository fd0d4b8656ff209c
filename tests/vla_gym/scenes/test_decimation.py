from __future__ import annotations

import mujoco
import numpy as np

from vla_gym.scenes.decimation import MIN_TRIANGLES, TEXTURED_SHARE, TriangleMesh, decimate, read_mesh


def sheet(n: int, textured: bool) -> TriangleMesh:
    """A bumpy sheet of 2 n^2 triangles over the unit square; texture coordinates are the place in the square."""
    x, y = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1), indexing="ij")
    vertices = np.stack([x, y, 0.05 * np.sin(6 * x) * np.cos(5 * y)], axis=-1).reshape(-1, 3)
    corner = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    lower = np.stack([corner, corner + n + 1, corner + 1], axis=1)
    upper = np.stack([corner + n + 1, corner + n + 2, corner + 1], axis=1)
    normals = np.tile([0.0, 0.0, 1.0], (len(vertices), 1)) if textured else None
    texcoords = vertices[:, :2].copy() if textured else None
    return TriangleMesh(vertices, np.concatenate([lower, upper]), normals, texcoords)


def area(mesh: TriangleMesh) -> float:
    a, b, c = mesh.vertices[mesh.triangles].transpose(1, 0, 2)
    return float(0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum())


def test_most_triangles_go_and_the_surface_stays() -> None:
    mesh = sheet(60, textured=False)
    result = decimate(mesh)
    assert MIN_TRIANGLES // 2 < len(result.triangles) < 0.15 * len(mesh.triangles)
    assert abs(area(result) / area(mesh) - 1) < 0.01
    np.testing.assert_allclose(result.vertices.max(axis=0), mesh.vertices.max(axis=0), atol=0.01)
    assert result.normals is None and result.texcoords is None


def test_pictures_stay_where_they_were() -> None:
    mesh = sheet(60, textured=True)
    result = decimate(mesh)
    assert len(result.triangles) <= TEXTURED_SHARE * len(mesh.triangles) * 1.01
    assert result.texcoords is not None and result.normals is not None
    assert result.texcoords.shape == (len(result.vertices), 2)
    shift = np.abs(result.texcoords - result.vertices[:, :2])
    assert shift.mean() < 0.01 and shift.max() < 0.1
    np.testing.assert_array_equal(result.normals, np.tile([0.0, 0.0, 1.0], (len(result.vertices), 1)))


def test_small_meshes_are_left_alone() -> None:
    mesh = sheet(10, textured=True)
    assert decimate(mesh) is mesh


def test_a_compiled_mesh_is_read_in_the_frame_of_its_file() -> None:
    mesh = sheet(4, textured=False)
    spec = mujoco.MjSpec()
    asset = spec.add_mesh(
        name="sheet", uservert=mesh.vertices.ravel().tolist(), userface=mesh.triangles.ravel().tolist()
    )
    asset.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="sheet")
    read = read_mesh(spec.compile(), 0, textured=False)
    assert read.triangles.shape == mesh.triangles.shape
    np.testing.assert_allclose(read.vertices[read.triangles], mesh.vertices[mesh.triangles], atol=1e-6)
