"""The Python face: what it takes, what it says of what it does not, and what can be sent elsewhere."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import chainrule
from chainrule import EDICT, Checkpoint, Model, UserError, sample
from chainrule.brief import Brief, describe_tensor
from chainrule.diffusion.constraints import LowPass, VisitedReference
from chainrule.images import to_pil
from chainrule.losses import LOSSES, Brightness, Call, Loss, load_clip, load_rater
from chainrule.losses.registry import parse_loss
from chainrule.memory import Plan
from chainrule.methods import METHODS, Photo, Plain, Result, Task
from chainrule.runs import Done, Folder, Inputs, RunSpec, execute, read_origin, read_spec, resume
from conftest import tiny_model
from tiny import FAMILIES, family, load_once

EVERY = ("scenes", *FAMILIES)
PROMPT = "a red shape on a white background"


@cache
def load_small(name: str) -> Model:
    """A model of a family, for the smallest images."""
    return load_once() if name == "scenes" else chainrule.load(family(name), size=(16, 16))


def tell(model: Model) -> Any:
    """The model told something that it understands."""
    return model.denoiser(model.text.example or "")


def draw(model: Model, steps: int = 1) -> Tensor:
    return Plain(steps=steps)(Task(model, tell(model), (0, 1))).images


# --- the plain decoder ---------------------------------------------------------------------------


def test_finite_differences_of_the_plain_decoder_are_the_gradient() -> None:
    """The README's first example; clamped, the two differ where images leave [0, 1]."""
    model = chainrule.load(dtype=torch.float64)
    denoiser, times = model.denoiser(PROMPT, guidance_scale=3.0), model.schedule.times(4)
    x_T = model.noise([0]).double().requires_grad_()
    v = torch.randn(x_T.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(x: Tensor, clamp: bool) -> Tensor:
        x_0 = sample(denoiser, x, times, gradient=Checkpoint())
        return model.decode(x_0, clamp=clamp).square().mean()

    def compare(clamp: bool) -> float:
        (gradient,) = torch.autograd.grad(loss(x_T, clamp), x_T)
        exact, h = (gradient * v).sum().item(), 1e-5
        with torch.no_grad():
            found = (loss(x_T + h * v, clamp) - loss(x_T - h * v, clamp)).item() / (2 * h)
        return abs(found / exact - 1)

    assert compare(clamp=False) < 1e-6
    assert compare(clamp=True) > 1e-4


@pytest.mark.parametrize("name", EVERY)
def test_every_decoder_can_be_plain(name: str) -> None:
    model = load_small(name)
    z = 40 * torch.randn(1, *model.codec.latent_shape, generator=torch.Generator().manual_seed(0))
    plain, clamped = model.decode(z, clamp=False), model.decode(z)
    assert plain.min() < 0 < 1 < plain.max() or plain.std() > 0
    torch.testing.assert_close(clamped, plain.clamp(0, 1))
    grad = [torch.autograd.grad(model.decode(x, clamp=c).sum(), x)[0] for c in (True, False) for x in [z.clone().requires_grad_()]]  # fmt: skip
    assert torch.equal(*grad)


# --- what it takes -------------------------------------------------------------------------------

SEEDS: list[Any] = [0, [0], (0,), range(1), np.int64(0), np.array([0]), torch.tensor([0]), torch.tensor(0), iter([0]), "0"]  # fmt: skip
NO_SEEDS: list[Any] = [-1, [], "a", "3-0", b"0", 1.0, True, None, [0.5], 2**31, {"seed": 0}, [[0]], torch.tensor([1.0]), torch.tensor([True]), range(10**9), [0, "1"]]  # fmt: skip


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda seeds: type(seeds).__name__)
def test_seeds_are_taken_in_every_form(seeds: Any) -> None:
    again = seeds if not hasattr(seeds, "__next__") else [0]
    model = tiny_model()
    assert torch.equal(model.noise(seeds), model.noise([0]))
    task = Task(model, model.denoiser("a"), again)
    assert task.seeds == (0,)
    assert all(type(seed) is int for seed in task.seeds)
    assert chainrule.Noise(again) == chainrule.Noise((0,))


