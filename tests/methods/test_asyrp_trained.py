"""Asyrp, trained: what it is by its definition, what it writes, and what strangers' files do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from chainrule import UserError
from chainrule.diffusion.control import Bottleneck, Learnt, Several, Shift
from chainrule.diffusion.control.bottleneck import bottleneck
from chainrule.diffusion.sampling import sample, sample_state
from chainrule.diffusion.solvers.ddpm import DDPM
from chainrule.images import to_pil
from chainrule.losses import load_clip
from chainrule.losses.features import Features, load_features
from chainrule.memory import Plan
from chainrule.memory.measure import distinct_modules
from chainrule.methods import Adam, AsyrpEdit, AsyrpTrained, DDIMInversion, Photo, Task
from chainrule.methods.asyrp_times import NEVER, choose_times, measure_distance
from chainrule.methods.training import Training
from chainrule.models.directions import Saved, read_direction, save_direction
from chainrule.noise import Noise
from command import call
from tiny import family, load_once, save_clip

SD1 = "Stable Diffusion 1.x"
BLOCKS: tuple[Any, ...] = (
    SD1,
    "Stable Diffusion 3",
    "PixArt-alpha",
    "Pixels, told nothing",
    pytest.param("Stable Diffusion XL", marks=pytest.mark.slow),
    pytest.param("Flux.1 dev", marks=pytest.mark.slow),
)
"""U-Nets, with and without texts, and every kind of transformer."""
CHANGE = "a red circle > a blue circle"


@cache
def clip() -> str:
    folder = Path(tempfile.mkdtemp(prefix="chainrule-")) / "clip"
    save_clip(folder)
    return str(folder)


def make(**changes: Any) -> AsyrpTrained:
    small: dict[str, Any] = {
        "change": CHANGE,
        "clip": {clip(): 1.0},
        "steps": 3,
        "until": 0.7,
        "boost": 0.0,
        "iterations": 2,
        "batch": 2,
        "optimiser": Adam(rate=0.05),
    }
    return AsyrpTrained(**(small | changes))


def pictures(count: int = 3) -> tuple[Tensor, ...]:
    return tuple(torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def task(name: str = SD1) -> Task:
    model = load_once(name)
    return Task(model, model.denoiser(""), (0,), pictures=pictures())


def edited(count: int = 2, name: str = SD1) -> Task:
    model = load_once(name)
    told, images = model.denoiser("", guidance_scale=1.0), torch.stack(pictures(count))
    return Task(
        model, told, tuple(range(count)), None, Photo(images, told, (16, 16)), prompts=("x",)
    )


def some_direction(name: str = SD1, form: str = "function", seed: int = 0) -> Learnt:
    """One that moves something."""
    model = load_once(name)
    told, times = model.denoiser("", guidance_scale=1.0), model.schedule.times(3)
    x = torch.zeros(1, *model.codec.latent_shape)
    begun = Learnt.begin(bottleneck(told, x, 301.0), times[:-1] if form == "shifts" else None)
    draw = torch.Generator().manual_seed(seed)
    values = {
        n: v if n == "times" else v + 0.5 * torch.randn(v.shape, generator=draw)
        for n, v in begun.values.items()
    }
    return Learnt(values)


def write(path: Path, learnt: Learnt, t_edit: float = 300.0, t_boost: float = -1.0) -> Path:
    save_direction(path, Saved(learnt, t_edit, t_boost), CHANGE)
    return path


def edit(*files: tuple[Path, float], asked: Task | None = None, **changes: Any) -> Tensor:
    method = AsyrpEdit(**({"directions": {str(f): c for f, c in files}, "steps": 3} | changes))
    return method(edited() if asked is None else asked).images


# --- how it is learnt ----------------------------------------------------------------------------


@pytest.mark.parametrize(("through", "form"), [("step", "function"), ("chain", "shifts")], ids=str)
def test_a_stop_costs_nothing_and_nothing_given_changes(through: Any, form: Any) -> None:
    iterations = 12 if through == "step" else 6
    method = make(through=through, form=form, iterations=iterations, steps=2, batch=1)
    asked = method.prepare(task())
    networks = [*asked.model.networks, load_clip(clip()).network]
    before = [weight.clone() for network in networks for weight in network.parameters()]
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
    assert all(not torch.equal(whole.values[name], first.values[name]) for name in whole.values)
    after = [weight for network in networks for weight in network.parameters()]
    assert all(map(torch.equal, after, before))
    assert torch.equal(torch.stack(asked.pictures), torch.stack(pictures()))


@pytest.mark.parametrize("through", ["chain", "step"])
def test_only_the_direction_has_a_gradient(through: Any) -> None:
    """Counted: of the network, the codec, the texts and CLIP no weight wants one, or gets one."""
    method, asked = make(through=through, iterations=1, perceptual=0.5), task()
    state = method.begin(asked, method.gather(asked))
    every = distinct_modules(asked.model.networks, load_clip(clip()).networks)
    weights = [weight for network in every for weight in network.parameters()]
    assert len(weights) > 100
    with method.learn(asked, state) as (leaves, told):
        lose = method.by_chain if through == "chain" else method.by_step
        (part,) = lose(asked, state.given, told, None)(0)
        part.sum().backward()
        assert {name for name, leaf in leaves.items() if leaf.requires_grad} == {*state.values}
        assert any(leaf.grad is not None and leaf.grad.any() for leaf in leaves.values())
    assert sum(weight.requires_grad or weight.grad is not None for weight in weights) == 0


def test_two_steps_by_hand() -> None:
    """The paper's update: each step judges its P_t against that of the chain that is not edited."""
    method, asked = make(steps=2, until=1.0, iterations=2, batch=3, perceptual=0.0), task()
    *_, last = method.run(asked)
    told, judge, schedule = method.tell(asked), method.judge(asked), asked.model.schedule
    given = method.gather(asked)
    times, decode = method.times(asked).tolist(), asked.model.decode
    begun = method.begin(asked, given)
    leaves = {name: value.clone().requires_grad_() for name, value in begun.values.items()}
    adam = torch.optim.Adam(leaves.values(), lr=0.05, betas=(0.9, 0.99), eps=1e-12)
    learnt = Learnt(leaves)
    x = plain_x = given["x_t0"]
    losses = []
    for t, s in pairwise(times):
        d_t = told(x, t).eps.detach()
        shift = Shift(learnt(told, x, t))
        p_t = Bottleneck(told, shift)(x, t).x0
        plain = told(plain_x, t)
        off = judge(decode(p_t), decode(plain.x0))
        adam.zero_grad()
        off.sum().backward()
        adam.step()
        losses.append(off.detach())
        x = (schedule.alpha(s) * p_t + schedule.sigma(s) * d_t).detach().float()
        plain_x = schedule.mix(plain.x0, plain.eps, s)
    torch.testing.assert_close(last.losses, torch.stack(losses), rtol=1e-4, atol=1e-5)
    for name, leaf in leaves.items():
        torch.testing.assert_close(last.values[name], leaf.detach(), rtol=1e-2, atol=1e-3)
    assert not torch.equal(losses[0], losses[1])


