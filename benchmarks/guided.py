"""AdjointDPM's guided sampling beside DOODL at equal network calls: `python benchmarks/guided.py`.

Vocabulary expansion (`vocabulary.py`), from the seed's own noise: how often the judge, which no
guidance ever touched, sees the wanted shape. AdjointDPM (Euler in 31 steps, AdamW, 30 epochs) with
the exact gradient and with the paper's continuous adjoint; DOODL as in its paper for as many
network passes, and as the ablations found it best; the best of as many draws as they cost. The
learning rate was chosen on other seeds (`--tune`).
"""

from __future__ import annotations

from collections.abc import Sequence

import chainrule
from ablations import judge_images
from base import machine, publish, table, use_preset
from chainrule.bundled import SCENES
from chainrule.losses import load_classifier
from chainrule.methods import DOODL, Adam, AdjointDPM, Momentum, Plain
from chainrule.runs import count_passes
from chainrule.scenes.base import HIDDEN_SHAPES
from chainrule.scenes.judge import load_judge
from contest import Contender, Contest, average_groups, make_options, tabulate_differences
from vocabulary import FIRST_SEED, TUNING_SEED, best_of, make_cases

PAPER = AdjointDPM()
STEPS, EPOCHS = PAPER.steps, PAPER.iterations
PASSES = 3 * STEPS * EPOCHS + STEPS
"""What AdjointDPM spends: a pass forwards, one rebuilt, one backwards, and the last images."""


def doodl_at_equal_cost() -> DOODL:
    """The paper's DOODL with as many iterations as cost the same.

    They cost six passes a step, and the last images two.
    """
    found = use_preset(DOODL, "faithful")
    iterations = (PASSES - 2 * found.steps) // (6 * found.steps)
    return found.model_copy(update={"iterations": iterations})


def adamw(rate: float) -> Adam:
    return Adam(rate=rate, beta2=0.999, decay=0.01)


def doodl_unclipped() -> DOODL:
    """DOODL as the ablations found it best."""
    optimiser = Momentum(rate=100.0, clip=None)
    return DOODL(iterations=EPOCHS, steps=STEPS, mix=None, crops=4, optimiser=optimiser)


PLAIN = Contender("plain", Plain(steps=STEPS))
EXACT = Contender("AdjointDPM, exact gradient", PAPER)
ADJOINT = Contender("AdjointDPM, its adjoint", PAPER.model_copy(update={"adjoint": True}))
BY_DOODL = Contender("DOODL, its paper's settings", doodl_at_equal_cost())
UNCLIPPED = Contender("DOODL, DDIM and no clip", doodl_unclipped())
BEST_OF = Contender(
    f"best of {PASSES // STEPS}", best_of, {"count": PASSES // STEPS, "steps": STEPS}
)
CONTENDERS = (PLAIN, EXACT, BY_DOODL, BEST_OF, ADJOINT, UNCLIPPED)
QUESTIONS = (
    (EXACT, PLAIN),
    (ADJOINT, PLAIN),
    (ADJOINT, EXACT),
    *((each, other) for other in (BY_DOODL, UNCLIPPED, BEST_OF) for each in (EXACT, ADJOINT)),
)
TUNING = tuple(
    Contender(
        f"AdamW {rate:g}, 10 steps",
        PAPER.model_copy(update={"optimiser": adamw(rate), "steps": 10}),
    )
    for rate in (0.01, 0.03, 0.1)
)
"""In shorter chains, which cost a third."""


def main(argv: Sequence[str] | None = None) -> None:
    options = make_options(__doc__, "guided")
    help_ = "for each class, shared out among two prompts"
    options.add("--seeds", type=int, default=2, toy=2, help=help_)
    options.add("--classes", type=int, default=len(HIDDEN_SHAPES), toy=1)
    arguments = options.parse(argv)
    tune, shapes = arguments.tune, HIDDEN_SHAPES[: arguments.classes]
    judge, guide = load_judge(), load_classifier()
    model, passes = count_passes(chainrule.load())
    first = TUNING_SEED if tune else FIRST_SEED
    seeds = range(first, first + arguments.seeds)
    asked = make_cases(model, guide, seeds, 4, shapes=shapes)
    weights = [SCENES.pipeline, SCENES.classifier]
    contest = Contest(passes, arguments.work, weights, toy=arguments.toy)
    found = contest.play(TUNING if tune else CONTENDERS, asked, arguments.only)
    values = {
        contender: judge_images(judge, guide, made, asked, shapes)[1]
        for contender, made in found.items()
    }
    rows = [[c.name, v.size, average_groups(v), *found[c].costs] for c, v in values.items()]
    command = f"python benchmarks/guided.py --seeds {len(seeds)}{' --tune' if tune else ''}"
    text = [
        f"## Guided sampling at equal network calls{', choosing on other seeds' if tune else ''}",
        f"`{command}` on {machine()}. Eight classes, two prompts, seeds from {first}; how often "
        "the judge sees the wanted shape, 95 % intervals over classes and prompts; a network pass "
        "is one guidance pair, forwards or backwards.",
        table(["method", "images", "judge", "network passes", "s per image"], rows),
    ]
    if not tune:
        text += ["Differences, paired:", tabulate_differences(values, QUESTIONS)]
    publish("guided-tuning" if tune else "guided", "\n\n".join(text), dry=arguments.dry)


if __name__ == "__main__":
    main()