@pytest.mark.parametrize("seeds", NO_SEEDS, ids=repr)
def test_what_is_no_seed_is_said(seeds: Any) -> None:
    model = tiny_model()
    for use in (
        model.noise,
        chainrule.Noise,
        lambda seeds: Task(model, model.denoiser("a"), seeds),
    ):
        with pytest.raises(UserError, match="seed") as at:
            use(seeds)
        assert len(str(at.value)) < 200
        assert at.value.field == "seeds"


def test_single_things_may_stand_alone() -> None:
    model, image = tiny_model(), torch.rand(3, 8, 8)
    keep = LowPass(VisitedReference(torch.zeros(5, 1, 2, 4, 4)), 2, 9.0, 0.0)
    task = Task(model, model.denoiser("a"), 0, prompts="a", pictures=image, constraints=keep)
    assert task.prompts == ("a",)
    assert task.constraints == (keep,)
    assert len(task.pictures) == 1
    assert Task(model, model.denoiser("a"), 0, prompts=["a"]).prompts == ("a",)


def test_seeds_come_in_by_any_door() -> None:
    model = tiny_model()
    assert Task(model, model.denoiser("a"), "0-3").seeds == (0, 1, 2, 3)
    for seeds in (0, "0", [0], (0,), range(1), np.int64(0), np.array([0]), torch.tensor([0])):
        assert Inputs(seed=seeds).seed == (0,)
    for wrong in (-1, True, 1.5, None, "a", []):
        with pytest.raises(UserError):
            Inputs(seed=wrong)


def test_a_run_takes_one_method_and_losses_as_lines() -> None:
    whole = RunSpec(methods=(Plain(steps=3),), losses=("brightness=0.9",))
    assert whole.losses[0].build() == Brightness(0.9)
    assert RunSpec(methods=Plain(steps=3), losses="brightness=0.9") == whole
    with pytest.raises(UserError, match="'bright' is not a loss"):
        RunSpec(methods=Plain(), losses=("bright",))
    with pytest.raises(UserError, match="methods"):
        RunSpec(methods=5)


@pytest.mark.parametrize("name", METHODS)
def test_settings_never_change_and_a_wrong_name_is_said(name: str) -> None:
    method = METHODS[name]()
    field = next(each for each in type(method).model_fields if each != "kind")
    with pytest.raises(
        UserError, match=rf"settings never change: make another, as \w+\({field}=3\)"
    ):
        setattr(method, field, 3)
    with pytest.raises(UserError, match=rf"no setting '{field}x': did you mean .*{field}"):
        METHODS[name](**{field + "x": 3})


def test_a_run_is_found_by_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec, model = RunSpec(inputs=Inputs(prompt=PROMPT), methods=Plain(steps=1)), load_once()
    assert [type(event) for event in execute(spec, "a", model)][-1] is Done
    assert [type(event) for event in resume("a", model)][-1] is Done
    folder = Folder.open("a")
    assert folder.spec == read_spec("a/spec.json")
    picture = next(Path("a").rglob("*.png"))
    assert read_origin(str(picture)) == read_origin(picture)


@pytest.mark.parametrize("name", EVERY)
def test_one_prompt_is_not_a_list_of_letters(name: str) -> None:
    model = load_small(name)
    prompt = model.text.example or ""
    for one, listed in zip(model.text(prompt), model.text([prompt]), strict=True):
        assert torch.equal(one, listed)
    for wrong in (None, 5, [5], [prompt, None]):
        with pytest.raises(UserError, match=r"prompts are not .*: give a text"):
            model.text(wrong)


@pytest.mark.parametrize("name", EVERY)
def test_images_far_from_0_to_1_are_refused(name: str) -> None:
    model = load_small(name)
    _, *sides = model.codec.latent_shape
    images = torch.rand(1, 3, *(side * model.codec.factor for side in sides))
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    assert model.encode(images * 1.04 - 0.02).isfinite().all()  # an optimisation's
    for wrong in (images * 2 - 1, images * 255, -images):
        with pytest.raises(UserError, match="images are from 0 to 1, and these from"):
            model.encode(wrong)


@pytest.mark.parametrize("name", EVERY)
def test_latents_and_texts_of_another_model_are_said(name: str) -> None:
    model = load_small(name)
    x_T, told = model.noise([0]), tell(model)
    for wrong in (x_T[:, :-1], torch.cat([x_T, x_T], dim=1)):
        if wrong.numel():
            expected = rf"latents have {x_T.shape[1]} channels, and these {wrong.shape[1]}"
            with pytest.raises(UserError, match=expected):
                sample(told, wrong, 1)
    text = model.text(model.text.example or "")
    wide = tuple(torch.cat([c, c], dim=-1) if c.ndim == 3 else c for c in text)
    if any(c.ndim == 3 for c in text) and model.picture is None:
        with pytest.raises(UserError, match=r"texts are .* numbers wide, and this conditioning"):
            sample(model.denoiser(wide, guidance_scale=1.0), x_T, 1)


