"""What one optimisation step costs, DOODL's public way beside ours: `python benchmarks/speed.py`.

A step draws an image, judges it and takes the gradient of the loss with respect to x_T. DOODL's
public way is EDICT through memcnn's wrapper, with the weights left requiring gradients and the
guidance pair as two calls; memcnn is optional (`pip install --no-deps memcnn`), and without it
those rows are left out. Ways are timed in turns, in one run; the median of the turns is told. Peaks
are live tensor bytes above the weights, measured apart. On the bundled model, and on a network of
Stable Diffusion 1.4's size with random weights (images of 256 pixels, so that it ends).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from time import process_time
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import chainrule
from base import Options, machine, measure_seconds, publish, table
from chainrule import DDIM, EDICT, Checkpoint, Reversible, sample, sample_state
from chainrule.diffusion.denoiser import Conditioned, Denoiser
from chainrule.diffusion.gradient import Gradient
from chainrule.diffusion.guidance.classifier_free import ClassifierFree
from chainrule.diffusion.solvers import Solver
from chainrule.losses import Call, Classifier, Loss, load_classifier
from chainrule.losses.cutouts import crop
from chainrule.memory import LiveBytes
from chainrule.methods import Task
from chainrule.methods.chunking import loss_and_gradient
from chainrule.methods.doodl import CROPS
from chainrule.models import Model
from chainrule.runs import count_passes
from chainrule.runs.passes import Passes
from gradients import Memcnn, Unbatched, has_memcnn
from sizes import SIZES

PROMPT, CROP_COUNT = "a red shape on a white background", 4


@dataclass(frozen=True)
class Way:
    """A solver and how its chain is differentiated.

    Args:
        name: What it is called in tables.
        solver: The solver.
        gradient: The way.
        public: Whether the weights stay unfrozen, the guidance pair is asked for in two calls, and
            the image's graph is kept.
    """

    name: str
    solver: Solver
    gradient: Gradient
    public: bool = False


PUBLIC = Way("DOODL's public way (EDICT, memcnn)", EDICT(), Memcnn(keep_input=True), public=True)
EDICT_OURS = Way("EDICT, Checkpoint", EDICT(), Checkpoint())
DDIM_OURS = Way("DDIM, Checkpoint", DDIM(), Checkpoint())


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

    def repeat(self, batch: int) -> Case:
        """The same for so many seeds."""
        return replace(self, seeds=tuple(range(batch)))

    def count(self) -> tuple[Case, Passes]:
        """The same with its network's evaluations counted, and the count."""
        model, passes = count_passes(self.model)
        guided = require_pair(self.denoiser)
        inner = replace(guided.denoiser, network=model.network)
        return replace(self, model=model, denoiser=replace(guided, denoiser=inner)), passes

    def find_gradient(self, way: Way, steps: int) -> Tensor:
        """One optimisation step's gradient of x_T."""
        task, x_T = self.task, self.task.x_T.requires_grad_()
        start, times = way.solver.init(x_T), self.model.schedule.times(steps)
        walk = partial(sample_state, times=times, solver=way.solver, gradient=way.gradient)
        loss = self.loss.replay(task.noise.stream(CROPS), 0)
        if not way.public:
            last = walk(self.denoiser, start)
            found = loss_and_gradient(task, lambda _: loss, last)
            return torch.autograd.grad(last, x_T, found.gradients)[0]
        pair = tuple(x * 1.0 for x in start)  # memcnn does not work on leaves
        with unfreeze(self.model):
            last = walk(split_pair(self.denoiser), pair)
            losses = torch.stack([loss(self.model.decode(latents)) for latents in last])
            losses.mean(dim=0).sum().backward()
        if x_T.grad is None:
            raise RuntimeError("there is no gradient")
        return x_T.grad

    def walk(self, steps: int) -> None:
        """A chain by itself (DDIM, Checkpoint), and its gradient."""
        x_T = self.task.x_T.requires_grad_()
        times = self.model.schedule.times(steps)
        sample(self.denoiser, x_T, times, gradient=Checkpoint()).sum().backward()


Work = Callable[[Case], object]
"""Something that is done with a case."""


@contextmanager
def unfreeze(model: Model) -> Iterator[None]:
    """While this lasts, the network's weights want gradients, as they come."""
    for weight in model.network.weights:
        weight.requires_grad_(True)
    yield
    for weight in model.network.weights:
        weight.requires_grad_(False)
        weight.grad = None


