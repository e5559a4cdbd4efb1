"""The documents name what there is: every method, every room, and examples that run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import chainrule
import tiny
from chainrule.losses.base import LossSpec
from chainrule.losses.registry import LOSSES
from chainrule.methods import METHODS, Method, Task
from chainrule.models.families import FAMILIES
from chainrule.sprites.base import HELD_OUT_KINDS
from chainrule.sprites.things import KINDS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "chainrule"
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
CODE = "\n".join(re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL))


def test_the_table_of_methods_has_every_method() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|[^|]*\| `(\w+)` \|", METHODS_PAGE, re.MULTILINE)
    assert rows == [(kind, method.__name__) for kind, method in METHODS.own.items()]


def read_map() -> list[str]:
    """The paths of the map, as `diffusion/solvers/`."""
    block = re.search(r"```\nsrc/chainrule/\n(.*?)```", CONTRIBUTING, re.DOTALL)
    assert block is not None
    found: list[str] = []
    room = ""
    for line in block[1].splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        room = name if indent == 2 else room
        found.append(name if indent == 2 else f"{room}{name}")
    return found


def test_the_map_has_every_room_and_no_other() -> None:
    named = read_map()
    folders = {f"{path.parent.relative_to(SOURCE)}/" for path in SOURCE.rglob("*.py")} - {"./"}
    files = {path.name for path in SOURCE.glob("*.py")} - {"__init__.py"}
    assert folders | files <= set(named)
    for name in named:
        path = SOURCE / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name
    assert len(named) == len(set(named))


def test_the_map_goes_down_as_imports_do() -> None:
    from test_house import ROOMS

    rooms = [name.rstrip("/").removesuffix(".py") for name in read_map()]
    assert [name for name in rooms if "/" not in name] == list(ROOMS)


FILES = set(re.findall(r"`((?:\w+/)+[a-z]\w*\.py)`", CONTRIBUTING))


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_files_that_are_named_are_there(name: str) -> None:
    assert any((root / name).is_file() for root in (ROOT, SOURCE)), name


@pytest.fixture(scope="module")
def examples() -> dict:
    namespace: dict = {"__name__": __name__}
    exec(compile(CODE, "CONTRIBUTING.md", "exec", dont_inherit=True), namespace)
    return namespace


def test_the_method_works(examples: dict) -> None:
    kind: type[Method] = examples["Truncate"]
    assert str(kind.model_fields["kind"].default) not in METHODS.own
    model = chainrule.load(tiny.family("Stable Diffusion 1.x"))
    task = Task(model, model.denoiser("a red cube"), seeds=(0, 1), prompts=("a red cube",))
    plain, calm = (kind(share=share, steps=2)(task) for share in (1.0, 0.5))
    assert calm.images.shape == plain.images.shape
    assert (calm.x_T == 0.5 * plain.x_T).all()


def test_the_loss_works(examples: dict) -> None:
    kind: type[LossSpec] = examples["ContrastSpec"]
    assert str(kind.model_fields["kind"].default) not in LOSSES.own
    images = torch.rand(2, 3, 8, 8).requires_grad_()
    loss = kind(**kind.parse_target("0.3")).build()
    assert loss(images).shape == (2,)
    loss(images).sum().backward()
    assert images.grad is not None


def test_the_family_can_be_made(examples: dict) -> None:
    assert "NewPipeline" not in FAMILIES.own
    assert not getattr(examples["NewTransformer"], "__abstractmethods__", None)
    assert not getattr(examples["NewText"], "__abstractmethods__", None)


def test_every_species_is_named_that_a_classifier_knows() -> None:
    rows = re.findall(
        r"^\| ([a-z]+) \| (.+) \|$", (ROOT / "docs" / "checkpoints.md").read_text(), re.M
    )
    told = {word: set(names.split(", ")) for word, names in rows}
    species = [name for name, kind in KINDS.items() if kind.hidden and name not in HELD_OUT_KINDS]
    assert species
    for name in species:
        assert name in told[KINDS[name].word]


def test_the_changelog_has_this_version() -> None:
    assert f"\n## {chainrule.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {chainrule.__version__}\n" in (ROOT / "CITATION.cff").read_text()
