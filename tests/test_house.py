"""The house: imports go one way, and nothing heavy happens at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "chainrule"
LINES = (
    "errors", "memory", "bundled", "schedule", "noise", "optimise", "denoiser", "ode", "vision", "loss", "step",
    "guide", "constraint", "control", "gradient", "sample", "models", "plan", "metrics", "methods", "scenes",
    "pictures", "settings", "explain", "draw", "run", "estimate", "jobs", "cli", "app", "__main__",
)  # fmt: skip
"""From the ground floor up. A file imports from its own folder's base.py and from lines above it in this list."""

FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


def module(path: Path) -> tuple[str, ...]:
    return path.relative_to(SOURCE).with_suffix("").parts


def imported(path: Path) -> list[tuple[str, ...]]:
    """Every module of chainrule that a file imports, as parts below the package."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "chainrule":
            base = tuple((node.module or "").split(".")[1:])
            found += [(*base, alias.name) if is_module((*base, alias.name)) else base for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "chainrule"]
    return found


def is_module(parts: tuple[str, ...]) -> bool:
    path = SOURCE.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(module(path)))
def test_imports_go_one_way(path: Path) -> None:
    me = module(path)
    for other in imported(path):
        if not other:
            assert me[0] in ("run", "cli", "scenes"), f"{path} imports the whole package"
        elif other[0] != me[0]:
            assert LINES.index(other[0]) < LINES.index(me[0]), f"{path} imports {'.'.join(other)} from below"
        elif me[-1] != "__main__":
            folder = me[: len(other) - 1] if len(other) > 1 else ()
            ground = other[-1] == "base" and me[: len(folder)] == folder
            allowed = ground or other in SHARED.get(me, ())
            assert allowed, f"{path} imports {'.'.join(other)} sideways"


SHARED = {
    # a preset is settings of its method; the parts of the training build on the parts trained before them
    ("methods", "presets"): (("methods", "doodl"),),
    # it is the same guidance with other energies
    ("methods", "semantic"): (("methods", "noise_aware"),),
    # it is the same loop with other settings
    ("methods", "adjoint_dpm"): (("methods", "doodl"),),
    # an optimisation may start at the best of several draws
    ("methods", "doodl"): (("methods", "best_of"),),
    # a multistep method starts with Runge-Kutta steps
    ("solver", "adams_bashforth"): (("step", "runge_kutta"),),
    # a rating is a head on CLIP's embedding
    ("loss", "aesthetic"): (("loss", "clip"),),
    # two ways of judging, one way of seeing colours; what is rated teaches the rater
    ("scenes", "rating"): (("scenes", "judge"),),
    ("scenes", "train", "rater"): (("scenes", "rating"),),
    ("scenes", "train", "unet"): (("scenes", "train", "clip"),),
    ("scenes", "train", "noise_aware"): (("scenes", "train", "unet"),),
    ("scenes", "train", "semantic"): (("scenes", "train", "unet"),),
}
"""The few files that build on a neighbour, and why."""


def test_every_line_of_the_house_is_known() -> None:
    assert {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")} - {
        "__init__"
    } <= set(LINES)


def test_importing_is_light() -> None:
    """diffusers, transformers and their like are imported when a checkpoint is loaded, not before."""
    code = "import sys, chainrule; print([m for m in ('diffusers', 'transformers', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
