"""What one optimisation step costs, DOODL's public way beside ours: `python benchmarks/speed.py`.

A step draws an image, judges it and takes the gradient of the loss with respect to x_T. DOODL's public way is EDICT
through memcnn's wrapper, with the weights left requiring gradients and the guidance pair as two calls; memcnn is
optional (`pip install --no-deps memcnn`), and without it those rows are left out. Ways are timed in turns, in one run;
the median of the turns is told. Peaks are live tensor bytes above the weights, measured apart. On the bundled model,
and on a network of Stable Diffusion 1.4's size with random weights (images of 256 pixels, so that it ends).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median
from time import process_time
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import chainrule
from base import Passes, machine, publish, table, timed
from chainrule import DDIM, EDICT, Checkpoint, Reversible, sample, sample_state
from chainrule.diffusion.denoiser import Denoiser
from chainrule.diffusion.gradient import Gradient
from chainrule.losses import Call, Classifier, Loss, load_classifier
from chainrule.losses.cutouts import cropped
from chainrule.memory import LiveBytes
from chainrule.methods import Task
from chainrule.methods.base import loss_and_gradient
from chainrule.models import Model
from chainrule.diffusion.solvers import Solver
from gradients import Memcnn, Unbatched
from sizes import SIZES

PROMPT, CROPS = "a red shape on a white background", 4


@dataclass(frozen=True)
class Way:
    """`public` leaves the weights unfrozen, asks for the guidance pair in two calls, and keeps the image's graph."""

    name: str
    solver: Solver
    gradient: Gradient
    public: bool = False


PUBLIC = Way("DOODL's public way (EDICT, memcnn)", EDICT(), Memcnn(keep_input=True), public=True)
EDICT_OURS, DDIM_OURS = Way("EDICT, Checkpoint", EDICT(), Checkpoint()), Way("DDIM, Checkpoint", DDIM(), Checkpoint())


@dataclass(frozen=True)
class Case:
    """A model with what it is told, and a loss of some images."""

    model: Model
    denoiser: Denoiser
    loss: Loss
    seeds: tuple[int, ...] = (0,)

    @property
    def task(self) -> Task:
        return Task(self.model, self.denoiser, self.seeds, self.loss)

    def select(self, batch: int) -> Case:
        return Case(self.model, self.denoiser, self.loss, tuple(range(batch)))

    def gradient(self, way: Way, steps: int) -> Tensor:
        """One optimisation step's gradient of x_T."""
        times, task, loss = self.model.schedule.times(steps), self.task, self.loss
        x_T = task.x_T.requires_grad_()
        start = way.step.init(x_T)
        if not way.public:
            last = sample_state(self.denoiser, start, times, solver=way.step, gradient=way.gradient)
            found = loss_and_gradient(task, lambda task: loss.replayed(task.noise, 0), last)
            return torch.autograd.grad(last, x_T, found.gradients)[0]
        pair = tuple(x * 1.0 for x in start)  # memcnn does not work on leaves
        with unfrozen(self.model):
            last = sample_state(unbatched(self.denoiser), pair, times, solver=way.step, gradient=way.gradient)
            loss = loss.replayed(task.noise, 0)
            torch.stack([loss(self.model.decode(latents)) for latents in last]).mean(dim=0).sum().backward()
        if x_T.grad is None:
            raise RuntimeError("there is no gradient")
        return x_T.grad

    def chain(self, steps: int) -> None:
        """A chain by itself (DDIM, Checkpoint), and its gradient."""
        x_T = self.task.x_T.requires_grad_()
        times = self.model.schedule.times(steps)
        sample(self.denoiser, x_T, times, gradient=Checkpoint()).sum().backward()


@contextmanager
def unfrozen(model: Model) -> Iterator[None]:
    """The network's weights want gradients, as they come."""
    for weight in model.network.weights:
        weight.requires_grad_(True)
    yield
    for weight in model.network.weights:
        weight.requires_grad_(False)
        weight.grad = None


def unbatched(denoiser: Denoiser) -> Denoiser:
    from chainrule.diffusion.denoiser import Conditioned
    from chainrule.diffusion.guidance import ClassifierFree

    if not isinstance(denoiser, ClassifierFree):
        raise TypeError("only classifier-free guidance asks for a pair")
    return Unbatched(denoiser.denoiser, Conditioned(denoiser.denoiser.network, denoiser.negative))


@dataclass(frozen=True)
class Cost:
    """Of one optimisation step: network passes (of a guidance pair, an image), median seconds, peak bytes."""

    passes: float
    seconds: float
    peak: int


def cost(works: Sequence[tuple[Case, Callable[[], object]]], repeat: int) -> list[Cost]:
    """Of several works, each on a case, timed in turns after a first time for each."""
    passes, peaks = [], []
    for case, work in works:
        with Passes(case.model) as count:
            work()
        passes.append(count.images / 2 / len(case.seeds))
        with LiveBytes() as memory:
            work()
        peaks.append(memory.peak)
    turns = [[timed(work) for _, work in works] for _ in range(repeat)]
    seconds = [median(turn) for turn in zip(*turns, strict=True)]
    return [Cost(*values) for values in zip(passes, seconds, peaks, strict=True)]