NO_TASK: dict[str, tuple[dict[str, Any], str]] = {
    "a model's name": ({"model": "scenes"}, "model is str, not Model: give what chainrule.load"),
    "a prompt": ({"denoiser": "a cat"}, r"denoiser is str, not Denoiser: give one, as model\.den"),
    "a number": ({"prompts": 5}, "5 is not a tuple of prompts"),
    "numbers": ({"prompts": (5,)}, "prompts is int, not str"),
    "a class": ({"constraints": (LowPass,)}, "constraints is the class LowPass, not Constraint"),
    "an image": (
        {"photo": torch.zeros(1, 3, 8, 8)},
        r"photo is Tensor, not Photo: wrap it: Photo\(",
    ),
    "a path": ({"pictures": Path("a.png")}, "is not a tuple of pictures"),
}


@pytest.mark.parametrize("case", NO_TASK)
def test_a_wrong_part_of_a_task_is_said(case: str) -> None:
    model = tiny_model()
    changed, message = NO_TASK[case]
    with pytest.raises(UserError, match=message) as at:
        Task(**({"model": model, "denoiser": model.denoiser("a"), "seeds": 0} | changed))
    assert at.value.field == next(iter(changed))


NO_PROMPT: list[Any] = [5, None, b"a", 1.5, [], ["a", 5], {"a": 1}, [None], {"a"}, object()]


@pytest.mark.parametrize("prompt", NO_PROMPT, ids=lambda prompt: repr(prompt)[:20])
@pytest.mark.parametrize("where", ["prompt", "negative_prompt"])
def test_what_is_no_prompt_is_said(where: str, prompt: Any) -> None:
    model = load_once()
    with pytest.raises(UserError, match=r"prompt is not|not a conditioning|a text"):
        model.denoiser(**({"prompt": PROMPT} | {where: prompt}))


@pytest.mark.parametrize("scale", ["7", float("nan"), float("inf"), True, [7.5], 1j])
def test_what_is_no_guidance_scale_is_said(scale: Any) -> None:
    with pytest.raises(UserError, match=r"a guidance scale is not .*: give a number") as at:
        load_once().denoiser(PROMPT, guidance_scale=scale)
    assert at.value.field == "guidance_scale"


BATCHES: dict[str, Any] = {
    "a number": 0,
    "an array": np.zeros((1, 4, 16, 16)),
    "one image": torch.zeros(4, 16, 16),
    "five dimensions": torch.zeros(1, 1, 4, 16, 16),
    "channels": torch.zeros(1, 5, 16, 16),
    "nothing": torch.zeros(0, 4, 16, 16),
    "whole numbers": torch.zeros(1, 4, 16, 16, dtype=torch.uint8),
    "complex": torch.zeros(1, 4, 16, 16, dtype=torch.complex64),
}


@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.parametrize("name", EVERY)
def test_what_is_no_batch_is_said(name: str, case: str) -> None:
    model, value = load_small(name), BATCHES[case]
    for use, channels in ((model.decode, model.codec.latent_shape[0]), (model.encode, 3)):
        if isinstance(value, Tensor) and value.ndim > 2 and value.shape[-3] == 4:
            value = value[..., :1, :, :].expand(*value.shape[:-3], channels, 16, 16)
        with pytest.raises(UserError, match=r"give|divide|cast"):
            use(value)


@pytest.mark.parametrize("name", EVERY)
def test_images_of_an_impossible_size_are_said(name: str) -> None:
    model = load_small(name)
    if model.codec.multiple > 1:
        side = model.codec.multiple * 4
        with pytest.raises(UserError, match=f"multiples of {model.codec.multiple}: fit them"):
            model.encode(torch.zeros(1, 3, side, side + 1))


# --- what it says of itself ----------------------------------------------------------------------


