"""Methods that learn from pictures: what each is by its definition, and that a stop costs nothing."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from chainrule import UserError, optimise
from chainrule.diffusion.matching import matching_loss
from chainrule.diffusion.sampling import sample
from chainrule.losses import Call
from chainrule.memory import Plan
from chainrule.methods import METHODS as KNOWN
from chainrule.methods import Adam, Method, Photo, Plain, Situation, Task
from chainrule.methods.dreambooth import DreamBooth
from chainrule.methods.reward import RewardTuning
from chainrule.methods.textual_inversion import TextualInversion
from chainrule.methods.thing import CHANCE, draw_batch, draw_latents, encode_pictures
from chainrule.methods.training import Training
from chainrule.models import trained
from tiny import family, load_once

SD1 = "Stable Diffusion 1.x"
FAST = Adam(rate=0.01)
METHODS: dict[str, Method] = {
    "textual inversion": TextualInversion(iterations=25, steps=2, vectors=2),
    "dreambooth": DreamBooth(iterations=25, steps=2, prior_images=3, rank=2, optimiser=FAST),
    "dreambooth, text too": DreamBooth(
        iterations=25, steps=2, prior=0, rank=2, text_encoder=True, optimiser=FAST
    ),
    "dreambooth, weights": DreamBooth(iterations=25, steps=2, prior=0, optimiser=FAST),
    "reward": RewardTuning(iterations=6, steps=3, batch=2, optimiser=FAST),
    "reward, last": RewardTuning(iterations=6, steps=3, batch=2, through="last", optimiser=FAST),
}
over_methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def task(name: str = SD1, *prompts: str) -> Task:
    model = load_once(name)
    pictures = tuple(
        torch.rand(3, 16, 16 + 4 * k, generator=torch.Generator().manual_seed(k)) for k in range(3)
    )
    told = prompts or ("a {} on a white background", "a {}")
    loss = Call(lambda images: images.square().mean(dim=(1, 2, 3)), "darkness")
    return Task(model, model.denoiser(told[0]), (0, 1), loss, prompts=told, pictures=pictures)


def weights_of(asked: Task) -> list[Tensor]:
    return [weight for network in asked.model.networks for weight in network.parameters()]


@over_methods
def test_a_stop_costs_nothing(method: Method) -> None:
    asked = method.prepare(task())
    *_, whole = method.run(asked)
    walk = method.run(asked)
    first = next(walk)
    walk.close()
    read = Training.from_tensors({name: t.clone() for name, t in first.tensors().items()})
    *_, last = method.run(asked, read)
    found, wanted = last.tensors(), whole.tensors()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert 0 < first.iteration < whole.iteration == method.count_iterations(asked)


@over_methods
def test_it_learns_and_leaves_the_model_as_it_was(method: Method) -> None:
    asked = method.prepare(task())
    before = [weight.clone() for weight in weights_of(asked)]
    *_, last = method.run(asked)
    sheet = method.result(asked, last)
    assert all(column.isfinite().all() for column in sheet.columns.values())
    after = weights_of(asked)
    assert all(map(torch.equal, after, before))
    assert not any(w.requires_grad for w in after)
    begun = next(iter(method.model_copy(update={"iterations": 1}).run(asked)))
    moved = [not torch.equal(last.values[name], begun.values[name]) for name in last.values]
    assert sum(moved) > 0.8 * len(moved)


def test_a_word_starts_as_an_ordinary_one() -> None:
    asked = task()
    text = asked.model.text
    method = TextualInversion(initial="circle", vectors=2)
    assert torch.equal(method.first(asked), text.word_embedding("circle").expand(2, -1))
    told = method.read(asked, method.first(asked)[:1])(["a <thing>"])
    for mine, its in zip(told, text(["a circle"]), strict=True):
        torch.testing.assert_close(mine, its)


def test_only_the_word_is_learnt() -> None:
    """Nothing but its vectors has a gradient, and that is the loss's."""
    asked, method = task(), TextualInversion(iterations=1, batch=2, templates=("a {}",))
    asked = method.prepare(asked)
    (state,) = method.run(asked)
    vectors = method.first(asked).clone().requires_grad_()
    latents = encode_pictures(asked)
    b = draw_batch("textual-inversion", 0, latents, 2, asked.model)
    told = asked.model.denoiser(method.read(asked, vectors)(["a <thing>"] * 2), guidance_scale=1.0)
    loss = matching_loss(told, latents[b.rows], b.eps, b.times).mean()
    assert torch.equal(loss.detach(), state.losses[0, 0])
    (gradient,) = torch.autograd.grad(loss, vectors)
    zero = torch.zeros(2, *vectors.shape)
    change, _ = method.optimiser.update(vectors.detach(), gradient, zero, 0)
    torch.testing.assert_close(state.values["vectors"], vectors.detach() + change)


