"""An audit: who is searched, where, and what counts as a success."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chainrule import UserError, bundled
from chainrule.losses import ImageClassifier
from chainrule.memory import Plan
from chainrule.methods import Audit, AuditTask, Task
from chainrule.methods.audit import AuditState, shared_weights
from chainrule.vision import Preprocess
from conftest import tiny_model
from tiny import load_once

AS_IT_IS = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3, dtype=torch.float32)
AUDIT = Audit(tau=(0.3, 0.05), iterations=4, steps=3)


def brightness(threshold: float, names: tuple[str, str] = ("dark", "light")) -> ImageClassifier:
    """Tells dark from light images."""

    def network(pixels: Tensor) -> Tensor:
        light = 20 * (pixels.mean(dim=(1, 2, 3)) - threshold)
        return torch.stack([-light, light], dim=1)

    return ImageClassifier(network, names, AS_IT_IS)


def blind(names: tuple[str, str] = ("dark", "light")) -> ImageClassifier:
    """Sees the first class in everything."""
    return ImageClassifier(
        lambda pixels: torch.tensor([1.0, 0.0]).expand(len(pixels), 2), names, AS_IT_IS
    )


def suspect(
    classifier: ImageClassifier | None = None, judge: ImageClassifier | None = None
) -> AuditTask:
    return AuditTask(
        tiny_model(),
        ("one", "two words"),
        (0, 1, 2),
        classifier or brightness(0.5),
        judge or blind(),
    )


def states(case: AuditTask, method: Audit = AUDIT) -> list[AuditState]:
    return list(method.run(case))


def test_only_images_that_both_read_alike_are_searched() -> None:
    case = suspect()
    first = AUDIT.start(case)
    last = states(case)[-1]
    assert 0 < int((first.label >= 0).sum()) < 6
    alone = first.label < 0
    assert torch.equal(last.x_T[alone], first.x_T[alone])
    assert (last.level[alone] == 2).all()


def test_the_noise_stays_in_its_ball_and_successes_are_real() -> None:
    case, radii = suspect(), AUDIT.radii
    assert radii == [0.05, 0.3]
    last = states(case)[-1]
    away = (last.x_T - last.start).flatten(1).abs().amax(dim=1)
    assert (away <= radii[-1] + 1e-6).all()
    misled = last.level < 2
    assert misled.any()
    for i in torch.nonzero(misled).flatten().tolist():
        assert away[i] <= radii[last.level[i]] + 1e-6
    assert (last.seen[misled] != last.label[misled]).all()
    assert last.numbers == {"audited": int((last.label >= 0).sum()), "misled": int(misled.sum())}


def test_what_the_judge_sees_otherwise_is_no_success() -> None:
    """A judge that always agrees with the classifier is never misled by what misleads it."""
    last = states(suspect(judge=brightness(0.5)))[-1]
    assert (last.level == 2).all()


def test_it_has_as_many_iterations_as_it_says() -> None:
    case = suspect()
    found = states(case)
    assert len(found) == AUDIT.count_iterations(case) == 9
    assert [state.iteration for state in found] == list(range(1, 10))


def test_images_are_searched_in_parts() -> None:
    whole, parts = states(suspect()), states(suspect().under(Plan(batch_size=1)))
    for one, other in zip(whole[-1].tensors().values(), parts[-1].tensors().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_classes_are_the_same_by_name() -> None:
    case = suspect(
        judge=replace(brightness(0.5, ("light", "dark")), network=brightness(0.5).network)
    )
    assert (
        AUDIT.start(case).label == -1
    ).all()  # the judge's names are the wrong way round: never the same
    with pytest.raises(
        UserError, match="agree on none of the images: name prompts of what both know"
    ):
        states(case)


def test_a_judge_of_other_things_is_refused() -> None:
    with pytest.raises(UserError, match="share no class"):
        suspect(judge=blind(("cat", "dog")))


def test_a_judge_must_be_another() -> None:
    model = load_once()
    task = Task(model, model.denoiser("a red circle"), (0,), prompts=("a red circle",))
    with pytest.raises(UserError, match="the judge is the classifier itself"):
        Audit(classifier=str(bundled.JUDGE), judge=str(bundled.JUDGE)).prepare(task)
    other = replace(task, model=replace(model, name="somebody's"))
    with pytest.raises(UserError, match="there is no independent judge"):
        AUDIT.prepare(other)
    with pytest.raises(UserError, match="a prompt is empty"):
        AUDIT.prepare(replace(task, prompts=("a red circle", " ")))


def linear(seed: int = 0) -> ImageClassifier:
    """A network with weights, which can be another's copy."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 2))
    return ImageClassifier(layers, ("dark", "light"), AS_IT_IS)


def change(classifier: ImageClassifier, **changed: Any) -> ImageClassifier:
    """A copy whose weights are changed, by the names of their functions."""
    layers = copy.deepcopy(classifier.network)
    for name, weight in layers.named_parameters():
        weight.data = changed.get(name.replace(".", "_"), lambda value: value)(weight.data)
    return replace(classifier, network=layers)


