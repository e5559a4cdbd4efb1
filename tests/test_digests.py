"""What must not change: the images of every method, bit for bit, and its counted network passes.

`digests.json` was recorded before the redesign of version 0.2. Where a digest differs on another
kind of processor, the coarse picture (16 means an image) still has to be the same.
`python tests/test_digests.py` records them anew: only for what is changed on purpose, and said so.
"""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny
from chainrule.bundled import SCENES
from chainrule.methods import METHODS, Sheet
from chainrule.methods.doodl import QUICK
from chainrule.models import Model, trained
from chainrule.optimise import Adam
from chainrule.runs import load_model, load_task, parse_spec
from chainrule.runs.passes import count_passes
from chainrule.scenes.base import Scene, Thing, render

RECORDED = Path(__file__).with_name("digests.json")
FAMILIES = ("bundled", "Stable Diffusion 1.x", "Stable Diffusion XL", "Stable Diffusion 3")
ON_PURPOSE = {
    "hybrid": "short draws choose the noise that guided ones begin at",
    "doodl quick": "the redraw in more steps is kept only where it is better than the best that was found: 2 of 4",
}
"""What differs from the first record, and why."""

RECORDED_ON = "10c6172ec66e"
"""The processor and the torch of the record: on these every bit has to be the same."""


def identify_machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line for line in lines if line.startswith("model name")), platform.processor())
    parts = (torch.__version__, torch.backends.cpu.get_cpu_capability(), model)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


HEART = [{"kind": "classifier", "target": "heart"}]
FAITHFUL = {"iterations": 2, "steps": 4, "crops": 2}
TUNED = {
    "start_of": 2, "iterations": 2, "steps": 4, "optimiser": Adam(rate=0.05), "mix": None, "perturbation": 0.0,
    "crops": 4,
}  # fmt: skip
QUICKLY = QUICK | {"start_of": 2, "iterations": 2, "steps": 4, "final_steps": 6, "target": None}
STEPS = {"steps": 4}