def test_the_class_is_preserved_by_its_formula() -> None:
    """L = |..(thing)|^2 + lambda |..(class)|^2 with pictures of the class that the model drew itself."""
    asked = task()
    method = DreamBooth(
        iterations=1, steps=2, prior=0.5, prior_images=3, batch=2, noun="circle", rank=2
    )
    (state,) = method.run(method.prepare(asked))
    model = asked.model
    plain = replace(
        asked, prompts=("a circle",), seeds=(0, 1, 2), denoiser=model.denoiser("a circle")
    )
    drawn = Plain(steps=2)(replace(plain, loss=None)).latents
    torch.testing.assert_close(state.given["class"], drawn.detach())
    off = []
    for kind, prompt in (("thing", "a sks circle"), ("class", "a circle")):
        x_0 = state.given[kind]
        b = draw_batch(f"dreambooth/{kind == 'class'}", 0, x_0, 2, model)
        told = model.denoiser(prompt, guidance_scale=1.0)
        off.append(matching_loss(told, x_0[b.rows], b.eps, b.times).mean())
    torch.testing.assert_close(state.losses[0], torch.stack([off[0], 0.5 * off[1]]))
    (alone,) = method.model_copy(update={"prior": 0.0}).run(asked)
    assert alone.losses[0, 1] == 0
    assert "class" not in alone.given


def test_a_class_word_that_the_model_does_not_know_is_said() -> None:
    """With what to do: a preset has a world's word for anything, if it has one."""
    model = chainrule.load()
    asked = Task(
        model, model.denoiser("a shape"), (0,), prompts=("a {}",), pictures=(torch.ones(3, 64, 64),)
    )
    with pytest.warns(UserWarning, match=r"class word 'thing'.* that it knows \(noun\)"):
        DreamBooth().prepare(asked)
    text = model.text.with_token("<dog>", model.text.pad_embedding[None])
    taught = replace(asked, model=replace(model, text=text))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DreamBooth(noun="<dog>").prepare(taught)
        DreamBooth(noun="circle").prepare(asked)
    for method in (DreamBooth, TextualInversion):
        (of_shapes, of_none) = (
            method(**method.preset(Situation("tuned", noun=noun))) for noun in ("shape", "")
        )
        assert {"shape"} == set(vars(of_shapes).values()) & {"shape", "thing"}
        assert "shape" not in vars(of_none).values()


@pytest.mark.parametrize("through", ["chain", "last"])
def test_a_reward_is_followed_through_the_steps_that_count(through: Any) -> None:
    """The whole chain's gradient is that of plain sampling; the last step's, of the last step."""
    asked = task(SD1, "a circle")
    method = RewardTuning(through=through, last=1, steps=3, batch=1, rank=2, guidance_scale=2.0)
    times = asked.model.schedule.times(3)
    with trained.train(asked.model, method.part) as weights:
        leaves = list(weights.values())
        x_0 = method.draw(asked, 0, [0])
        found = torch.autograd.grad(x_0.square().sum(), leaves)
        denoiser = asked.model.denoiser("a circle", guidance_scale=2.0)
        x = CHANCE.stream("reward/x_T").normal(0, asked.model.codec.latent_shape)
        if through == "last":
            with torch.no_grad():
                for k in range(2):
                    told = denoiser(x, times[k].item())
                    x = asked.model.schedule.mix(told.x0, told.eps, times[k + 1].item())
            told = denoiser(x, times[2].item())
            again = asked.model.schedule.mix(told.x0, told.eps, -1.0)
        else:
            again = sample(denoiser, x, times)
        wanted = torch.autograd.grad(again.square().sum(), leaves)
    torch.testing.assert_close(x_0, again, atol=1e-5, rtol=1e-5)
    for mine, its in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["textual-inversion", "dreambooth"])
def test_a_prompt_without_the_thing_is_refused(kind: str) -> None:
    method = KNOWN[kind]()
    with pytest.raises(UserError, match=r"does not say where the thing is: write \{\}"):
        method.prepare(task(SD1, "a circle"))


@pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (eight-bit)"
)
def test_an_optimiser_in_eight_bits_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is near, its file is small, and a stop costs nothing, bit for bit."""
    monkeypatch.setattr(optimise, "SMALL", 64)  # the tiny model's tensors are
    asked, losses, sizes = task(), {}, {}
    for bits in (32, 8):
        fast = Adam(rate=3e-3, beta2=0.999, bits=bits)
        method = DreamBooth(iterations=30, steps=1, prior=0, batch=2, rank=8, optimiser=fast)
        states = list(method.run(method.prepare(asked)))
        losses[bits] = states[-1].losses[-5:].mean().item()
        sizes[bits] = sum(t.numel() * t.element_size() for t in states[-1].memory.values())
    assert losses[8] == pytest.approx(losses[32], rel=0.02)
    assert sizes[8] < 0.45 * sizes[32]  # blocks are small too
    first, last = states
    save_file({name: t.contiguous() for name, t in first.tensors().items()}, tmp_path / "state")
    read = Training.from_tensors(load_file(tmp_path / "state"))
    method.require_own(asked, read)
    *_, again = method.run(asked, read)
    found, wanted = again.tensors(), last.tensors()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    whole = method.model_copy(update={"optimiser": Adam(rate=3e-3)})
    with pytest.raises(UserError, match="not a state of this task"):
        whole.require_own(asked, read)


@pytest.mark.parametrize("kind", ["doodl", "adjoint-dpm"])
def test_what_trains_no_weights_keeps_its_moments_whole(kind: str) -> None:
    with pytest.raises(UserError, match="bits=8 is for what trains weights"):
        KNOWN[kind](optimiser=Adam(bits=8)).prepare(task())


@pytest.mark.parametrize("kind", ["dreambooth", "imagic", "textual-inversion"])
def test_a_library_that_is_missing_is_named_before_anything_is_drawn(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    asked = task()
    if kind == "imagic":
        photo = Photo(torch.rand(1, 3, 16, 16).expand(2, -1, -1, -1), asked.denoiser, (16, 16))
        asked = replace(asked, photo=photo, prompts=("a circle",))
    with pytest.raises(UserError, match="needs bitsandbytes"):
        KNOWN[kind](optimiser=Adam(bits=8)).prepare(asked)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kind", ["textual-inversion", "dreambooth", "reward"])
def test_a_batch_in_parts_is_the_same_batch(kind: str, size: int) -> None:
    """Each picture has its own template, noise and time, whatever the plan computes together."""
    few = {"iterations": 2, "steps": 2, "batch": 4, "optimiser": FAST}
    few |= {"prior_images": 3, "rank": 2} if kind == "dreambooth" else {}
    method, asked = KNOWN[kind](**few), task()
    *_, whole = method.run(method.prepare(asked))
    plan = Plan(batch_size=size, decode_batch=size)
    *_, parts = method.run(method.prepare(asked.under(plan)))
    torch.testing.assert_close(parts.losses, whole.losses, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("tuned", "times"), [(False, 2), (True, 2 * 5)])
def test_a_text_is_encoded_again_only_where_its_encoder_changes(tuned: bool, times: int) -> None:
    asked = task()
    method = DreamBooth(iterations=5, steps=1, prior_images=1, text_encoder=tuned)
    prepared, said = method.prepare(asked), []
    begun = method.begin(prepared)
    (encoder,) = prepared.model.text.networks
    handle = encoder.register_forward_hook(lambda *_: said.append(1))
    list(method.run(prepared, begun))
    handle.remove()
    assert len(said) == times


@pytest.mark.filterwarnings("ignore:diffusers reads no LoRA on the text_encoder_3")
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("name", [SD1, "Stable Diffusion XL", "Stable Diffusion 3"])
def test_what_dreambooth_writes_is_read_by_diffusers(name: str, text: bool, tmp_path: Path) -> None:
    asked = task(name)
    method = DreamBooth(iterations=2, steps=2, prior=0, rank=2, text_encoder=text, optimiser=FAST)
    *_, last = method.run(method.prepare(asked))
    ((file, write),) = method.artefacts(asked, last).items()
    write(tmp_path / file)
    pipeline = family(name)
    pipeline.load_lora_weights(tmp_path, weight_name=file)
    again = chainrule.load(pipeline)
    theirs = draw_latents(replace(asked, model=again), "a sks thing", (0,), 2, None)
    with trained.use(asked.model, method.part, last.values):
        ours = draw_latents(asked, "a sks thing", (0,), 2, None)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - draw_latents(asked, "a sks thing", (0,), 2, None)).abs().max() > 1e-4


@pytest.mark.parametrize(("rank", "rate"), [(None, 5e-6), (8, 1e-4)])
def test_a_rate_that_is_not_said_is_that_of_what_is_tuned(rank: int | None, rate: float) -> None:
    alone = DreamBooth(rank=rank)
    other = DreamBooth.model_validate({"rank": rank, "optimiser": {"bits": 8}})
    assert alone.moved_by.rate == other.moved_by.rate == rate
    assert other.moved_by.bits == 8
    assert other.moved_by.beta2 == alone.moved_by.beta2 == 0.999
