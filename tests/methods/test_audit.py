"""An audit: who is searched, where, and what counts as a success."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from chainrule import UserError, bundled
from chainrule.losses import ImageClassifier
from chainrule.memory import Plan
from chainrule.methods import Audit, AuditTask, Task
from chainrule.methods.audit import AuditState
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
