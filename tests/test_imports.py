"""Imports run in one direction, and importing an environment loads no learning library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {
    "vla_gym": [
        {
            "errors",
            "appearance",
            "arguments",
            "type_aliases",
            "files",
            "messages",
            "owned",
            "processors",
            "snapshots",
            "spec",
        }
        | {"assets", "instructions", "processes", "provenance"},
        {"tasks", "actions"},
        {"scenes"},
        {"sim"},
        {"envs"},
        {"wrappers", "vector", "experts", "datasets"},
    ],
    "vla_algos": [
        {"errors"},
        {"common"},
        {"models"},
        {"policies", "curriculum", "rewards"},
        {"algorithms", "bc"},
        {"evaluation"},
        {"experiments"},
        {"cli"},
        {"__main__"},
    ],
}
SEPARATE = {"algorithms", "bc"}


def imported_modules(file: Path) -> set[str]:
    """Absolute names of the modules a file imports, ``TYPE_CHECKING`` blocks left out."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_simulation_knows_scenes_by_their_bundles_alone() -> None:
    for file in sorted((ROOT / "vla_gym" / "sim").rglob("*.py")):
        scenes = {name for name in imported_modules(file) if name.startswith("vla_gym.scenes")}
        assert all(name.startswith("vla_gym.scenes.bundle.") for name in scenes), f"{file} imports {scenes}"


def layer_of(package: str, part: str) -> int:
    for i, layer in enumerate(LAYERS[package]):
        if part in layer:
            return i
    raise AssertionError(f"{package}.{part} has no layer; add it to LAYERS")


def library_files() -> list[tuple[str, str, Path]]:
    found = []
    for package in LAYERS:
        for file in sorted((ROOT / package).rglob("*.py")):
            part = file.relative_to(ROOT / package).parts[0].removesuffix(".py")
            if part != "__init__":
                found.append((package, part, file))
    return found


@pytest.mark.parametrize(
    ("package", "part", "file"), library_files(), ids=lambda value: value.name if isinstance(value, Path) else value
)
def test_imports_run_downwards(package: str, part: str, file: Path) -> None:
    layer = layer_of(package, part)
    for name in imported_modules(file):
        top, _, rest = name.partition(".")
        if top == package:
            target = rest.split(".")[0]
            if target in {"__version__", part}:
                continue
            assert layer_of(package, target) <= layer, f"{file} imports {name}"
            assert not (part in SEPARATE and target in SEPARATE), f"{file} imports another algorithm: {name}"
        assert not (package == "vla_gym" and top == "vla_algos"), f"{file} imports {name}"
        assert top not in {"examples", "benchmarks", "tests"}, f"{file} imports {name}"


def test_algorithms_do_not_import_each_other() -> None:
    names = {"token_ppo", "token_grpo", "token_rloo", "tpo"}
    for name in names:
        imported = imported_modules(ROOT / "vla_algos" / "algorithms" / f"{name}.py")
        others = {f"vla_algos.algorithms.{other}" for other in names - {name}}
        assert not [module for module in imported for other in others if module.startswith(other)], name


@pytest.mark.parametrize(
    "statement", ["import vla_gym", "import vla_gym.envs.libero_env, vla_gym.sim.core", "import vla_gym.vector.worker"]
)
def test_the_environment_needs_no_learning_library(statement: str) -> None:
    heavy = ("torch", "stable_baselines3", "transformers", "ray", "robosuite", "libero")
    program = f"{statement}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_importing_the_environments_costs_little_more_than_importing_gymnasium() -> None:
    program = (
        "import sys, gymnasium; before = set(sys.modules); import vla_gym; added = set(sys.modules) - before;"
        "print(*sorted(m for m in added if not m.startswith('vla_gym')))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == [], "only the library's own modules, no simulator and no compiler"


def test_the_installed_package_is_small() -> None:
    files = [path for path in (ROOT / "vla_gym").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert any(path.suffix == ".png" for path in files) and any(path.suffix == ".xml" for path in files)


def test_no_export_hides_a_module_of_the_same_name():
    for init in [*ROOT.glob("vla_gym/**/__init__.py"), *ROOT.glob("vla_algos/**/__init__.py")]:
        names = {
            alias.asname or alias.name
            for node in ast.walk(ast.parse(init.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert not [name for name in names if (init.parent / f"{name}.py").exists()], init
