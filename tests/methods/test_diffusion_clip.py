"""DiffusionCLIP: what it is by its definition, and what becomes of its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chainrule import UserError
from chainrule.diffusion.gradient import Backprop
from chainrule.diffusion.sampling import sample
from chainrule.images import to_pil
from chainrule.losses import ClipDirection, load_clip
from chainrule.methods import Adam, DDIMInversion, DiffusionCLIP, DiffusionCLIPEdit, Photo, Task
from chainrule.methods.thing import encode_pictures
from chainrule.methods.training import Training
from chainrule.models import trained
from chainrule.models.tuned import Mixed, Tuned, read_tuned
from command import call
from tiny import load_once

SD1 = "Stable Diffusion 1.x"
CHANGE = "a red circle > a blue circle"
SMALL: dict[str, Any] = {
    "change": CHANGE,
    "inversion_steps": 8,
    "steps": 2,
    "iterations": 6,
    "batch": 2,
    "optimiser": Adam(rate=0.01),
}


def make(**settings: Any) -> DiffusionCLIP:
    return DiffusionCLIP(**(SMALL | settings))


def pictures(count: int = 3) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.rand(3, 16, 16 + 4 * k, generator=draw) for k in range(count))


def task(name: str = SD1) -> Task:
    model = load_once(name)
    return Task(model, model.denoiser(""), (0,), pictures=pictures())


def edited(count: int = 2) -> Task:
    model, images = load_once(SD1), torch.stack([p[:, :, :16] for p in pictures(count)])
    told = model.denoiser("", guidance_scale=1.0)
    return Task(
        model, told, tuple(range(count)), None, Photo(images, told, (16, 16)), prompts=("x",)
    )


@pytest.mark.parametrize(("through", "rank"), [("chain", None), ("step", 2)])
def test_a_stop_costs_nothing_and_the_model_is_as_it_was(through: Any, rank: int | None) -> None:
    method = make(through=through, rank=rank)
    asked = method.prepare(task())
    before = [weight.clone() for network in asked.model.networks for weight in network.parameters()]
    *_, whole = method.run(asked)
    walk = method.run(asked)
    first = next(walk)
    walk.close()
    again = Training.from_tensors({name: t.clone() for name, t in first.tensors().items()})
    method.require_own(asked, again)
    *_, last = method.run(asked, again)
    assert 0 < first.iteration < whole.iteration == method.count_iterations(asked)
    found, wanted = last.tensors(), whole.tensors()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert {name for name in wanted if name.startswith("given")} == {"given pictures", "given x_t0"}
    after = [weight for network in asked.model.networks for weight in network.parameters()]
    assert all(map(torch.equal, after, before))
    moved = [not torch.equal(whole.values[name], first.values[name]) for name in whole.values]
    assert sum(moved) > 0.8 * len(moved)


def leaves_of(module: Any) -> list[Tensor]:
    return [weight for weight in module.parameters() if weight.requires_grad]


@pytest.mark.parametrize("through", ["chain", "step"])
def test_only_the_network_has_gradients(through: Any) -> None:
    """Counted: nothing of the codec, the texts, CLIP or the features, and of a LoRA nothing else."""
    asked = task()
    for rank in (None, 2):
        method = make(through=through, rank=rank, perceptual=1.0, iterations=1)
        seen: list[int] = []
        judge = method.judge(asked)
        with trained.train(asked.model, method.part) as weights:
            every: list[nn.Module] = [*asked.model.networks, load_clip().network]
            wanting = {id(w) for module in every for w in leaves_of(module)}
            assert wanting == {id(weight) for weight in weights.values()}
            seen.append(len(wanting))
            whole = sum(1 for _ in asked.model.network.weights)
        assert seen[0] == whole if rank is None else 0 < seen[0] < whole
        images = torch.rand(2, 3, 16, 16).requires_grad_()
        torch.autograd.grad(judge(images, torch.rand(2, 3, 16, 16)).sum(), images)


def gradients(method: DiffusionCLIP, asked: Task) -> Tensor:
    """The first iteration's, as Adam's first moment has it."""
    first = next(iter(method.run(asked)))
    beta = method.optimiser.beta1
    return torch.cat([memory[0].flatten() / (1 - beta) for memory in first.memory.values()])


@pytest.mark.parametrize("name", [SD1, "Stable Diffusion 2.x (v)", "Stable Diffusion 3"])
def test_in_a_chain_of_one_step_both_ways_are_one(name: str) -> None:
    asked = task(name)
    one, other = (
        gradients(make(through=through, steps=1, iterations=1), asked)
        for through in ("chain", "step")
    )
    assert one.abs().max() > 0
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * one.abs().max().item())


def test_the_chain_has_the_exact_gradient_and_its_steps_have_not() -> None:
    asked = task()
    method = make(steps=3, iterations=1, perceptual=0.5)
    found = gradients(method, asked)
    given, judge = method.gather(asked), method.judge(asked)
    rows = [0, 1]
    with trained.train(asked.model, method.part) as weights:
        x_0 = sample(
            method.tell(asked), given["x_t0"][rows], method.times(asked), gradient=Backprop()
        )
        off = judge(asked.model.decode(x_0), given["pictures"][rows])
        exact = torch.autograd.grad(off.sum(), list(weights.values()))
    wanted = torch.cat([gradient.flatten() for gradient in exact])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * wanted.abs().max().item())
    apart = gradients(make(steps=3, iterations=1, perceptual=0.5, through="step"), asked)
    assert not torch.allclose(apart, wanted, rtol=0.1)


def test_the_loss_is_its_formula() -> None:
    asked, method = task(), make(direction=2.0, l1=0.5, clip={"": 0.7})
    x, before = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    found = method.judge(asked)(x, before)
    way = ClipDirection(load_clip(), before, "a red circle", "a blue circle")(x).mean()
    torch.testing.assert_close(
        found, torch.stack([2.0 * 0.7 * way, 0.5 * (x - before).abs().mean(), torch.zeros(())])
    )


def test_each_batch_takes_the_next_pictures_and_parts_make_no_difference() -> None:
    asked = task()
    for through in ("chain", "step"):
        method = make(through=through, iterations=2)
        *_, whole = method.run(asked)
        *_, parts = method.run(asked.under(asked.plan.model_copy(update={"decode_batch": 1})))
        torch.testing.assert_close(parts.losses, whole.losses, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("start", "steps"), [(0.5, 1), (0.5, 3), (0.5, 4), (1.0, 6), (1.0, 8)])
def test_the_chain_that_is_tuned_visits_times_of_the_inversion(start: float, steps: int) -> None:
    method, asked = make(start=start, steps=steps), task()
    fine, times = method.times(asked, fine=True).tolist(), method.times(asked).tolist()
    assert len(times) == steps + 1 == len(set(times))
    assert set(times) <= set(fine)
    assert (times[0], times[-1]) == (fine[0], fine[-1])


def test_untuned_it_is_the_inversion_there_and_back() -> None:
    """Bit for bit DDIM's: nothing else is done to a picture."""
    photo = edited(1)
    plain = DDIMInversion(steps=8, strength=0.5)(photo)
    asked = replace(photo, photo=None, pictures=tuple(photo.require_photo().images))
    method = make()
    given = method.gather(asked)
    assert torch.equal(method.draw(asked, given["x_t0"]), plain.images)
    with trained.train(asked.model, method.part) as weights:
        values = {name: weight.detach().clone() for name, weight in weights.items()}
    with trained.use(asked.model, method.part, values):
        assert torch.equal(method.draw(asked, given["x_t0"]), plain.images)
    assert torch.equal(given["pictures"], asked.model.decode(encode_pictures(asked)))


