"""The house: imports go one way, a method is one file, and what is written stays readable."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chainrule.methods import METHODS

SOURCE = Path(__file__).parents[1] / "src" / "chainrule"
ROOMS = (
    "errors", "brief", "bundled", "specs", "noise", "images", "metrics", "diffusion", "vision", "losses", "models", "memory",
    "optimise", "methods", "scenes", "sprites", "runs", "study", "studio", "_public", "cli", "__main__",
)  # fmt: skip
"""From the ground floor up: a file imports from rooms above its own in this list."""

FLOORS = {
    "diffusion": (
        "batch", "held", "schedule", "time_grids", "denoiser", "matching", "ode", "noise_priors", "solvers", "guidance", "constraints", "control",
        "gradient", "arguments", "sampling",
    ),
    "images": ("checking", "opening", "reading", "resizing", "putting_back", "masks", "_contact_sheet", "charts"),
    "memory": ("measure", "plan", "_arrange"),
    "models": (
        "quiet", "folders", "hub", "single_file", "frozen", "base", "backbone", "autoencoder", "inpainting",
        "schedulers", "prompts", "tokens", "lora", "trained", "noise_aware", "families",
        "tensor_files", "tuned", "directions", "embedding_files", "lora_files", "_extras", "_load",
    ),
    "runs": (
        "events", "_coroutine", "spec", "usual", "networks", "folder", "origin", "passes", "scores", "load", "estimate", "pace", "report",
        "execute",
    ),
    "study": (
        "protocols", "spec", "assignment", "answers", "folder", "make", "results", "pages", "report", "serve",
    ),
    "studio": (
        "live", "forms", "preview", "strip", "desk", "asking", "listing", "learnt", "again", "views", "files", "style",
        "parts", "create", "edit", "tune", "watch", "runs", "app",
    ),
    "sprites": ("things", "artwork", "base", "judge", "rating", "train"),
    "cli": ("_stopping", "_settings", "_options", "_ask", "_terminal", "_serving", "ask", "again", "show", "study", "studio", "_app", "_main"),
}  # fmt: skip
"""Rooms with floors of their own: a file imports from those above its own in the list."""

SHARED = {
    # of the last steps it is the exact gradient
    "diffusion/gradient/truncated": ("checkpoint",),
    # what every method is made of
    "methods": ("base", "fitting", "chunking", "chains", "training", "tuning", "thing"),
    "losses": ("base",),
    "losses/text": ("clip",), "losses/image": ("clip",), "losses/aesthetic": ("clip",),
    "losses/clip_direction": ("clip",),
    "losses/perceptual": ("features",), "losses/style": ("features",),
    # what an audit works on, and how it tells what it found
    "methods/audit": ("audited", "audit_report"), "methods/audit_report": ("audited",),
    # it is the same guidance with other energies
    "methods/semantic": ("noise_aware",),
    # they learn one photo; one of them draws as SDEdit does
    "methods/imagic": ("one_photo",), "methods/unitune": ("one_photo", "sdedit"),
    # it learns on a task of its own
    "methods/stylize": ("style_task",),
    # it is the same loop with other settings
    "methods/noise_optimisation": ("doodl",),
    **dict.fromkeys(
        ("methods/adjoint_dpm", "methods/reno", "methods/dno"), ("doodl", "noise_optimisation")
    ),
    # a change that words describe is learnt in two ways; who edits with it has the same settings
    "methods/change": ("tuning",), "methods/diffusion_clip": ("change", "tuning"),
    "methods/diffusion_clip_edit": ("diffusion_clip",),
    "methods/asyrp_trained": ("change", "asyrp_times"),
    "methods/asyrp_edit": ("asyrp_trained", "asyrp_times"),
    # an optimisation may start at the best of several draws
    "methods/doodl": ("best_of",),
    # what is found is kept as the best of draws is; passes are counted as guidance counts them
    "methods/search": ("best_of", "particles", "tfg"),
    # it is short draws, guided ones, the best of them, and the loop
    "methods/hybrid": ("best_of", "doodl", "search", "tfg"),
    # a multistep method starts with Runge-Kutta steps
    "diffusion/solvers/adams_bashforth": ("runge_kutta",),
    # directions that were trained are directions
    "diffusion/control/learnt": ("bottleneck",),
    # two tapes, and the adjoint, keep to the same rules for what is computed again
    "diffusion/gradient": ("replay", "tape"),
    # two ways of judging, one way of seeing colours; what is rated teaches the rater
    "scenes/rating": ("judge",),
    "scenes/train/rater": ("rating",),
    "scenes/train/unet": ("clip",),
    "scenes/train/noise_aware": ("unet",),
    "scenes/train/semantic": ("unet",),
    "sprites/train/parts": ("networks",),
}  # fmt: skip
"""In other folders a file imports its own folder's base.py, and these neighbours, for these reasons."""

FILES = sorted(SOURCE.rglob("*.py"))
METHOD_FILES = [path for path in FILES if path.parent.name == "methods"]
LONGEST_FUNCTION, LONGEST_LINE = 60, 100


