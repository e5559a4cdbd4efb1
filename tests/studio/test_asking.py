"""What is filled in on a page is the run that the same words make in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chainrule import UserError
from chainrule.cli._ask import make_spec as type_spec
from chainrule.losses.registry import LOSSES
from chainrule.methods.registry import METHODS
from chainrule.runs.usual import choose_editing, choose_guidance, choose_guiding
from chainrule.studio.asking import (
    Asked,
    AskedLoss,
    list_method_fields,
    make_spec,
    name_run,
    takes_pictures,
)
from chainrule.studio.desk import SIDE, UPLOADS, Desk
from chainrule.studio.forms import gather


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path / "runs")
    made.side(UPLOADS).mkdir(parents=True)
    return made


@pytest.fixture
def picture(desk: Desk) -> Path:
    path = desk.side(UPLOADS) / "a photo.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path


def form(kind: str, preset: str, *, loss: str = "", photo: bool = False) -> tuple[str, dict]:
    """A method's form, as it stands at first."""
    fields = list_method_fields(kind, preset, model="scenes", loss=loss, photo=photo)
    return kind, gather(fields, [field.now for field in fields])


@pytest.mark.parametrize("preset", ["best", "faithful", "tuned", "quick"])
def test_create_does_what_guide_does(desk: Desk, preset: str) -> None:
    kinds = choose_guiding(preset)
    asked = Asked(
        inputs={
            "prompt": "a red shape",
            "seed": "0-3",
            "guidance_scale": "",
            "negative_prompt": "",
        },
        losses=[AskedLoss("classifier", "heart"), AskedLoss("brightness", "0.8", weight="0.5")],
        methods=[form(kind, preset, loss="classifier") for kind in kinds],
    )
    typed = {
        "prompt": "a red shape", "seed": "0-3", "preset": preset,
        "loss": ["classifier=heart", "0.5*brightness=0.8"],
    }  # fmt: skip
    assert make_spec(asked, desk) == type_spec(typed, [], kinds, preset=True)


@pytest.mark.parametrize("preset", ["best", "faithful", "tuned"])
def test_edit_does_what_edit_does(desk: Desk, picture: Path, preset: str) -> None:
    kinds = choose_editing(preset, losses=True)
    inputs = {"prompt": "a blue shape", "source": "a red shape", "photo": str(picture), "seed": "0"}
    asked = Asked(
        inputs=inputs,
        losses=[AskedLoss("brightness", "0.8")],
        methods=[form(kind, preset, loss="brightness", photo=True) for kind in kinds],
    ).with_guidance(choose_guidance(preset, model=None, photo=True))
    typed = {**inputs, "preset": preset, "loss": ["brightness=0.8"]}
    assert make_spec(asked, desk) == type_spec(typed, [], kinds, preset=True)


def test_a_preset_that_a_method_has_not_is_refused() -> None:
    with pytest.raises(UserError, match="quick"):
        form("doodl", "quick", loss="brightness", photo=True)


@pytest.mark.parametrize("kind", [k for k in LOSSES.own if takes_pictures(LOSSES.own[k])])
def test_losses_of_pictures_take_uploads(desk: Desk, picture: Path, kind: str) -> None:
    plain = [("plain", {})]
    asked = Asked(losses=[AskedLoss(kind, pictures=(picture,))], methods=plain)
    target: Any = make_spec(asked, desk).losses[0].target
    assert target in (picture, (picture,))
    with pytest.raises(UserError, match="compares with a picture"):
        make_spec(Asked(losses=[AskedLoss(kind)], methods=plain), desk)


SECRETS = ["outside.png", f"runs/{SIDE}/secret.png", "runs/queue.png"]


@pytest.mark.parametrize("where", SECRETS)
@pytest.mark.parametrize("field", ["photo", "mask", "pictures", "loss", "method"])
def test_no_file_is_named_that_was_not_uploaded(
    desk: Desk, tmp_path: Path, picture: Path, where: str, field: str
) -> None:
    file = tmp_path / where
    Image.new("RGB", (64, 48), "red").save(file)
    inputs: dict[str, Any] = {"photo": str(picture), "prompt": "x"}
    losses, methods = [], [("sdedit", {})]
    if field == "loss":
        losses = [AskedLoss("picture", pictures=(file,))]
    elif field == "method":
        methods = [("diffusion-clip", {"other": (str(file),)})]
    else:
        inputs[field] = (str(file),) if field == "pictures" else str(file)
    with pytest.raises(UserError, match="was not uploaded here"):
        make_spec(Asked(inputs, losses=losses, methods=methods), desk)


def test_a_link_among_the_uploads_leads_nowhere(desk: Desk, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    link = desk.side(UPLOADS) / "link.png"
    link.symlink_to(tmp_path / "outside.png")
    with pytest.raises(UserError, match="was not uploaded here"):
        make_spec(Asked({"photo": str(link)}, methods=[("sdedit", {})]), desk)


def test_what_is_no_picture_is_refused_before_a_folder_is_made(desk: Desk) -> None:
    path = desk.side(UPLOADS) / "photo.png"
    path.write_text("<script>")
    with pytest.raises(UserError):
        make_spec(Asked({"photo": str(path)}, methods=[("sdedit", {})]), desk)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": []}, "no method was chosen"),
        ({"losses": [AskedLoss("classifier")]}, "asks for nothing"),
        ({"losses": [AskedLoss("brightness", "very")]}, "target"),
        ({"losses": [AskedLoss("symmetry", weight="much")]}, "weight"),
        ({"inputs": {"seed": "many"}}, "seed"),
        ({"memory": "a lot"}, "not an amount"),
        ({"checkpoint": {"size": "big"}}, "not a size"),
        ({"methods": [("plain", {"steps": "0"})]}, "steps"),
    ],
)
def test_what_cannot_be_is_said(desk: Desk, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_spec(Asked(**{"methods": [("plain", {})], **changes}), desk)


def test_a_time_takes_the_place_of_budgets(desk: Desk) -> None:
    methods = [form("hybrid", "best", loss="brightness")]
    losses = [AskedLoss("brightness", "0.8")]
    spec = make_spec(Asked(losses=losses, methods=methods, timed=True), desk)
    assert spec.methods[0].budget == METHODS["hybrid"].model_fields["budget"].default


def test_several_words_and_loras_are_a_line_with_commas(desk: Desk) -> None:
    named = {"lora": "none/a.safetensors:0.5, none/b.safetensors", "embedding": ""}
    checkpoint = make_spec(Asked(checkpoint=named, methods=[("plain", {})]), desk).checkpoint
    assert checkpoint.lora == ("none/a.safetensors:0.5", "none/b.safetensors")
    assert checkpoint.embedding == ()


def test_a_run_is_named_after_what_it_is_about(desk: Desk, picture: Path) -> None:
    def named(**inputs: Any) -> str:
        return name_run(make_spec(Asked(inputs, methods=[("sdedit", {})]), desk))

    assert named(prompt="A red Shape, on a white background!") == "a-red-shape-on-a-white"
    assert named(photo=str(picture)) == "a-photo"
    assert named() == "sdedit"