def test_it_shows_what_it_was_tuned_on_and_what_it_never_saw(tmp_path: Path) -> None:
    to_pil(torch.rand(3, 20, 16)).save(tmp_path / "other.png")
    method = make(iterations=1, other=(tmp_path / "other.png",))
    asked = method.prepare(task())
    *_, last = method.run(asked)
    assert last.given["other x_t0"].shape == (1, 4, 8, 8)
    sheet = method.result(asked, last)
    assert list(sheet.rows) == ["learnt from"] * 3 + ["unseen"]
    assert {len(column) for column in sheet.columns.values()} == {4}
    assert set(sheet.numbers) == {"loss", "unseen"}
    untuned = method.draw(asked, last.given["other x_t0"])
    torch.testing.assert_close(sheet.columns["before"][-1:], untuned, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"change": ""}, "nothing says what the pictures should become: write what there is >"),
        ({"change": "a dog"}, "does not say what becomes of what"),
        ({"change": "a dog > a dog"}, "are the same"),
        ({"steps": 5}, "5 steps do not fit in the 4 of the inversion until t_0"),
        ({"start": 0.1}, "strength of 0.1 is less than one of 8 steps"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_done(
    settings: dict[str, Any], cause: str
) -> None:
    with pytest.raises(UserError, match=cause):
        make(**settings).prepare(task())


# --- what was tuned, on other photos -------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A LoRA, another one of other rank, and a whole pipeline, as they are written."""
    folder, asked, found = tmp_path_factory.mktemp("tuned"), task(), {}
    for name, rank, through in (("a", 2, "chain"), ("b", 1, "step"), ("whole", None, "step")):
        method = make(rank=rank, through=through, iterations=2)
        *_, last = method.run(asked)
        ((file, write),) = method.artefacts(asked, last).items()
        (folder / name).mkdir()
        write(found.setdefault(name, folder / name / file))
        x_t0 = method.gather(asked)["x_t0"]
        with trained.use(asked.model, method.part, last.values):
            found[f"{name} drawn"] = method.draw(asked, x_t0)  # type: ignore[assignment]
    return found


def edit(*tuned: tuple[Path, float], asked: Task | None = None) -> Tensor:
    method = DiffusionCLIPEdit(tuned={str(file): w for file, w in tuned}, steps=8)
    return method(edited() if asked is None else asked).images


@pytest.mark.parametrize("name", ["a", "b", "whole"])
def test_what_was_written_draws_what_was_tuned(files: dict[str, Any], name: str) -> None:
    """The same pictures come back as they did at the end of the training."""
    model, asked = load_once(SD1), task()
    weights = Tuned(read_tuned(files[name], model), 1.0)
    method = make()
    x_t0 = method.gather(asked)["x_t0"]
    mixed = Mixed(method.tell(asked), model, (weights,))
    drawn = model.decode(sample(mixed, x_t0, method.times(asked, fine=True)))
    torch.testing.assert_close(drawn, files[f"{name} drawn"], rtol=1e-4, atol=1e-4)
    before = [weight.clone() for weight in model.network.weights]
    edit((files[name], 1.0))
    assert all(map(torch.equal, before, model.network.weights))


def test_a_share_of_nothing_is_as_if_it_were_not_there(files: dict[str, Any]) -> None:
    first = edit((files["a"], 1.0))
    assert torch.equal(edit((files["a"], 1.0), (files["b"], 0.0)), first)
    assert torch.equal(edit((files["b"], 0.0), (files["a"], 1.0)), first)
    untuned = DDIMInversion(steps=8, strength=0.5)(edited()).images
    assert torch.equal(edit((files["a"], 0.0)), untuned)
    assert not torch.allclose(first, untuned, atol=1e-4)


def test_a_mixture_is_the_weighted_mean_of_what_the_networks_say(files: dict[str, Any]) -> None:
    model = load_once(SD1)
    told, x = model.denoiser("", guidance_scale=1.0), torch.randn(2, 4, 8, 8)
    weights = [read_tuned(files[name], model) for name in ("a", "whole")]
    a, b = (Mixed(told, model, (Tuned(each, 1.0),))(x, 301.0) for each in weights)
    plain = told(x, 301.0)
    for shares in ((0.3, 0.7), (0.3, 0.2), (1.0, 1.0)):
        mixed = Mixed(told, model, tuple(map(Tuned, weights, shares)))(x, 301.0)
        rest = 1 - sum(shares)
        for found, one, two, own in zip(mixed, a, b, plain, strict=True):
            expected = shares[0] * one + shares[1] * two + rest * own
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_photos_edited_apart_are_those_edited_together(files: dict[str, Any]) -> None:
    asked, shares = edited(), ((files["a"], 0.5), (files["whole"], 0.5))
    together = edit(*shares, asked=asked)
    alone = [edit(*shares, asked=part) for _, part in asked.split(1)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-4)
    planned = edit(*shares, asked=asked.under(asked.plan.model_copy(update={"batch_size": 1})))
    torch.testing.assert_close(together, planned, rtol=1e-3, atol=1e-4)


def test_what_is_not_of_this_model_is_refused(files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tuned weights: name what diffusion-clip wrote"):
        DiffusionCLIPEdit().prepare(edited())
    for name in ("a", "whole"):
        with pytest.raises(UserError, match="has no weights that were tuned from this model") as no:
            read_tuned(files[name], load_once("Stable Diffusion XL"))
        assert no.value.field == "tuned"
    for path in (tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(UserError):
            read_tuned(path, load_once(SD1))


def test_it_is_asked_for_without_a_prompt_and_what_it_wrote_edits(tmp_path: Path) -> None:
    for k in range(2):
        to_pil(torch.rand(3, 64, 64)).save(tmp_path / f"{k}.png")
    first, other, out = tmp_path / "0.png", tmp_path / "1.png", tmp_path / "tuned"
    method = f"diffusion-clip:rank=1,iterations=1,batch=1,steps=1,inversion_steps=4,change={CHANGE}"
    code, said = call("tune", first, "--method", method, "--other", other, "--output", out)
    assert code == 0, said
    lora = out / "pytorch_lora_weights.safetensors"
    again = ["--method", "diffusion-clip-edit:steps=4", "--output", tmp_path / "edited"]
    code, said = call("edit", other, "--tuned", f"0.5*{lora}", *again)
    assert code == 0, said
    code, said = call("tune", first, "--method", "dreambooth", "--output", tmp_path / "no")
    assert code == 2
    assert "there is no prompt to show it in" in said
