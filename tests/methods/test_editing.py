"""The training-free editing methods: what defines each holds on the bundled model and on tiny real pipelines."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chainrule import DDIM, EDICT, Checkpoint, UserError, sample_state
from chainrule.diffusion.constraints import (
    LowPass,
    NoisedReference,
    constrain,
    fill_in,
    mask_for_latents,
)
from chainrule.diffusion.constraints.low_pass import low_pass
from chainrule.diffusion.control import Bottleneck, Shift, Towards
from chainrule.diffusion.control.bottleneck import bottleneck
from chainrule.diffusion.gradient import Backprop
from chainrule.diffusion.guidance import semantic as by
from chainrule.diffusion.solvers.base import Solver
from chainrule.losses import Call
from chainrule.memory import Plan, arrange
from chainrule.methods import (
    DOODL,
    ILVR,
    METHODS,
    Adam,
    Asyrp,
    BlendedDiffusion,
    DDIMInversion,
    DiffEdit,
    EDICTEdit,
    Needs,
    NoiseAwareGuidance,
    Photo,
    Plain,
    PromptToPrompt,
    RePaint,
    Result,
    SDEdit,
    SemanticGuidance,
    Task,
    constrain_to_mask,
)
from chainrule.methods.base import Drawn
from chainrule.methods.chains import OneShot, reconstruct_photos
from chainrule.methods.diffedit import find_difference
from tiny import load_once

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")

TINY = "Stable Diffusion 1.x"
UNETS = ("scenes", TINY, "Stable Diffusion XL")
ALL = (*UNETS, "Stable Diffusion 3")
SHOWN, WANTED = "a red circle on a white background", "a green circle on a white background"
STEPS = 4


def task(name: str = TINY, wanted: str = WANTED, *, exact: bool = False, batch: int = 2) -> Task:
    """Two photos; what may change is the upper left quarter of them."""
    made = load_once(name)
    side = made.codec.latent_shape[1] * made.codec.factor
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(batch, 1, side, side)
    mask[:, :, : side // 2, : side // 2] = 1.0
    shown, told = (made.denoiser(prompt, guidance_scale=2.0) for prompt in (SHOWN, wanted))
    photo = Photo(images, shown, (side, side), mask, exact, prompts=(SHOWN,))
    return Task(made, told, tuple(range(batch)), None, photo, prompts=(wanted,))


def unmasked(asked: Task) -> Task:
    return replace(asked, photo=replace(asked.require_photo(), mask=None))


def photo_latents(asked: Task) -> Tensor:
    return asked.model.encode(asked.require_photo().images)


def known(asked: Task) -> Tensor:
    """The latents of what is to be kept."""
    photo = asked.require_photo()
    return asked.model.encode(fill_in(photo.images, photo.mask))


def outside(asked: Task, latents: Tensor) -> Tensor:
    return latents * (1 - mask_for_latents(asked.require_photo().mask, latents))


# --- what defines each ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_sdedit_is_the_photo_at_strength_0_and_a_plain_image_at_1(name: str) -> None:
    asked = unmasked(task(name))
    still, between, anew = (
        SDEdit(strength=strength, steps=STEPS)(asked).latents for strength in (0.0, 0.5, 1.0)
    )
    assert torch.equal(still, photo_latents(asked))
    torch.testing.assert_close(
        anew, Plain(steps=STEPS)(replace(asked, photo=None)).latents, rtol=1e-5, atol=1e-5
    )
    assert 0 < (between - still).norm() < (anew - still).norm()


@pytest.mark.parametrize("name", ALL)
def test_ilvr_has_the_low_frequencies_of_the_photo(name: str) -> None:
    asked = unmasked(task(name))
    z = photo_latents(asked)
    to_the_end, half_way = (
        ILVR(factor=2, stop=stop, steps=STEPS)(asked).latents for stop in (1.0, 0.5)
    )
    torch.testing.assert_close(low_pass(to_the_end, 2), low_pass(z, 2), rtol=1e-4, atol=1e-4)
    for made in (to_the_end - z, low_pass(half_way - z, 2)):
        assert made.abs().mean() > 1e-2


@pytest.mark.parametrize("name", ALL)
def test_repaint_keeps_the_known_and_fills_the_rest(name: str) -> None:
    asked = task(name, exact=True)
    z, photo, method = known(asked), asked.require_photo(), RePaint(jump=2, repeats=2, steps=STEPS)
    made = method(asked)
    assert torch.equal(outside(asked, made.latents), outside(asked, z))
    assert torch.equal(made.images * (1 - photo.mask), photo.images * (1 - photo.mask))
    other = method(replace(asked, seeds=(5, 6)))
    assert (made.latents - other.latents).abs().max() > 0.1


@pytest.mark.parametrize("name", ALL)
def test_blended_changes_the_mask_alone_and_its_loss_falls(name: str) -> None:
    asked = task(name, exact=True)
    z, photo = known(asked), asked.require_photo()
    dark = Call(lambda images: images.mean(dim=(1, 2, 3)))
    method = BlendedDiffusion(scale=1000.0 if name == "scenes" else 30.0, crops=2, steps=STEPS)
    latent, pushed = BlendedDiffusion(steps=STEPS)(asked), method(replace(asked, loss=dark))
    for made in (latent, pushed):
        assert torch.equal(outside(asked, made.latents), outside(asked, z))
        assert torch.equal(made.images * (1 - photo.mask), photo.images * (1 - photo.mask))
    assert (dark(pushed.images) < dark(latent.images)).all()


@pytest.mark.parametrize("name", ALL)
def test_diffedit_with_equal_prompts_returns_the_picture(name: str) -> None:
    asked = unmasked(task(name, SHOWN))
    z = photo_latents(asked)
    assert torch.equal(DiffEdit(steps=STEPS, noises=2)(asked).latents, z)
    assert not find_difference(asked, z, noises=2).any()


@pytest.mark.parametrize("name", ALL)
def test_diffedit_changes_where_the_prompts_differ_and_only_there(name: str) -> None:
    asked, masked = unmasked(task(name)), task(name)
    z = photo_latents(asked)
    found = find_difference(asked, z, noises=2)
    assert 0 < found.mean() < 1
    method = DiffEdit(strength=0.75, steps=STEPS, noises=2)
    made = method(asked).latents
    assert torch.equal((1 - found) * made, (1 - found) * z)
    assert (found * (made - z)).abs().max() > 1e-2
    masks = DiffEdit(strength=0.75, steps=STEPS)
    assert torch.equal(outside(masked, masks(masked).latents), outside(masked, z))


def both_chains(asked: Task, method: PromptToPrompt) -> tuple[Tensor, Tensor]:
    """The last latents of source and target from the seeds' noise."""
    pair = method.pair(asked)
    solver = constrain(DDIM(), pair.constraints)
    with torch.no_grad():
        start = solver.start((asked.x_T,))
        (last,) = sample_state(
            pair.denoiser, start, asked.model.schedule.times(STEPS), solver=solver
        )
    source, target = last.chunk(2)
    return source, target


