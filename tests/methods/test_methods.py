"""What holds for every method: called on a task in Python, and its states go through a file and on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from chainrule import UserError
from chainrule.images import from_pil
from chainrule.losses import Classifier, load_classifier
from chainrule.methods import METHODS, Needs, Photo, Result, Sheet, State, Task
from chainrule.methods.base import Drawn
from chainrule.methods.chains import OneShot
from chainrule.scenes.base import Scene, Thing, render
from tiny import load_once, required

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")

SHOWN, WANTED = "a red circle on a white background", "a blue square on a white background"
SMALL: dict[str, dict[str, Any]] = {
    "best-of": {"count": 2},
    "search": {"budget": 9},
    "hybrid": {"budget": 40},
    "tfg": {"pushes": 1},
    "sdedit": {"repeats": 2},
    "repaint": {"jump": 1, "repeats": 2},
    "blended": {"crops": 1},
    "doodl": {"iterations": 2, "crops": 1, "mix": None, "final_steps": 3},
    "adjoint-dpm": {"iterations": 1},
    "reno": {"iterations": 1, "final_steps": 3},
    "dno": {"iterations": 1},
    "langevin": {"iterations": 2},
    "effect": {"iterations": 2, "vectors": 1},
    "stylize": {"epochs": 1, "batch": 2, "rank": 1, "other_seeds": (7,)},
    "textual-inversion": {"iterations": 12, "batch": 1},
    "dreambooth": {"iterations": 22, "prior_images": 2, "rank": 1},
    "reward": {"iterations": 6, "batch": 1, "rank": 1},
    "diffusion-clip": {"iterations": 6, "inversion_steps": 4, "rank": 1},
    "asyrp-trained": {"iterations": 6, "until": 0.5, "boost": 0.0},
    "imagic": {"embedding_iterations": 21, "iterations": 21, "rank": 1},
    "unitune": {"iterations": 17, "batch": 1, "rank": 1},
    "audit": {"tau": (0.1,), "iterations": 2},
}
THING = ("a {} on a white background", "a {}")
PROMPTS = {
    "stylize": (SHOWN, WANTED),
    "audit": (SHOWN, WANTED),
    "textual-inversion": THING,
    "dreambooth": THING,
}
EDICT = {"doodl, of a photo's pair": ("doodl", {"iterations": 1, "mix": 0.99})}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    kind: (kind, SMALL.get(kind, {})) for kind in METHODS.own
} | EDICT
TRAIN = ("stylize", "textual-inversion", "dreambooth", "imagic", "unitune")
ONE_SHOT = [kind for kind, method in METHODS.own.items() if issubclass(method, OneShot)]


def make(case: str) -> Any:
    kind, settings = CASES[case]
    method: Any = METHODS.own[kind]
    return method(**({"steps": 2} | required(kind) | settings))


@cache
def pictures() -> tuple[Tensor, Tensor]:
    scenes = (Thing("circle", "red", 22, 26, 15), Thing("square", "blue", 32, 32, 20))
    before, after = from_pil([render(Scene((thing,), "white")) for thing in scenes])
    return before, after


def task(case: str) -> Task:
    """All that a method needs, and no more than it takes."""
    kind, _ = CASES[case]
    model, needs, before = load_once(), METHODS.own[kind].needs, pictures()[0]
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, :48, :44] = 1.0
    shown, told = (model.denoiser(prompt, guidance_scale=2.0) for prompt in (SHOWN, WANTED))
    images = torch.stack([before, before])
    photo = Photo(images, shown, (64, 64), mask.expand(2, -1, -1, -1), prompts=(SHOWN,))
    loss = Classifier(load_classifier(), "heart")
    return Task(
        model,
        told,
        (0, 1),
        None if kind == "semantic" else loss,
        None if needs & (Needs.NOISE | Needs.PICTURES) or case in ("audit", "doodl") else photo,
        prompts=PROMPTS.get(kind, (WANTED,)),
        pictures=pictures() if kind == "effect" else pictures()[1:],
    )


@cache
def whole(case: str) -> tuple[Any, Any, list[State]]:
    """A method, what it takes, and its states to the end."""
    method = make(case)
    prepared = method.prepare(task(case))
    return method, prepared, list(method.run(prepared))


@pytest.mark.parametrize("case", CASES)
def test_it_is_called_on_a_task(case: str) -> None:
    method, prepared, states = whole(case)
    told: list[tuple[int, int]] = []
    found = method(task(case), lambda *step: told.append(step))
    if isinstance(found, Sheet):
        assert found.columns
        shown = torch.cat(list(found.columns.values()))
    else:
        assert isinstance(found, Result)
        assert found.images.shape == (2, 3, 64, 64)
        assert found.latents.shape == found.x_T.shape == (2, 4, 16, 16)
        shown = found.images
        same = method.result(prepared, states[-1])  # one call is what its parts are
        assert torch.equal(found.images, same.images)
        assert (found.losses is None) == (prepared.loss is None)
    assert torch.isfinite(shown).all()
    assert 0 <= shown.min() < shown.max() <= 1
    tells = case not in TRAIN  # which tell of iterations
    assert told or not tells
    assert all(1 <= done <= total for done, total in told)


@pytest.mark.parametrize("case", CASES)
def test_its_states_go_through_a_file_and_on(case: str) -> None:
    """Bit for bit: what was stopped after any iteration ends as what never was."""
    method, prepared, states = whole(case)
    assert all(isinstance(state, type(method).state) for state in states)
    count = method.count_iterations(prepared)
    assert states[-1].iteration == (count or 1)
    last = states[-1].tensors()
    for state in states:
        kept = {name: tensor.contiguous().clone() for name, tensor in state.tensors().items()}
        again = type(method).state.from_tensors(load(save(kept)))
        assert again.iteration == state.iteration
        assert again.numbers == state.numbers
        method.require_own(prepared, again)
        resumed = list(method.run(prepared, again))
        assert len(resumed) == len(states) - states.index(state) - 1
        ended = (resumed or [again])[-1].tensors()
        assert ended.keys() == last.keys()
        for name, tensor in last.items():
            assert torch.equal(ended[name], tensor), name


@pytest.mark.parametrize("kind", METHODS.own)
def test_the_state_of_another_method_is_refused(kind: str) -> None:
    state = METHODS.own[kind].state
    with pytest.raises(UserError, match=r"not (a|the) state"):
        state.from_tensors({"something": torch.zeros(1)})


WITHOUT: dict[str, tuple[Needs, Callable[[Task], Task]]] = {
    "method": (Needs.NOISE, lambda asked: replace(asked, photo=task("edict").photo)),
    "prompt": (Needs.PROMPT, lambda asked: replace(asked, prompts=(" ",))),
    "photo": (Needs.PHOTO, lambda asked: replace(asked, photo=None)),
    "source": (
        Needs.SOURCE,
        lambda asked: replace(asked, photo=replace(asked.photo, prompts=("",))),
    ),
    "mask": (Needs.MASK, lambda asked: replace(asked, photo=replace(asked.photo, mask=None))),
    "loss": (Needs.LOSS, lambda asked: replace(asked, photo=None, loss=None)),
    "pictures": (Needs.PICTURES, lambda asked: replace(asked, pictures=())),
}
"""By the setting that is to blame: a task without it."""
LACKING = [
    (kind, field)
    for kind, method in METHODS.own.items()
    for field, (need, _) in WITHOUT.items()
    if need in method.needs or (field == "loss" and kind in ("noise-aware", "semantic"))
]


@pytest.mark.parametrize(("kind", "field"), LACKING)
def test_a_task_that_lacks_something_is_refused(kind: str, field: str) -> None:
    """By the method's name, with the setting that is to blame, before anything is done."""
    method, asked = make(kind), WITHOUT[field][1](task(kind))
    for refuse in (method.prepare, method):
        with pytest.raises(UserError, match=f"^(the )?{kind}") as caught:
            refuse(asked)
        assert caught.value.field == field
        assert caught.value.cure


