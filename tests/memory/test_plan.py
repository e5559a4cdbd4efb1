"""Plans change what a run takes, not what it makes; and what they change in the networks, they change back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chainrule
from chainrule import EDICT, UserError
from chainrule.losses import Call, Classifier, Cutouts, Loss, load_classifier
from chainrule.memory import Plan, arrange, distinct_modules
from chainrule.methods import (
    DOODL,
    Adam,
    DOODLState,
    EDICTEdit,
    Method,
    Momentum,
    OneStepGuidance,
    Photo,
    Plain,
    Result,
    State,
    Task,
)
from chainrule.methods.chains import invert_photos
from chainrule.methods.chunking import Fallback, run_within_memory
from chainrule.models import Model
from tiny import family, load_once

PLANS = (
    Plan(keep=1),
    Plan(keep=9),
    Plan(decode_batch=1),
    Plan(decode_batch=2),
    Plan(batch_size=2),
    Plan(batch_size=1, keep=2),
    Plan(gradient_checkpointing=True),
    Plan(gradient_checkpointing=True, keep=2),
    Plan(offload=True),
    Plan(decode_batch=1, batch_size=2, gradient_checkpointing=True, offload=True),
)
ALL_OF_IT = Plan(gradient_checkpointing=True, half=True, offload=True)
pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
TINY = "Stable Diffusion 1.x"
MODELS = ("scenes", TINY, "Stable Diffusion XL", "Stable Diffusion 3", "PixArt-Sigma")
DISTANCE = Call(lambda images: (images - 0.3).square().mean(dim=(1, 2, 3)))


def task(name: str = TINY, loss: Loss = DISTANCE) -> Task:
    model = load_once(name)
    return Task(model, model.denoiser("a red shape", guidance_scale=2.0), (0, 1, 2), loss)


def doodl(**changes: Any) -> DOODL:
    settings = {"iterations": 2, "steps": 3, "mix": None, "optimiser": Adam(rate=0.05), "crops": 2}
    return DOODL(**(settings | changes))


def states(method: Method, asked: Task) -> tuple[list[State], Task]:
    """The states of a method within memory, and the task as it was in the end."""
    found = list(run_within_memory(method, asked))
    return [state for state, _ in found], found[-1][1]


def run(method: Method, asked: Task) -> Result:
    """What a method makes of a task under its plan."""
    made, last = states(method, asked)
    return method.result(last, made[-1])


# --- every plan computes the same -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_plan_computes_the_same(name: str) -> None:
    """The gradient (which is momentum's first memory), the losses and the images of one iteration."""
    expected = advanced(task(name))
    for plan in (
        PLANS if name != "scenes" else PLANS[5::4]
    ):  # the bundled one is slower than the tiny ones
        found = advanced(task(name).under(plan))
        for part, same in zip(found, expected, strict=True):
            torch.testing.assert_close(
                part, same, rtol=1e-4, atol=1e-5, msg=lambda text, plan=plan: f"{plan}: {text}"
            )


def advanced(asked: Task) -> tuple[Tensor, ...]:
    state: DOODLState = next(
        run_within_memory(doodl(optimiser=Momentum(rate=1.0, clip=None)), asked)
    )[0]
    scale = state.memory.abs().amax()
    return state.memory / scale, scale, state.terms, state.best_latents


@pytest.mark.parametrize("mix", [None, 0.97], ids=["ddim", "edict"])
def test_whole_runs_are_the_same(mix: float | None) -> None:
    asked, method = (
        task("scenes", Classifier(load_classifier(), "heart")),
        doodl(mix=mix, iterations=1, steps=2),
    )
    plan = Plan(decode_batch=1, batch_size=2, gradient_checkpointing=True)
    found, expected = run(method, asked.under(plan)), run(method, asked)
    torch.testing.assert_close(found.history, expected.history, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "method", [Plain(steps=3), OneStepGuidance(scale=3.0, steps=3)], ids=["plain", "one-step"]
)
def test_methods_that_draw_once_are_the_same_in_parts(method: Method) -> None:
    expected, found = (
        run(method, task()),
        run(method, task().under(Plan(batch_size=2, decode_batch=1))),
    )
    for part, same in zip(vars(found).values(), vars(expected).values(), strict=True):
        assert (part is None) == (same is None)
        if part is not None:
            torch.testing.assert_close(part, same, rtol=1e-4, atol=1e-5)


def test_photos_are_inverted_in_parts() -> None:
    asked = task()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    asked = replace(asked, photo=Photo(images, asked.denoiser, (16, 16)))
    plans = (Plan(), Plan(batch_size=2))
    whole, parts = (invert_photos(asked.under(plan), steps=3, solver=EDICT()) for plan in plans)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_random_losses_are_the_same_in_parts() -> None:
    """The crops of an image belong to its seed, however many are judged at once."""
    asked = task(loss=Cutouts(DISTANCE, 2))
    whole, parts = (
        run(doodl(crops=0), asked.under(plan)) for plan in (Plan(), Plan(decode_batch=1))
    )
    torch.testing.assert_close(whole.losses, parts.losses, rtol=1e-4, atol=1e-6)


def test_half_keeps_the_latents_whole() -> None:
    asked, seen = task().under(Plan(half=True)), set()
    (unet,), (vae,) = asked.model.network.networks, asked.model.codec.networks
    hook = unet.register_forward_pre_hook(lambda *_: seen.add((unet.dtype, vae.dtype)))
    result = run(doodl(), asked)
    hook.remove()
    assert seen == {(torch.bfloat16, torch.float32)}
    assert result.latents.dtype == result.images.dtype == torch.float32


# --- the networks are as they were ------------------------------------------------------------------------------


def look(model: Model, loss: Loss) -> list[Any]:
    """All of the networks that a plan could change."""
    found: list[Any] = []
    for network in distinct_modules(model.networks, loss.networks):
        for module in network.modules():
            hooks = (
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
                len(module._backward_hooks),
            )
            found.append((hooks, getattr(module, "gradient_checkpointing", None), module.training))
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            found.append((name, value.dtype, str(value.device), value.requires_grad))
    return found


def weights(model: Model, loss: Loss) -> list[Tensor]:
    return [
        weight
        for part in distinct_modules(model.networks, loss.networks)
        for weight in part.state_dict().values()
    ]


class Checked:
    """While this lasts, networks may change; afterwards they must be what they were, bit for bit."""

    def __init__(self, model: Model, loss: Loss) -> None:
        self.model, self.loss = model, loss

    def __enter__(self) -> Checked:
        self.seen, self.weights = (
            look(self.model, self.loss),
            deepcopy(weights(self.model, self.loss)),
        )
        return self

    def changed(self) -> bool:
        return look(self.model, self.loss) != self.seen

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            assert look(self.model, self.loss) == self.seen
            for one, other in zip(weights(self.model, self.loss), self.weights, strict=True):
                assert torch.equal(one, other)


JUDGED = [Plan(gradient_checkpointing=True), Plan(half=True), Plan(offload=True), ALL_OF_IT]


@pytest.mark.parametrize("plan", JUDGED, ids=str)
@pytest.mark.parametrize("name", ["scenes", "Stable Diffusion 3"])
def test_networks_are_afterwards_as_they_were(name: str, plan: Plan) -> None:
    asked = task(name, Classifier(load_classifier(), "heart"))
    with Checked(asked.model, asked.loss) as checked, arrange(asked.model, asked.loss, plan):
        assert checked.changed()
        if name != "scenes":
            DOODL(iterations=1, steps=2, mix=None, crops=0)(asked)
    with (
        Checked(asked.model, asked.loss),
        pytest.raises(KeyError),
        arrange(asked.model, asked.loss, plan),
    ):
        raise KeyError  # whatever happens meanwhile


@pytest.mark.parametrize("outer", JUDGED, ids=str)
@pytest.mark.parametrize("inner", JUDGED, ids=str)
def test_one_plan_within_another_ends_where_it_began(outer: Plan, inner: Plan) -> None:
    asked = task(loss=Classifier(load_classifier(), "heart"))
    networks = asked.model, asked.loss
    with (
        Checked(*networks),
        arrange(*networks, outer),
        Checked(*networks),
        arrange(*networks, inner),
    ):
        pass


def test_a_task_under_another_plan_touches_nothing() -> None:
    asked = task(loss=Classifier(load_classifier(), "heart"))
    with Checked(asked.model, asked.loss) as checked:
        other = asked.under(ALL_OF_IT)
        assert not checked.changed()
    assert (other.plan, asked.plan) == (ALL_OF_IT, Plan())


def test_what_was_rebuilt_before_stays_so() -> None:
    """A user's own setting is not the plan's to undo."""
    model = chainrule.load(family(TINY))
    (unet,) = model.network.networks
    unet.enable_gradient_checkpointing()
    with arrange(model, None, Plan(gradient_checkpointing=True)):
        assert unet.is_gradient_checkpointing
    assert unet.is_gradient_checkpointing


def test_the_pipeline_that_a_model_was_made_of_is_not_touched() -> None:
    pipeline = family(TINY)
    model = chainrule.load(pipeline)
    with arrange(model, None, ALL_OF_IT):
        assert pipeline.unet.dtype == torch.float32
        assert not pipeline.unet.is_gradient_checkpointing
        assert not pipeline.unet._forward_pre_hooks


def test_a_run_arranges_and_undoes() -> None:
    """To the end, when it is closed in between, and when it fails."""

    def broken(images: Tensor) -> Tensor:
        raise RuntimeError("something else")

    asked = task(loss=Classifier(load_classifier(), "heart")).under(ALL_OF_IT)
    with Checked(asked.model, asked.loss) as checked:
        found = run_within_memory(doodl(crops=0), asked)
        next(found)
        assert checked.changed()
        found.close()
        assert not checked.changed()
        list(run_within_memory(doodl(crops=0), asked))
        assert not checked.changed()
        with pytest.raises(RuntimeError, match="something else"):
            list(run_within_memory(doodl(crops=0), replace(asked, loss=Call(broken))))


def test_what_rests_is_away_while_the_chain_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second device is here: the moves are written down instead of made."""
    asked = task(loss=Classifier(load_classifier(), "heart"))
    (unet,), (vae,), (judge,) = (
        part.networks for part in (asked.model.network, asked.model.codec, asked.loss)
    )
    names = {id(unet): "unet", id(vae): "vae", id(judge): "judge"}
    where = dict.fromkeys(("unet", "vae", "judge", "text"), "cuda")
    told: list[tuple[str, dict[str, str]]] = []

    def to(module: nn.Module, device: object = None, *_: object) -> nn.Module:
        where[names.get(id(module), "text")] = torch.device(str(device)).type
        return module

    def find_device(module: nn.Module) -> torch.device:
        return torch.device(where[names.get(id(module), "text")])

    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr("chainrule.memory._arrange.find_device", find_device)
    with arrange(replace(asked.model, device=torch.device("cuda")), asked.loss, Plan(offload=True)):
        assert where == {"unet": "cuda", "vae": "cpu", "text": "cpu", "judge": "cpu"}
        handles = [
            module.register_forward_pre_hook(lambda *_, name=name: told.append((name, dict(where))))
            for module, name in ((unet, "unet"), (vae.decoder, "vae"), (judge, "judge"))
        ]
        DOODL(iterations=1, steps=2, mix=None, crops=0)(asked)
        with arrange(
            replace(asked.model, device=torch.device("cuda")), asked.loss, Plan(offload=True)
        ):
            pass
        assert where["text"] == "cpu"
    for handle in handles:
        handle.remove()
    assert set(where.values()) == {"cuda"}
    judged = ["vae", "judge", "judge"]
    assert [name for name, _ in told] == ["unet"] * 2 + judged + ["unet"] * 4 + judged + ["vae"]
    for name, found in told:
        assert found[name] == "cuda"
        assert name != "unet" or {found["vae"], found["judge"]} == {"cpu"}


# --- when memory runs out ---------------------------------------------------------------------------------------


def scarce(most: int, left: int | None = None) -> Loss:
    """A loss for which memory runs out if it is shown more than `most` images at once, from some time on."""
    seen = 0

    def judge(images: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        if len(images) > most and (left is None or seen > left):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return DISTANCE(images)

    return Call(judge)


def test_when_memory_runs_out_the_next_plan_takes_over() -> None:
    expected = run(doodl(crops=0), task())
    with pytest.warns(
        Fallback, match=r"memory ran out: once more with a tighter plan .decoded 1 at a time"
    ):
        found = run(doodl(crops=0), task(loss=scarce(2)))
    torch.testing.assert_close(found.history, expected.history, rtol=1e-4, atol=1e-6)


def test_it_falls_back_in_the_middle_and_goes_on_from_there() -> None:
    """The iterations before are not done again, and what follows stays under the plan that worked."""
    method = doodl(crops=0, iterations=5)
    expected, _ = states(method, task())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = list(run_within_memory(method, task(loss=scarce(1, left=5))))
    assert len([each for each in said if each.category is Fallback]) == 1
    assert [state.iteration for state, _ in found] == [1, 2, 3, 4, 5, 6]
    plans = [asked.plan for _, asked in found]
    assert plans == [Plan()] * 2 + [Plan(decode_batch=1)] * 4
    torch.testing.assert_close(found[-1][0].history, expected[-1].history, rtol=1e-4, atol=1e-5)


def test_if_that_is_not_enough_it_says_so() -> None:
    with (
        pytest.warns(Fallback),
        pytest.raises(
            UserError, match=r"memory ran out again \(decoded 1 at a time\): choose a plan"
        ),
    ):
        run(doodl(crops=0), task(loss=scarce(0)))


def test_under_the_tightest_plan_there_is_no_other() -> None:
    *_, tightest = Plan().tighten(3, torch.device("cpu"))
    with pytest.raises(UserError, match="not enough memory, even for one image at a time"):
        run(doodl(crops=0), task(loss=scarce(0)).under(tightest))


def test_memory_may_run_out_before_the_first_iteration() -> None:
    """While the start is searched for, and when the last image is drawn."""
    with pytest.warns(Fallback):
        run(doodl(crops=0, start_of=2, iterations=0, final_steps=4), task(loss=scarce(2)))


@pytest.mark.parametrize(
    "method", [Plain(steps=2), EDICTEdit(steps=2), doodl(crops=0)], ids=["plain", "edict", "doodl"]
)
def test_any_method_falls_back_when_its_chain_does_not_fit(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the network has room for two images of a guided pair."""
    asked = task()
    if method.kind == "edict":
        images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        asked = replace(
            asked, photo=Photo(images, asked.denoiser, (16, 16)), prompts=("a red shape",)
        )
    asked = asked.under(Plan(decode_batch=1))
    expected = run(method, asked)
    network = type(asked.model.network)
    ask: Callable[..., Tensor] = network.__call__

    def cramped(self: Any, x: Tensor, *rest: Any) -> Tensor:
        if len(x) > 4:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
            )
        return ask(self, x, *rest)

    monkeypatch.setattr(network, "__call__", cramped)
    with pytest.warns(Fallback, match="computed 2 at a time"):
        found = run(method, asked)
    torch.testing.assert_close(
        found.images, expected.images, rtol=1e-3, atol=1e-3
    )  # EDICT's pair drifts


def test_other_errors_are_not_taken_for_it() -> None:
    def broken(images: Tensor) -> Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run(doodl(), task(loss=Call(broken)))


def test_plans_become_tighter_in_order() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    plans = list(Plan(keep=5).tighten(4, cpu))
    assert [str(plan) for plan in plans] == [
        "plain",
        "decoded 1 at a time",
        "decoded 1 at a time, computed 2 at a time",
        "decoded 1 at a time, computed 1 at a time",
        "decoded 1 at a time, computed 1 at a time, gradient checkpointing",
    ]
    assert list(Plan().tighten(4, cpu)) == plans[1:]
    assert list(plans[2].tighten(4, cpu)) == plans[3:]
    assert list(plans[-1].tighten(4, cpu)) == []
    assert [plan.offload for plan in Plan().tighten(1, cuda)] == [False, True]


def test_halving_lets_the_whole_weights_go() -> None:
    from torch.multiprocessing.reductions import StorageWeakRef

    job = task("Stable Diffusion 1.x")
    whole = [StorageWeakRef(weight.untyped_storage()) for weight in job.model.network.weights]
    with arrange(job.model, job.loss, Plan(half=True)):
        assert all(storage.expired() for storage in whole)
