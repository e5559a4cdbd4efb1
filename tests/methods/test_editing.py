"""The training-free editing methods: what defines each holds on the bundled model and on tiny real pipelines."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

import chainrule
from chainrule import DDIM, EDICT, Checkpoint, UserError
from chainrule.diffusion.constraints import Inpaint, LowPass, Noised, Visited, constrain
from chainrule.diffusion.constraints.inpaint import fill_in, mask_for_latents
from chainrule.diffusion.constraints.low_pass import low_pass
from chainrule.diffusion.control import Bottleneck, Shift, Towards
from chainrule.diffusion.gradient import Backprop
from chainrule.diffusion.gradient.base import Chain
from chainrule.losses import Call
from chainrule.methods import (
    Adam,
    Attention,
    Doodl,
    Photo,
    Task,
    asyrp,
    blended,
    diffedit,
    doodl,
    edict,
    ilvr,
    masked,
    noise_aware,
    plain,
    prompt_to_prompt,
    repaint,
    sdedit,
    semantic,
    side_by_side,
)
from chainrule.methods.base import untouched
from chainrule.methods.diffedit import difference
from chainrule.models import Model
from chainrule.noise import Noise
from chainrule.plan import Plan
from chainrule.diffusion.sampling import sample_state, visited
from tiny import family

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")

UNETS = ("scenes", "Stable Diffusion 1.x", "Stable Diffusion XL")
ALL = (*UNETS, "Stable Diffusion 3")
SHOWN, WANTED = "a red circle on a white background", "a green circle on a white background"
STEPS = 4


@cache
def model(name: str) -> Model:
    return chainrule.load(None if name == "scenes" else family(name))


def task(name: str, wanted: str = WANTED, *, exact: bool = False, batch: int = 2) -> Task:
    """Two photos; what may change is the upper left quarter of them."""
    made = model(name)
    side = made.codec.latent_shape[1] * made.codec.factor
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(batch, 1, side, side)
    mask[:, :, : side // 2, : side // 2] = 1.0
    shown, told = (made.denoiser(prompt, guidance_scale=2.0) for prompt in (SHOWN, wanted))
    return Task(made, told, tuple(range(batch)), None, Photo(images, shown, (side, side), mask, exact))


def unmasked(asked: Task) -> Task:
    return replace(asked, photo=replace(asked.edited(), mask=None))


def known(asked: Task) -> Tensor:
    """The latents of what is to be kept."""
    photo = asked.edited()
    assert photo.mask is not None
    return asked.model.encode(fill_in(photo.images, photo.mask))


def outside(asked: Task, latents: Tensor) -> Tensor:
    mask = asked.edited().mask
    assert mask is not None
    return latents * (1 - mask_for_latents(mask, latents))


# --- what defines each ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_sdedit_is_the_photo_at_strength_0_and_a_plain_image_at_1(name: str) -> None:
    asked = unmasked(task(name))
    still, anew = (sdedit(asked, strength=strength, steps=STEPS) for strength in (0.0, 1.0))
    assert torch.equal(still.latents, asked.model.encode(asked.edited().images))
    torch.testing.assert_close(anew.latents, plain(asked, steps=STEPS).latents, rtol=1e-5, atol=1e-5)
    between = sdedit(asked, strength=0.5, steps=STEPS)
    assert 0 < (between.latents - still.latents).norm() < (anew.latents - still.latents).norm()


@pytest.mark.parametrize("name", ALL)
def test_ilvr_has_the_low_frequencies_of_the_photo(name: str) -> None:
    asked = unmasked(task(name))
    z = asked.model.encode(asked.edited().images)
    to_the_end, half_way = (ilvr(asked, factor=2, stop=stop, steps=STEPS).latents for stop in (1.0, 0.5))
    torch.testing.assert_close(low_pass(to_the_end, 2), low_pass(z, 2), rtol=1e-4, atol=1e-4)
    for made in (to_the_end - z, low_pass(half_way - z, 2)):
        assert made.abs().mean() > 1e-2


@pytest.mark.parametrize("name", ALL)
def test_repaint_keeps_the_known_and_fills_the_rest(name: str) -> None:
    asked = task(name, exact=True)
    z, photo = known(asked), asked.edited()
    made = repaint(asked, jump=2, repeats=2, steps=STEPS)
    assert torch.equal(outside(asked, made.latents), outside(asked, z))
    assert torch.equal(made.images * (1 - photo.mask), photo.images * (1 - photo.mask))
    other = repaint(replace(asked, seeds=(5, 6)), jump=2, repeats=2, steps=STEPS)
    assert (made.latents - other.latents).abs().max() > 0.1


@pytest.mark.parametrize("name", ALL)
def test_blended_changes_the_mask_alone_and_its_loss_falls(name: str) -> None:
    asked = task(name, exact=True)
    z, photo = known(asked), asked.edited()
    dark = Call(lambda images: images.mean(dim=(1, 2, 3)))
    scale = 1000.0 if name == "scenes" else 30.0
    latent, pushed = (blended(replace(asked, loss=loss), scale=scale, crops=2, steps=STEPS) for loss in (None, dark))
    for made in (latent, pushed):
        assert torch.equal(outside(asked, made.latents), outside(asked, z))
        assert torch.equal(made.images * (1 - photo.mask), photo.images * (1 - photo.mask))
    assert (dark(pushed.images) < dark(latent.images)).all()


@pytest.mark.parametrize("name", ALL)
def test_diffedit_with_equal_prompts_returns_the_picture(name: str) -> None:
    asked = unmasked(task(name, SHOWN))
    z = asked.model.encode(asked.edited().images)
    assert torch.equal(diffedit(asked, steps=STEPS, noises=2).latents, z)
    assert not difference(asked, z, noises=2).any()


@pytest.mark.parametrize("name", ALL)
def test_diffedit_changes_where_the_prompts_differ_and_only_there(name: str) -> None:
    asked = unmasked(task(name))
    z = asked.model.encode(asked.edited().images)
    found = difference(asked, z, noises=2)
    assert 0 < found.mean() < 1
    made = diffedit(asked, strength=0.75, steps=STEPS, noises=2).latents
    assert torch.equal((1 - found) * made, (1 - found) * z)
    assert (found * (made - z)).abs().max() > 1e-2
    given = diffedit(task(name), strength=0.75, steps=STEPS).latents
    assert torch.equal(outside(task(name), given), outside(task(name), z))


def both_chains(asked: Task, attention: Attention | None = None) -> tuple[Tensor, Tensor]:
    """The last latents of source and target from the seeds' noise."""
    pair = side_by_side(
        asked, SHOWN, WANTED if asked.denoiser is not asked.edited().denoiser else SHOWN, attention, steps=STEPS
    )
    (constraint,) = pair.constraints
    solver = constraint.on(DDIM())
    with torch.no_grad():
        (last,) = sample_state(pair.denoiser, solver.init(asked.x_T), asked.model.schedule.times(STEPS), solver=solver)
    source, target = last.chunk(2)
    return source, target