def name_of(path: Path) -> str:
    return "/".join(path.relative_to(SOURCE).with_suffix("").parts)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Every module of chainrule that a file imports, as parts below the package."""
    for node in ast.walk(parse(path)):
        if (
            isinstance(node, ast.ImportFrom)
            and node.level == 0
            and (node.module or "").split(".")[0] == "chainrule"
        ):
            base = tuple((node.module or "").split(".")[1:])
            for alias in node.names:
                yield (*base, alias.name) if is_module((*base, alias.name)) else base
        elif isinstance(node, ast.Import):
            yield from (
                tuple(a.name.split(".")[1:])
                for a in node.names
                if a.name.split(".")[0] == "chainrule"
            )


def is_module(parts: tuple[str, ...]) -> bool:
    path = SOURCE.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    me = path.relative_to(SOURCE).with_suffix("").parts
    for other in imported(path):
        if other:
            problem = find_problem(me, other)
            assert problem is None, f"{name_of(path)} imports {'.'.join(other)} {problem}"


def find_problem(me: tuple[str, ...], other: tuple[str, ...]) -> str | None:
    if me == ("__init__",) or me[-1] == "__main__":
        return None  # the package itself, and a program, stand on top of all
    if me[0] != other[0]:
        return None if ROOMS.index(other[0]) < ROOMS.index(me[0]) else "from below"
    if me[-1] in ("__init__", "registry") and me[: len(me) - 1] == other[: len(me) - 1]:
        return None  # what gathers a folder's own
    floors = FLOORS.get(me[0])
    if floors and me[1] != other[1]:
        return None if floors.index(other[1]) < floors.index(me[1]) else "from a floor below"
    folder, neighbour = "/".join(me[:-1]), other[-1]
    allowed = {"base", *SHARED.get(folder, ()), *SHARED.get("/".join(me), ())}
    return None if neighbour in allowed else "sideways"


def test_every_room_and_floor_is_known() -> None:
    rooms = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert rooms == set(ROOMS)
    for room, floors in FLOORS.items():
        found = {
            path.relative_to(SOURCE / room).parts[0].removesuffix(".py")
            for path in (SOURCE / room).rglob("*.py")
        }
        assert found - {"__init__"} == set(floors), room


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.name == "__init__.py" and path.parent != SOURCE],
    ids=name_of,
)
def test_an_init_file_only_re_exports(path: Path) -> None:
    for node in parse(path).body:
        said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        named = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in (
            "__all__",
            "__version__",
        )
        assert said or named or isinstance(node, (ast.Import, ast.ImportFrom)), ast.unparse(node)[
            :80
        ]


@pytest.mark.parametrize("kind", METHODS.own)
def test_a_method_is_named_in_two_files_at_most(kind: str) -> None:
    """Its own, and that of a command which does it by default. (The lower half knows no methods: it may use the word.)"""
    files = {
        name_of(path)
        for path in FILES
        if name_of(path).split("/")[0] in ("methods", "scenes", "runs", "cli")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Constant) and node.value == kind
    } - USES_THE_WORD.get(kind, set())
    assert len(files) <= 2, files


USES_THE_WORD = {
    "plain": {"methods/base", "methods/tfg"},  # gradients that nothing divides
    "one-step": {"methods/tfg"},  # a member of that family
    # names of solvers, of losses' files and of parts of the bundled world
    "ddim": {"methods/plain"},
    "semantic": {"scenes/train/__main__"},
    "noise-aware": {"scenes/train/__main__", "scenes/train/noise_aware"},
}


def test_every_method_has_its_line_in_the_registry() -> None:
    """A class with a `kind` that the registry has not is a method that nobody can call."""
    defined = set()
    for path in METHOD_FILES:
        for node in ast.walk(parse(path)):
            if (
                isinstance(node, ast.AnnAssign)
                and getattr(node.target, "id", "") == "kind"
                and node.value is not None
            ):
                defined.add(ast.literal_eval(node.value))
    assert defined == set(METHODS.own)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_it_can_be_read(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert len(line) <= LONGEST_LINE or "://" in line, (
            f"line {number} has {len(line)} characters"
        )
        assert "type: ignore[override]" not in line, f"line {number}"


def test_chains_and_methods_that_draw_are_differentiable() -> None:
    """`no_grad` is the executor's; of methods only those that train or optimise have some, for what is their own."""
    own = {"doodl", "hybrid", "audit", "thing"}
    own |= {"sampling"}  # which looks for the step at which a broken chain broke
    own |= {"truncated"}  # which leaves Jacobians out
    for path in [*METHOD_FILES, *(SOURCE / "diffusion").rglob("*.py")]:
        trains = "Training" in code_of(path)
        if path.stem not in own and not trains:
            assert "no_grad" not in code_of(path), name_of(path)


def code_of(path: Path) -> str:
    """A file without its comments and docstrings."""
    tree = parse(path)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def test_importing_is_light() -> None:
    """diffusers, transformers and their like are imported when a checkpoint is loaded, not before."""
    code = "import sys, chainrule; print([m for m in ('diffusers', 'transformers', 'rich') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports them by their bare names: the second of two would fail a fresh clone's suite."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_no_test_looks_at_a_clock() -> None:
    """What a test asserts by wall clock fails on a busy machine."""
    clocks = {"perf_counter", "monotonic", "process_time"}
    for path in Path(__file__).parent.rglob("*.py"):
        named = {getattr(node, "attr", None) for node in ast.walk(parse(path))}
        imported = {getattr(node, "name", None) for node in ast.walk(parse(path))}
        assert not clocks & (named | imported), path.name