def require_pair(denoiser: Denoiser) -> ClassifierFree:
    if not isinstance(denoiser, ClassifierFree):
        raise TypeError("only classifier-free guidance asks for a pair")
    return denoiser


def split_pair(denoiser: Denoiser) -> Denoiser:
    """The guidance pair in two calls."""
    pair = require_pair(denoiser)
    return Unbatched(pair.denoiser, Conditioned(pair.denoiser.network, pair.negative))


@dataclass(frozen=True)
class Cost:
    """Of one optimisation step.

    Args:
        passes: Network passes, of a guidance pair, for an image.
        seconds: The median.
        peak: Bytes.
    """

    passes: float
    seconds: float
    peak: int


def measure_costs(works: Sequence[tuple[Case, Work]], repeat: int) -> list[Cost]:
    """Of several works, each on a case, timed in turns after a first time for each."""
    passes, peaks = [], []
    for case, work in works:
        counted, count = case.count()
        work(counted)
        passes.append(count.total / 2 / len(case.seeds))
        with LiveBytes() as memory:
            work(case)
        peaks.append(memory.peak)
    turns = [[measure_seconds(partial(work, case)) for case, work in works] for _ in range(repeat)]
    seconds = [median(turn) for turn in zip(*turns, strict=True)]
    return [Cost(*values) for values in zip(passes, seconds, peaks, strict=True)]


def differentiate(way: Way, steps: int) -> Work:
    """The gradient of one optimisation step."""
    return lambda case: case.find_gradient(way, steps)


HEADER = ["way", "network passes", "s", "times faster", "peak MiB"]


def compare_ways(case: Case, ways: Sequence[Way], steps: int, repeat: int) -> str:
    """A table of several ways."""
    costs = measure_costs([(case, differentiate(way, steps)) for way in ways], repeat)
    return table(HEADER, make_rows([way.name for way in ways], costs))


def make_rows(names: Sequence[str], costs: Sequence[Cost]) -> list[list[str]]:
    """A row for each cost, which is compared with the first."""
    return [
        [
            name,
            f"{cost.passes:.0f}",
            f"{cost.seconds:.2f}",
            f"{costs[0].seconds / cost.seconds:.2f}",
            write_mib(cost.peak),
        ]
        for name, cost in zip(names, costs, strict=True)
    ]


def write_mib(count: int) -> str:
    return f"{count / 2**20:.1f}"


def list_public() -> tuple[Way, ...]:
    """DOODL's public way, if memcnn is installed."""
    return (PUBLIC,) if has_memcnn() else ()


