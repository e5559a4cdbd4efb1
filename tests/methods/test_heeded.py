"""Every setting of every method does something, or is refused: none is ignored in silence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from chainrule import EDICT, Checkpoint, UserError
from chainrule.bundled import SCENES
from chainrule.diffusion.solvers.adams_bashforth import AdamsBashforth
from chainrule.diffusion.solvers.registry import SOLVERS
from chainrule.diffusion.solvers.runge_kutta import Euler
from chainrule.losses import Call
from chainrule.methods import (
    DOODL,
    METHODS,
    Adam,
    Method,
    Momentum,
    Needs,
    Photo,
    Plain,
    Sheet,
    Task,
)
from chainrule.methods.base import PRESETS, Situation
from chainrule.models import Model
from chainrule.runs.passes import count_passes
from tiny import load_once, required

pytestmark = pytest.mark.filterwarnings(
    "ignore::chainrule.diffusion.solvers.edict.DriftWarning", "ignore:.*does not fit into a chain"
)

SHOWN, WANTED = "a red circle on a white background", "a circle in a blue square"
PICTURE = "docs/images/heart.png"
BASE: dict[str, dict[str, Any]] = {
    "best-of": {"count": 1},
    "search": {"budget": 40},
    "hybrid": {"budget": 80, "optimiser": Adam(rate=0.2)},
    "doodl": {"iterations": 1, "steps": 2, "crops": 1, "optimiser": Adam(rate=0.2)},
    "adjoint-dpm": {"iterations": 1, "steps": 2},
    "reno": {"iterations": 1, "steps": 2, "optimiser": Momentum(rate=5.0, clip=None)},
    "dno": {"iterations": 1, "steps": 3},
    "langevin": {"iterations": 3, "steps": 2, "burn_in": 0.5},
    "ilvr": {"factor": 2},
    "repaint": {"jump": 1, "repeats": 2},
    "blended": {"crops": 2},
    "diffedit": {"noises": 1},
    "effect": {"iterations": 1, "vectors": 1, "steps": 2, "optimiser": Adam(rate=0.5)},
    "stylize": {"epochs": 1, "steps": 2, "batch": 2, "rank": 1, "optimiser": Adam(rate=0.05),
                "features": str(SCENES.classifier), "other_seeds": (7,)},
    "textual-inversion": {"iterations": 1, "steps": 2, "batch": 1, "optimiser": Adam(rate=0.5)},
    "dreambooth": {"iterations": 1, "steps": 2, "prior_images": 2, "rank": 1,
                   "optimiser": Adam(rate=0.1)},
    "reward": {"iterations": 1, "steps": 2, "batch": 1, "rank": 1, "optimiser": Adam(rate=0.1)},
    "imagic": {"embedding_iterations": 1, "iterations": 1, "steps": 2, "rank": 1,
               "embedding_optimiser": Adam(rate=0.5), "optimiser": Adam(rate=0.1)},
    "diffusion-clip": {"iterations": 1, "inversion_steps": 8, "steps": 2, "rank": 1, "batch": 2,
                       "optimiser": Adam(rate=0.1)},
    "asyrp-trained": {"iterations": 2, "batch": 2, "optimiser": Adam(rate=0.1)},
    "unitune": {"iterations": 1, "batch": 1, "rank": 1, "optimiser": Adam(rate=0.1)},
    "audit": {"tau": (0.1,), "iterations": 1, "judge": str(SCENES.judge)},
}  # fmt: skip
"""Few iterations, and what a tiny model needs."""
OTHER: dict[str, Any] = {
    "optimiser": Momentum(rate=3.0, clip=None),
    "solver": "heun",
    "grid": "karras",
    "scale": 100.0,
    "weight": {"circle": 3.0},
    "blend": ("circle",),
    "start_of": 2,
    "target": 1e9,
    "final_steps": None,
    "word": "<other>",
    "other": ("a star",),
    "other_seeds": (8,),
    "tau": (0.1, 0.5),
    "guidance_scale": 4.0,
    "mix": 0.6,
    "until": 0.2,
    "cut_power": 3.0,
    "strength": 0.25,
    "cross": 0.1,
    "self_attention": 0.9,
    "threshold": 0.1,
    "mask_strength": 0.9,
    "mask_clip": 1.1,
    "stop": 1.0,
    "factor": 1,
    "jump": 2,
    "average": False,
    "initial": "circle",
    "templates": ("the {}",),
    "rank": 2,
    "token": "xyz",
    "noun": "circle",
}
"""Another value of a setting, where one more, or the other choice, does not do."""
WITH: dict[tuple[str, str], dict[str, Any]] = {
    ("search", "budget"): {"budget": 60},
    ("search", "searched"): {"by": "moves", "searched": 0.9},
    ("search", "reach"): {"by": "moves", "reach": 0.1},
    ("search", "sharpness"): {"by": "particles", "sharpness": 1e4},
    ("search", "looks"): {"by": "particles", "looks": 2},
    ("hybrid", "budget"): {"budget": 120},
    ("hybrid", "searched"): {"searched": 0.1},
    ("hybrid", "optimiser"): {"optimiser": Adam(rate=0.01), "searched": 0.3},
    ("hybrid", "rho"): {"rho": 1.0},
    ("hybrid", "mu"): {"mu": 1.0},
    ("hybrid", "last"): {"last": 1, "searched": 0.3},
    ("hybrid", "solve"): {"solve": 2, "searched": 0.3},
    ("doodl", "final_steps"): {"mix": None, "final_steps": 6},
    ("prompt-to-prompt", "blend_from"): {"blend": ("circle",), "blend_from": 0.8},
    ("doodl", "last"): {"last": 1},
    ("doodl", "adjoint"): {"mix": None, "adjoint": True},
    ("doodl", "clip_norm"): {"optimiser": Momentum(rate=3.0, clip=None), "clip_norm": 1e-3},
    ("doodl", "noise_terms"): {"noise_terms": {"norm": 1.0}},
    ("reno", "clip_norm"): {"clip_norm": 1e-3},
    ("reno", "noise_terms"): {"noise_terms": {"spectrum": 1.0}},
    ("reno", "optimiser"): {"optimiser": Momentum(rate=1.0, clip=None)},
    ("reno", "final_steps"): {"final_steps": 6},
    ("dno", "clip_norm"): {"noise_terms": {"norm": 1.0}, "clip_norm": 1e-12},
    ("dno", "noise_terms"): {"noise_terms": {"norm": 1.0}},
    ("dno", "optimiser"): {"optimiser": Adam(rate=0.1)},
    ("langevin", "deliver"): {"deliver": "best", "temperature": 1e9, "burn_in": 1.0},
    ("langevin", "burn_in"): {"burn_in": 0.0},
    ("stylize", "batch"): {"batch": 1},
    ("effect", "optimiser"): {"optimiser": Adam(rate=0.1)},
    ("textual-inversion", "optimiser"): {"optimiser": Adam(rate=0.1)},
    ("dreambooth", "optimiser"): {"optimiser": Adam(rate=0.01)},
    ("dreambooth", "text_encoder"): {"rank": None, "text_encoder": True},
    ("reward", "optimiser"): {"optimiser": Adam(rate=0.01)},
    ("reward", "last"): {"through": "last", "last": 2},
    ("reward", "through"): {"through": "last"},
    ("imagic", "embedding_optimiser"): {"embedding_optimiser": Adam(rate=0.1)},
    ("imagic", "optimiser"): {"optimiser": Adam(rate=0.01)},
    ("unitune", "optimiser"): {"optimiser": Adam(rate=0.01)},
    ("diffusion-clip", "optimiser"): {"optimiser": Adam(rate=0.01)},
    ("diffusion-clip", "change"): {"change": "a red circle > a red star"},
    ("diffusion-clip", "told"): {"told": "a circle"},
    ("diffusion-clip", "features"): {"perceptual": 1.0, "features": str(SCENES.clip)},
    ("diffusion-clip", "clip"): {"clip": {"": 0.5}},
    ("diffusion-clip", "other"): {"other": (Path(__file__).parents[2] / PICTURE,)},
    ("diffusion-clip", "l1"): {"l1": 9.0},
    ("diffusion-clip", "perceptual"): {"perceptual": 9.0},
    ("diffusion-clip", "start"): {"start": 1.0},
    ("asyrp-trained", "optimiser"): {"optimiser": Adam(rate=0.01)},
    ("asyrp-trained", "change"): {"change": "a red circle > a red star"},
    ("asyrp-trained", "told"): {"told": "a circle"},
    ("asyrp-trained", "features"): {"features": str(SCENES.clip)},
    ("asyrp-trained", "clip"): {"clip": {"": 0.5}},
    ("asyrp-trained", "other"): {"other": (Path(__file__).parents[2] / PICTURE,)},
    ("asyrp-trained", "until"): {"until": 0.5},
    ("asyrp-trained", "boost"): {"boost": 0.5},
    ("asyrp-edit", "until"): {"until": 0.5},
    ("asyrp-edit", "boost"): {"boost": 0.5},
    ("stylize", "optimiser"): {"optimiser": Adam(rate=0.01)},
    ("adjoint-dpm", "optimiser"): {"optimiser": Adam(rate=0.02)},
    ("one-step", "strength"): {"strength": 1.0},
    ("tfg", "rho"): {"rho": 30.0},
    ("tfg", "mu"): {"mu": 3.0},
    ("tfg", "rho_schedule"): {"rho_schedule": "constant"},
    ("tfg", "mu_schedule"): {"mu_schedule": "constant"},
    ("tfg", "pushes"): {"pushes": 2},
    ("tfg", "gamma"): {"gamma": 0.5},
    ("tfg", "samples"): {"samples": 3},
    ("tfg", "normalise"): {"normalise": "gradient"},
    ("tfg", "fixed"): {"fixed": "x_t"},
    ("tfg", "recurrences"): {"recurrences": 2},
    ("tfg", "eta"): {"eta": 0.5},
    ("inversion", "strength"): {"strength": 0.5},
}
"""What a setting is changed with, where it is one of several or another value is needed."""
UNSEEN = {
    ("effect", "word"): "a word by any other name is the same vectors",
    ("textual-inversion", "word"): "likewise",
    ("audit", "batch"): "how many images are computed at a time: the same images",
    ("audit", "classifier"): "the bundled one is the only one that is small",
    ("audit", "judge"): "likewise",
    ("stylize", "features"): "likewise",
    ("prompt-to-prompt", "align"): "matters where the two ways match otherwise: test_references",
    ("variations", "start"): "a file of a run: test_variations",
    ("variations", "row"): "which of that file's images: test_variations",
}
"""The settings whose change shows in nothing here, and why."""
SLOW = ("audit", "stylize")
CASES = [
    pytest.param(kind, name, marks=pytest.mark.slow if kind in SLOW else ())
    for kind, method in METHODS.own.items()
    for name in method.model_fields
    if name != "kind" and (kind, name) not in UNSEEN
]


def make(kind: str, **changes: Any) -> Any:
    method: Any = METHODS.own[kind]
    needed = required(kind, load_once("Stable Diffusion 1.x"))
    return method(**({"steps": 4} | needed | BASE.get(kind, {}) | changes))


def change(kind: str, name: str) -> dict[str, Any]:
    """Another value of a setting, and what it needs besides."""
    if (kind, name) in WITH:
        return WITH[kind, name]
    if name in ("tuned", "directions"):
        return {name: dict.fromkeys(getattr(make(kind), name), 0.5)}
    field, now = METHODS.own[kind].model_fields[name], getattr(make(kind), name)
    if name in OTHER and OTHER[name] != now:
        return {name: OTHER[name]}
    if isinstance(now, bool):
        return {name: not now}
    if isinstance(now, str):
        return {name: next(each for each in get_args(field.annotation) if each != now)}
    if isinstance(now, int):
        return {name: now + 1}
    assert isinstance(now, float), f"say another value of {kind}'s {name} in this file"
    return {name: now / 2 if now else 0.5}


def dark(images: Tensor) -> Tensor:
    ramp = torch.linspace(0, 1, images.shape[-1])
    return (images * ramp).square().mean(dim=(1, 2, 3))


def task(
    kind: str, *, photo: bool | None = None, mask: bool | None = None, model: Model | None = None
) -> Task:
    """All that a method needs; a photo wherever one may be."""
    needs, model = METHODS.own[kind].needs, model or load_once("Stable Diffusion 1.x")
    draw = torch.Generator().manual_seed(0)
    images, shape = torch.rand(1, 3, 16, 16, generator=draw), torch.zeros(1, 1, 16, 16)
    shape[..., :8] = 1.0
    shown, told = (model.denoiser(prompt, guidance_scale=2.0) for prompt in (SHOWN, WANTED))
    masked = Needs.MASK in needs if mask is None else mask
    edited = Photo(images, shown, (16, 16), shape if masked else None, prompts=(SHOWN,))
    prompts = (SHOWN, WANTED) if Needs.PROMPTS in needs else (WANTED,)
    prompts = ("a {} on white", "a {}") if kind in ("textual-inversion", "dreambooth") else prompts
    takes = not needs & (Needs.NOISE | Needs.PICTURES) if photo is None else photo
    return Task(
        model,
        told,
        (0,),
        None if kind == "semantic" else Call(dark),
        edited if takes else None,
        prompts=prompts,
        pictures=tuple(torch.rand(2, 3, 16, 16, generator=draw))[: 2 if kind == "effect" else 1],
        energy=lambda x, t: x.square().mean(dim=(1, 2, 3)),
    )


KNOWN: dict[tuple[str, str, bool], tuple[list[Tensor], int]] = {}


def known_by(method: Any, name: str) -> tuple[list[Tensor], int]:
    """All that a method makes of a task on which a setting acts, and how often it asks the network.

    DOODL's start among draws, its redraw, and short draws are of noise; what a network predicts and eps are one
    but for those that predict v.
    """
    kind = method.kind
    family = "Stable Diffusion 2.x (v)" if name == "coupling" else "Stable Diffusion 1.x"
    of_noise = kind == "doodl" or name in METHODS.own[kind].from_noise
    key = (method.model_dump_json(), "scenes" if kind == "audit" else family, of_noise)
    if key not in KNOWN:  # most settings of a method are compared with the same run
        KNOWN[key] = _run(method, *key[1:])
    return KNOWN[key]


def _run(method: Any, family: str, of_noise: bool) -> tuple[list[Tensor], int]:
    model, passes = count_passes(load_once(family))
    asked = task(method.kind, photo=False if of_noise else None, model=model)
    prepared = method.prepare(asked)
    *_, last = method.run(prepared)
    spent, found = passes.total, method.result(prepared, last)
    tensors = list(last.tensors().values())
    if isinstance(found, Sheet):
        numbers = torch.tensor([float(len(str(found.numbers)))])
        return [*tensors, *found.columns.values(), numbers], spent
    return [*tensors, found.images], spent


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_setting_that_is_changed_changes_something(kind: str, name: str) -> None:
    changes = change(kind, name)
    rest = {key: value for key, value in changes.items() if key != name}
    one, other = (known_by(make(kind, **some), name) for some in (rest, changes))
    assert one[1] > 0
    assert one[1] != other[1] or not same(one[0], other[0])


def test_what_shows_in_nothing_is_a_setting() -> None:
    for kind, name in UNSEEN:
        assert name in METHODS.own[kind].model_fields


# --- what has no effect in some task is refused -------------------------------------------------

WITHOUT_PHOTO = [(k, n) for k, method in METHODS.own.items() for n in method.with_photo]
WITHOUT_NOISE = [(k, n) for k, method in METHODS.own.items() for n in method.from_noise]


@pytest.mark.parametrize(("kind", "name"), WITHOUT_PHOTO + WITHOUT_NOISE)
def test_a_setting_without_effect_on_a_task_is_refused(kind: str, name: str) -> None:
    photo = name in METHODS.own[kind].from_noise
    method = make(kind, **change(kind, name))
    with pytest.raises(UserError, match=f"{name} has no effect on {kind} w") as caught:
        method.prepare(task(kind, photo=photo))
    assert caught.value.field == name
    method.prepare(task(kind, photo=not photo))
    make(kind).prepare(task(kind, photo=photo))  # its default says nothing


@pytest.mark.parametrize("name", ["noises", "threshold", "mask_rule", "mask_clip", "mask_strength"])
def test_how_a_mask_is_found_has_no_effect_where_one_is_given(name: str) -> None:
    method = METHODS.own["diffedit"](steps=4, **change("diffedit", name))
    with pytest.raises(UserError, match=f"{name} has no effect on diffedit with a mask"):
        method.prepare(task("diffedit", mask=True))
    method.prepare(task("diffedit", mask=False))


@pytest.mark.parametrize("name", ["scale", "crops"])
def test_how_a_loss_pushes_has_no_effect_without_one(name: str) -> None:
    method = METHODS.own["blended"](steps=4, **change("blended", name))
    with pytest.raises(UserError, match=f"{name} has no effect on blended without a loss"):
        method.prepare(replace(task("blended"), loss=None))


@pytest.mark.parametrize(
    ("kind", "changes", "cause"),
    [
        ("doodl", {"mix": None, "average": False}, "average has no effect on doodl without a mix"),
        ("doodl", {"crops": 0, "cut_power": 1.0}, "cut_power has no effect on doodl without crops"),
        ("prompt-to-prompt", {"blend_from": 0.5}, "blend_from has no effect on prompt-to-prompt"),
    ],
)
def test_settings_that_undo_each_other_are_refused(
    kind: str, changes: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ValueError, match=cause):
        METHODS.own[kind](**changes)


@pytest.mark.parametrize("kind", METHODS.own)
@pytest.mark.parametrize("photo", [False, True])
def test_presets_name_no_setting_without_effect(kind: str, photo: bool) -> None:
    method: type[Method] = METHODS.own[kind]
    alone = bool(method.needs & (Needs.NOISE | Needs.PICTURES))
    if (photo and alone) or (not photo and Needs.PHOTO in method.needs):
        pytest.skip("it never edits a photo, or always does")
    if kind in ("audit", "stylize"):
        pytest.skip("what it needs is not of the bundled world here")
    for name in PRESETS:
        if (method, name, photo) != (DOODL, "quick", True):
            needed = required(kind, load_once("Stable Diffusion 1.x"))
            made: Any = method(**(needed | method.preset(Situation(name, "symmetry", photo))))
            made.prepare(task(kind, photo=photo))


@dataclass(frozen=True)
class Mine(Euler):
    """Somebody's own solver."""