def plain(asked: Task) -> Tensor:
    return Plain(steps=STEPS)(replace(asked, photo=None)).latents


@pytest.mark.parametrize("name", [*UNETS, "PixArt-alpha"])
def test_prompt_to_prompt_with_equal_prompts_is_the_source_bit_for_bit(name: str) -> None:
    asked = unmasked(task(name, SHOWN))
    source, target = both_chains(asked, PromptToPrompt(steps=STEPS))
    assert torch.equal(source, target)
    torch.testing.assert_close(source, plain(asked), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*UNETS, "PixArt-alpha"])
def test_without_shares_the_target_is_its_own_and_with_them_it_is_not(name: str) -> None:
    asked = unmasked(task(name))
    free, held = (
        both_chains(asked, PromptToPrompt(cross=share, self_attention=share, steps=STEPS))
        for share in (0.0, 1.0)
    )
    torch.testing.assert_close(free[1], plain(asked), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(free[0], held[0], rtol=1e-3, atol=1e-4)
    assert (held[1] - free[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", UNETS)
def test_photos_under_prompt_to_prompt_begin_at_their_exact_inversion(name: str) -> None:
    asked, method = unmasked(task(name)), PromptToPrompt(steps=STEPS, mix=0.97)
    z = photo_latents(asked)
    again = method(unmasked(task(name, SHOWN)))
    torch.testing.assert_close(again.latents, z, rtol=1e-3, atol=1e-3)
    edited = method(asked)
    assert (edited.latents - z).abs().max() > 1e-3
    tokens = asked.model.text.tokens(WANTED)
    assert edited.attention is not None
    assert edited.attention.shape[:2] == (2, len(tokens))
    torch.testing.assert_close(edited.attention.sum(dim=1), torch.ones_like(edited.attention[:, 0]))


def test_the_models_own_picture_begins_at_its_own_noise() -> None:
    asked = unmasked(task(wanted=SHOWN))
    own = replace(asked.require_photo(), x_T=asked.x_T)
    again = PromptToPrompt(steps=STEPS)(replace(asked, photo=own))
    torch.testing.assert_close(again.latents, plain(asked), rtol=1e-3, atol=1e-4)


def bottleneck_shape(asked: Task) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(bottleneck(asked.denoiser, asked.x_T, 1.0).shape[1:])


@pytest.mark.parametrize("name", UNETS)
def test_a_zero_shift_of_the_bottleneck_changes_nothing(name: str) -> None:
    asked, same = unmasked(task(name)), unmasked(task(name, SHOWN))
    there_and_back = DDIMInversion(strength=1.0, steps=STEPS)(same).latents
    nowhere = Shift(torch.zeros(1, 1, 1, 1).expand(1, *bottleneck_shape(asked)))
    assert torch.equal(Asyrp(steps=STEPS).draw_along(nowhere, asked).latents, there_and_back)
    torch.testing.assert_close(Asyrp(steps=STEPS)(same).latents, there_and_back)
    assert (Asyrp(steps=STEPS)(asked).latents - there_and_back).abs().max() > 1e-3


# --- where a method does not make sense -------------------------------------------------------------------------


def test_transformers_without_the_inside_that_is_needed_are_refused() -> None:
    """Asyrp moves the block in their middle."""
    asked = unmasked(task("Stable Diffusion 3"))
    with pytest.raises(UserError, match="has no cross-attention from image to text"):
        PromptToPrompt(steps=STEPS)(asked)


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (PromptToPrompt(weight={"blue": 2.0}, steps=STEPS), "the prompt has no word 'blue'"),
        (PromptToPrompt(blend=("blue",), steps=STEPS), "neither prompt has the word 'blue'"),
        (ILVR(factor=100, steps=STEPS), "between 1 and 8 here"),
    ],
    ids=["weight", "blend", "factor"],
)
def test_what_does_not_fit_the_task_is_refused_before_anything_is_done(
    method: Any, problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        method.prepare(unmasked(task()))


def test_a_mask_of_another_size_is_refused() -> None:
    photo = task().require_photo()
    with pytest.raises(UserError, match=r"the mask is \(2, 1, 8, 8\): make it \(2, 1, 16, 16\)"):
        replace(photo, mask=torch.ones(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("kind", "change", "problem"),
    [
        (ILVR, {"factor": 0}, "factor"),
        (ILVR, {"start": 0.6, "stop": 0.2}, "let it rise"),
        (ILVR, {"eta": 2.0}, "eta"),
        (PromptToPrompt, {"cross": 2.0}, "cross"),
        (RePaint, {"repeats": 0}, "repeats"),
        (SDEdit, {"strength": 1.1}, "strength"),
        (EDICTEdit, {"mix": 1.5}, "mix"),
        (Plain, {"solver": "edit"}, "there is no solver 'edit'"),
        (Plain, {"grid": "fine"}, "there is no time grid 'fine': choose among"),
        (Plain, {"steps": 0}, "steps"),
        (Plain, {"scale": 2.0}, "scale"),
    ],
)
def test_impossible_settings_are_refused(kind: type, change: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        kind(**change)


# --- they compose -----------------------------------------------------------------------------------------------

Edit = Callable[[Task], Result]
WHOLE: dict[str, Edit] = {
    "sdedit": lambda asked: SDEdit(eta=1.0, repeats=2, steps=STEPS)(unmasked(asked)),
    "sdedit in a mask": lambda asked: SDEdit(steps=STEPS)(constrain_to_mask(asked)),
    "ilvr": lambda asked: ILVR(factor=2, steps=STEPS)(unmasked(asked)),
    "repaint": lambda asked: RePaint(jump=2, repeats=2, steps=STEPS)(asked),
    "blended": lambda asked: BlendedDiffusion(steps=STEPS)(asked),
    "diffedit": lambda asked: DiffEdit(steps=STEPS, noises=2)(unmasked(asked)),
    "prompt-to-prompt": lambda asked: PromptToPrompt(steps=STEPS)(unmasked(asked)),
    "prompt-to-prompt in a mask": lambda asked: PromptToPrompt(steps=STEPS)(
        constrain_to_mask(asked)
    ),
    "asyrp": lambda asked: Asyrp(steps=STEPS)(unmasked(asked)),
    "edict in a mask": lambda asked: EDICTEdit(steps=STEPS)(constrain_to_mask(asked)),
}


@pytest.mark.parametrize("method", WHOLE.values(), ids=WHOLE)
def test_an_image_does_not_depend_on_what_is_computed_beside_it(method: Edit) -> None:
    asked = task(batch=3)
    together, apart = method(asked), method(asked.under(Plan(batch_size=2)))
    torch.testing.assert_close(apart.latents, together.latents, rtol=1e-3, atol=1e-4)
    assert torch.equal(method(asked).latents, together.latents)


BRIGHT = Call(lambda images: 1 - images.mean(dim=(1, 2, 3)))


def doodl(iterations: int = 5, mix: float | None = None) -> DOODL:
    return DOODL(
        iterations=iterations,
        steps=STEPS,
        mix=mix,
        optimiser=Adam(rate=0.1),
        perturbation=0.0,
        crops=0,
    )


def from_noise(method: DOODL, asked: Task) -> Result:
    """What an optimisation makes of the seeds' noise, though there is a photo."""
    *_, last = method.run(asked, method.start(asked, asked.x_T))
    return method.result(asked, last)


def test_each_photo_may_have_its_own_prompts() -> None:
    """Together, apart under a plan, and through DOODL, whose state is split as well."""
    shown, wanted = (SHOWN, "a blue square"), (WANTED, "a blue square on a gray background")
    made = load_once(TINY)
    before, after = (made.denoiser(prompts, guidance_scale=2.0) for prompts in (shown, wanted))
    asked = unmasked(task())
    asked = replace(
        asked,
        denoiser=after,
        prompts=wanted,
        photo=replace(asked.require_photo(), denoiser=before, prompts=shown),
    )
    method = PromptToPrompt(blend=("circle", "square"), steps=STEPS)
    whole = method(asked)
    for i, word in enumerate(("circle", "square")):
        one = method.model_copy(update={"blend": (word,)})(asked.select([i]))
        torch.testing.assert_close(whole.latents[i : i + 1], one.latents, rtol=1e-3, atol=1e-4)
    apart = method(asked.under(Plan(batch_size=1)))
    torch.testing.assert_close(apart.latents, whole.latents, rtol=1e-3, atol=1e-4)
    pair = method.pair(replace(asked, loss=BRIGHT))
    together, split = (
        from_noise(doodl(1), pair.under(plan)) for plan in (Plan(), Plan(batch_size=1))
    )
    torch.testing.assert_close(split.latents, together.latents, rtol=1e-3, atol=1e-3)


def test_a_mask_around_edits_keeps_the_rest() -> None:
    asked = task()
    z = known(asked)
    for name in ("sdedit in a mask", "prompt-to-prompt in a mask", "edict in a mask"):
        made = WHOLE[name](asked).latents
        assert torch.equal(outside(asked, made), outside(asked, z)), name
        assert (made - z).abs().max() > 1e-3


@pytest.mark.parametrize("mix", [None, 0.97])
def test_doodl_inside_a_mask_optimises_what_is_free(mix: float | None) -> None:
    asked = constrain_to_mask(replace(task(), loss=BRIGHT))
    result = from_noise(doodl(mix=mix), asked)
    assert result.history is not None
    assert (result.losses < result.history[0]).all()
    assert torch.equal(outside(asked, result.latents), outside(asked, known(asked)))


def test_a_loss_moves_the_noise_of_a_pair_of_chains() -> None:
    """Prompt-to-Prompt under a loss: the target follows it, and its source goes along."""
    pair = PromptToPrompt(steps=STEPS).pair(replace(unmasked(task()), loss=BRIGHT))
    result = from_noise(doodl(), pair)
    assert result.history is not None
    assert (result.losses < result.history[0]).all()


# --- and are differentiable -------------------------------------------------------------------------------------


def gradients(
    asked: Task, solver: Solver, x_T: Tensor, *, of: Tensor | None = None
) -> list[Tensor]:
    """The gradient of the same chain, kept whole and rebuilt."""
    found, times = [], asked.model.schedule.times(STEPS)
    for gradient in (Backprop(), Checkpoint()):
        leaf = x_T.clone().requires_grad_()
        state = sample_state(
            asked.denoiser, solver.init(leaf), times, solver=solver, gradient=gradient
        )
        loss = asked.model.decode(solver.final(state)).square().sum()
        found.append(torch.autograd.grad(loss, leaf if of is None else of)[0])
    return found


def low(asked: Task) -> LowPass:
    stream = asked.noise.stream("ilvr/reference")
    return LowPass(NoisedReference(asked.model.schedule, asked.x_T, stream), 2, 1e4, -1.0)


CHAINS: dict[str, Callable[[Task], Task]] = {
    "inpaint": constrain_to_mask,
    "low pass": lambda asked: replace(asked, constraints=(low(asked),)),
    "prompt-to-prompt": lambda asked: PromptToPrompt(blend=("circle",), steps=STEPS).pair(asked),
    "all of them": lambda asked: PromptToPrompt(steps=STEPS).pair(constrain_to_mask(asked)),
}


@pytest.mark.parametrize("solver", [DDIM(), EDICT(mix=0.97)], ids=str)
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_rebuilt_gradients_equal_the_kept_ones(
    chain: Callable[[Task], Task], solver: Solver
) -> None:
    asked = chain(task())
    kept, rebuilt = gradients(asked, constrain(solver, asked.constraints), asked.x_T)
    assert kept.abs().max() > 0
    torch.testing.assert_close(rebuilt, kept, rtol=1e-3, atol=1e-4 * kept.abs().max().item())


def test_a_shift_of_the_bottleneck_gets_its_gradient() -> None:
    asked = task()
    dh = torch.zeros(1, *bottleneck_shape(asked), requires_grad=True)
    asked = replace(asked, denoiser=Bottleneck(asked.denoiser, Shift(dh)))
    kept, rebuilt = gradients(asked, DDIM(), asked.x_T, of=dh)
    assert kept.abs().max() > 0
    torch.testing.assert_close(rebuilt, kept, rtol=1e-3, atol=1e-4 * kept.abs().max().item())


def test_blocks_that_are_rebuilt_cannot_be_reached_into_with_a_gradient() -> None:
    asked = unmasked(task(batch=1))
    shown, wanted = asked.require_photo().denoiser, asked.denoiser
    with arrange(asked.model, None, Plan(gradient_checkpointing=True)):
        with torch.no_grad():
            pair = PromptToPrompt(steps=STEPS).pair(asked)
        x = asked.x_T
        both = torch.cat([x, x])
        with torch.no_grad():
            assert torch.isfinite(pair.denoiser(both, 301.0).x0).all()
        with pytest.raises(UserError, match="use a plan without `gradient_checkpointing`"):
            pair.denoiser(both, 301.0)
        moved = Bottleneck(wanted, Towards(shown))  # a U-Net's middle is outside of what is rebuilt
        assert torch.isfinite(moved(x, 301.0).x0).all()


# --- guidance that sees the noise -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_both_forms_of_noise_aware_guidance_follow_the_energy(name: str, eta: float) -> None:
    def energy(x: Tensor, t: float) -> Tensor:
        return x.square().mean(dim=(1, 2, 3))

    edited = replace(unmasked(task(name)), energy=energy)
    asked = replace(edited, photo=None)
    still, pushed = (
        NoiseAwareGuidance(scale=scale, eta=eta, steps=8)(asked).latents for scale in (0.0, 100.0)
    )
    assert (energy(pushed, 0.0) < energy(still, 0.0)).all()
    near = NoiseAwareGuidance(scale=0.0, strength=0.25, eta=eta, steps=8)(edited).latents
    z = reconstruct_photos(edited).latents
    assert (near - z).norm() < (still - z).norm()


def test_the_bundled_encoder_guides_by_text_picture_and_layout() -> None:
    from chainrule.images import from_pil
    from chainrule.losses import load_clip
    from chainrule.models.noise_aware import load_noise_aware_encoder
    from chainrule.scenes.base import Scene, Thing, render
    from chainrule.scenes.judge import read

    made, encoder = load_once(), load_noise_aware_encoder()
    scene = Scene((Thing("circle", "red", 32, 32, 20),), "white")
    reference = by.Likeness(encoder, made.schedule, made.encode(from_pil([render(scene)])))
    text = by.Text(encoder, load_clip().embed_texts([scene.caption]))
    asked = Task(made, made.denoiser("", guidance_scale=1.0), tuple(range(4)))

    def right(*energies: tuple[float, Any]) -> int:
        images = SemanticGuidance(scale=100.0, steps=20)(
            replace(asked, energy=by.Mixed(energies))
        ).images
        found = [read(image) for image in images]
        return sum(
            r.background == "white" and [t.colour for t in r.things] == ["red"] for r in found
        )

    assert right((0.0, text)) <= 1
    assert right((1.0, text)) == 4
    assert right((1.0, by.Image(reference))) >= 2
    assert right((0.5, by.Layout(reference)), (0.5, by.Style(reference))) >= 3


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_energies_of_an_image_stay_with_it(eta: float) -> None:
    from chainrule.models.noise_aware import NoiseAwareEncoder

    torch.manual_seed(0)
    encoder, made = NoiseAwareEncoder(width=8, dim=6).eval().requires_grad_(False), load_once()
    likeness = by.Likeness(encoder, made.schedule, torch.randn(2, 4, 16, 16))
    parts = (
        by.Text(encoder, torch.randn(2, 6)),
        by.Layout(likeness),
        by.Image(likeness),
        by.Style(likeness),
    )
    energy = by.Mixed([(1.0, part) for part in parts])
    asked = Task(made, made.denoiser("a red circle"), (0, 1), energy=energy)
    method = SemanticGuidance(scale=30.0, eta=eta, steps=3)
    whole, apart = (method(asked.under(plan)).latents for plan in (Plan(), Plan(batch_size=1)))
    torch.testing.assert_close(apart, whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "method", ["sdedit", "ilvr", "repaint", "blended", "diffedit", "prompt-to-prompt", "asyrp"]
)
def test_photos_need_not_be_square(method: str) -> None:
    asked = task()
    photo = asked.require_photo()
    images, mask = (torch.cat([part, part], dim=3)[..., :24] for part in (photo.images, photo.mask))
    wide = replace(asked, photo=replace(photo, images=images, mask=mask, size=(16, 24)))
    assert WHOLE[method](wide).images.shape == (2, 3, 16, 24)


# --- an edit that is none ---------------------------------------------------------------------------------------

EDITING = [
    kind
    for kind, method in METHODS.own.items()
    if issubclass(method, OneShot) and not method.needs & (Needs.NOISE | Needs.PICTURES)
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", EDITING)
def test_an_edit_that_nobody_sees_is_said_with_what_to_change(kind: str, masked: bool) -> None:
    """Of every editing method; in a mask it is what is within that counts."""
    method: Any = METHODS.own[kind]()
    asked = task() if masked else unmasked(task())
    z = photo_latents(asked)
    torch.manual_seed(0)
    half = torch.stack([0.3 * torch.randn_like(z[0]), torch.zeros_like(z[0])])
    for change, said in (
        (torch.zeros_like(z), "hardly changed the photo: "),
        (1e-4 * torch.ones_like(z), "hardly changed the photo: "),
        (half, "hardly changed the photo (seed 1): "),
        (half.flip(0) + half, None),
    ):
        state = Drawn(z + change, asked.x_T)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            images = method.result(asked, state).images
        assert images.shape[0] == 2
        found = [str(each.message) for each in caught if "hardly" in str(each.message)]
        if said is None or kind == "reconstruction":
            assert not found
            continue
        (message,) = found
        assert message.startswith(f"{kind} {said}")
        cure = message.rsplit(": ", 1)[1]
        assert re.search("|".join([*type(method).model_fields, "prompt", "mask"]), cure)


def test_asyrp_that_goes_nowhere_is_said() -> None:
    asked = unmasked(task())
    with pytest.warns(UserWarning, match="asyrp hardly changed the photo: .*: raise its scale"):
        Asyrp(scale=0.0, steps=1)(replace(asked, denoiser=asked.require_photo().denoiser))