@pytest.mark.parametrize("kind", ONE_SHOT)
def test_its_images_are_differentiable_in_what_was_told(kind: str) -> None:
    """No method switches gradients off: who wants one asks for it, and who does not says `no_grad`."""
    asked, model = task(kind), load_once()
    told, shown = (
        [value.clone().requires_grad_() for value in model.text([prompt])]
        for prompt in (WANTED, SHOWN)
    )
    asked = replace(asked, denoiser=model.denoiser(tuple(told), guidance_scale=2.0))
    if asked.photo is not None:
        before = model.denoiser(tuple(shown), guidance_scale=2.0)
        asked = replace(asked, photo=replace(asked.photo, denoiser=before))
    # guidance by a loss is a gradient already: torch's fast attention on the CPU has no second one
    with sdpa_kernel(SDPBackend.MATH):
        latents = make(kind)(asked).latents
        assert latents.grad_fn is not None
        gradients = torch.autograd.grad(latents.square().sum(), [*told, *shown], allow_unused=True)
    reached = [gradient for gradient in gradients if gradient is not None]
    assert reached
    assert all(torch.isfinite(gradient).all() for gradient in reached)
    assert any(gradient.any() for gradient in reached)
    with torch.no_grad():
        still = make(kind)(asked).latents
    assert still.grad_fn is None
    torch.testing.assert_close(latents.detach(), still, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_its_settings_are_written_and_read_and_stay(case: str) -> None:
    method = make(case)
    assert type(method).model_validate_json(method.model_dump_json()) == method
    with pytest.raises(UserError, match="settings never change"):
        method.steps = 9
    assert method.probe(3).steps == 3


def test_drawing_nothing_is_said() -> None:
    class Idle(type(make("plain"))):
        kind: str = "idle"

        def run(self, task: Task, state: Drawn | None = None, on_step: Any = None) -> Any:
            return iter(())

    with pytest.raises(UserError, match="idle has nothing to do: ask for one iteration or more"):
        Idle()(task("plain"))
