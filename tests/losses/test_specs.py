"""Losses as they are written down: on a line, as settings, and by other packages."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from chainrule import UserError
from chainrule.bundled import SCENES
from chainrule.images import to_pil
from chainrule.losses import LOSSES, AnyLoss, Call, Loss, LossSpec, parse_loss
from chainrule.losses.features import Backbone
from chainrule.losses.registry import parse_weight
from chainrule.specs import Registry, Spec, map_files


class Wanted(Spec):
    losses: tuple[AnyLoss, ...]


def spec(text: str, **fields: object) -> LossSpec:
    return Wanted.model_validate({"losses": [parse_loss(text) | fields]}).losses[0]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    to_pil(image).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


LINES = {
    "classifier=heart": "classifier=heart",
    "text=a red shape": "CLIP text=a red shape",
    "image=FILE,FILE": "CLIP image",
    "clip-direction=a dog > a cat": "CLIP direction=a dog > a cat",
    "aesthetic=9.5": "aesthetic=9.5",
    "symmetry": "symmetry",
    "brightness=0.8": "brightness",
    "picture=FILE": "picture",
    "histogram=FILE": "histogram",
    "perceptual=FILE": "perceptual",
    "style=FILE": "style",
}


@pytest.mark.parametrize("line", LINES)
def test_every_kind_can_be_written_loaded_and_read_again(line: str, picture: Path) -> None:
    name, line = LINES[line], line.replace("FILE", str(picture))
    wanted = Wanted(losses=(spec(f"0.5 * {line}"),))
    assert Wanted.model_validate_json(wanted.model_dump_json()) == wanted
    (written,) = wanted.losses
    assert written.weight == 0.5
    assert written.label == f"0.5*{line.replace(str(picture), picture.name)}"
    images, photos = torch.rand(2, 2, 3, 64, 64)
    loss = written.build().given(photos)
    assert loss.names == (f"0.5*{name}",)
    assert loss(images).shape == (2,)
    torch.testing.assert_close(loss(images), 0.5 * written.load("cpu").given(photos)(images))


def test_every_kind_is_listed_and_says_what_it_wants() -> None:
    assert {line.partition("=")[0] for line in LINES} == set(LOSSES)
    for name in LOSSES:
        kind = LOSSES[name]
        assert kind.hint.partition("=")[0] == name
        assert kind.model_fields["kind"].default == name
        assert (kind.__doc__ or "").startswith("That ")
        fields = {key: field for key, field in kind.model_fields.items() if key != "kind"}
        assert all(field.description for field in fields.values()), name


def test_weights_are_written_in_many_ways() -> None:
    assert parse_weight("0.5*symmetry") == parse_weight(" 0.5 * symmetry ") == (0.5, "symmetry")
    assert parse_weight("-1e-2*symmetry") == (-0.01, "symmetry")
    assert parse_weight("text=2 * 3") == (1.0, "text=2 * 3")
    assert parse_loss("text=2 * 3") == {"kind": "text", "weight": 1.0, "target": "2 * 3"}
    assert parse_loss("2*text=a = b")["target"] == "a = b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "heart",
        "classifier",
        "classifier=",
        "text= ",
        "symmetry=1",
        "symmetry=",
        "0.5*",
        "*symmetry",
    ],
)
def test_what_is_not_a_loss_is_refused_with_how_they_are_written(text: str) -> None:
    with pytest.raises(UserError, match=r"is not a loss: write classifier=CLASS, text=WORDS"):
        parse_loss(text)


@pytest.mark.parametrize(
    "text", ["brightness=2", "brightness=dark", "aesthetic=much", "aesthetic=nan"]
)
def test_what_is_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="target"):
        spec(text)


@pytest.mark.parametrize(
    "fields",
    [{"clip": {}}, {"clip": {"": 1.0, "other": 1.0}}, {"classifier": "heart"}, {"weight": "nan"}],
)
def test_a_setting_that_a_loss_does_not_have_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec("aesthetic=10", **fields)


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match="there is no loss 'symetry': did you mean symmetry"):
        Wanted.model_validate({"losses": [{"kind": "symetry"}]})


def test_paths_are_whole_and_belong_to_the_run(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(picture.parent)
    wanted = Wanted(
        losses=(spec(f"image={picture.name}, {picture.name}"), spec("style=picture.png"))
    )
    seen: list[Path] = []

    def move(path: Path) -> Path:
        seen.append(path)
        return Path("elsewhere") / path.name

    moved = map_files(wanted, move)
    assert seen == [picture] * 3
    assert moved.losses[0].target == (Path("elsewhere/picture.png"),) * 2
    assert moved.losses[1].target == Path("elsewhere/picture.png")
    assert moved.losses[1].features is None
    with pytest.raises(UserError, match=r"there is no file elsewhere/picture\.png: name"):
        moved.losses[1].build()


def test_a_features_network_is_a_file_or_a_folder(picture: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as the weights of a VGG"):
        spec(f"style={picture}", features=str(picture)).load()

    loss = spec(f"perceptual={picture}", features=str(SCENES.judge)).load()
    assert isinstance(loss.features, Backbone)


class RednessSpec(LossSpec):
    """That the image is red."""

    hint: ClassVar[str] = "redness"
    kind: Literal["redness"] = "redness"

    @classmethod
    def parse_target(cls, text: str) -> dict[str, str]:
        return {}

    def load(self, device: str | torch.device = "cpu") -> Loss:
        def redness(images: Tensor) -> Tensor:
            return 1 - images[:, 0].mean(dim=(1, 2))

        return Call(redness, "redness")


def test_other_packages_bring_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES.known, "redness", RednessSpec)
    loss = spec("2*redness").build()
    torch.testing.assert_close(loss(torch.ones(1, 3, 4, 4)), torch.zeros(1))
    with pytest.raises(UserError, match=r"style=FILE, redness"):
        parse_loss("greenness")


def test_the_registry_reads_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    found = EntryPoint("redness", f"{__name__}:RednessSpec", "chainrule.losses")
    monkeypatch.setattr("chainrule.specs.entry_points", lambda group: [found])
    registry: Registry[type[LossSpec]] = Registry("chainrule.losses", "loss", dict(LOSSES.own))
    assert [*registry][-1] == "redness"
    assert registry["redness"].hint == "redness"