def losses(tmp_path: Path) -> dict[str, Loss]:
    """A loss of every kind."""
    to_pil(torch.rand(3, 16, 16)).save(tmp_path / "picture.png")
    lines = {
        name: LOSSES[name].hint.replace("FILE", str(tmp_path / "picture.png")) for name in LOSSES
    }
    lines |= {"classifier": "classifier=heart", "text": "text=a red shape"}
    return {name: LOSSES[name].model_validate(parse_loss(line)).build() for name, line in lines.items()}  # fmt: skip


@pytest.fixture(scope="module")
def every_loss(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loss]:
    return losses(tmp_path_factory.mktemp("losses"))


def check_brief(value: object) -> None:
    text = repr(value)
    assert len(text) < 500, text
    assert "\n" not in text
    assert "tensor(" not in text
    assert " at 0x" not in text
    assert type(value).__name__ in text


@pytest.mark.parametrize("name", EVERY)
def test_models_and_what_they_are_made_of_are_brief(name: str) -> None:
    model = load_small(name)
    assert repr(model).startswith(f"Model({model.name!r}, ")
    assert repr(model).endswith(" pixels, float32, cpu)")
    parts = (model.network, model.codec, model.text, model.schedule, model.guidance, tell(model))
    result = Plain(steps=1)(Task(model, tell(model), range(9)))
    for each in (model, *parts, Task(model, tell(model), range(99)), result):
        check_brief(each)


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_are_brief(kind: str, every_loss: dict[str, Loss]) -> None:
    model = tiny_model()
    check_brief(every_loss[kind])
    check_brief(Task(model, model.denoiser("a"), 0, every_loss[kind]))


def test_a_short_line_says_what_differs_from_the_defaults() -> None:
    model = tiny_model()
    task = Task(model, model.denoiser("a"), 3, Brightness(0.5), prompts="a")
    assert "seeds=(3,), loss=Brightness(target=0.5), prompts=('a',))" in repr(task)
    assert "photo" not in repr(task)
    images = torch.zeros(1, 3, 8, 8)
    assert "images=float32 (1, 3, 8, 8)" in repr(Photo(images, model.denoiser("a"), (8, 8)))
    assert repr(EDICT(mix=0.9)) == "EDICT(mix=0.9)"
    assert repr(load_rater()).startswith("Rater(clip=Clip(")
    check_brief(load_clip())
    assert describe_tensor(torch.tensor(3)) == "3"
    assert issubclass(Result, Brief)


# --- elsewhere -----------------------------------------------------------------------------------

DTYPES = (torch.float64, torch.float16, torch.bfloat16)


def weights(model: Model) -> list[Tensor]:
    return [weight for network in model.networks for weight in network.parameters()]


@pytest.mark.parametrize("name", EVERY)
def test_a_model_in_another_dtype_is_one_that_was_loaded_so(name: str) -> None:
    model = load_small(name)
    before = [weight.clone() for weight in weights(model)]
    for dtype in DTYPES:
        cast = model.to(dtype)
        assert {weight.dtype for weight in weights(cast)} <= {dtype, torch.float32}
        assert cast.network.weights[0].dtype == dtype
        if dtype == torch.float64:
            assert torch.isfinite(draw(cast)).all()
            torch.testing.assert_close(draw(cast), draw(model), atol=1e-3, rtol=1e-3)
        assert str(dtype).removeprefix("torch.") in repr(cast)
    for weight, old in zip(weights(model), before, strict=True):
        assert torch.equal(weight, old)
        assert weight.dtype == old.dtype


def test_what_overflows_in_half_stays_whole() -> None:
    xl, sd = (load_small(name).to(torch.float16) for name in ("Stable Diffusion XL", "Stable Diffusion 1.x"))  # fmt: skip
    assert xl.codec.vae.dtype == torch.float32
    assert sd.codec.vae.dtype == torch.float16
    t5 = load_small("Flux.1 dev").to(torch.float16).text.pipeline.text_encoder_2
    kept = {
        str(value.dtype) for name, value in t5.named_parameters() if name.endswith(".wo.weight")
    }
    assert kept == {"torch.float32"}


@pytest.mark.parametrize("name", EVERY)
def test_where_nothing_changes_weights_are_shared_and_images_the_same(name: str) -> None:
    model = load_small(name)
    for same in (model.to("cpu"), model.to(), model.to(torch.float32, torch.device("cpu"))):
        assert same is not model
        for one, other in zip(weights(model), weights(same), strict=True):
            assert one is not other
            assert one.data_ptr() == other.data_ptr()
        assert torch.equal(draw(same, 1), draw(model, 1))