def test_the_gradient_of_the_whole_chain_is_that_of_finite_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = family(SD1).to(torch.float64)
    model, ramp = chainrule.load(pipeline), torch.linspace(0, 1, 16, dtype=torch.float64)

    def judge(self: Any, asked: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda images, _: (images * ramp).square().mean()[None]

    monkeypatch.setattr(AsyrpTrained, "judge", judge)
    method = make(through="chain", steps=3, batch=1, iterations=1)
    asked = Task(model, model.denoiser(""), (0,), pictures=pictures(1))
    learnt = {name: value.double() for name, value in some_direction().values.items()}
    state = replace(
        Training.begin(learnt, 1, **{n: v.double() for n, v in method.gather(asked).items()}),
        values=learnt,
    )
    draw = torch.Generator().manual_seed(1)
    ways = {n: torch.randn(v.shape, generator=draw, dtype=v.dtype) for n, v in learnt.items()}

    def lose(values: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with method.learn(asked, replace(state, values=values)) as (leaves, told):
            (off,) = method.by_chain(asked, state.given, told, None)(0)
            slopes = torch.autograd.grad(off.sum(), [*leaves.values()])
        return off.detach(), dict(zip(leaves, slopes, strict=True))

    _, slopes = lose(learnt)
    ahead, behind = (
        lose({name: value + e * ways[name] for name, value in learnt.items()})[0]
        for e in (1e-5, -1e-5)
    )
    wanted = (ahead - behind) / 2e-5
    assert wanted.abs() > 1e-6
    assert all(slope.any() for slope in slopes.values())
    found = sum((slopes[name] * way).sum() for name, way in ways.items())
    torch.testing.assert_close(found, wanted[0], rtol=1e-6, atol=1e-10)


def test_parts_make_no_difference() -> None:
    asked = task()
    for through in ("chain", "step"):
        method = make(through=through, iterations=1)
        *_, whole = method.run(asked)
        *_, parts = method.run(asked.under(Plan(decode_batch=1)))
        torch.testing.assert_close(parts.losses, whole.losses, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", BLOCKS)
def test_it_learns_in_any_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A U-Net, and the image's own half of a transformer."""
    method, asked = make(steps=1, until=1.0, through="chain", batch=3), task(name)
    method = method.model_copy(update={"optimiser": Adam(rate=1e-3)})

    def judge(images: Tensor, _: Tensor) -> Tensor:
        return images.mean() * torch.tensor([1.0, 0.0, 0.0])

    monkeypatch.setattr(AsyrpTrained, "judge", lambda *_: judge)
    *_, last = method.run(method.prepare(asked))
    assert last.losses[-1, 0] < last.losses[0, 0]
    told = asked.model.denoiser("", guidance_scale=1.0)
    x = torch.randn(2, *asked.model.codec.latent_shape)
    h = bottleneck(told, x, 301.0)
    dh = method.find_direction(asked, last.values)(told, x, 301.0)
    assert dh.shape == h.shape
    assert dh.any()


def test_rebuilt_blocks_have_the_same_gradient_or_are_refused() -> None:
    """A U-Net's middle is outside what is rebuilt; a transformer's block is rebuilt itself."""
    for name in (SD1, "Stable Diffusion 3"):
        method, asked = make(through="chain", iterations=1), task(name)
        network = asked.model.network.module
        *_, wanted = method.run(asked)
        network.enable_gradient_checkpointing()
        try:
            if name == SD1:
                *_, found = method.run(asked)
                for key, value in wanted.memory.items():
                    torch.testing.assert_close(found.memory[key], value, rtol=1e-4, atol=1e-7)
            else:
                with pytest.raises(UserError, match="cannot be rebuilt with its blocks"):
                    list(method.run(asked))
        finally:
            network.disable_gradient_checkpointing()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"change": ""}, "nothing says what the pictures should become: write what there is >"),
        ({"change": "a dog"}, "does not say what becomes of what"),
        ({"until": 0.3}, r"until 0\.3, less than one of 3 steps is moved: choose at least 0\.34"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_anything_is_done(
    changes: dict[str, Any], cause: str
) -> None:
    with pytest.raises(UserError, match=cause):
        make(**changes).prepare(task())


# --- where in the chain --------------------------------------------------------------------------


class Pixels(Features):
    """Each pixel's colour."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [images.flatten(2)]


@given(st.floats(0.1, 9.0), st.floats(-1, 1))
@settings(max_examples=20, deadline=None)
def test_the_distance_is_that_of_directions(length: float, cosine: float) -> None:
    one = torch.zeros(2, 3, 4, 4)
    one[:, 0] = 1.0
    other = torch.zeros_like(one)
    other[:, 0], other[:, 1] = length * cosine, length * (1 - cosine**2) ** 0.5
    assert abs(measure_distance(Pixels(), one, other) - (2 - 2 * cosine)) < 1e-5


@pytest.mark.parametrize(
    ("predicted", "noisy", "wanted"),
    [
        ([0.9, 0.5, 0.2, 0.1], [1.9, 1.3, 1.1, 0.4], (1, 2)),
        ([0.2, 0.2, 0.2, 0.2], [1.9, 1.9, 1.9, 1.9], (0, None)),
        ([0.9, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1], (3, 0)),
        ([0.9, 0.2, 0.5, 0.1], [1.9, 1.0, 1.3, 0.1], (2, 1)),
    ],
)
def test_both_times_are_chosen_by_the_distances(
    predicted: list[float], noisy: list[float], wanted: tuple[int, int | None]
) -> None:
    times = load_once(SD1).schedule.times(4)
    t_edit, t_boost = choose_times(times, predicted, noisy)
    assert t_edit == times[wanted[0]]
    assert t_boost == (NEVER if wanted[1] is None else times[wanted[1]])


def test_both_times_are_found_in_the_chain_or_as_they_are_said() -> None:
    """Measured: of P_t and of x_t on the way that is not edited."""
    asked = task()
    method = make(until=None, boost=None)
    given = method.gather(asked)
    told, times, x = method.tell(asked), method.times(asked), given["x_t0"]
    off: list[list[float]] = [[], []]
    features = load_features()
    for t in times[:-1].tolist():
        walked = x if t == times[0] else sample_state(told, (x,), times[times >= t])[0]
        for kept, z in zip(off, (told(walked, t).x0, walked), strict=True):
            kept.append(measure_distance(features, asked.model.decode(z), given["pictures"]))
    found = given["t_edit"].item(), given["t_boost"].item()
    assert found == choose_times(times, *off)
    assert given["moved"] == (times[:-1] >= found[0]).sum()
    for until, boost, wanted in ((1.0, 0.0, (2, None)), (0.4, 0.4, (0, 2)), (0.7, 1.0, (1, 0))):
        given = make(until=until, boost=boost).gather(asked)
        assert given["t_edit"] == times[wanted[0]]
        assert given["t_boost"] == (NEVER if wanted[1] is None else times[wanted[1]])


def test_noise_is_added_below_a_time_and_nowhere_else() -> None:
    told, noise = load_once(SD1).denoiser("", guidance_scale=1.0), Noise((0, 1)).stream("x")
    times, x = told.schedule.times(4), torch.randn(2, 4, 8, 8)
    whole, plain = DDPM(noise), sample(told, x, times)
    for i, below in enumerate(times[:-1].tolist()):
        solver = DDPM(noise, below=below)
        before, after = times[: i + 1], times[i:]
        (mid,) = sample_state(told, (x,), before, solver=solver) if i else (x,)
        assert torch.equal(mid, sample_state(told, (x,), before)[0] if i else x)
        drawn = DDPM(noise, first=i)
        found = sample_state(told, (x,), times, solver=solver)[0]
        assert torch.equal(found, sample_state(told, (mid,), after, solver=drawn)[0])
        assert torch.equal(found, plain) == (i == 3)  # to the image itself nothing is added
    assert torch.equal(sample(told, x, times, solver=DDPM(noise, below=NEVER)), plain)
    assert torch.equal(
        sample(told, x, times, solver=DDPM(noise, below=999.0)),
        sample(told, x, times, solver=whole),
    )


# --- what was learnt, on other photos ------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCKS)
def test_no_direction_changes_nothing(name: str, tmp_path: Path) -> None:
    """Bit for bit: before the training, at a scale of 0, and after the interval."""
    model = load_once(name)
    told, x = model.denoiser("", guidance_scale=1.0), torch.randn(2, *model.codec.latent_shape)
    plain, learnt = told(x, 301.0), some_direction(name)
    begun = Learnt.begin(bottleneck(told, x[:1], 301.0))
    for still in (begun, replace(learnt, scale=0.0), replace(learnt, stop=302.0)):
        found = Bottleneck(told, Several((still,)))(x, 301.0)
        assert torch.equal(found.x0, plain.x0)
        assert torch.equal(found.eps, plain.eps)
    moved = Bottleneck(told, learnt)(x, 301.0)
    assert torch.equal(moved.eps, plain.eps)
    assert not torch.allclose(moved.x0, plain.x0, atol=1e-3)
    file = write(tmp_path / "direction.safetensors", learnt, 0.0, 999.0)
    back = DDIMInversion(steps=3, strength=1.0)(edited(name=name)).images
    asked = edited(name=name)
    assert torch.equal(edit((file, 0.0), asked=asked), back)
    assert not torch.allclose(edit((file, 1.0), asked=asked, boost=0.0), back, atol=1e-3)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=3), st.sampled_from(["function", "shifts"]))
@settings(max_examples=20, deadline=None)
def test_directions_add_up(scales: list[float], form: str) -> None:
    """c_1 f_1 + c_2 f_2 + ...: each is asked of h as it is, and counts as often as its scale says."""
    told = load_once(SD1).denoiser("", guidance_scale=1.0)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    h, each = bottleneck(told, x, 301.0), [some_direction(SD1, form, k) for k in range(len(scales))]
    wanted = h + sum(c * f.change(h, 301.0) for c, f in zip(scales, each, strict=True))
    parts = tuple(replace(f, scale=c) for c, f in zip(scales, each, strict=True))
    found = Several(parts).shift(told, x, 301.0)(h)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(h + Several(parts)(told, x, 301.0), wanted, rtol=1e-4, atol=1e-4)


def test_files_add_up_and_each_ends_at_its_own_time(tmp_path: Path) -> None:
    first, other = (write(tmp_path / f"{k}.safetensors", some_direction(seed=k)) for k in (0, 1))
    both = edit((first, 0.6), (other, -0.4))
    torch.testing.assert_close(edit((other, -0.4), (first, 0.6)), both, rtol=1e-4, atol=1e-4)
    v = some_direction(seed=0).values
    doubled = Learnt({**v, "w2": 2 * v["w2"], "b2": 2 * v["b2"]})
    twice = write(tmp_path / "twice.safetensors", doubled)
    torch.testing.assert_close(edit((twice, 0.3)), edit((first, 0.6)), rtol=1e-4, atol=1e-4)
    late = write(tmp_path / "late.safetensors", some_direction(seed=1), t_edit=2000.0)
    assert torch.equal(edit((first, 0.6), (late, 1.0)), edit((first, 0.6)))
    assert not torch.allclose(edit((first, 0.6), (late, 1.0), until=1.0), both, atol=1e-3)


def test_noise_at_last_is_of_the_seed_and_only_where_something_moves(tmp_path: Path) -> None:
    file = write(tmp_path / "d.safetensors", some_direction(), t_boost=999.0)
    asked, plain = edited(), edit((file, 1.0), boost=0.0)
    assert not torch.allclose(edit((file, 1.0)), plain, atol=1e-3)
    assert torch.equal(edit((file, 1.0)), edit((file, 1.0), boost=1.0))
    assert torch.equal(edit((file, 1.0)), edit((file, 1.0)))
    others = edit((file, 1.0), asked=replace(asked, seeds=(5, 6)))
    assert not torch.allclose(others, edit((file, 1.0)), atol=1e-3)
    alone = torch.cat([edit((file, 1.0), asked=part) for _, part in asked.split(1)])
    torch.testing.assert_close(alone, edit((file, 1.0)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["function", "shifts"])
def test_what_was_written_edits_as_what_was_learnt(form: Any, tmp_path: Path) -> None:
    method, asked = make(form=form), task()
    *_, last = method.run(asked)
    sheet = method.result(asked, last)
    assert (sheet.columns["after"] - sheet.columns["before"]).abs().max() > 1e-3
    assert {"t_edit", "t_boost", "loss"} <= {*sheet.numbers}
    ((name, written),) = method.artefacts(asked, last).items()
    written(tmp_path / name)
    found = edit((tmp_path / name, 1.0), asked=edited(3))
    torch.testing.assert_close(found, sheet.columns["after"], rtol=1e-3, atol=1e-4)
    again = read_direction(tmp_path, some_h())
    assert all(torch.equal(again.learnt.values[n], v) for n, v in last.values.items())
    assert (again.t_edit, again.t_boost) == (last.given["t_edit"], last.given["t_boost"])


def some_h() -> Tensor:
    model = load_once(SD1)
    return bottleneck(model.denoiser("", guidance_scale=1.0), torch.zeros(1, 4, 8, 8), 301.0)


Spoil = Callable[[dict[str, Tensor]], dict[str, Tensor]]
SPOILT: dict[str, Spoil] = {
    **{
        f"without {name}": lambda v, name=name: {n: t for n, t in v.items() if n != name}
        for name in ("w1", "b2", "e", "t_edit", "t_boost")
    },
    "with more": lambda v: v | {"w3": v["w1"].clone()},
    "of another width": lambda v: v | {"w1": v["w1"][:-1].clone()},
    "of whole numbers": lambda v: v | {"w1": v["w1"].long()},
    "with times": lambda v: v | {"times": torch.tensor([1.0, 2.0])},
    "with flat times": lambda v: v | {"times": torch.tensor(1.0)},
    "with two ends": lambda v: v | {"t_edit": torch.tensor([1.0, 2.0])},
    "empty": lambda v: {},
    "not finite": lambda v: v | {"b1": v["b1"] * torch.nan},
}


@pytest.mark.parametrize("how", SPOILT)
def test_strangers_files_are_refused(how: str, tmp_path: Path) -> None:
    file = write(tmp_path / "d.safetensors", some_direction())
    save_file(SPOILT[how](load_file(file)), file)
    with pytest.raises(UserError) as refused:
        AsyrpEdit(directions={str(file): 1.0}, steps=3).prepare(edited())
    assert refused.value.field == "directions"
    said = "infinite or not numbers" if how == "not finite" else "no direction that was trained"
    assert said in refused.value.cause


def test_what_is_no_file_of_tensors_or_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no directions: name what asyrp-trained wrote"):
        AsyrpEdit().prepare(edited())
    broken, text = tmp_path / "broken.safetensors", tmp_path / "text.pt"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    text.write_text("no tensors")
    torch.save([1, 2], tmp_path / "list.pt")
    shifts = write(tmp_path / "shifts.safetensors", some_direction(SD1, "shifts"))
    wide = replace(edited(), photo=None)
    images = torch.rand(2, 3, 16, 32)
    wide = replace(wide, photo=Photo(images, wide.denoiser, (16, 32)))
    other = write(tmp_path / "other.safetensors", some_direction("Stable Diffusion 3"))
    for file, asked in (
        (broken, edited()),
        (text, edited()),
        (tmp_path / "list.pt", edited()),
        (tmp_path / "nothing.safetensors", edited()),
        (shifts, wide),
        (other, edited()),
    ):
        with pytest.raises(UserError) as refused:
            AsyrpEdit(directions={str(file): 1.0}, steps=3).prepare(asked)
        assert refused.value.field == "directions"
        assert str(refused.value).count("\n") == 0
    function = write(tmp_path / "function.safetensors", some_direction())
    assert edit((function, 1.0), asked=wide).shape == (2, 3, 16, 32)


def test_it_is_asked_for_from_the_command_line_and_what_it_wrote_edits(tmp_path: Path) -> None:
    for k in range(2):
        to_pil(torch.rand(3, 64, 64)).save(tmp_path / f"{k}.png")
    first, other, out = tmp_path / "0.png", tmp_path / "1.png", tmp_path / "learnt"
    method = f"asyrp-trained:iterations=1,batch=1,steps=2,change={CHANGE}"
    code, said = call("tune", first, "--method", method, "--other", other, "--output", out)
    assert code == 0, said
    asked = ["--directions", f"-0.5*{out / 'direction.safetensors'}", "--output", tmp_path / "edit"]
    code, said = call("edit", other, "--method", "asyrp-edit:steps=2", *asked)
    assert code == 0, said