@pytest.mark.parametrize("name", [*UNETS, "PixArt-alpha"])
def test_prompt_to_prompt_with_equal_prompts_is_the_source_bit_for_bit(name: str) -> None:
    asked = unmasked(task(name, SHOWN))
    asked = replace(asked, denoiser=asked.edited().denoiser)
    source, target = both_chains(asked)
    assert torch.equal(source, target)
    torch.testing.assert_close(source, plain(asked, steps=STEPS).latents, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*UNETS, "PixArt-alpha"])
def test_without_shares_the_target_is_its_own_and_with_them_it_is_not(name: str) -> None:
    asked = unmasked(task(name))
    free, held = (both_chains(asked, Attention(cross=share, own=share)) for share in (0.0, 1.0))
    alone = plain(asked, steps=STEPS).latents
    torch.testing.assert_close(free[1], alone, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(free[0], held[0], rtol=1e-3, atol=1e-4)
    assert (held[1] - free[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", UNETS)
def test_photos_under_prompt_to_prompt_begin_at_their_exact_inversion(name: str) -> None:
    asked = unmasked(task(name, SHOWN))
    z = asked.model.encode(asked.edited().images)
    solver = EDICT(mix=0.97)
    again = prompt_to_prompt(asked, SHOWN, SHOWN, steps=STEPS, solver=solver)
    torch.testing.assert_close(again.latents, z, rtol=1e-3, atol=1e-3)
    edited = prompt_to_prompt(unmasked(task(name)), SHOWN, WANTED, steps=STEPS, solver=solver)
    assert (edited.latents - z).abs().max() > 1e-3
    tokens = asked.model.text.tokens(WANTED)
    assert edited.attention is not None
    assert edited.attention.shape[:2] == (2, len(tokens))
    torch.testing.assert_close(edited.attention.sum(dim=1), torch.ones_like(edited.attention[:, 0]))


@pytest.mark.parametrize("name", UNETS)
def test_a_zero_shift_of_the_bottleneck_changes_nothing(name: str) -> None:
    asked = unmasked(task(name))
    plainly = edict(replace(asked, denoiser=asked.edited().denoiser), strength=1.0, steps=STEPS, solver=DDIM())
    still = asyrp(asked, direction=Shift(torch.zeros(1, 1, 1, 1).expand(1, *bottleneck_shape(asked))), steps=STEPS)
    assert torch.equal(still.latents, plainly.latents)
    same = asyrp(replace(asked, denoiser=asked.edited().denoiser), steps=STEPS)
    torch.testing.assert_close(same.latents, plainly.latents)
    moved = asyrp(asked, steps=STEPS)
    assert (moved.latents - plainly.latents).abs().max() > 1e-3


def bottleneck_shape(asked: Task) -> tuple[int, ...]:
    from chainrule.diffusion.control.bottleneck import bottleneck

    with torch.no_grad():
        return tuple(bottleneck(asked.denoiser, asked.x_T, 1.0).shape[1:])


# --- where a method does not make sense -------------------------------------------------------------------------


def test_transformers_without_the_inside_that_is_needed_are_refused() -> None:
    asked = unmasked(task("Stable Diffusion 3"))
    with pytest.raises(UserError, match="has no bottleneck: Asyrp needs a U-Net"):
        asyrp(asked, steps=STEPS)
    with pytest.raises(UserError, match="has no cross-attention from image to text"):
        prompt_to_prompt(asked, SHOWN, WANTED, steps=STEPS)


def test_words_that_are_not_there_are_refused() -> None:
    asked = unmasked(task("scenes"))
    for attention, problem in (
        (Attention(weights={"blue": 2.0}), "the prompt has no word 'blue'"),
        (Attention(blend=("blue",)), "neither prompt has the word 'blue'"),
    ):
        with pytest.raises(UserError, match=problem):
            prompt_to_prompt(asked, SHOWN, WANTED, attention=attention, steps=STEPS)


@pytest.mark.parametrize("method", [repaint, blended])
def test_filling_needs_a_mask(method) -> None:
    with pytest.raises(UserError, match="say which with a mask"):
        method(unmasked(task("Stable Diffusion 1.x")), steps=STEPS)


def test_a_mask_of_another_size_is_refused() -> None:
    photo = task("Stable Diffusion 1.x").edited()
    with pytest.raises(UserError, match=r"the mask is \(2, 1, 8, 8\) and must be \(2, 1, 16, 16\)"):
        replace(photo, mask=torch.ones(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"factor": 0}, "between 1 and"), ({"start": 0.6, "stop": 0.2}, "they rise"), ({"eta": 2.0}, "from 0 to 1")],
)
def test_what_ilvr_cannot_do_is_refused(change: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        ilvr(unmasked(task("Stable Diffusion 1.x")), steps=STEPS, **change)


# --- they compose -----------------------------------------------------------------------------------------------

WHOLE = {
    "sdedit": lambda asked: sdedit(unmasked(asked), eta=1.0, repeats=2, steps=STEPS),
    "sdedit in a mask": lambda asked: sdedit(masked(asked), steps=STEPS),
    "ilvr": lambda asked: ilvr(unmasked(asked), factor=2, steps=STEPS),
    "repaint": lambda asked: repaint(asked, jump=2, repeats=2, steps=STEPS),
    "blended": lambda asked: blended(asked, steps=STEPS),
    "diffedit": lambda asked: diffedit(unmasked(asked), steps=STEPS, noises=2),
    "prompt-to-prompt": lambda asked: prompt_to_prompt(unmasked(asked), SHOWN, WANTED, steps=STEPS),
    "prompt-to-prompt in a mask": lambda asked: prompt_to_prompt(masked(asked), SHOWN, WANTED, steps=STEPS),
    "asyrp": lambda asked: asyrp(unmasked(asked), steps=STEPS),
    "edict in a mask": lambda asked: edict(masked(asked), steps=STEPS),
}


@pytest.mark.parametrize("method", WHOLE.values(), ids=WHOLE)
def test_an_image_does_not_depend_on_what_is_computed_beside_it(method) -> None:
    asked = task("Stable Diffusion 1.x", batch=3)
    together, apart = method(asked), method(replace(asked, plan=Plan(together=2)))
    torch.testing.assert_close(apart.latents, together.latents, rtol=1e-3, atol=1e-4)
    assert torch.equal(method(asked).latents, together.latents)


def test_each_photo_may_have_its_own_prompts() -> None:
    """Together, apart under a plan, and through DOODL, whose state is split as well."""
    asked = unmasked(task("Stable Diffusion 1.x"))
    shown, wanted = [SHOWN, "a blue square"], [WANTED, "a blue square on a gray background"]
    made = asked.model
    denoisers = [made.denoiser(prompts, guidance_scale=2.0) for prompts in (shown, wanted)]
    asked = replace(asked, denoiser=denoisers[1], photo=replace(asked.edited(), denoiser=denoisers[0]))
    attention = Attention(blend=("circle", "square"))
    whole = prompt_to_prompt(asked, shown, wanted, attention=attention, steps=STEPS)
    for i in range(2):
        own = Attention(blend=(("circle", "square")[i],))
        one = prompt_to_prompt(asked.select([i]), shown[i], wanted[i], steps=STEPS, attention=own)
        torch.testing.assert_close(whole.latents[i : i + 1], one.latents, rtol=1e-3, atol=1e-4)
    apart = prompt_to_prompt(replace(asked, plan=Plan(together=1)), shown, wanted, attention=attention, steps=STEPS)
    torch.testing.assert_close(apart.latents, whole.latents, rtol=1e-3, atol=1e-4)
    bright = Call(lambda images: 1 - images.mean(dim=(1, 2, 3)))
    pair = side_by_side(replace(asked, loss=bright), shown, wanted, attention, steps=STEPS)
    settings = Doodl(iterations=1, steps=STEPS, mix=None, optimiser=Adam(rate=0.1), perturbation=0.0, crops=0)
    together, split = (doodl(replace(pair, plan=plan), settings, x_T=asked.x_T) for plan in (Plan(), Plan(together=1)))
    torch.testing.assert_close(split.latents, together.latents, rtol=1e-3, atol=1e-3)


def test_a_mask_around_edits_keeps_the_rest() -> None:
    asked = task("Stable Diffusion 1.x")
    z = known(asked)
    for name in ("sdedit in a mask", "prompt-to-prompt in a mask", "edict in a mask"):
        made = WHOLE[name](asked).latents
        assert torch.equal(outside(asked, made), outside(asked, z)), name
        assert (made - z).abs().max() > 1e-3


@pytest.mark.parametrize("mix", [None, 0.97])
def test_doodl_inside_a_mask_optimises_what_is_free(mix: float | None) -> None:
    bright = Call(lambda images: 1 - images.mean(dim=(1, 2, 3)))
    asked = masked(replace(task("Stable Diffusion 1.x"), loss=bright))
    z = known(asked)
    settings = Doodl(iterations=5, steps=STEPS, mix=mix, optimiser=Adam(rate=0.1), perturbation=0.0, crops=0)
    result = doodl(asked, settings, x_T=asked.x_T)
    assert result.history is not None
    assert (result.losses < result.history[0]).all()
    assert torch.equal(outside(asked, result.latents), outside(asked, z))


def test_a_loss_moves_the_noise_of_a_pair_of_chains() -> None:
    """Prompt-to-Prompt under a loss: the target follows it, and its source goes along."""
    bright = Call(lambda images: 1 - images.mean(dim=(1, 2, 3)))
    asked = replace(unmasked(task("Stable Diffusion 1.x")), loss=bright)
    pair = side_by_side(asked, SHOWN, WANTED, steps=STEPS)
    settings = Doodl(iterations=5, steps=STEPS, mix=None, optimiser=Adam(rate=0.1), perturbation=0.0, crops=0)
    result = doodl(pair, settings, x_T=asked.x_T)
    assert result.history is not None
    assert (result.losses < result.history[0]).all()


# --- and are differentiable -------------------------------------------------------------------------------------


def gradients(asked: Task, solver, x_T: Tensor, *, of: Tensor | None = None) -> list[Tensor]:
    """The gradient of the same chain, kept whole and rebuilt."""
    found = []
    for gradient in (Backprop(), Checkpoint()):
        leaf = x_T.clone().requires_grad_()
        state = sample_state(
            asked.denoiser, solver.init(leaf), asked.model.schedule.times(STEPS), solver=solver, gradient=gradient
        )
        loss = asked.model.decode(solver.final(state)).square().sum()
        found.append(torch.autograd.grad(loss, leaf if of is None else of)[0])
    return found


def low(asked: Task) -> LowPass:
    return LowPass(Noised(asked.model.schedule, asked.x_T, asked.noise, 9), 2, 1e4, -1.0)


CHAINS = {
    "inpaint": masked,
    "low pass": lambda asked: replace(asked, constraints=(low(asked),)),
    "prompt-to-prompt": lambda asked: side_by_side(asked, SHOWN, WANTED, Attention(blend=("circle",)), steps=STEPS),
    "all of them": lambda asked: side_by_side(masked(asked), SHOWN, WANTED, steps=STEPS),
}


@pytest.mark.parametrize("solver", [DDIM(), EDICT(mix=0.97)], ids=str)
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_rebuilt_gradients_equal_the_kept_ones(chain, solver) -> None:
    asked = chain(task("Stable Diffusion 1.x"))
    kept, rebuilt = gradients(asked, constrain(solver, asked.constraints), asked.x_T)
    assert kept.abs().max() > 0
    torch.testing.assert_close(rebuilt, kept, rtol=1e-3, atol=1e-4 * kept.abs().max().item())


def test_a_shift_of_the_bottleneck_gets_its_gradient() -> None:
    asked = task("Stable Diffusion 1.x")
    dh = torch.zeros(1, *bottleneck_shape(asked), requires_grad=True)
    asked = replace(asked, denoiser=Bottleneck(asked.denoiser, Shift(dh)))
    kept, rebuilt = gradients(asked, DDIM(), asked.x_T, of=dh)
    assert kept.abs().max() > 0
    torch.testing.assert_close(rebuilt, kept, rtol=1e-3, atol=1e-4 * kept.abs().max().item())


def test_blocks_that_are_rebuilt_cannot_be_reached_into_with_a_gradient() -> None:
    made = chainrule.load(family("Stable Diffusion 1.x"))
    shown, wanted = (made.denoiser(prompt) for prompt in (SHOWN, WANTED))
    asked = Task(made, wanted, (0,), None, Photo(torch.rand(1, 3, 16, 16), shown, (16, 16))).under(Plan(rebuilt=True))
    with torch.no_grad():
        pair = side_by_side(asked, SHOWN, WANTED, steps=STEPS)
    for denoiser, x in ((pair.denoiser, asked.x_T.repeat(2, 1, 1, 1)), (Bottleneck(wanted, Towards(shown)), asked.x_T)):
        with torch.no_grad():
            assert torch.isfinite(denoiser(x, 301.0).x0).all()
        with pytest.raises(UserError, match="use a plan without `rebuilt`"):
            denoiser(x, 301.0)


# --- guidance that sees the noise -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_both_forms_of_noise_aware_guidance_follow_the_energy(name: str, eta: float) -> None:
    asked = replace(task(name), photo=None)

    def energy(x: Tensor, t: float) -> Tensor:
        return x.square().mean(dim=(1, 2, 3))

    still, pushed = (noise_aware(asked, energy=energy, scale=scale, eta=eta, steps=8) for scale in (0.0, 100.0))
    assert (energy(pushed.latents, 0.0) < energy(still.latents, 0.0)).all()
    near = noise_aware(unmasked(task(name)), energy=energy, scale=0.0, strength=0.25, eta=eta, steps=8)
    z = untouched(unmasked(task(name))).latents
    assert (near.latents - z).norm() < (still.latents - z).norm()


def test_the_bundled_encoder_guides_by_text_picture_and_layout() -> None:
    from chainrule.diffusion.guidance import semantic as by
    from chainrule.losses import load_clip
    from chainrule.models.noise_aware import load_noise_aware_encoder
    from chainrule.pictures import from_pil
    from chainrule.scenes.base import Scene, Thing, render
    from chainrule.scenes.judge import read

    made, encoder = model("scenes"), load_noise_aware_encoder()
    scene = Scene((Thing("circle", "red", 32, 32, 20),), "white")
    z = made.encode(from_pil([render(scene)]))
    reference = by.Likeness(encoder, made.schedule, z)
    text = by.Text(encoder, load_clip().embed_texts([scene.caption]))
    asked = Task(made, made.denoiser("", guidance_scale=1.0), tuple(range(4)))

    def right(*energies) -> int:
        images = semantic(asked, energies=energies, scale=100.0, steps=20).images
        found = [read(image) for image in images]
        return sum(r.background == "white" and [t.colour for t in r.things] == ["red"] for r in found)

    assert right((0.0, text)) <= 1
    assert right((1.0, text)) == 4
    assert right((1.0, by.Image(reference))) >= 2
    assert right((0.5, by.Layout(reference)), (0.5, by.Style(reference))) >= 3


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_energies_of_an_image_stay_with_it(eta: float) -> None:
    from chainrule.diffusion.guidance import semantic as by
    from chainrule.models.noise_aware import NoiseAwareEncoder

    torch.manual_seed(0)
    encoder, made = NoiseAwareEncoder(width=8, dim=6).eval().requires_grad_(False), model("scenes")
    asked = Task(made, made.denoiser("a red circle"), (0, 1))
    likeness = by.Likeness(encoder, made.schedule, torch.randn(2, 4, 16, 16))
    parts = (by.Text(encoder, torch.randn(2, 6)), by.Layout(likeness), by.Image(likeness), by.Style(likeness))
    energies = [(1.0, part) for part in parts]
    whole, apart = (
        semantic(replace(asked, plan=plan), energies=energies, scale=30.0, eta=eta, steps=3).latents
        for plan in (Plan(), Plan(together=1))
    )
    torch.testing.assert_close(apart, whole, rtol=1e-3, atol=1e-3)


def test_the_energies_are_the_formulas() -> None:
    from chainrule.diffusion.guidance import semantic as by
    from chainrule.models.noise_aware import NoiseAwareEncoder

    torch.manual_seed(0)
    encoder, schedule = NoiseAwareEncoder(width=8, dim=6).eval(), model("scenes").schedule
    x, x_0, t = torch.randn(2, 4, 16, 16), torch.randn(1, 4, 16, 16), 301.0
    reference = by.Likeness(encoder, schedule, x_0)
    times = torch.full((2,), t)
    u = torch.nn.functional.normalize(encoder(x, times), dim=1)
    target = torch.randn(1, 6)
    torch.testing.assert_close(by.Text(encoder, target)(x, t), -u @ target[0] / target.norm())
    same = reference.at(t)
    for energy, least in ((by.Image(reference), -1.0), (by.Layout(reference), 0.0), (by.Style(reference), 0.0)):
        torch.testing.assert_close(energy(same, t), torch.full((1,), least), rtol=1e-4, atol=1e-5)
        assert (energy(x, t) > least).all()
    both = by.Mixed([(2.0, by.Image(reference)), (0.5, by.Layout(reference))])
    torch.testing.assert_close(both(x, t), 2 * by.Image(reference)(x, t) + 0.5 * by.Layout(reference)(x, t))


@pytest.mark.parametrize("method", ["sdedit", "ilvr", "repaint", "blended", "diffedit", "prompt-to-prompt", "asyrp"])
def test_photos_need_not_be_square(method: str) -> None:
    asked = task("Stable Diffusion 1.x")
    photo = asked.edited()
    images, mask = (torch.cat([part, part], dim=3)[..., :24] for part in (photo.images, photo.mask))
    wide = replace(asked, photo=replace(photo, images=images, mask=mask, size=(16, 24)))
    assert WHOLE[method](wide).images.shape == (2, 3, 16, 24)


# --- their parts ------------------------------------------------------------------------------------------------


def test_the_low_pass_filter_is_a_projection() -> None:
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    low = low_pass(x, 4)
    torch.testing.assert_close(low_pass(low, 4), low)
    torch.testing.assert_close(low_pass(x, 1), x)
    flat = torch.ones(1, 1, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(low_pass(flat, 4), flat)


def test_a_mask_of_latents_is_free_wherever_a_pixel_is() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 3, 4] = 1.0
    assert mask_for_latents(mask, torch.zeros(1, 4, 4, 4)).nonzero().tolist() == [[0, 0, 1, 2]]


def test_what_is_to_go_is_hidden_by_what_is_around() -> None:
    images = torch.rand(2, 3, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 2:6, 2:6] = 1.0
    found = fill_in(images, mask)
    assert torch.equal(found * (1 - mask), images * (1 - mask))
    other = torch.where(mask > 0, torch.rand_like(images), images)
    assert torch.equal(fill_in(other, mask), found)
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(fill_in(torch.where(mask[:1] > 0, 1.0, flat), mask[:1]), flat)
    assert torch.equal(fill_in(images, torch.ones_like(mask)), images)


def test_the_hiding_of_one_mask_is_not_anothers() -> None:
    images = torch.rand(2, 3, 8, 8)
    mask = torch.ones(2, 1, 8, 8)
    mask[0, :, 4:] = 0.0
    found = fill_in(images, mask)
    assert torch.equal(found[:1], fill_in(images[:1], mask[:1]))
    assert torch.equal(found[1], images[1])
    assert not torch.equal(found[0], images[0])


def test_what_is_known_has_the_noise_of_its_time_anew_at_each_step() -> None:
    schedule, noise = model("Stable Diffusion 1.x").schedule, Noise((3, 4))
    z = torch.randn(2, 4, 8, 8)
    known = Noised(schedule, z, noise, 100)
    for s, k in ((501.0, 0), (501.0, 1), (1.0, 7)):
        wanted = schedule.alpha(s) * z + schedule.sigma(s) * noise.normal(100 + k, z.shape[1:])
        torch.testing.assert_close(known.at(s, k), wanted)
        torch.testing.assert_close(known.select([1]).at(s, k), wanted[1:])
    assert torch.equal(known.at(-1.0, 9), z)


def walked(asked: Task, solver) -> list[tuple[float, Tensor]]:
    """The latents after each step of a chain from the seeds' noise, with their times."""
    times = asked.model.schedule.times(STEPS).tolist()
    states = Chain(asked.denoiser, tuple(times), constrain(solver, asked.constraints)).walk(
        constrain(solver, asked.constraints).init(asked.x_T)
    )
    return [(t, state[0]) for t, state in zip(times, states, strict=True)]


@torch.no_grad()
def test_the_known_region_is_imposed_after_every_step() -> None:
    asked = masked(task("Stable Diffusion 1.x"))
    (constraint,) = asked.constraints
    assert isinstance(constraint, Inpaint)
    for k, (t, x) in enumerate(walked(asked, DDIM())[1:]):
        assert torch.equal(outside(asked, x), outside(asked, constraint.known.at(t, k)))


@torch.no_grad()
def test_diffedit_keeps_the_latents_that_its_encoding_came_through() -> None:
    asked = task("Stable Diffusion 1.x")
    z, times = asked.model.encode(asked.edited().images), asked.model.schedule.times(STEPS)
    trail = visited(asked.edited().denoiser, z, times)
    assert torch.equal(trail[-1.0], z)
    assert len({value.sum().item() for value in trail.values()}) == STEPS + 1
    back = DDIM().inverse(asked.edited().denoiser, (z,), times[-2].item(), -1.0)[0]
    assert torch.equal(trail[times[-2].item()], back)
    kept = replace(asked, constraints=(Inpaint(mask_for_latents(asked.edited().mask, z), Visited(trail)),))
    for t, x in walked(kept, DDIM())[1:]:
        assert torch.equal(outside(asked, x), outside(asked, trail[t]))


def test_inpainting_is_the_formula() -> None:
    x, known = torch.randn(1, 2, 2, 2), torch.randn(1, 2, 2, 2)
    mask = torch.tensor([[[[1.0, 0.0], [0.25, 1.0]]]])
    torch.testing.assert_close(Inpaint(mask, Visited({3.0: known}))(x, 3.0, 0), mask * x + (1 - mask) * known)