def rename(classifier: ImageClassifier) -> ImageClassifier:
    """The same weights in a network of another structure."""
    own = copy.deepcopy(classifier.network)
    return replace(classifier, network=nn.ModuleDict({"body": own, "head": nn.Identity()})["body"])


SAME: dict[str, Callable[[ImageClassifier], ImageClassifier]] = {
    "itself": lambda own: own,
    "the same network": lambda own: replace(own, labels=own.labels[::-1]),
    "a copy": lambda own: replace(own, network=copy.deepcopy(own.network)),
    "under other names": rename,
    "shown otherwise": lambda own: replace(change(own), preprocess=Preprocess((8, 8))),
    "saved in float16": lambda own: replace(own, network=copy.deepcopy(own.network).half().float()),
    "saved in bfloat16": lambda own: replace(own, network=copy.deepcopy(own.network).bfloat16()),
    "in float64": lambda own: replace(own, network=copy.deepcopy(own.network).double()),
}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("case", SAME)
def test_a_copy_of_the_classifier_is_no_judge(case: str, swapped: bool) -> None:
    pair = [linear(), SAME[case](linear()) if case not in ("itself", "the same network") else None]
    pair[1] = pair[1] or SAME[case](pair[0])
    own, other = reversed(pair) if swapped else pair
    with pytest.raises(UserError, match=r"the judge is the classifier itself.*: name another"):
        AUDIT(suspect(own, other))


def test_a_function_without_weights_is_no_judge_of_itself() -> None:
    own = brightness(0.5)
    with pytest.raises(UserError, match="the judge is the classifier itself"):
        AUDIT(suspect(own, replace(own, preprocess=Preprocess((8, 8)))))


def test_a_judge_that_shares_the_backbone_is_said() -> None:
    own = linear()
    other = change(own, **{"3_weight": torch.neg})
    assert 0.9 < shared_weights(own.networks, other.networks) < 1
    with pytest.warns(
        UserWarning, match=r"9[0-9].[0-9]% of the classifier's weights are the judge"
    ):
        AUDIT.prepare(suspect(own, other))


@pytest.mark.parametrize("other", ["another", "fine-tuned", "blind"])
def test_an_independent_judge_is_taken(other: str, recwarn: pytest.WarningsRecorder) -> None:
    own = linear()
    judges = {
        "another": linear(1),
        "fine-tuned": change(own, **{"1_weight": lambda value: value + 0.01 * value.sign()}),
        "blind": blind(),
    }
    AUDIT.prepare(suspect(own, judges[other]))
    assert not [each for each in recwarn if "weights" in str(each.message)]
    assert shared_weights(own.networks, judges[other].networks) < 0.9


def test_a_copied_folder_is_found_by_its_weights(tmp_path: Path) -> None:
    """Whatever it is called, and in the precision in which it was saved."""
    model = load_once()
    task = Task(model, model.denoiser("a red circle"), 0, prompts="a red circle")
    shutil.copytree(bundled.CLASSIFIER, tmp_path / "judge")
    weights = load_file(tmp_path / "judge" / "model.safetensors")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        cast = {key: v.to(dtype) if v.is_floating_point() else v for key, v in weights.items()}
        save_file(cast, tmp_path / "judge" / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match="the judge is the classifier itself"):
            Audit(judge=str(tmp_path / "judge")).prepare(task)


def test_what_was_found_is_reported(tmp_path: Path) -> None:
    case = suspect()
    last = states(case)[-1]
    found = AUDIT.report(case, last)
    assert found["radii"] == AUDIT.radii
    assert found["images"] == 6
    label = case.classifier.labels
    for name, shares in found["misled"].items():
        group = (last.label >= 0) if name == "all" else last.label == label.index(name)
        assert found["audited"][name] == group.sum()
        for i, share in enumerate(shares):
            assert share["value"] == pytest.approx((last.level[group] <= i).float().mean().item())
            assert share["low"] <= share["value"] <= share["high"]
    sheet = AUDIT.result(case, last)
    assert sheet.numbers == found
    assert [record["seed"] for record in sheet.records] == [0, 1, 2] * 2
    for i, record in enumerate(sheet.records):
        level = int(last.level[i])
        assert record["tau"] == (AUDIT.radii[level] if level < 2 else "")
    for name, write in AUDIT.artefacts(case, last).items():
        write(tmp_path / name)
    table = (tmp_path / "report.md").read_text()
    assert "| all |" in table
    assert "stopped" not in table
    assert Image.open(tmp_path / "curve.png").width > 100


def test_one_that_was_stopped_reports_the_searches_that_are_done(tmp_path: Path) -> None:
    case = suspect()
    state = states(case)[
        4
    ]  # the first iteration of the second search judges what the first one left
    assert AUDIT.report(case, state)["radii"] == AUDIT.radii[:1]
    AUDIT.artefacts(case, state)["report.md"](tmp_path / "report.md")
    assert "It was stopped before the larger ones were done" in (tmp_path / "report.md").read_text()
    assert AUDIT.report(case, AUDIT.start(case))["radii"] == []