@pytest.mark.parametrize("name", SOLVERS.own)
def test_a_solver_may_be_an_object_that_has_a_name(name: str) -> None:
    solver = SOLVERS[name]()
    given = [solver] if name.startswith("ab") else [solver, type(solver)]
    for each in given:
        method = Plain(solver=each)
        assert method == Plain(solver=name)
        assert Plain.model_validate_json(method.model_dump_json()) == method


@pytest.mark.parametrize("solver", [Mine(), Mine, EDICT(mix=0.5), AdamsBashforth(3)], ids=repr)
def test_a_solver_without_a_name_is_refused_with_the_way_to_use_it(solver: Any) -> None:
    if solver == SOLVERS["ab3"]():
        assert Plain(solver=solver).solver == "ab3"
        return
    with pytest.raises(UserError, match=r"has no name there: .*register yours .*sample") as caught:
        Plain(solver=solver)
    assert caught.value.field == "solver"


@pytest.mark.parametrize("given", ["checkpoint", Checkpoint, Checkpoint()], ids=repr)
def test_a_task_takes_a_gradient_in_any_form(given: Any) -> None:
    model = load_once()
    asked = Task(model, model.denoiser("a circle"), 0, gradient=given)
    assert asked.gradient == Checkpoint()
    with pytest.raises(UserError, match="is not a gradient"):
        replace(asked, gradient=3)
