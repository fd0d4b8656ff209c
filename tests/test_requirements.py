"""What installing the package brings: the environments' needs alone, unless more is asked for."""

from __future__ import annotations

import configparser
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "torchvision", "transformers", "stable-baselines3", "hf-libero", "robomimic"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def brought(requirements: list[Requirement]) -> set[str]:
    """Names of all packages that pip installs for these, as the metadata of those that are installed here say."""
    found: set[str] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found.add(name)
        try:
            declared = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [(Requirement(text), extra) for text in declared for extra in requirement.extras or {""}]
    return found


def test_the_environments_are_installed_without_torch() -> None:
    packages = brought(lines(setup_cfg()["options"]["install_requires"]))
    assert {"mujoco", "gymnasium", "numba"} <= packages
    assert not packages & HEAVY


def test_scenes_can_be_built_without_torch() -> None:
    extra = setup_cfg()["options.extras_require"]["scenes-without-torch"]
    packages = brought(lines(extra))
    assert {"robosuite", "bddl"} <= packages and not packages & HEAVY


def test_the_tests_bring_everything() -> None:
    extras = setup_cfg()["options.extras_require"]
    own = next(requirement for requirement in lines(extras["test"]) if requirement.name == "vla-gym")
    assert {"scenes", "algos"} <= own.extras <= set(extras)


IMPORTED = {"pyyaml": "yaml", "pillow": "PIL", "imageio-ffmpeg": "imageio_ffmpeg", "hf-libero": "libero"}
"""Requirement -> package, where the names differ by more than a hyphen."""
PROGRAM = """
import importlib, sys
extras = set(sys.argv[1:])
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in extras:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
import vla_gym, vla_algos
def message(work):
    try:
        work()
    except ImportError as error:
        return str(error)
print(message(lambda: vla_algos.TokenPPO))
for name in ("algorithms", "policies", "models.loading", "common.losses", "recipes.rl", "evaluation"):
    print(message(lambda: importlib.import_module(f"vla_algos.{name}")))
from vla_algos.cli.main import main
for command in ("assets check", "evaluate compact-libero-goal", "train --recipe goal", "quickstart"):
    sys.argv = ["vla-rl", *command.split()]
    try:
        main()
    except SystemExit as end:
        print(command.split()[0], "ended with", end.code)
"""


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """Output of a process in which nothing can be imported that only extras bring."""
    folder, options = tmp_path_factory.mktemp("without_torch"), setup_cfg()
    base = {requirement.name for requirement in lines(options["options"]["install_requires"])}
    extras = {requirement.name for text in options["options.extras_require"].values() for requirement in lines(text)}
    names = {IMPORTED.get(name, name.replace("-", "_")) for name in extras - base - {"vla-gym"}}
    assert {"torch", "yaml", "stable_baselines3"} <= names
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, check=True, timeout=120, cwd=folder
    )


def test_what_needs_torch_names_the_extra(without_torch: subprocess.CompletedProcess[str]) -> None:
    messages = without_torch.stdout.splitlines()[:7]
    for message in messages:
        assert "torch, transformers, stable_baselines3. Run: pip install 'vla-gym[algos]'" in message, messages
    assert messages[3].startswith("vla_algos.models needs packages that are not installed")


def test_commands_that_need_torch_name_the_extra(without_torch: subprocess.CompletedProcess[str]) -> None:
    assert "assets ended with 0" in without_torch.stdout, without_torch.stderr
    for command in ("evaluate", "train", "quickstart"):
        assert f"{command} ended with 1" in without_torch.stdout
    assert without_torch.stderr.count("pip install 'vla-gym[algos]'") == 3
    assert "Traceback" not in without_torch.stderr