def compare_targets(case: Case, steps: int, repeat: int) -> str:
    ways = (
        *list_public(),
        EDICT_OURS,
        Way("EDICT, Reversible", EDICT(), Reversible()),
        Way("EDICT, Checkpoint, every step kept", EDICT(), Checkpoint(keep=steps)),
        DDIM_OURS,
        Way("DDIM, Checkpoint, half the steps kept", DDIM(), Checkpoint(keep=steps // 2)),
        Way("DDIM, Checkpoint, every step kept", DDIM(), Checkpoint(keep=steps)),
    )
    return compare_ways(case, ways, steps, repeat)


def compare_lengths(case: Case, lengths: Sequence[int], repeat: int) -> str:
    """Seconds and peaks by the number of steps, with each way's time divided by T in brackets."""
    ways = (*list_public(), EDICT_OURS, DDIM_OURS)
    works = [(case, differentiate(way, t)) for way in ways for t in lengths]
    costs, rows = iter(measure_costs(works, repeat)), []
    for way in ways:
        each = [next(costs) for _ in lengths]
        seconds = [
            f"{c.seconds:.2f} ({1000 * c.seconds / t:.0f} ms)"
            for c, t in zip(each, lengths, strict=True)
        ]
        rows += [[way.name, "s (a step)", *seconds]]
        rows += [["", "peak MiB", *(write_mib(c.peak) for c in each)]]
    return table(["way", "", *(f"T = {t}" for t in lengths)], rows)


def compare_batches(case: Case, sizes: Sequence[int], steps: int, repeat: int) -> str:
    ways = (*list_public(), EDICT_OURS, DDIM_OURS)
    works = [(case.repeat(size), differentiate(way, steps)) for way in ways for size in sizes]
    costs, rows = iter(measure_costs(works, repeat)), []
    for way in ways:
        each = [next(costs) for _ in sizes]
        pairs = zip(each, sizes, strict=True)
        seconds = [f"{c.seconds:.2f} ({c.seconds / size:.2f})" for c, size in pairs]
        rows += [[way.name, "s (an image)", *seconds]]
        rows += [["", "peak MiB", *(write_mib(c.peak) for c in each)]]
    return table(["way", "", *(f"{size} seeds" for size in sizes)], rows)


def compare_kept(case: Case, steps: int, repeat: int) -> str:
    counts = sorted({0, steps // 4, steps // 2, 3 * steps // 4, steps})
    ways = [Way(f"DDIM, keep = {k}", DDIM(), Checkpoint(keep=k)) for k in counts]
    ways += [Way(f"EDICT, keep = {k}", EDICT(), Checkpoint(keep=k)) for k in counts]
    found = compare_ways(case, ways, steps, repeat)
    return found.replace("times faster", "times faster than keep = 0 of DDIM")


def compare_switches(
    load: Callable[[torch.dtype], Case], steps: int, repeat: int, *, compiles: bool
) -> str:
    """What PyTorch and diffusers offer, each on a model of its own; of the chain alone.

    Args:
        load: Loads the model.
        steps: Of the chain.
        repeat: How often each is timed.
        compiles: Whether `torch.compile` is tried, which takes minutes.
    """
    plain, half, last, sliced, blocks, compiled = (
        load(torch.bfloat16 if i == 1 else torch.float32) for i in range(6)
    )
    unet(last).to(memory_format=torch.channels_last)
    unet(sliced).set_attention_slice("max")
    unet(blocks).enable_gradient_checkpointing()
    names = ["plain", "bfloat16", "channels-last", "attention slicing", "blocks rebuilt"]
    cases = [plain, half, last, sliced, blocks]
    if compiles and try_to_compile(compiled, steps):
        names, cases = [*names, "torch.compile"], [*cases, compiled]
    costs = measure_costs([(case, partial(Case.walk, steps=steps)) for case in cases], repeat)
    return table(["DDIM, Checkpoint", *HEADER[1:]], make_rows(names, costs))


def try_to_compile(case: Case, steps: int) -> bool:
    """Compile the network, in place; whether that works here."""
    try:
        unet(case).compile()
        case.walk(steps)
    except Exception as error:  # no compiler, or one that fails: said, not hidden
        print(f"torch.compile does not work here: {str(error).splitlines()[0]}")
        return False
    return True


def unet(case: Case) -> Any:
    (network,) = case.model.network.networks
    return network


def measure_overhead(case: Case, steps: int, repeat: int) -> str:
    """Our chain and its gradient, and the same with a product in the network's place: that is ours.

    In processor time of one thread, which other programs change little; the least of several turns.
    """
    threads, network = torch.get_num_threads(), unet(case)
    torch.set_num_threads(1)
    case.walk(steps)

    def measure() -> float:
        work = partial(case.walk, steps)
        return min(measure_seconds(work, process_time) for _ in range(repeat))

    whole = measure()
    network.forward = lambda x, *_, **__: SimpleNamespace(sample=0.5 * x)
    ours = measure()
    del network.forward
    torch.set_num_threads(threads)
    return (
        f"A chain of {steps} steps and its gradient take {1000 * whole / steps:.1f} ms of "
        f"processor time a step, by one thread, and {1000 * ours / steps:.2f} with a product in "
        f"the network's place: our Python takes {100 * ours / whole:.1f} % of a step."
    )


KINDS = {
    "convolutions, forwards": (
        "aten::mkldnn_convolution",
        "aten::_slow_conv2d_forward",
        "aten::thnn_conv2d",
    ),
    "convolutions, backwards": (
        "aten::convolution_backward",
        "aten::mkldnn_convolution_backward",
    ),
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::mkldnn_linear"),
    "attention": ("scaled_dot_product",),
    "normalisations": ("aten::native_group_norm", "aten::native_layer_norm"),
    "activations": ("aten::silu", "aten::gelu"),
    "sums, products and copies": (
        "aten::add",
        "aten::mul",
        "aten::copy_",
        "aten::cat",
        "aten::sum",
        "aten::sub",
    ),
}


def name_kind(event: str) -> str:
    """Which of `KINDS` an operation is."""
    if "onvolution" in event and "ackward" in event:
        return "convolutions, backwards"
    found = (kind for kind, names in KINDS.items() if any(name in event for name in names))
    return next(found, "the rest")


def share_time(case: Case, steps: int) -> str:
    """Where an optimisation step spends its processor time."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        case.find_gradient(DDIM_OURS, steps)
    events = profiler.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    found = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in events:
        found[name_kind(event.key)] += event.self_cpu_time_total
    ordered = sorted(found.items(), key=lambda item: -item[1])
    rows = [[kind, f"{100 * spent / whole:.0f} %"] for kind, spent in ordered]
    return table(["operations", "share of the time"], rows)


def load_bundled(dtype: torch.dtype = torch.float32) -> Case:
    model, loss = chainrule.load(dtype=dtype), Classifier(load_classifier(), "heart")
    return Case(model, model.denoiser(PROMPT), crop(loss, CROP_COUNT, 0.3))


def load_large(name: str, pixels: int) -> Case:
    """A network of sizes.py, for images of so many pixels."""
    size = SIZES[name]
    model = size.model("cpu", torch.float32, pixels)
    wanted = Call(lambda images: (images - 0.3).square().mean(dim=(1, 2, 3)))
    return Case(model, size.denoiser(model, torch.float32, 3.0), wanted)


def compare_large(name: str, pixels: int) -> str:
    kept_all = Way("DDIM, Checkpoint, every step kept", DDIM(), Checkpoint(keep=2))
    ways = (*list_public(), EDICT_OURS, DDIM_OURS, kept_all)
    return compare_ways(load_large(name, pixels), ways, 2, 1)


def list_sections(arguments: argparse.Namespace) -> dict[str, tuple[str, Callable[[], str]]]:
    """Each section's title, and what makes it."""
    case, steps, repeat = load_bundled(), arguments.steps, arguments.repeat
    short, large, pixels = arguments.short, arguments.large, arguments.pixels
    return {
        "targets": (f"{steps} steps", partial(compare_targets, case, steps, repeat)),
        "growth": (
            "By the number of steps",
            partial(compare_lengths, case, arguments.growth, 1),
        ),
        "batches": (
            f"By the number of seeds, {short} steps",
            partial(compare_batches, case, arguments.batches, short, 1),
        ),
        "kept": (
            f"By the number of kept graphs, {steps} steps",
            partial(compare_kept, case, steps, repeat),
        ),
        "switches": (
            f"Switches, of a chain of {short} steps and its gradient, without the image",
            partial(compare_switches, load_bundled, short, repeat, compiles=arguments.compile),
        ),
        "overhead": (
            "Our own Python",
            partial(measure_overhead, case, steps, 3 * repeat),
        ),
        "profile": (
            f"Where a step's processor time goes (DDIM, Checkpoint, {short} steps)",
            partial(share_time, case, short),
        ),
        "large": (
            f"A network of the size of {large}, random weights, images of {pixels} pixels, 2 steps",
            partial(compare_large, large, pixels),
        ),
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--threads", type=int, default=2, toy=1)
    options.add("--repeat", type=int, default=5, toy=1)
    options.add("--steps", type=int, default=20, toy=2, help="of the first table")
    options.add("--short", type=int, default=10, toy=2, help="the steps of the short chains")
    options.add("--growth", type=int, nargs="+", default=[10, 20, 50, 100, 200], toy=[2])
    options.add("--batches", type=int, nargs="+", default=[1, 4, 16], toy=[2])
    sections = ["growth", "overhead", "large"]
    options.add("--only", nargs="*", help="some of the sections", toy=sections)
    compiles = argparse.BooleanOptionalAction
    options.add("--compile", action=compiles, default=True, toy=False, help="try torch.compile")
    options.add("--large", default="SD-1.4", toy="tiny", help="a network of sizes.py")
    options.add("--pixels", type=int, default=256, toy=16)
    arguments = options.parse(argv)
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    found = list_sections(arguments)
    command = f"python benchmarks/speed.py --threads {arguments.threads}"
    command += f" --repeat {arguments.repeat}"
    text = [
        "## What an optimisation step costs",
        f"`{command}` (a section alone: `--only NAME`) on {machine()}. One image of the bundled "
        f"model, guided, {CROP_COUNT} crops, if not said otherwise; network passes are of a "
        "guidance pair, forwards or backwards; medians of turns; peaks are live tensor bytes above "
        "the weights.",
    ]
    publish("speed", "\n\n".join(text), dry=arguments.dry)
    for name in arguments.only or found:
        title, make = found[name]
        publish(f"speed-{name}", f"### {title} (`{name}`)\n\n{make()}", dry=arguments.dry)


if __name__ == "__main__":
    main()
