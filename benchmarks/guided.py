"""AdjointDPM's guided sampling beside DOODL at equal network calls: `python benchmarks/guided.py`.

Vocabulary expansion (`vocabulary.py`), from the seed's own noise: how often the judge, which no guidance ever touched,
sees the wanted shape. AdjointDPM (Euler in 31 steps, AdamW, 30 epochs) with the exact gradient and with the paper's
continuous adjoint; DOODL as in its paper for as many network passes, and as the ablations found it best; the best of as
many draws as they cost. The learning rate was chosen on other seeds (`--tune`).
"""

from __future__ import annotations

import chainrule
from ablations import loss_and_gradient
from base import machine, publish, table
from chainrule import bundled
from chainrule.losses import load_classifier
from chainrule.methods import ADJOINT_DPM, Adam, Doodl, Momentum, adjoint_dpm, doodl, plain
from chainrule.methods.presets import preset
from chainrule.scenes.judge import load_judge
from contest import Case, Contender, Contest, differences, options, over_groups
from vocabulary import FIRST_SEED, TUNING_SEED, best_of, cases

STEPS, EPOCHS = ADJOINT_DPM.steps, ADJOINT_DPM.iterations
PASSES = 3 * STEPS * EPOCHS + STEPS
"""What AdjointDPM spends: a forward pass, a rebuilt one and a backward pass, and the last images."""


def doodl_at_equal_cost() -> Doodl:
    """The paper's DOODL with as many iterations as cost the same: six passes a step, and two for the last images."""
    found = preset("faithful").doodl
    return found.model_copy(update={"iterations": (PASSES - 2 * found.steps) // (6 * found.steps)})


def adamw(rate: float) -> Adam:
    return Adam(rate=rate, beta2=0.999, decay=0.01)


PLAIN = Contender("plain", plain, {"steps": STEPS})
EXACT = Contender("AdjointDPM, exact gradient", adjoint_dpm, {"settings": ADJOINT_DPM})
ADJOINT = Contender(
    "AdjointDPM, its adjoint", adjoint_dpm, {"settings": ADJOINT_DPM.model_copy(update={"adjoint": True})}
)
DOODL = Contender("DOODL, its paper's settings", doodl, {"settings": doodl_at_equal_cost()})
UNCLIPPED = Contender(
    "DOODL, DDIM and no clip",
    doodl,
    {"settings": Doodl(iterations=EPOCHS, steps=STEPS, mix=None, crops=4, optimiser=Momentum(rate=100.0, clip=None))},
)
BEST_OF = Contender(f"best of {PASSES // STEPS}", best_of, {"count": PASSES // STEPS, "steps": STEPS})
CONTENDERS = (PLAIN, EXACT, DOODL, BEST_OF, ADJOINT, UNCLIPPED)
QUESTIONS = (
    (EXACT, PLAIN),
    (ADJOINT, PLAIN),
    (ADJOINT, EXACT),
    *((each, other) for other in (DOODL, UNCLIPPED, BEST_OF) for each in (EXACT, ADJOINT)),
)
TUNING = tuple(
    Contender(
        f"AdamW {rate:g}, 10 steps",
        adjoint_dpm,
        {"settings": ADJOINT_DPM.model_copy(update={"optimiser": adamw(rate), "steps": 10})},
    )
    for rate in (0.01, 0.03, 0.1)
)
"""In shorter chains, which cost a third."""


def main() -> None:
    parser = options(__doc__, "guided")
    parser.add_argument("--seeds", type=int, default=2, help="for each class, shared out among two prompts")
    arguments = parser.parse_args()
    model, judge, guide = chainrule.load(), load_judge(), load_classifier()
    first = TUNING_SEED if arguments.tune else FIRST_SEED
    asked: list[Case] = cases(model, guide, first, arguments.seeds, 4, None)
    contest = Contest(model, arguments.work, [bundled.PIPELINE, bundled.CLASSIFIER])
    found = contest.play(TUNING if arguments.tune else CONTENDERS, asked, arguments.only)
    values = {contender: loss_and_gradient(judge, guide, made, asked)[1] for contender, made in found.items()}
    rows = [[c.name, v.size, over_groups(v), *found[c].costs] for c, v in values.items()]
    text = [
        f"## Guided sampling at equal network calls{', choosing on other seeds' if arguments.tune else ''}",
        f"`python benchmarks/guided.py --seeds {arguments.seeds}{' --tune' if arguments.tune else ''}` on {machine()}. "
        f"Eight classes, two prompts, seeds from {first}; how often the judge sees the wanted shape, 95 % intervals "
        "over classes and prompts; a network pass is one guidance pair, forwards or backwards.",
        table(["method", "images", "judge", "network passes", "s per image"], rows),
    ]
    if not arguments.tune:
        text += ["Differences, paired:", differences(values, QUESTIONS)]
    publish("guided-tuning" if arguments.tune else "guided", "\n\n".join(text))


if __name__ == "__main__":
    main()
