"""Where the one-step gradient points, DOODL's Figure 2 measured: `python benchmarks/angles.py`.

At each t of a chain: the gradient with respect to x_t of the loss of the one-step guess
decode(x0(x_t)), and that of the loss of the image at the end of the chain from x_t, which is exact.
The cosine between the two, over seeds. And how far the exact gradient of the starting noise can be
followed: whether the loss falls by half of what it promises.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import chainrule
from base import Options, machine, publish, table
from chainrule import Checkpoint, sample
from chainrule.diffusion.denoiser import Denoiser
from chainrule.losses import Classifier, ClipText, Loss, load_classifier, load_clip
from chainrule.metrics import Interval, bootstrap, wilson
from chainrule.models import Model

PROMPT = "a red shape on a white background"
DISTANCES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""How far the noise is moved against the gradient; its own norm is 32."""


def one_step_gradient(model: Model, denoiser: Denoiser, loss: Loss, x: Tensor, t: float) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(loss(model.decode(denoiser(x, t).x0)).sum(), x)[0]


def exact_gradient(
    model: Model, denoiser: Denoiser, loss: Loss, x: Tensor, times: Tensor
) -> Tensor:
    x = x.detach().requires_grad_()
    x_0 = sample(denoiser, x, times, gradient=Checkpoint())
    return torch.autograd.grad(loss(model.decode(x_0)).sum(), x)[0]


def find_cosines(model: Model, loss: Loss, seeds: range, steps: int) -> Tensor:
    """Those between the two gradients, (steps, seeds)."""
    denoiser, times = model.denoiser(PROMPT), model.schedule.times(steps)
    x, found = model.noise(seeds), []
    for i in range(steps):
        a = one_step_gradient(model, denoiser, loss, x, times[i].item()).flatten(1)
        b = exact_gradient(model, denoiser, loss, x, times[i:]).flatten(1)
        found.append(torch.nn.functional.cosine_similarity(a, b, dim=1))
        with torch.no_grad():
            x = sample(denoiser, x, times[i : i + 2])
    return torch.stack(found)


def follow_gradient(
    model: Model, loss: Loss, seeds: range, steps: int, guidance_scale: float
) -> list[Interval]:
    """How often the loss falls by at least half of the distance times the gradient's norm.

    Among the seeds that have a gradient: where the classifier is sure already, there is none.

    Args:
        model: What draws.
        loss: The loss.
        seeds: The noise.
        steps: Of the chain.
        guidance_scale: Of the chain.

    Returns:
        One for each of `DISTANCES`.
    """
    denoiser = model.denoiser(PROMPT, guidance_scale=guidance_scale)
    times, x = model.schedule.times(steps), model.noise(seeds)
    gradient = exact_gradient(model, denoiser, loss, x, times)
    norm = gradient.flatten(1).norm(dim=1)
    x, gradient, norm = (value[norm > 1e-2] for value in (x, gradient, norm))

    @torch.no_grad()
    def loss_at(distance: float) -> Tensor:
        x_0 = sample(denoiser, x - distance * gradient / norm[:, None, None, None], times)
        return loss(model.decode(x_0))

    before, found = loss_at(0.0), []
    for distance in DISTANCES:
        enough = before - loss_at(distance) >= 0.5 * distance * norm
        found.append(wilson(int(enough.sum()), len(x)))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--seeds", type=int, default=64, toy=1)
    options.add("--steps", type=int, default=20, toy=2)
    arguments = options.parse(argv)
    model, seeds, steps = chainrule.load(), range(arguments.seeds), arguments.steps
    losses: dict[str, Loss] = {
        "classifier=heart": Classifier(load_classifier(), "heart"),
        "text": ClipText(load_clip(), PROMPT),
    }
    found = {name: find_cosines(model, loss, seeds, steps) for name, loss in losses.items()}
    reach = {
        f"{name}, guidance {scale:g}": follow_gradient(model, loss, seeds, steps, scale)
        for name, loss in losses.items()
        for scale in (1.0, 3.0)
    }
    times = model.schedule.times(steps)
    rows = [
        [f"{times[i]:.0f}", f"{model.schedule.alpha(times[i].item()):.2f}"]
        + [str(bootstrap(values[i].tolist())) for values in found.values()]
        for i in range(steps)
    ]
    falls = [[f"{s:g}", *(r[i] for r in reach.values())] for i, s in enumerate(DISTANCES)]
    text = [
        "## Where the one-step gradient points",
        f"`python benchmarks/angles.py --seeds {len(seeds)} --steps {steps}` on {machine()}. The "
        "cosine between the one-step gradient and the exact one of the finished image, with "
        f"respect to x_t, for {PROMPT!r}; 95 % intervals over seeds.",
        table(["t", "alpha", *found], rows),
        "How often the loss falls by at least half of what the exact gradient with respect to x_T "
        "promises, when x_T (whose norm is 32) is moved against it:",
        table(["distance", *reach], falls),
    ]
    publish("angles", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
