"""The README's pictures of real artwork: `python benchmarks/artwork_gallery.py`.

One wish of each hidden genus and one seed each: a species that no caption names. What the model
draws by itself, with one-step guidance, and as `guide` does by default, in `--budget` passes; the
guide's loss is weighed as in `artwork.py`. Seeds are not chosen; under each image is what the
judge, whom no guidance asks, takes it for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

import chainrule
from artwork import weigh_guide
from base import Options, machine, publish, publish_picture, shorten, table, use_preset
from chainrule.bundled import SPRITES
from chainrule.images import contact_sheet
from chainrule.losses import load_classifier
from chainrule.methods import Hybrid, Method, OneStepGuidance, Plain, Task
from chainrule.sprites.judge import load_judges

WISHES = {
    "penguin": "a bird on a blue background",
    "pineapple": "a fruit on a pink background",
    "cool": "a face on a green background",
    "guitar": "an instrument on a white background",
    "sunflower": "a flower on a blue background",
    "butterfly": "a bug on a yellow background",
    "wolf": "a dog on a purple background",
}
"""What no word says, and what is asked for."""


def draw_sheet(made: Mapping[str, Tensor], seen: Mapping[str, Sequence[str]]) -> Image.Image:
    """A column for each wish, a row for each method.

    Args:
        made: Each method's images, in the order of `WISHES`, (N, 3, 64, 64).
        seen: What the judge takes them for.
    """
    columns, captions = {}, {}
    for i, (species, prompt) in enumerate(WISHES.items()):
        name = f"{prompt.split(' on ')[0]}: {species}"
        columns[name] = torch.stack([images[i] for images in made.values()])
        captions[name] = [names[i] for names in seen.values()]
    return contact_sheet(columns, list(made), captions, "Species that no word names")


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--budget", type=int, default=300, toy=40, help="network passes an image")
    options.add("--seed", type=int, default=0, toy=0)
    arguments = options.parse(argv)
    model, guide = chainrule.load("sprites"), load_classifier("sprites", exclusive=False)
    judges = load_judges(SPRITES.folder)
    best = use_preset(Hybrid, "tuned").model_copy(update={"budget": arguments.budget})
    methods: dict[str, Method] = {
        "by itself": Plain(steps=20),
        "one-step guidance": use_preset(OneStepGuidance, "tuned"),
        "guide": best,
    }
    made, seen = {}, {}
    for name, method in methods.items():
        asked = shorten(method) if arguments.toy else method
        images = []
        for species, prompt in WISHES.items():
            loss = weigh_guide(guide, species)
            task = Task(model, model.denoiser(prompt), (arguments.seed,), loss)
            images.append(asked(task).images)
            print(f"{name}: {species}", flush=True)
        made[name] = torch.cat(images)
        seen[name] = judges.name_things(made[name])
    text = [
        "## Species that no word names",
        f"`python benchmarks/artwork_gallery.py --budget {arguments.budget}` on {machine()}; seed "
        f"{arguments.seed}, one image for each wish: what the judge takes it for.",
        table(["", *WISHES], [[name, *names] for name, names in seen.items()]),
    ]
    publish("artwork-gallery", "\n\n".join(text), dry=arguments.dry)
    publish_picture("artwork-gallery.png", partial(draw_sheet, made, seen), dry=arguments.dry)


if __name__ == "__main__":
    main()
