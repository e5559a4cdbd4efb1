"""Every way to differentiate a chain, side by side on the bundled U-Net: `python benchmarks/gradients.py`.

One image with its guidance pair (guidance scale 3): the gradient of a fixed projection of the finished, decoded image
with respect to x_T.
Against the same chain's Backprop with network and latents in float64. Peers: `torch.utils.checkpoint` around each step,
and memcnn's InvertibleModuleWrapper around each EDICT step the way DOODL's code uses it (inputs kept, weights left
requiring gradients, guidance pair as two calls). memcnn is optional: `pip install --no-deps memcnn` (its torchvision
requirement is never imported); without it its rows are left out and that is said.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import chainrule
from base import machine, publish, table, timed
from chainrule import DDIM, EDICT, Backprop, Checkpoint, Reversible, sample
from chainrule.diffusion.denoiser import Conditioned, Denoiser, Prediction, WrappedDenoiser
from chainrule.diffusion.gradient import Chain, Gradient
from chainrule.memory import LiveBytes
from chainrule.models import Model
from chainrule.diffusion.solvers import Solver
from chainrule.diffusion.solvers.base import State

PROMPT, SCALE = "a red shape on a white background", 3.0


class TorchCheckpoint(Gradient):
    """`torch.utils.checkpoint` around each step."""

    def integrate(self, chain: Chain, state: State) -> State:
        for i in range(len(chain)):
            state = checkpoint(chain.advance, i, state, use_reentrant=False)
        return state


class Memcnn(Gradient):
    """memcnn's wrapper around each step, its inputs kept or recomputed."""

    def __init__(self, keep_input: bool) -> None:
        self.keep_input = keep_input

    def integrate(self, chain: Chain, state: State) -> State:
        import memcnn

        for i in range(len(chain)):
            module = memcnn.InvertibleModuleWrapper(_Layer(chain, i), keep_input=self.keep_input)
            if i == 0 or self.keep_input:  # it empties its inputs if it does not keep them: never the chain's own
                state = tuple(tensor.clone() for tensor in state)
            state = module(*state)
        return state


class _Layer(nn.Module):
    """One step of the chain as memcnn wants it, with the network's weights as its own."""

    def __init__(self, chain: Chain, i: int) -> None:
        super().__init__()
        self.chain, self.i = chain, i
        self.unet = chain.denoiser.denoiser.network.module  # type: ignore[attr-defined]

    def forward(self, *state: Tensor) -> State:
        return self.chain.advance(self.i, state)

    def inverse(self, *state: Tensor) -> State:
        return self.chain.retreat(self.i, state)


@dataclass
class Unbatched(WrappedDenoiser):
    """Classifier-free guidance as two network calls."""

    denoiser: Conditioned
    negative: Conditioned

    def __call__(self, x: Tensor, t: float) -> Prediction:
        return self.negative(x, t).combine(self.denoiser(x, t), lambda n, p: n + SCALE * (p - n))


@dataclass(frozen=True)
class Way:
    name: str
    solver: Solver
    gradient: Gradient
    unfrozen: bool = False


WAYS = (
    Way("DDIM, Backprop", DDIM(), Backprop()),
    Way("DDIM, Checkpoint()", DDIM(), Checkpoint()),
    Way("DDIM, Checkpoint(keep=5)", DDIM(), Checkpoint(keep=5)),
    Way("DDIM, torch.utils.checkpoint", DDIM(), TorchCheckpoint()),
    Way("EDICT, Backprop", EDICT(), Backprop()),
    Way("EDICT, Checkpoint()", EDICT(), Checkpoint()),
    Way("EDICT, Reversible()", EDICT(), Reversible()),
    Way("EDICT, torch.utils.checkpoint", EDICT(), TorchCheckpoint()),
    Way("EDICT, memcnn as in DOODL's code", EDICT(), Memcnn(keep_input=True), unfrozen=True),
    Way("EDICT, memcnn, inputs recomputed", EDICT(), Memcnn(keep_input=False), unfrozen=True),
)


class Counter:
    """Counts the images that go through a U-Net, forwards."""

    def __init__(self, unet: nn.Module) -> None:
        self.images = 0
        self.handle = unet.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.images += len(inputs[0])


def denoiser(model: Model, way: Way) -> Denoiser:
    if not way.unfrozen:
        return model.denoiser(PROMPT, guidance_scale=SCALE)
    positive, negative = (Conditioned(model.network, model.text([prompt])) for prompt in (PROMPT, ""))
    return Unbatched(positive, negative)


def gradient(model: Model, way: Way, steps: int, x_T: Tensor) -> Tensor:
    x = x_T.clone().requires_grad_()
    start = x * 1.0  # memcnn does not work on leaves
    x_0 = sample(denoiser(model, way), start, model.schedule.times(steps), solver=way.step, gradient=way.gradient)
    images = model.decode(x_0)
    projection = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).to(images)
    (images * projection).sum().backward()
    if x.grad is None:
        raise RuntimeError(f"{way.name} gave no gradient")
    return x.grad


def measured(model: Model, way: Way, steps: int, x_T: Tensor, reference: Tensor, repeat: int) -> list[object]:
    unet = model.network.module  # type: ignore[attr-defined]
    unet.requires_grad_(way.unfrozen)
    counter = Counter(unet)
    with LiveBytes() as memory:
        found = gradient(model, way, steps, x_T)
    counter.handle.remove()
    seconds = [timed(lambda: gradient(model, way, steps, x_T)) for _ in range(repeat)]
    unet.requires_grad_(False).zero_grad()
    error = (found.double() - reference).norm() / reference.norm()
    cosine = torch.nn.functional.cosine_similarity(found.double().flatten(), reference.flatten(), dim=0)
    forwards = counter.images / 2 / steps
    return [f"{forwards:.2f}", f"{min(seconds):.2f}", f"{memory.peak / 2**20:.1f}", f"{cosine:.6f}", f"{error:.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    ways: tuple[Way, ...] = WAYS
    try:
        import memcnn  # noqa: F401
    except ImportError:
        ways = tuple(way for way in WAYS if not isinstance(way.gradient, Memcnn))
        print("memcnn is not installed: its rows are left out (pip install --no-deps memcnn)")
    rows: list[list[object]] = []
    numbers = (("float32", "float32"), ("float32", "float64"), ("bfloat16", "float32"), ("bfloat16", "float64"))
    for steps in arguments.steps:
        exact = chainrule.load(dtype=torch.float64)
        x_T = exact.noise([0]).double()
        references = {
            solver: gradient(exact, Way("", solver, Backprop()), steps, x_T) for solver in {way.step for way in ways}
        }
        for network, latents in numbers:
            model = chainrule.load(dtype=getattr(torch, network))
            start = x_T.to(getattr(torch, latents))
            for way in ways:
                cells = measured(model, way, steps, start, references[way.step], arguments.repeat)
                rows.append([steps, f"{network} / {latents}", way.name, *cells])
                print(rows[-1], flush=True)
    header = ["T", "network / latents", "way", "forwards per step", "s", "peak MiB", "cosine", "relative error"]
    command = "python benchmarks/gradients.py --steps " + " ".join(str(steps) for steps in arguments.steps)
    publish(
        "gradients",
        f"## Gradients, side by side\n\n`{command} --repeat {arguments.repeat} --threads {arguments.threads}` on "
        f"{machine()}. One image with its guidance pair; a forward is one pair through the U-Net; peak is live "
        "tensor bytes above the loaded model; errors are against the float64 chain.\n\n" + table(header, rows),
    )


if __name__ == "__main__":
    main()
