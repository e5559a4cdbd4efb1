"""The diffusion network of a diffusers pipeline."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from chainrule.diffusion.denoiser import Conditioning, Network, Parameterization
from chainrule.diffusion.schedule import Schedule
from chainrule.errors import UserError


class GradientScaling:
    """Keeps gradients in float16's range on their way back (Micikevicius et al. 2018).

    The gradient that enters at the output is multiplied, image by image, by the power of two that
    brings its greatest element to about `TOP`; what leaves at the inputs is divided by it again.
    So the numbers in between neither vanish (below 6e-8) nor overflow (above 65504), whatever the
    size of the loss, and there is no factor to search for.

    Args:
        on: Whether to scale; otherwise everything passes unchanged.
    """

    TOP = 2.0**6

    def __init__(self, *, on: bool) -> None:
        self.on = on
        self.factor = torch.ones(())

    def leave(self, value: Tensor) -> Tensor:
        """Mark an input (B, ...) of the network, in more than half precision."""
        return _apply(_Leave, value, self) if self.on else value

    def enter(self, value: Tensor) -> Tensor:
        """Mark the output (B, ...), in more than half precision."""
        return _apply(_Enter, value, self) if self.on else value


def _apply(function: Any, value: Tensor, scaling: GradientScaling) -> Tensor:
    marked: Tensor = function.apply(value, scaling)
    return marked


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scaling: GradientScaling) -> Tensor:
        ctx.scaling = scaling
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        greatest = gradient.detach().flatten(1).abs().amax(dim=1)
        factor = torch.exp2(torch.floor(torch.log2(GradientScaling.TOP / greatest)))
        usable = factor.isfinite() & (factor > 0)
        ctx.scaling.factor = torch.where(usable, factor, 1.0)
        return gradient * _broadcast(ctx.scaling.factor, gradient), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scaling: GradientScaling) -> Tensor:
        ctx.scaling = scaling
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / _broadcast(ctx.scaling.factor, gradient), None


def _broadcast(factor: Tensor, value: Tensor) -> Tensor:
    """`factor` (B,) in a shape that multiplies `value` (B, ...)."""
    return factor.view(-1, *(1,) * (value.dim() - 1))


@dataclass(frozen=True, eq=False)
class Backbone(Network):
    """A U-Net or transformer of diffusers, called in its own dtype.

    Args:
        module: The diffusers model.
        schedule: What the times mean.
        parameterization: What it predicts.
    """

    module: Any
    schedule: Schedule
    parameterization: Parameterization

    def __call__(self, x: Tensor, t: float | Tensor, conditioning: Conditioning) -> Tensor:
        dtype = self._typical_weight.dtype
        times = torch.as_tensor(t, device=x.device, dtype=torch.float32).expand(len(x))
        # the gradients of its own weights would stay scaled: train those in float32
        trained = any(weight.requires_grad for weight in self.weights)
        scaling = GradientScaling(on=dtype == torch.float16 and not trained)
        inputs = tuple(
            scaling.leave(value).to(dtype) if value.is_floating_point() else value
            for value in conditioning
        )
        try:
            output = self.call(scaling.leave(x).to(dtype), times, inputs)
        except RuntimeError:
            self._check_shapes(x, conditioning)  # torch's own words name no cause
            raise
        return scaling.enter(output.to(x.dtype))

    @property
    def channels(self) -> int | None:
        """Of the latents that it takes; None: not known."""
        return getattr(self.module.config, "in_channels", None)

    def _check_shapes(self, x: Tensor, conditioning: Conditioning) -> None:
        """Refuse latents and texts that are not those of this network."""
        if self.channels is not None and x.shape[1] != self.channels:
            raise UserError(
                f"this model's latents have {self.channels} channels, and these {x.shape[1]}",
                "make them with model.noise(seeds) or model.encode(images)",
            )
        names = ("caption_channels", "joint_attention_dim", "cross_attention_dim")
        widths = [getattr(self.module.config, name, None) for name in names]
        width = next((each for each in widths if isinstance(each, int)), None)
        text = next((each for each in conditioning if each.ndim == 3), None)
        if text is not None and width is not None and text.shape[-1] != width:
            raise UserError(
                f"this model's texts are {width} numbers wide, and this conditioning "
                f"{text.shape[-1]}",
                "make it with this model's text: model.text(prompts)",
                "prompt",
            )

    @cached_property
    def _typical_weight(self) -> Tensor:
        """A weight of the network's dtype: `module.dtype` walks through all modules each time."""
        dtype = self.module.dtype
        return next(weight for weight in self.module.parameters() if weight.dtype == dtype)

    @abstractmethod
    def call(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's raw output.

        Args:
            x: Noisy latents (B, C, h, w), in the network's dtype.
            t: Training timesteps (B,), float32.
            conditioning: Each tensor (B, ...), in the network's dtype if it is floating.

        Returns:
            (B, C, h, w), in the network's dtype.
        """

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(self.module.parameters())

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return (self.module,)
