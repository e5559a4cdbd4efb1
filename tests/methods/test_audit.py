"""An audit: who is searched, where, and what counts as a success."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from chainrule import UserError
from chainrule.losses.classifier import ImageClassifier
from chainrule.methods import Audit, AuditTask, audit
from chainrule.methods.audit import AuditState, start
from chainrule.vision import Preprocess
from conftest import tiny_model

AS_IT_IS = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3, dtype=torch.float32)
SETTINGS = Audit(taus=(0.3, 0.05), iterations=4, steps=3)


def brightness(threshold: float, names: tuple[str, str] = ("dark", "light")) -> ImageClassifier:
    """Tells dark from light images."""

    def network(pixels: Tensor) -> Tensor:
        light = 20 * (pixels.mean(dim=(1, 2, 3)) - threshold)
        return torch.stack([-light, light], dim=1)

    return ImageClassifier(network, names, AS_IT_IS)


def blind(names: tuple[str, str] = ("dark", "light")) -> ImageClassifier:
    """Sees the first class in everything."""
    return ImageClassifier(lambda pixels: torch.tensor([1.0, 0.0]).expand(len(pixels), 2), names, AS_IT_IS)


def suspect(classifier: ImageClassifier | None = None, judge: ImageClassifier | None = None) -> AuditTask:
    return AuditTask(tiny_model(), ("one", "two words"), (0, 1, 2), classifier or brightness(0.5), judge or blind())


def ran(case: AuditTask, settings: Audit = SETTINGS) -> list[AuditState]:
    return list(audit(case, settings, start(case, settings)))


def test_only_images_that_both_read_alike_are_searched() -> None:
    case = suspect()
    first = start(case, SETTINGS)
    last = ran(case)[-1]
    assert 0 < int((first.label >= 0).sum()) < 6
    alone = first.label < 0
    assert torch.equal(last.x_T[alone], first.x_T[alone])
    assert (last.level[alone] == 2).all()


def test_the_noise_stays_in_its_ball_and_successes_are_real() -> None:
    case, radii = suspect(), SETTINGS.radii
    assert radii == [0.05, 0.3]
    last = ran(case)[-1]
    away = (last.x_T - last.start).flatten(1).abs().amax(dim=1)
    assert (away <= radii[-1] + 1e-6).all()
    misled = last.level < 2
    assert misled.any()
    for i in torch.nonzero(misled).flatten().tolist():
        assert away[i] <= radii[last.level[i]] + 1e-6
    assert (last.seen[misled] != last.label[misled]).all()


def test_what_the_judge_sees_otherwise_is_no_success() -> None:
    """A judge that always agrees with the classifier is never misled by what misleads it."""
    last = ran(suspect(judge=brightness(0.5)))[-1]
    assert (last.level == 2).all()


def test_an_audit_that_was_stopped_ends_the_same() -> None:
    case = suspect()
    whole = ran(case)
    resumed = list(audit(case, SETTINGS, whole[2]))
    assert len(whole) == 9
    assert len(resumed) == 6
    for one, other in zip(whole[-1], resumed[-1], strict=True):
        assert torch.equal(one, other)


def test_classes_are_the_same_by_name() -> None:
    case = suspect(judge=replace(brightness(0.5, ("light", "dark")), network=brightness(0.5).network))
    assert (start(case, SETTINGS).label == -1).all()  # the judge's names are the wrong way round: never the same


def test_a_judge_of_other_things_is_refused() -> None:
    with pytest.raises(UserError, match="share no class"):
        suspect(judge=blind(("cat", "dog")))
