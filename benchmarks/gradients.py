"""Every way to differentiate a chain, on the bundled U-Net: `python benchmarks/gradients.py`.

One image with its guidance pair (guidance scale 3): the gradient of a fixed projection of the
finished, decoded image with respect to x_T. Against the same chain's Backprop with network and
latents in float64. Peers: `torch.utils.checkpoint` around each step, and memcnn's
InvertibleModuleWrapper around each EDICT step the way DOODL's code uses it (inputs kept, weights
left requiring gradients, guidance pair as two calls). memcnn is optional: `pip install --no-deps
memcnn` (its torchvision requirement is never imported); without it its rows are left out and that
is said.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import chainrule
from base import Options, machine, measure_seconds, publish, table
from chainrule import DDIM, EDICT, Backprop, Checkpoint, Reversible, sample
from chainrule.diffusion.denoiser import Conditioned, Denoiser, Prediction, WrappedDenoiser
from chainrule.diffusion.gradient import Chain, Gradient
from chainrule.diffusion.solvers import Solver, State
from chainrule.memory import LiveBytes
from chainrule.models import Model
from chainrule.runs import count_passes

PROMPT, SCALE = "a red shape on a white background", 3.0
MISSING = "memcnn is not installed: its rows are left out (pip install --no-deps memcnn)"


@cache
def has_memcnn() -> bool:
    """Whether memcnn is installed; if not, that is said once."""
    found = find_spec("memcnn") is not None
    if not found:
        print(MISSING)
    return found


class TorchCheckpoint(Gradient):
    """`torch.utils.checkpoint` around each step."""

    def integrate(self, chain: Chain, state: State) -> State:
        for i in range(len(chain)):
            state = checkpoint(chain.advance, i, state, use_reentrant=False)
        return state


class Memcnn(Gradient):
    """memcnn's wrapper around each step.

    Args:
        keep_input: Whether its inputs are kept, or recomputed.
    """

    def __init__(self, keep_input: bool) -> None:
        self.keep_input = keep_input

    def integrate(self, chain: Chain, state: State) -> State:
        import memcnn

        for i in range(len(chain)):
            module = memcnn.InvertibleModuleWrapper(_Layer(chain, i), keep_input=self.keep_input)
            # it empties its inputs if it does not keep them: never the chain's own
            if i == 0 or self.keep_input:
                state = tuple(tensor.clone() for tensor in state)
            state = module(*state)
        return state


class _Layer(nn.Module):
    """One step of the chain as memcnn wants it, with the network's weights as its own."""

    def __init__(self, chain: Chain, i: int) -> None:
        super().__init__()
        self.chain, self.i = chain, i
        (self.unet,) = chain.denoiser.networks

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
        positive = self.denoiser(x, t)
        return self.negative(x, t).combine(positive, lambda n, p: n + SCALE * (p - n))


@dataclass(frozen=True)
class Way:
    """A solver and how its chain is differentiated.

    Args:
        name: What it is called in the table.
        solver: The solver.
        gradient: The way.
        unfrozen: Whether the weights want gradients, and the guidance pair is two calls.
    """

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
NUMBERS = (
    ("float32", "float32"),
    ("float32", "float64"),
    ("bfloat16", "float32"),
    ("bfloat16", "float64"),
)
"""Of the network, and of the latents."""


def make_denoiser(model: Model, way: Way) -> Denoiser:
    if not way.unfrozen:
        return model.denoiser(PROMPT, guidance_scale=SCALE)
    positive, negative = (
        Conditioned(model.network, model.text([prompt])) for prompt in (PROMPT, "")
    )
    return Unbatched(positive, negative)


def find_gradient(model: Model, way: Way, steps: int, x_T: Tensor) -> Tensor:
    x = x_T.clone().requires_grad_()
    start = x * 1.0  # memcnn does not work on leaves
    denoiser, times = make_denoiser(model, way), model.schedule.times(steps)
    x_0 = sample(denoiser, start, times, solver=way.solver, gradient=way.gradient)
    images = model.decode(x_0)
    generator = torch.Generator().manual_seed(1)
    projection = torch.randn(images.shape, generator=generator).to(images)
    (images * projection).sum().backward()
    if x.grad is None:
        raise RuntimeError(f"{way.name} gave no gradient")
    return x.grad


def measure_way(
    model: Model, way: Way, steps: int, x_T: Tensor, reference: Tensor, repeat: int
) -> list[object]:
    """What a way costs, and how far it is off.

    Args:
        model: The model.
        way: The way.
        steps: Of the chain.
        x_T: The noise.
        reference: The exact gradient.
        repeat: How often it is timed.

    Returns:
        The cells of its row.
    """
    (unet,) = model.network.networks
    unet.requires_grad_(way.unfrozen)
    counted, passes = count_passes(model)
    with LiveBytes() as memory:
        found = find_gradient(counted, way, steps, x_T)
    work = partial(find_gradient, model, way, steps, x_T)
    seconds = min(measure_seconds(work) for _ in range(repeat))
    unet.requires_grad_(False).zero_grad()
    error = (found.double() - reference).norm() / reference.norm()
    flat = found.double().flatten(), reference.flatten()
    cosine = torch.nn.functional.cosine_similarity(*flat, dim=0)
    forwards = passes.forward / 2 / steps
    peak = f"{memory.peak / 2**20:.1f}"
    return [f"{forwards:.2f}", f"{seconds:.2f}", peak, f"{cosine:.6f}", f"{error:.1e}"]


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--steps", type=int, nargs="+", default=[10, 50, 200], toy=[2])
    options.add("--repeat", type=int, default=1, toy=1)
    options.add("--threads", type=int, default=1, toy=1)
    help_ = "how many pairs of network and latents"
    options.add("--numbers", type=int, default=len(NUMBERS), toy=1, help=help_)
    arguments = options.parse(argv)
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    known = has_memcnn()
    ways = [way for way in WAYS if known or not isinstance(way.gradient, Memcnn)]
    rows: list[list[object]] = []
    for steps in arguments.steps:
        exact = chainrule.load(dtype=torch.float64)
        x_T = exact.noise([0]).double()
        references = {
            solver: find_gradient(exact, Way("", solver, Backprop()), steps, x_T)
            for solver in {way.solver for way in ways}
        }
        for network, latents in NUMBERS[: arguments.numbers]:
            model = chainrule.load(dtype=getattr(torch, network))
            start = x_T.to(getattr(torch, latents))
            for way in ways:
                reference = references[way.solver]
                cells = measure_way(model, way, steps, start, reference, arguments.repeat)
                rows.append([steps, f"{network} / {latents}", way.name, *cells])
                print(rows[-1], flush=True)
    header = [
        "T",
        "network / latents",
        "way",
        "forwards per step",
        "s",
        "peak MiB",
        "cosine",
        "relative error",
    ]
    steps = " ".join(str(steps) for steps in arguments.steps)
    text = [
        "## Gradients, side by side",
        f"`python benchmarks/gradients.py --steps {steps} --repeat {arguments.repeat} --threads "
        f"{arguments.threads}` on {machine()}. One image with its guidance pair; a forward is one "
        "pair through the U-Net; peak is live tensor bytes above the loaded model; errors are "
        "against the float64 chain.",
        table(header, rows),
    ]
    publish("gradients", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
