"""What the families share: the parts of a diffusers pipeline, frozen, in the forms that the rest of chainrule uses."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.diffusion.denoiser import Conditioning, Epsilon, Flow, Network, Parameterization, Velocity
from chainrule.errors import UserError
from chainrule.models.base import CLASSIFIER_FREE, Codec, DistilledGuidance, Guidance, clamp_with_gradient
from chainrule.diffusion.schedule import FlowMatching, Schedule, Spacing, VariancePreserving, leading, linspace, trailing

OUTPUTS: dict[str, Parameterization] = {"epsilon": Epsilon(), "v_prediction": Velocity()}


class GradientScaling:
    """Keeps gradients within float16's range on their way back through a network (Micikevicius et al. 2018).

    The gradient that enters at the output is multiplied, image by image, by the power of two that brings its greatest
    element to about `TOP`; what leaves at the inputs is divided by it again. So the numbers in between neither vanish
    (below 6e-8) nor overflow (above 65504) for the size of the loss, and no factor has to be searched for.
    """

    TOP = 2.0**6

    def __init__(self, *, on: bool) -> None:
        self.on = on
        self.factor = torch.ones(())

    def leave(self, value: Tensor) -> Tensor:
        """An input (B, ...) of the network, in more than half precision."""
        return _Leave.apply(value, self) if self.on else value  # type: ignore[no-any-return]

    def enter(self, value: Tensor) -> Tensor:
        """The output (B, ...), in more than half precision."""
        return _Enter.apply(value, self) if self.on else value  # type: ignore[no-any-return]


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scaling: GradientScaling) -> Tensor:
        ctx.scaling = scaling
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        greatest = gradient.detach().flatten(1).abs().amax(dim=1)
        factor = torch.exp2(torch.floor(torch.log2(GradientScaling.TOP / greatest)))
        ctx.scaling.factor = torch.where(factor.isfinite() & (factor > 0), factor, 1.0)
        return gradient * _beside(ctx.scaling.factor, gradient), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scaling: GradientScaling) -> Tensor:
        ctx.scaling = scaling
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / _beside(ctx.scaling.factor, gradient), None


def _beside(factor: Tensor, value: Tensor) -> Tensor:
    """`factor` (B,) for `value` (B, ...)."""
    return factor.view(-1, *(1,) * (value.dim() - 1))


@dataclass(frozen=True, eq=False)
class Backbone(Network):
    """A U-Net or transformer of diffusers, `module`, asked in its own dtype."""

    module: Any
    schedule: Schedule
    parameterization: Parameterization

    def __call__(self, x: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        dtype = self._telling.dtype
        times = torch.full((len(x),), t, device=x.device, dtype=torch.float32)
        # the gradients of its own weights would be left scaled: those that are trained should be in float32 anyway
        half = dtype == torch.float16 and not any(weight.requires_grad for weight in self.weights)
        scaling = GradientScaling(on=half)
        told = tuple(scaling.leave(v).to(dtype) if v.is_floating_point() else v for v in conditioning)
        return scaling.enter(self.ask(scaling.leave(x).to(dtype), times, told).to(x.dtype))

    @cached_property
    def _telling(self) -> Tensor:
        """A weight that tells the network's dtype. diffusers' own answer walks through all modules, each time."""
        return next(weight for weight in self.module.parameters() if weight.dtype == self.module.dtype)

    @abstractmethod
    def ask(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The raw output (B, C, h, w) at `x` and the training timesteps `t` (B,)."""

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(self.module.parameters())