NOISE: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain", STEPS),
    "plain heun karras": ("plain", {**STEPS, "solver": "heun", "grid": "karras"}),
    "variations": ("variations", {**STEPS, "near": 1}),
    "one-step": ("one-step", STEPS),
    "tfg": ("tfg", STEPS),
    "tfg strong": ("tfg", {**STEPS, "like": "strong"}),
    "best-of": ("best-of", {**STEPS, "count": 3}),
    "doodl": ("doodl", FAITHFUL),
    "doodl tuned": ("doodl", TUNED),
    "doodl quick": ("doodl", QUICKLY),
    "adjoint-dpm": ("adjoint-dpm", {**STEPS, "iterations": 2}),
    "adjoint-dpm adjoint": ("adjoint-dpm", {**STEPS, "iterations": 2, "adjoint": True}),
    "doodl terms": (
        "doodl",
        {**QUICKLY, "whiten": True, "noise_terms": {"norm": 0.01, "bounds": 1.0}},
    ),
    "reno": ("reno", {"iterations": 2, "final_steps": 4}),
    "dno": ("dno", {**STEPS, "iterations": 2}),
    "langevin": ("langevin", {**STEPS, "iterations": 3}),
    "hybrid": ("hybrid", {**STEPS, "budget": 100, "searched": 0.5}),
    "search": ("search", {**STEPS, "budget": 40}),
    "search moves": ("search", {**STEPS, "budget": 40, "by": "moves"}),
    "search particles": ("search", {**STEPS, "budget": 40, "by": "particles"}),
    "noise-aware": ("noise-aware", STEPS),
    "semantic": ("semantic", STEPS),
}
EDIT: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, STEPS)
        for name in ("reconstruction", "edict", "ddim", "blended", "diffedit", "asyrp")
    },
    "sdedit": ("sdedit", {**STEPS, "strength": 0.6, "repeats": 2, "eta": 0.5}),
    "ilvr": ("ilvr", {**STEPS, "factor": 2}),
    "repaint": ("repaint", {**STEPS, "repeats": 2}),
    "one-step edit": ("one-step", STEPS),
    "tfg edit": ("tfg", STEPS),
    "doodl edit": ("doodl", {**FAITHFUL, "renormalise": False}),
    "noise-aware edit": ("noise-aware", STEPS),
    "semantic edit": ("semantic", STEPS),
    "prompt-to-prompt": ("prompt-to-prompt", STEPS),
    "prompt-to-prompt own": ("prompt-to-prompt", STEPS),
    "imagic": ("imagic", {"embedding_iterations": 2, "iterations": 2, "rank": 2, "steps": 2}),
    "unitune": ("unitune", {"iterations": 2, "rank": 2, "steps": 2, "batch": 2}),
    "diffusion-clip-edit": ("diffusion-clip-edit", {"steps": 4}),
    "asyrp-edit": ("asyrp-edit", {"steps": 4, "boost": 0.5}),
}
LEARN: dict[str, tuple[str, dict[str, Any]]] = {
    "effect": ("effect", {"vectors": 2, "iterations": 2, "steps": 2}),
    "stylize": ("stylize", {"epochs": 1, "batch": 2, "steps": 2, "rank": 2, "other_seeds": (100,)}),
    "textual-inversion": (
        "textual-inversion",
        {"initial": "shape", "templates": ("a {}",), "iterations": 3, "steps": 2},
    ),
    "dreambooth": (
        "dreambooth",
        {"noun": "shape", "iterations": 3, "prior_images": 2, "steps": 2, "rank": 2},
    ),
    "reward": ("reward", {"iterations": 2, "batch": 2, "steps": 2, "rank": 2}),
    "diffusion-clip": (
        "diffusion-clip",
        {"iterations": 2, "batch": 2, "inversion_steps": 4, "steps": 2, "rank": 2},
    ),
    "asyrp-trained": ("asyrp-trained", {"iterations": 4, "batch": 2, "steps": 4}),
    "audit": ("audit", {"tau": (0.1, 0.3), "iterations": 2, "steps": 2}),
}
CASES = NOISE | EDIT | LEARN
SHOWN, WANTED = "a red circle on a white background", "a green circle on a white background"
THING = ("a {} on a white background", "a {}")
LEARNT = {
    "effect": {"prompt": (SHOWN,), "seed": (0,), "pictures": ("photo.png", "after.png")},
    "stylize": {
        "prompt": ("a red square on a white background", "a blue circle on a black background"),
        "seed": (0, 1),
        "pictures": ("after.png",),
    },
    "textual-inversion": {"prompt": THING, "seed": (0,), "pictures": ("photo.png", "after.png")},
    "dreambooth": {"prompt": THING, "seed": (0,), "pictures": ("photo.png", "after.png")},
    "reward": {"prompt": (SHOWN, WANTED), "seed": (0, 1)},
    "diffusion-clip": {"prompt": ("",), "seed": (0,), "pictures": ("photo.png", "after.png")},
    "asyrp-trained": {"prompt": ("",), "seed": (0,), "pictures": ("photo.png", "after.png")},
    "audit": {"prompt": (SHOWN, "a blue circle on a black background"), "seed": (0, 1)},
}


