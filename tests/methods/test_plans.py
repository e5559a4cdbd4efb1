"""A plan's parts are heeded by every method, and each image is decoded and judged once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from test_heeded import make
from test_heeded import task as alone
from torch import Tensor

from chainrule.losses import Call
from chainrule.memory import Plan
from chainrule.methods import METHODS, Sheet, Task
from chainrule.methods.chains import OneShot
from chainrule.models import Model
from tiny import load_once

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")

PARTS = [kind for kind in METHODS.own if kind not in ("effect", "audit")]
"""An effect is learnt from one picture; an audit has a test of its own."""
GUESSING = ("one-step", "tfg", "hybrid", "blended")
"""They decode and judge what they guess at each step."""


@dataclass
class Seen:
    """How many images at a time were decoded, judged, and shown to the network."""

    decoded: list[int] = field(default_factory=list)
    judged: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)


def task(kind: str, seen: Seen, batch: int, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task of some images whose model and loss are watched."""
    model: Model = load_once("scenes" if kind == "audit" else "Stable Diffusion 1.x")
    network = type(model.network)
    ask = network.__call__

    def noted(self: Any, x: Tensor, t: float, conditioning: Sequence[Tensor]) -> Tensor:
        seen.asked.append(len(x))
        return ask(self, x, t, conditioning)

    monkeypatch.setattr(network, "__call__", noted)
    codec = type(model.codec)
    decode = codec.decode

    def decoded(self: Any, latents: Tensor, *rest: Any, **named: Any) -> Tensor:
        seen.decoded.append(len(latents))
        return decode(self, latents, *rest, **named)

    monkeypatch.setattr(codec, "decode", decoded)

    def judge(images: Tensor) -> Tensor:
        seen.judged.append(len(images))
        return images.square().mean(dim=(1, 2, 3))

    one = alone(kind, model=model)
    photo = one.photo
    if photo is not None:
        draw = torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(4))
        draw = draw[:1].expand_as(draw) if kind in ("imagic", "unitune") else draw  # who learn one
        mask = None if photo.mask is None else photo.mask.expand(batch, -1, -1, -1)
        photo = replace(photo, images=draw, mask=mask)
    loss = None if kind == "semantic" else Call(judge)
    return replace(one, seeds=tuple(range(batch)), photo=photo, loss=loss)


def finish(method: Any, asked: Task) -> list[Tensor]:
    prepared = method.prepare(asked)
    *_, last = method.run(prepared)
    found = method.result(prepared, last)
    made = list(found.columns.values()) if isinstance(found, Sheet) else [found.images]
    return [*made, *last.tensors().values()]


@pytest.mark.parametrize("kind", PARTS)
def test_one_image_at_a_time_is_the_same_and_is_one_at_a_time(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, plan, seen = make(kind), Plan(batch_size=1), Seen()
    asked = task(kind, seen, 2, monkeypatch)
    together = finish(method, asked)
    at_once = Seen([*seen.decoded], [*seen.judged], [*seen.asked])
    for some in (seen.decoded, seen.judged, seen.asked):
        some.clear()
    apart = finish(method, asked.under(plan))
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert max(at_once.asked) == 2 * max(seen.asked)
    assert max(seen.decoded, default=1) == 1
    crops = getattr(method, "crops", 0) or 1
    assert max(seen.judged, default=1) <= crops


@pytest.mark.parametrize("kind", PARTS)
def test_images_are_decoded_one_at_a_time_if_so_planned(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, seen = make(kind), Seen()
    finish(method, task(kind, seen, 2, monkeypatch).under(Plan(decode_batch=1)))
    guesses = kind in GUESSING  # in the chain itself, whose images go together
    assert max(seen.decoded, default=1) == (2 if guesses else 1)


@pytest.mark.parametrize("kind", [k for k, m in METHODS.own.items() if issubclass(m, OneShot)])
def test_each_image_is_decoded_once_and_judged_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search judges what it compares: what it delivers is not judged again."""
    seen = Seen()
    asked, method = task(kind, seen, 2, monkeypatch), make(kind)
    method = method.model_copy(update={"count": 3}) if kind == "best-of" else method
    prepared = method.prepare(asked)
    seen.decoded.clear()
    *_, last = method.run(prepared)
    drawn = 3 * 2 if kind == "best-of" else 0
    if kind not in GUESSING:
        assert sum(seen.decoded) == sum(seen.judged) == drawn
    seen.decoded.clear()
    seen.judged.clear()
    method.result(prepared, last)
    compared = 2 if kind == "reconstruction" else 0  # with what the autoencoder alone leaves
    assert sum(seen.decoded) == 2 + compared
    assert sum(seen.judged) == (0 if kind in ("best-of", "semantic") else 2)


@pytest.mark.parametrize("kind", ["doodl", "adjoint-dpm"])
def test_an_optimisation_judges_each_candidate_once_whole(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()
    changes = {"crops": 0, "mix": None} if kind == "doodl" else {}
    asked = replace(task(kind, seen, 2, monkeypatch), photo=None)
    method = make(kind, **changes)
    prepared = method.prepare(asked)
    *_, last = method.run(prepared)
    tried = method.count_iterations(prepared)
    assert sum(seen.decoded) == 2 * tried
    assert sum(seen.judged) == 2 * 2 * tried  # what is optimised, and the whole image
    method.result(prepared, last)
    assert sum(seen.decoded) == 2 * tried + 2
    assert sum(seen.judged) == 2 * 2 * tried
