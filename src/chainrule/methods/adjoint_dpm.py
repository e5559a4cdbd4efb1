"""Guided sampling as in AdjointDPM: Pan et al. 2024, section 4.1.1 and appendix B.

    x_T = AdamW(x_T, dL/dx_T),    x_0 = Euler(x_T) in 31 steps,    30 epochs

It is DOODL's loop with one latent instead of a pair, another optimiser, and nothing done to the noise in between. The
paper's gradient is the continuous adjoint's (`adjoint=True`), which is off by the angle that `benchmarks/adjoint.py`
measures; the default is the exact gradient of the same chain, at the same number of network calls. In our trials the
wrong one found more of what was asked for (`benchmarks/guided.py`).
Limits: those of DOODL; from noise only.
"""

from __future__ import annotations

from collections.abc import Callable

from chainrule.diffusion.gradient.base import OnStep
from chainrule.methods.base import Result, Task
from chainrule.methods.doodl import Doodl, DoodlState, doodl
from chainrule.optimise import Adam

ADJOINT_DPM = Doodl(
    iterations=30,
    steps=31,
    optimiser=Adam(rate=0.1, beta2=0.999, decay=0.01),
    mix=None,
    perturbation=0.0,
    renormalise=False,
    crops=0,
)
"""The paper's settings. Its learning rates differ from class to class and are not given; this one was chosen by
`benchmarks/guided.py --tune`, where it hardly matters."""


def adjoint_dpm(
    task: Task,
    settings: Doodl = ADJOINT_DPM,
    *,
    on_iteration: Callable[[DoodlState], None] | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """The best images that it finds for the task's seeds. Errors as `doodl`."""
    return doodl(task, settings, on_iteration=on_iteration, on_step=on_step)