@cache
def files() -> Path:
    folder = Path(mkdtemp())
    render(Scene((Thing("circle", "red", 22, 26, 15),), "white")).save(folder / "photo.png")
    render(Scene((Thing("square", "blue", 32, 32, 20),), "white")).save(folder / "after.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 44, 48))
    mask.save(folder / "mask.png")
    return folder


@cache
def model_of(family: str) -> Model:
    name = (
        "scenes"
        if family == "bundled"
        else str(tiny.save_family(family, files() / family.replace(" ", "_")))
    )
    return load_model(
        parse_spec({"methods": [{"kind": "plain"}], "checkpoint": {"model": name}}).checkpoint
    )


def spec_of(family: str, name: str) -> Any:
    kind, settings = CASES[name]
    inputs: dict[str, Any] = {"prompt": "a red shape on a white background", "seed": (0, 1)}
    losses: list[dict[str, Any]] = HEART
    if name in EDIT:
        own = name == "prompt-to-prompt own"
        inputs |= {"prompt": WANTED, "source": SHOWN, "guidance_scale": 3.0}
        inputs |= {} if own else {"photo": files() / "photo.png", "mask": files() / "mask.png"}
    if name in LEARNT:
        inputs, losses = dict(LEARNT[name]), HEART if name == "reward" else []
        inputs["pictures"] = tuple(files() / picture for picture in inputs.get("pictures", ()))
    if family != "bundled" and name == "stylize":
        settings = {**settings, "features": str(SCENES.classifier)}
    if family != "bundled" and name == "audit":
        settings = {**settings, "judge": str(SCENES.judge)}
    settings = {**tiny.required(kind), **settings}
    if name == "semantic":
        losses = [{"kind": "text", "target": "a red heart"}]
    if name == "semantic edit":
        losses = []
    return parse_spec({"inputs": inputs, "losses": losses, "methods": [{"kind": kind, **settings}]})


def record(family: str, name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    spec = spec_of(family, name)
    model, passes = count_passes(model_of(family))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = load_task(spec, model)
        (method,) = spec.methods
        task = method.prepare(task)
        forward = passes.forward
        state = None
        for state in method.run(task):  # noqa: B007
            pass
        spent = [passes.forward - forward, passes.backward]
        images = shown(method, task, state)
    eight = images.clamp(0, 1).mul(255).round().byte().contiguous()
    coarse = (
        torch.nn.functional.adaptive_avg_pool2d(images, 4)
        .mul(1000)
        .round()
        .int()
        .flatten()
        .tolist()
    )
    return {
        "digest": hashlib.sha256(eight.numpy().tobytes()).hexdigest(),
        "passes": spent,
        "coarse": coarse,
    }


def shown(method: Any, task: Any, state: Any) -> Tensor:
    """The images by which a method is known."""
    result = method.result(task, state)
    if not isinstance(result, Sheet):
        return result.images.float()
    if method.kind == "audit":
        return torch.cat(method.compare(task, state, torch.arange(4)))
    if method.kind == "effect":
        noise = torch.cat([method.find_noise(task), task.model.noise(task.seeds)])
        return method.draw(task, state.best["vectors"], f"{SHOWN} {method.word}", noise)
    if method.kind != "stylize":
        return torch.cat(list(result.columns.values()))
    wanted = [
        ("a red square on a white background", 0),
        ("a blue circle on a black background", 100),
    ]
    with trained.use(task.model, method.part, state.values):
        return method.draw(task.model, wanted)


def cases() -> Iterator[Any]:
    for family, names in json.loads(RECORDED.read_text()).items():
        for name in names:
            yield pytest.param(family, name, id=f"{family}: {name}")


@pytest.mark.parametrize(("family", "name"), cases())
def test_it_draws_what_it_drew(family: str, name: str) -> None:
    wanted, found = json.loads(RECORDED.read_text())[family][name], record(family, name)
    assert found["passes"] == wanted["passes"]
    if identify_machine() == RECORDED_ON:
        assert found["digest"] == wanted["digest"]
    elif found["digest"] != wanted["digest"]:
        assert max(abs(a - b) for a, b in zip(found["coarse"], wanted["coarse"], strict=True)) <= 2


def test_every_method_is_recorded() -> None:
    recorded = {CASES[name][0] for name in json.loads(RECORDED.read_text())["bundled"]}
    assert recorded == set(METHODS.own) - {"inversion"}  # which draws nothing


if __name__ == "__main__":
    old = json.loads(RECORDED.read_text())
    for name in set(CASES) - {name for names in old.values() for name in names}:
        old["bundled"][name] = {}  # a new method
    new = {family: {name: record(family, name) for name in names} for family, names in old.items()}
    for family, names in old.items():
        changed = [name for name in names if new[family][name] != names[name]]
        print(f"{family}: {len(names) - len(changed)} of {len(names)} the same; not {changed}")
    RECORDED.write_text(json.dumps(new, indent=1))