@dataclass(frozen=True, eq=False)
class Autoencoder(Codec):
    """An `AutoencoderKL` or `AutoencoderTiny`: what it calls z is `scale` latents + `shift`."""

    vae: Any
    latent_shape: tuple[int, int, int]
    factor: int
    multiple: int

    def decode(self, latents: Tensor) -> Tensor:
        scale, shift = self._affine(latents)
        scaling = GradientScaling(on=self.vae.dtype == torch.float16)
        z = scaling.leave(latents * scale + shift).to(self.vae.dtype)
        return clamp_with_gradient(scaling.enter(self.vae.decode(z).sample.to(latents.dtype)) / 2 + 0.5)

    def encode(self, images: Tensor) -> Tensor:
        encoded = self.vae.encode((images * 2 - 1).to(self.vae.dtype))
        z = (encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents).to(images.dtype)
        scale, shift = self._affine(z)
        return (z - shift) / scale

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        std, mean = (config.get(name) for name in ("latents_std", "latents_mean"))
        shift = config.get("shift_factor") or 0.0
        scale, shift = ([1.0], [shift]) if std is None or mean is None else (std, mean)
        scale, shift = (like.new_tensor(value)[:, None, None] for value in (scale, shift))
        return scale / config.scaling_factor, shift


Sides = int | Sequence[int] | None
"""The sides of latents as configurations name them: one number, (h, w), or nothing."""


def autoencoder(pipeline: Any, channels: int, patch: int, default: Sides, size: tuple[int, int] | None) -> Autoencoder:
    """The pipeline's autoencoder for a network that takes latents of so many `channels` in multiples of `patch`.

    `size` is the images' (height, width) in pixels; None stands for latents of `default`.
    """
    vae = pipeline.vae
    if channels != vae.config.latent_channels:
        raise UserError(
            f"the network takes {channels} channels and the autoencoder makes {vae.config.latent_channels}: networks "
            "that see more than the latents (inpainting, depth) are not supported"
        )
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    return Autoencoder(vae, (channels, *sides(size, default, factor, factor * patch)), factor, factor * patch)


def sides(size: tuple[int, int] | None, default: Sides, factor: int, multiple: int) -> tuple[int, int]:
    """The latents' (h, w) for images of a `size` in pixels (None: `default`); raises UserError if none fit."""
    if size is None:
        if default is None:
            raise UserError("this checkpoint does not say how large its images are: name a size")
        height, width = (default, default) if isinstance(default, int) else default
        return height, width
    if not isinstance(size, tuple) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise UserError(f"a size is (height, width) in whole pixels, not {size!r}")
    if min(size) <= 0 or any(side % multiple for side in size):
        raise UserError(
            f"images of {size[0]}x{size[1]} pixels are not possible: this model's sides are multiples of {multiple}"
        )
    return size[0] // factor, size[1] // factor


def ddim(scheduler: Any) -> Any:
    """diffusers' DDIM with the settings of another scheduler, those that it left at their defaults as well.

    >>> from diffusers import DPMSolverMultistepScheduler
    >>> ddim(DPMSolverMultistepScheduler()).config.timestep_spacing  # DDIM's own default is leading
    'linspace'
    """
    from diffusers import DDIMScheduler

    known = DDIMScheduler().config
    settings = {name: value for name, value in scheduler.config.items() if name in known and not name.startswith("_")}
    return DDIMScheduler(**settings)


OWN_TIMES = {
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "UniPCMultistepScheduler",
}
"""Schedulers whose times are kept, because they call the network once at each; their chains end without noise."""

DDIM_TIMES = {
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
}
"""Schedulers for which DDIM stands in, with its own times."""