HEADER = ["way", "network passes", "s", "times faster", "peak MiB"]


def beside(case: Case, ways: Sequence[Way], steps: int, repeat: int) -> str:
    """A table of several ways."""
    costs = cost([(case, partial(case.gradient, way, steps)) for way in ways], repeat)
    rows = [
        [way.name, f"{c.passes:.0f}", f"{c.seconds:.2f}", f"{costs[0].seconds / c.seconds:.2f}", mib(c.peak)]
        for way, c in zip(ways, costs, strict=True)
    ]
    return table(HEADER, rows)


def mib(count: int) -> str:
    return f"{count / 2**20:.1f}"


def public() -> tuple[Way, ...]:
    return (PUBLIC,) if find_spec("memcnn") else ()


def targets(case: Case, steps: int, repeat: int) -> str:
    ways = (
        *public(),
        EDICT_OURS,
        Way("EDICT, Reversible", EDICT(), Reversible()),
        Way("EDICT, Checkpoint, every step kept", EDICT(), Checkpoint(keep=steps)),
        DDIM_OURS,
        Way("DDIM, Checkpoint, half the steps kept", DDIM(), Checkpoint(keep=steps // 2)),
        Way("DDIM, Checkpoint, every step kept", DDIM(), Checkpoint(keep=steps)),
    )
    return beside(case, ways, steps, repeat)


def growth(case: Case, steps: Sequence[int], repeat: int) -> str:
    """Seconds and peaks by the number of steps, each way's time divided by T in brackets."""
    ways = (*public(), EDICT_OURS, DDIM_OURS)
    costs = iter(cost([(case, partial(case.gradient, way, t)) for way in ways for t in steps], repeat))
    rows = []
    for way in ways:
        each = [next(costs) for _ in steps]
        seconds = [f"{c.seconds:.2f} ({1000 * c.seconds / t:.0f} ms)" for c, t in zip(each, steps, strict=True)]
        rows += [[way.name, "s (a step)", *seconds], ["", "peak MiB", *(mib(c.peak) for c in each)]]
    return table(["way", "", *(f"T = {t}" for t in steps)], rows)


def batches(case: Case, sizes: Sequence[int], steps: int, repeat: int) -> str:
    ways = (*public(), EDICT_OURS, DDIM_OURS)
    cases = {size: case.select(size) for size in sizes}
    works = [(cases[size], partial(cases[size].gradient, way, steps)) for way in ways for size in sizes]
    costs = iter(cost(works, repeat))
    rows = []
    for way in ways:
        each = [next(costs) for _ in sizes]
        seconds = [f"{c.seconds:.2f} ({c.seconds / size:.2f})" for c, size in zip(each, sizes, strict=True)]
        rows += [[way.name, "s (an image)", *seconds], ["", "peak MiB", *(mib(c.peak) for c in each)]]
    return table(["way", "", *(f"{size} seeds" for size in sizes)], rows)


def kept(case: Case, steps: int, repeat: int) -> str:
    counts = sorted({0, steps // 4, steps // 2, 3 * steps // 4, steps})
    ways = [Way(f"DDIM, keep = {k}", DDIM(), Checkpoint(keep=k)) for k in counts]
    ways += [Way(f"EDICT, keep = {k}", EDICT(), Checkpoint(keep=k)) for k in counts]
    return beside(case, ways, steps, repeat).replace("times faster", "times faster than keep = 0 of DDIM")


def switches(load: Callable[[torch.dtype], Case], steps: int, repeat: int) -> str:
    """What PyTorch and diffusers offer, each on a model of its own; of the chain alone."""
    plain, half, last, sliced, blocks, compiled = (load(torch.bfloat16 if i == 1 else torch.float32) for i in range(6))
    unet(last).to(memory_format=torch.channels_last)
    unet(sliced).set_attention_slice("max")
    unet(blocks).enable_gradient_checkpointing()
    names = ["plain", "bfloat16", "channels-last", "attention slicing", "blocks rebuilt"]
    cases = [plain, half, last, sliced, blocks]
    try:
        unet(compiled).compile()
        compiled.chain(steps)
        names, cases = [*names, "torch.compile"], [*cases, compiled]
    except Exception as error:  # no compiler, or one that fails: said, not fill_in
        print(f"torch.compile does not work here: {str(error).splitlines()[0]}")
    costs = cost([(case, partial(case.chain, steps)) for case in cases], repeat)
    rows = [
        [name, f"{c.passes:.0f}", f"{c.seconds:.2f}", f"{costs[0].seconds / c.seconds:.2f}", mib(c.peak)]
        for name, c in zip(names, costs, strict=True)
    ]
    return table(["DDIM, Checkpoint", *HEADER[1:]], rows)


def unet(case: Case) -> Any:
    return case.model.network.module  # type: ignore[attr-defined]


def overhead(case: Case, steps: int, repeat: int) -> str:
    """Our chain and its gradient, and the same with a product in the network's place: that is what is ours.

    In processor time of one thread, which other programs change little; the least of several turns.
    """
    threads, network = torch.get_num_threads(), unet(case)
    torch.set_num_threads(1)
    case.chain(steps)
    whole = min(timed(partial(case.chain, steps), process_time) for _ in range(repeat))
    network.forward = lambda x, *_, **__: SimpleNamespace(sample=0.5 * x)
    ours = min(timed(partial(case.chain, steps), process_time) for _ in range(repeat))
    del network.forward
    torch.set_num_threads(threads)
    return (
        f"A chain of {steps} steps and its gradient take {1000 * whole / steps:.1f} ms of processor time a step, by "
        f"one thread, and {1000 * ours / steps:.2f} with a product in the network's place: our Python takes "
        f"{100 * ours / whole:.1f} % of a step."
    )


KINDS = {
    "convolutions, forwards": ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::thnn_conv2d"),
    "convolutions, backwards": ("aten::convolution_backward", "aten::mkldnn_convolution_backward"),
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::mkldnn_linear"),
    "attention": ("scaled_dot_product",),
    "normalisations": ("aten::native_group_norm", "aten::native_layer_norm"),
    "activations": ("aten::silu", "aten::gelu"),
    "sums, products and copies": ("aten::add", "aten::mul", "aten::copy_", "aten::cat", "aten::sum", "aten::sub"),
}


def shares(case: Case, steps: int) -> str:
    """Where an optimisation step spends its processor time."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        case.gradient(DDIM_OURS, steps)
    events = profiler.key_averages()
    whole, found = sum(event.self_cpu_time_total for event in events), dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in events:
        kind = next((k for k, names in KINDS.items() if any(n in event.key for n in names)), "the rest")
        kind = "convolutions, backwards" if "onvolution" in event.key and "ackward" in event.key else kind
        found[kind] += event.self_cpu_time_total
    rows = [[kind, f"{100 * spent / whole:.0f} %"] for kind, spent in sorted(found.items(), key=lambda item: -item[1])]
    return table(["operations", "share of the time"], rows)


def bundled(dtype: torch.dtype = torch.float32) -> Case:
    model, loss = chainrule.load(dtype=dtype), Classifier(load_classifier(), "heart")
    return Case(model, model.denoiser(PROMPT), cropped(loss, CROPS, 0.3))


def large(name: str, pixels: int) -> Case:
    size = SIZES[name]
    model = size.model("cpu", torch.float32, pixels)
    wanted = Call(lambda images: (images - 0.3).square().mean(dim=(1, 2, 3)))
    return Case(model, size.denoiser(model, torch.float32, 3.0), wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of the first table")
    parser.add_argument("--growth", type=int, nargs="+", default=[10, 20, 50, 100, 200])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--only", nargs="*", help="some of the sections")
    parser.add_argument("--large", default="SD-1.4", help="a network of sizes.py")
    parser.add_argument("--pixels", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    if not public():
        print("memcnn is not installed: its rows are left out (pip install --no-deps memcnn)")
    case, steps, repeat = bundled(), arguments.steps, arguments.repeat
    kept_all = Way("DDIM, Checkpoint, every step kept", DDIM(), Checkpoint(keep=2))
    sections: dict[str, tuple[str, Callable[[], str]]] = {
        "targets": (f"{steps} steps", lambda: targets(case, steps, repeat)),
        "growth": ("By the number of steps", lambda: growth(case, arguments.growth, 1)),
        "batches": ("By the number of seeds, 10 steps", lambda: batches(case, arguments.batches, 10, 1)),
        "kept": (f"By the number of kept graphs, {steps} steps", lambda: kept(case, steps, repeat)),
        "switches": (
            "Switches, of a chain of 10 steps and its gradient, without the image",
            lambda: switches(bundled, 10, repeat),
        ),
        "overhead": ("Our own Python", lambda: overhead(case, steps, 3 * repeat)),
        "profile": ("Where a step's processor time goes (DDIM, Checkpoint, 10 steps)", lambda: shares(case, 10)),
        "large": (
            f"A network of the size of {arguments.large}, random weights, images of {arguments.pixels} pixels, 2 steps",
            lambda: beside(
                large(arguments.large, arguments.pixels), (*public(), EDICT_OURS, DDIM_OURS, kept_all), 2, 1
            ),
        ),
    }
    command = f"python benchmarks/speed.py --threads {arguments.threads} --repeat {repeat}"
    publish(
        "speed",
        "## What an optimisation step costs\n\n"
        f"`{command}` (a section alone: `--only NAME`) on {machine()}. One image of the bundled model, guided, {CROPS} "
        "crops, if not said otherwise; network passes are of a guidance pair, forwards or backwards; medians of turns; "
        "peaks are live tensor bytes above the weights.",
    )
    for name in arguments.only or sections:
        title, section = sections[name]
        publish(f"speed-{name}", f"### {title} (`{name}`)\n\n{section()}")


if __name__ == "__main__":
    main()
