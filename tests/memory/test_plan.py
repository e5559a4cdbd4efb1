"""Plans change what a run takes, not what it makes."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import chainrule
from chainrule import EDICT, UserError
from chainrule.losses import Call, Classifier, Cutouts, Loss, load_classifier
from chainrule.memory import modules
from chainrule.methods import Adam, Doodl, Photo, Result, Task, doodl, one_step, plain
from chainrule.methods.base import Fallback, invert_photos
from chainrule.methods.doodl import advance, start
from chainrule.models import Model
from chainrule.plan import Plan, arrange
from tiny import family

PLANS = (
    Plan(keep=1),
    Plan(keep=9),
    Plan(seen=1),
    Plan(seen=2),
    Plan(together=2),
    Plan(together=1, keep=2),
    Plan(rebuilt=True),
    Plan(rebuilt=True, keep=2),
    Plan(aside=True),
    Plan(seen=1, together=2, rebuilt=True, aside=True),
)
pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
MODELS = ("scenes", "Stable Diffusion 1.x", "Stable Diffusion XL", "Stable Diffusion 3", "PixArt-Sigma")


def load(name: str) -> Model:
    return chainrule.load() if name == "scenes" else chainrule.load(family(name))


def task(name: str, loss: Loss | None = None) -> Task:
    model = load(name)
    wanted = loss or Call(lambda images: (images - 0.3).square().mean(dim=(1, 2, 3)))
    return Task(model, model.denoiser("a red shape", guidance_scale=2.0), (0, 1, 2), wanted)


def settings(mix: float | None = None) -> Doodl:
    return Doodl(iterations=2, steps=3, mix=mix, optimiser=Adam(rate=0.05), crops=2)


@pytest.mark.parametrize("name", MODELS)
def test_every_plan_computes_the_same(name: str) -> None:
    """The optimised noise after an iteration is start - rate gradient / ..., so equal noise is equal gradients."""
    expected = advanced(task(name))
    for plan in PLANS if name != "scenes" else PLANS[5::4]:  # the bundled one is slower than the tiny ones
        found = advanced(task(name).under(plan))
        for part, same in zip(found, expected, strict=True):
            torch.testing.assert_close(part, same, rtol=1e-4, atol=1e-5, msg=lambda text, plan=plan: f"{plan}: {text}")


def advanced(job: Task) -> tuple[Tensor, ...]:
    """The gradient (which is momentum's first memory), the losses and the images of one iteration."""
    by_momentum = settings().model_copy(update={"optimiser": chainrule.methods.Momentum(rate=1.0, clip=None)})
    state = advance(job, by_momentum, start(job, by_momentum))
    scale = state.memory.abs().amax()
    return state.memory / scale, scale, state.terms, state.best_latents


@pytest.mark.parametrize("mix", [None, 0.97], ids=["ddim", "edict"])
def test_whole_runs_are_the_same(mix: float | None) -> None:
    guided = Classifier(load_classifier(), "heart")
    expected = doodl(task("scenes", guided), settings(mix))
    for plan in (Plan(seen=1, together=2, rebuilt=True),):
        found = doodl(task("scenes", guided).under(plan), settings(mix))
        torch.testing.assert_close(found.history, expected.history, rtol=1e-3, atol=1e-4)


def test_methods_that_draw_once_are_the_same_in_parts() -> None:
    job = task("scenes")
    for method in (lambda task: plain(task, steps=3), lambda task: one_step(task, scale=3.0, steps=3)):
        expected: Result = method(job)
        found = method(job.under(Plan(together=2, seen=1)))
        for part, same in zip(vars(found).values(), vars(expected).values(), strict=True):
            assert (part is None) == (same is None)
            if part is not None:
                torch.testing.assert_close(part, same, rtol=1e-4, atol=1e-5)


def test_half_keeps_the_latents_whole() -> None:
    job = task("Stable Diffusion 1.x").under(Plan(half=True))
    assert {weight.dtype for weight in job.model.network.weights} == {torch.bfloat16}
    result = doodl(job, settings())
    assert result.latents.dtype == result.images.dtype == torch.float32
    assert next(modules(job.model.codec)[0].parameters()).dtype == torch.float32


def test_a_pipeline_stays_as_it_was() -> None:
    pipeline = family("Stable Diffusion 1.x")
    model = chainrule.load(pipeline)
    arrange(model, None, Plan(rebuilt=True, half=True, aside=True))
    assert pipeline.unet.dtype == torch.float32
    assert not pipeline.unet.is_gradient_checkpointing
    assert not pipeline.unet._forward_pre_hooks


def test_what_rests_is_away_while_the_chain_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second device is here: the moves are written down instead of made."""
    job = task("Stable Diffusion 1.x", Classifier(load_classifier(), "heart"))
    (unet,), (vae,), (judge,) = (modules(part) for part in (job.model.network, job.model.codec, job.loss))
    names = {id(unet): "unet", id(vae): "vae", id(judge): "judge"}
    where: dict[str, str] = {}
    told: list[tuple[str, dict[str, str]]] = []

    def to(module: nn.Module, device: object = None, *_: object) -> nn.Module:
        where[names.get(id(module), "text")] = torch.device(str(device)).type
        return module

    monkeypatch.setattr(nn.Module, "to", to)
    arrange(replace(job.model, device=torch.device("cuda")), job.loss, Plan(aside=True))
    assert where == {"unet": "cuda", "vae": "cpu", "text": "cpu", "judge": "cpu"}
    for module, name in ((unet, "unet"), (vae.decoder, "vae"), (judge, "judge")):
        module.register_forward_pre_hook(lambda *_, name=name: told.append((name, dict(where))))
    doodl(job, Doodl(iterations=1, steps=2, mix=None, crops=0))
    asked = [name for name, _ in told]
    assert asked == [
        "unet",
        "unet",
        "vae",
        "judge",
        "judge",
        "unet",
        "unet",
        *["unet"] * 2,
        "vae",
        "judge",
        "judge",
        "vae",
    ]
    for name, found in told:
        assert found[name] == "cuda"
        assert name != "unet" or {found["vae"], found["judge"]} == {"cpu"}


class Scarce:
    """A loss for which memory runs out if it is shown more than `most` images at once."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return (images - 0.3).square().mean(dim=(1, 2, 3))


def test_when_memory_runs_out_the_next_plan_takes_over() -> None:
    quiet = settings().model_copy(update={"crops": 0})
    expected = doodl(task("Stable Diffusion 1.x", Call(Scarce(3))), quiet)
    with pytest.warns(Fallback, match="memory ran out: once more with a tighter plan .loss_and_gradient 1 at a time"):
        found = doodl(task("Stable Diffusion 1.x", Call(Scarce(2))), quiet)
    torch.testing.assert_close(found.history, expected.history, rtol=1e-4, atol=1e-6)


def test_it_falls_back_once_in_a_run() -> None:
    """What follows stays under the plan that worked."""
    quiet = settings().model_copy(update={"crops": 0, "iterations": 5})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        doodl(task("Stable Diffusion 1.x", Call(Scarce(1))), quiet)
    assert len([each for each in said if each.category is Fallback]) == 1


def test_if_that_is_not_enough_it_says_so() -> None:
    quiet = settings().model_copy(update={"crops": 0})
    with pytest.warns(Fallback), pytest.raises(UserError, match=r"memory ran out again .*--memory 8GB"):
        doodl(task("Stable Diffusion 1.x", Call(Scarce(0))), quiet)


def test_other_errors_are_not_taken_for_it() -> None:
    def broken(images: Tensor) -> Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        doodl(task("Stable Diffusion 1.x", Call(broken)), settings())


def test_the_ladder_goes_down() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    plans = list(Plan(keep=5).tighter(4, cpu))
    assert [str(plan) for plan in plans] == [
        "plain",
        "judged 1 at a time",
        "judged 1 at a time, computed 2 at a time",
        "judged 1 at a time, computed 1 at a time",
        "judged 1 at a time, computed 1 at a time, blocks rebuilt",
    ]
    assert list(Plan().tighter(4, cpu)) == plans[1:]
    assert list(plans[2].tighter(4, cpu)) == plans[3:]
    assert list(plans[-1].tighter(4, cpu)) == []
    assert [plan.aside for plan in Plan().tighter(1, cuda)] == [False, True]


def test_photos_are_inverted_in_parts() -> None:
    model = load("Stable Diffusion 1.x")
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    denoiser = model.denoiser("red", guidance_scale=1.0)
    job = Task(model, denoiser, (0, 1, 2), photo=Photo(images, denoiser, (16, 16)))
    whole, parts = (invert_photos(each, steps=3, solver=EDICT()) for each in (job, job.under(Plan(together=2))))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_random_losses_are_the_same_in_parts() -> None:
    """The crops of an image belong to its seed, however many are seen at once."""
    random = Cutouts(Call(lambda images: (images - 0.3).square().mean(dim=(1, 2, 3))), 2)
    quiet = settings().model_copy(update={"crops": 0})
    whole = doodl(task("Stable Diffusion 1.x", random), quiet)
    parts = doodl(task("Stable Diffusion 1.x", random).under(Plan(seen=1)), quiet)
    torch.testing.assert_close(whole.losses, parts.losses, rtol=1e-4, atol=1e-6)


def test_memory_may_run_out_before_the_first_iteration() -> None:
    """While the start is searched for, and when the last image is drawn."""
    quiet = settings().model_copy(update={"crops": 0, "start_of": 2, "iterations": 0, "final_steps": 4})
    with pytest.warns(Fallback):
        doodl(task("Stable Diffusion 1.x", Call(Scarce(2))), quiet)