def variance_preserving(scheduler: Any) -> Schedule:
    """The noise schedule of a diffusers scheduler, and its times or DDIM's.

    Which solver it stands for does not matter: a chain's solver is an argument of `sample`. Raises UserError for
    schedulers of other processes.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    process = config.get("timestep_type", "discrete") == "discrete" and not config.get("use_flow_sigmas", False)
    if kind not in OWN_TIMES | DDIM_TIMES or not process:
        raise UserError(
            f"the scheduler {kind} of this checkpoint is not supported"
            f"{'' if process else ' with these settings'}: give the pipeline a DDIMScheduler if it was trained for that"
        )
    same = ddim(scheduler)
    if kind in OWN_TIMES:
        final = same.alphas_cumprod[0].item() if config.get("final_sigmas_type") == "sigma_min" else 1.0
        return VariancePreserving(same.alphas_cumprod, final, _own_times(scheduler))
    spacings: dict[str, Spacing] = {
        "leading": leading(same.config.steps_offset),
        "trailing": trailing,
        "linspace": linspace,
    }
    return VariancePreserving(
        same.alphas_cumprod, float(same.final_alpha_cumprod), spacings[same.config.timestep_spacing]
    )


def _own_times(scheduler: Any, **options: Any) -> Spacing:
    """The times that a scheduler visits; `options` of its `set_timesteps`, functions of the number of steps."""

    def times(training: int, steps: int) -> Tensor:
        own = type(scheduler).from_config(scheduler.config)  # which keeps no trace of being asked
        try:
            own.set_timesteps(steps, **{name: option(steps) for name, option in options.items()})
        except ValueError as error:
            raise UserError(f"{steps} sampling steps are not possible: {str(error).splitlines()[0]}") from error
        if not (own.timesteps.diff() < 0).all():
            raise UserError(
                f"{steps} sampling steps are not possible: rounded, {type(scheduler).__name__} visits a time twice; "
                "take fewer, or give the pipeline a scheduler without Karras' sigmas"
            )
        return own.timesteps  # type: ignore[no-any-return]

    return times


def predicted(scheduler: Any) -> Parameterization:
    """What the network predicts, by its scheduler."""
    config = scheduler.config
    kind = config.get("prediction_type", "epsilon")
    if kind not in OUTPUTS:
        raise UserError(f"a network that predicts {kind!r} is not supported: {' and '.join(OUTPUTS)} are")
    if kind == "epsilon" and config.get("rescale_betas_zero_snr", False):
        raise UserError("a network that predicts the noise cannot start at zero signal: use a v-prediction checkpoint")
    return OUTPUTS[kind]


def narrowing(unet: Any) -> int:
    """By how much a U-Net that is told a text narrows its latents; raises UserError if it has to be told a picture."""
    kind = unet.config.encoder_hid_dim_type
    if kind is not None and "image" in kind:
        raise UserError(
            f"the network has to be told a picture too ({kind}): unload its IP-adapter (pipeline.unload_ip_adapter())"
        )
    return 2 ** (len(unet.config.block_out_channels) - 1)  # type: ignore[no-any-return]


def guidance(pipeline: Any) -> Guidance:
    """That of a U-Net told by text: classifier-free, unless it has an input for the scale (consistency models)."""
    width = pipeline.unet.config.time_cond_proj_dim
    if width is None:
        return CLASSIFIER_FREE
    return DistilledGuidance(lambda scale: pipeline.get_guidance_scale_embedding(torch.tensor([scale - 1.0]), width))


FLOW = Flow()


def flow_matching(scheduler: Any, tokens: int, *, uniform: bool = False) -> Schedule:
    """The schedule of a flow-matching pipeline for images of so many `tokens` (patches).

    `uniform` pipelines give the scheduler evenly spaced sigmas from 1 to 1 / steps to shift, others let it choose.
    """
    if type(scheduler).__name__ != "FlowMatchEulerDiscreteScheduler":
        raise UserError(
            f"{type(scheduler).__name__} is not supported for flow matching: give the pipeline "
            "FlowMatchEulerDiscreteScheduler"
        )
    config, options = scheduler.config, {}
    if config.use_dynamic_shifting:  # linear in the number of tokens
        few, many = config.base_image_seq_len, config.max_image_seq_len
        share = (tokens - few) / (many - few)
        options["mu"] = lambda steps: config.base_shift + share * (config.max_shift - config.base_shift)
    if uniform:
        options["sigmas"] = lambda steps: torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).tolist()
    return FlowMatching(config.num_train_timesteps, _own_times(scheduler, **options))


def check_length(pipeline: Any, tokenizer: Any, prompts: Sequence[str], limit: int | None = None) -> None:
    """Raise UserError if a prompt has more tokens than the text encoder reads (None: its tokenizer's own limit)."""
    if tokenizer is None:
        raise UserError("this pipeline was loaded without its text encoder: give the conditioning instead of a prompt")
    limit = tokenizer.model_max_length if limit is None else limit
    special = len(tokenizer("").input_ids)
    # a textual inversion may be a word of several tokens
    spelled_out = getattr(pipeline, "maybe_convert_prompt", lambda prompt, tokenizer: prompt)
    for prompt in prompts:
        count = len(tokenizer(spelled_out(prompt, tokenizer)).input_ids)
        if count > limit:
            raise UserError(
                f"the prompt has {count - special} tokens and this model reads {limit - special}: "
                f"shorten it ({prompt[:60]!r}...)"
            )


def token_strings(pipeline: Any, tokenizer: Any, prompt: str, limit: int | None = None) -> list[str]:
    """The tokens of a prompt, filled up to as many as the text encoder reads, without marks of where words end."""
    check_length(pipeline, tokenizer, [prompt], limit)
    said = getattr(pipeline, "maybe_convert_prompt", lambda prompt, tokenizer: prompt)(prompt, tokenizer)
    longest = tokenizer.model_max_length if limit is None else limit
    ids = tokenizer(said, padding="max_length", max_length=longest).input_ids
    return [token.removesuffix("</w>").strip("\u2581") for token in tokenizer.convert_ids_to_tokens(ids)]


def frozen(pipeline: Any) -> Any:
    """A copy of `pipeline` that shares its weights, frozen and in evaluation mode; the original stays as it is."""
    view = copy.copy(pipeline)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            if hasattr(part, "_hf_hook") or len(set((getattr(part, "hf_device_map", None) or {}).values())) > 1:
                raise UserError(
                    f"the pipeline's {name} is moved between devices as it is used, which a gradient cannot follow: "
                    "switch offloading off (pipeline.remove_all_hooks()) and move the pipeline to one device"
                )
            setattr(view, name, _frozen(part))
    return view


def _frozen(module: nn.Module) -> nn.Module:
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    shared |= {id(buffer): buffer for buffer in module.buffers()}
    return copy.deepcopy(module, shared).eval()


def with_word(pipeline: Any, word: str, vectors: Tensor) -> Any:
    """A copy of a frozen `pipeline` whose CLIP knows a new `word` of n token embeddings, `vectors` (n, D).

    Its tokens are named as in diffusers' textual inversion: word, word_1, word_2 ...
    """
    view = copy.copy(pipeline)
    view.tokenizer, view.text_encoder = copy.deepcopy(pipeline.tokenizer), _frozen(pipeline.text_encoder)
    known = len(view.tokenizer)
    tokens = [word, *(f"{word}_{i}" for i in range(1, len(vectors)))]
    taken = sorted(set(tokens) & set(view.tokenizer.get_vocab()))
    if taken or not (len(word) > 2 and word.startswith("<") and word.endswith(">")):
        raise UserError(f"{word!r} is no new word: choose one in angle brackets, for example <effect>")
    view.tokenizer.add_tokens(tokens)
    view.text_encoder.set_input_embeddings(_Taught(view.text_encoder.get_input_embeddings(), known, vectors))
    return view


class _Taught(nn.Module):
    """Token embeddings, and `vectors` (n, D) for the tokens that were added after the first `known`."""

    def __init__(self, embeddings: nn.Module, known: int, vectors: Tensor) -> None:
        super().__init__()
        self.embeddings, self.known = embeddings, known
        self.vectors = (vectors,)  # not a parameter of the network: the caller's own

    def forward(self, ids: Tensor) -> Tensor:
        (vectors,), new = self.vectors, ids >= self.known
        found: Tensor = self.embeddings(ids.masked_fill(new, 0))
        own = vectors.to(found)[(ids - self.known).clamp(0, len(vectors) - 1)]
        return torch.where(new[..., None], own, found)


def class_number(prompt: str, labels: Mapping[str, int], count: int) -> int:
    """The class that a prompt names: one of `labels`, or a number below `count`.

    >>> class_number("heart", {"heart": 3}, 5), class_number("4", {}, 5)
    (3, 4)
    """
    if prompt in labels:
        return labels[prompt]
    if prompt.isdecimal() and int(prompt) < count:
        return int(prompt)
    some = f" ({', '.join(list(labels)[:5])} ...)" if labels else ""
    raise UserError(f"there is no class {prompt!r}: name one{some} or its number, from 0 to {count - 1}")
