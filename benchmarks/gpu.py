"""An optimisation step on networks of real sizes, random weights: `python benchmarks/gpu.py`.

One image, guided, drawn by DDIM and differentiated with `Checkpoint`: seconds, peak memory, and the
share of the device's rate of matrix products that is reached (the operations of convolutions,
matrix products and attention, by `torch.utils.flop_counter`, in the time of the step, beside the
rate of one large product in the same numbers). `--sizes tiny --device cpu` tries it anywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from base import Options, machine, measure_seconds, publish, table
from chainrule import Checkpoint, sample
from chainrule.diffusion.denoiser import Denoiser
from chainrule.losses import Call
from chainrule.memory import count_bytes, format_bytes, is_out_of_memory, measure_memory
from chainrule.methods import Task
from chainrule.methods.chunking import loss_and_gradient
from chainrule.models import Model
from sizes import SIZES


def measure_matrix_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations a second of a product of two square matrices, the best of five."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        a @ b
        wait(device)

    multiply()
    return float(2 * side**3 / min(measure_seconds(multiply) for _ in range(5)))


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def find_gradient(model: Model, denoiser: Denoiser, steps: int) -> None:
    """One optimisation step's gradient."""
    wanted = Call(lambda images: (images - 0.3).square().mean(dim=(1, 2, 3)))
    task = Task(model, denoiser, (0,), wanted)
    x_T = task.x_T.requires_grad_()
    x_0 = sample(denoiser, x_T, model.schedule.times(steps), gradient=Checkpoint())
    found = loss_and_gradient(task, Task.require_loss, (x_0,))
    torch.autograd.grad(x_0, x_T, found.gradients)
    wait(model.device)


@dataclass(frozen=True)
class Trial:
    """A network on a device.

    Args:
        name: The network's.
        device: The device's.
        dtype: The network's numbers.
        lengths: The numbers of steps.
        side: Of the matrices whose product is the yardstick.
    """

    name: str
    device: str
    dtype: torch.dtype
    lengths: Sequence[int]
    side: int

    @property
    def label(self) -> list[object]:
        return [self.name, str(self.dtype).removeprefix("torch.")]

    def make_rows(self) -> list[list[object]]:
        size = SIZES[self.name]
        model = size.model(self.device, self.dtype)
        denoiser = size.denoiser(model, self.dtype, 3.0)
        weights = count_bytes(model.networks)
        work = partial(find_gradient, model, denoiser)
        work(2)
        short, longer = (self._count_operations(work, steps) for steps in (2, 3))
        rate = measure_matrix_rate(model.device, self.dtype, self.side)
        found = []
        for steps in self.lengths:
            with measure_memory(model.device) as memory:
                seconds = measure_seconds(partial(work, steps))
            if model.device.type == "cpu":  # the watching slowed it down
                seconds = measure_seconds(partial(work, steps))
            share = (short + (steps - 2) * (longer - short)) / seconds / rate
            peak = format_bytes(max(memory.phases.values()) + weights)
            row = [*self.label, steps, f"{seconds:.2f}", peak, f"{100 * share:.0f} %"]
            print(*row, sep=" | ", flush=True)
            found.append(row)
        return found

    def _count_operations(self, work: partial[None], steps: int) -> int:
        with FlopCounterMode(display=False) as counter:
            work(steps)
        return counter.get_total_flops()

    def try_rows(self) -> list[list[object]]:
        """The rows; one that says so if memory runs out."""
        try:
            return self.make_rows()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return [[*self.label, "", "out of memory", "", ""]]


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    sizes, side_help = ["SD-1.4", "SDXL", "SD3"], "of the matrices that are the yardstick"
    options.add("--device", default="cuda", toy="cpu")
    options.add("--sizes", nargs="+", default=sizes, choices=SIZES, toy=["tiny"])
    options.add("--dtypes", nargs="+", default=["bfloat16", "float16"], toy=["bfloat16"])
    options.add("--steps", type=int, nargs="+", default=[10, 50, 200], toy=[2, 3])
    options.add("--side", type=int, default=8192, toy=64, help=side_help)
    arguments = options.parse(argv)
    warnings.filterwarnings("ignore")
    device, on_gpu = arguments.device, arguments.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit(
            "there is no GPU here: try it with --device cpu --sizes tiny --side 256 --dry"
        )
    found: list[list[object]] = []
    for name in arguments.sizes:
        for dtype in arguments.dtypes:
            numbers = getattr(torch, dtype)
            found += Trial(name, device, numbers, arguments.steps, arguments.side).try_rows()
    where = torch.cuda.get_device_name() if on_gpu else "the CPU"
    text = [
        "## On a GPU",
        f"`python benchmarks/gpu.py` on {where}; {machine()}. One optimisation step of one image, "
        "guided: DDIM, `Checkpoint`, random weights; the peak includes the weights.",
        table(["network", "numbers", "T", "s", "peak memory", "share of the matrix rate"], found),
    ]
    publish("gpu", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