@pytest.mark.parametrize("name", EVERY)
def test_a_model_elsewhere_is_wholly_there(name: str) -> None:
    """On the device that holds no numbers: whatever is there can only have been put there."""
    there = load_small(name).to("meta")
    assert there.device.type == "meta"
    assert {weight.device.type for weight in weights(there)} == {"meta"}
    for part in (there.network, there.codec, there.text):
        for value in vars(part).values():
            assert getattr(value, "type", "meta") == "meta" or not isinstance(value, torch.device)
    assert {weight.device.type for weight in weights(load_small(name))} == {"cpu"}


@pytest.mark.parametrize(
    "where", ["float16", "nowhere", "cuda:99", 5.5, None, torch.int8, "cpu:-3"]
)
def test_what_is_no_place_is_said(where: Any) -> None:
    if where == "cuda:99" and torch.cuda.device_count() > 99:
        pytest.skip("it is a place")
    with pytest.raises(
        UserError, match=r"cannot be moved to .*: name a device|cannot be used here: choose"
    ) as at:
        tiny_model().to(where)
    assert at.value.field == "device"


# --- other processes -----------------------------------------------------------------------------


def again(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("way", [again, copy.deepcopy], ids=["pickle", "copy"])
def test_a_model_can_be_pickled(way: Callable[[Any], Any], name: str) -> None:
    model = load_small(name)
    _ = draw(model, 1)  # what it keeps at its first use goes along
    other = way(model)
    assert torch.equal(draw(other), draw(model))
    assert torch.equal(draw(way(other), 1), draw(model, 1))
    told, again_told = tell(model), way(tell(model))
    x, t = model.noise([0]), model.schedule.times(2)[0].item()
    assert torch.equal(again_told(x, t).x0, told(x, t).x0)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_task_of_every_loss_can_be_pickled(kind: str, every_loss: dict[str, Loss]) -> None:
    picture = torch.full((1, 3, 64, 64), 0.5)
    model, loss = load_once(), 0.5 * every_loss[kind].given(picture) + Brightness(0.3)
    task = Task(model, tell(model), (0, 1), loss, plan=Plan(batch_size=1), gradient=Checkpoint())
    before = Plain(steps=1)(task)
    after = Plain(steps=1)(again(task))
    assert torch.equal(after.losses, before.losses)
    assert torch.equal(after.images, before.images)
    assert again(task).loss.names == loss.names
    assert torch.equal(again(after).losses, before.losses)


@pytest.mark.parametrize("name", METHODS)
def test_methods_and_their_states_can_be_pickled(name: str) -> None:
    method = METHODS[name]()
    assert again(method) == method


def mean(images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def test_a_function_goes_along_by_its_name_and_a_lambda_says_why_not() -> None:
    model = load_once()
    task = Task(model, tell(model), 0, mean)
    assert torch.equal(Plain(steps=1)(again(task)).losses, Plain(steps=1)(task).losses)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        again(Task(model, tell(model), 0, Call(lambda images: mean(images))))


@pytest.mark.slow
def test_a_task_is_drawn_in_another_process() -> None:
    model = load_once()
    task = Task(model, tell(model), (0, 1), Brightness(0.3))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_draw_alone, (task, torch.get_num_threads()))
    assert torch.equal(found, Plain(steps=2)(task).images)


def _draw_alone(task: Task, threads: int) -> Tensor:
    torch.set_num_threads(threads)
    return Plain(steps=2)(task).images


# --- the package ---------------------------------------------------------------------------------


def test_types_are_there_for_type_checkers() -> None:
    assert (files("chainrule") / "py.typed").is_file()


def test_rooms_are_there_after_one_import() -> None:
    rooms = ("methods", "losses", "memory", "metrics", "images", "diffusion", "models", "runs")
    code = f"import chainrule\nfor room in {rooms}: print(getattr(chainrule, room).__name__)"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found == [f"chainrule.{room}" for room in rooms]


def test_what_is_public_is_there() -> None:
    own = ("Denoiser", "WrappedDenoiser", "Prediction", "Solver")
    for name in ("load", "sample", "invert", "Model", "Noise", "UserError", "Checkpoint", *own):
        assert name in dir(chainrule)
        assert getattr(chainrule, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = chainrule.nothing
