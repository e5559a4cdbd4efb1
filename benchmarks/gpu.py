"""An optimisation step on networks of real sizes, with random weights: `python benchmarks/gpu.py`.

One image, guided, drawn by DDIM and differentiated with `Checkpoint`: seconds, peak memory, and the share of the
device's rate of matrix products that is reached (the operations of convolutions, matrix products and attention, by
`torch.utils.flop_counter`, in the time of the step, beside the rate of one large product in the same numbers).
`--sizes tiny --device cpu` tries it anywhere.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from torch.utils.flop_counter import FlopCounterMode

from base import machine, publish, table, timed
from chainrule import Checkpoint, sample
from chainrule.diffusion.denoiser import Denoiser
from chainrule.losses import Call
from chainrule.memory import bytes_of, format_bytes, measured, modules, out_of_memory
from chainrule.methods import Task
from chainrule.methods.base import loss_and_gradient
from chainrule.models import Model
from sizes import SIZES


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations a second of a product of two square matrices, the best of five."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        a @ b
        wait(device)

    product()
    return float(2 * side**3 / min(timed(product) for _ in range(5)))


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gradient(model: Model, denoiser: Denoiser, steps: int) -> None:
    """One optimisation step's gradient."""
    wanted = Call(lambda images: (images - 0.3).square().mean(dim=(1, 2, 3)))
    task = Task(model, denoiser, (0,), wanted)
    x_T = task.x_T.requires_grad_()
    x_0 = sample(denoiser, x_T, model.schedule.times(steps), gradient=Checkpoint())
    torch.autograd.grad(x_0, x_T, loss_and_gradient(task, Task.wanted, (x_0,)).gradients)
    wait(model.device)


def rows(name: str, device: str, dtype: torch.dtype, counts: list[int], side: int) -> list[list[object]]:
    size = SIZES[name]
    model = size.model(device, dtype)
    denoiser = size.denoiser(model, dtype, 3.0)
    weights = bytes_of(modules(model))
    gradient(model, denoiser, 2)
    with FlopCounterMode(display=False) as counter:
        gradient(model, denoiser, 2)
    short = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        gradient(model, denoiser, 3)
    each = counter.get_total_flops() - short  # of one more step
    rate = matrix_rate(model.device, dtype, side)
    found: list[list[object]] = []
    for steps in counts:
        with measured(model.device) as memory:
            seconds = timed(lambda steps=steps: gradient(model, denoiser, steps))  # type: ignore[misc]
        if model.device.type == "cpu":  # the watching slowed it down
            seconds = timed(lambda steps=steps: gradient(model, denoiser, steps))  # type: ignore[misc]
        share = (short + (steps - 2) * each) / seconds / rate
        peak = format_bytes(memory.peak + weights)
        found.append([name, str(dtype)[6:], steps, f"{seconds:.2f}", peak, f"{100 * share:.0f} %"])
        print(*found[-1], sep=" | ", flush=True)
    return found


def attempted(name: str, device: str, dtype: torch.dtype, counts: list[int], side: int) -> list[list[object]]:
    try:
        return rows(name, device, dtype, counts, side)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return [[name, str(dtype)[6:], "", "out of memory", "", ""]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", nargs="+", default=["SD-1.4", "SDXL", "SD3"], choices=SIZES)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--side", type=int, default=8192, help="of the matrices whose product is the yardstick")
    parser.add_argument("--dry", action="store_true", help="print the table without publishing it")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: try it with --device cpu --sizes tiny --side 256 --dry")
    found: list[list[object]] = []
    for name in arguments.sizes:
        for dtype in arguments.dtypes:
            found += attempted(name, arguments.device, getattr(torch, dtype), arguments.steps, arguments.side)
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "the CPU"
    text = [
        "## On a GPU",
        f"`python benchmarks/gpu.py` on {device}; {machine()}. One optimisation step of one image, guided: DDIM, "
        "`Checkpoint`, random weights; the peak includes the weights.",
        table(["network", "numbers", "T", "s", "peak memory", "share of the matrix rate"], found),
    ]
    print("\n\n".join(text)) if arguments.dry else publish("gpu", "\n\n".join(text))


if __name__ == "__main__":
    main()
