"""A style learnt as a LoRA. What a LoRA is, is tested in `models/test_lora.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import chainrule
from chainrule import UserError
from chainrule.bundled import SCENES
from chainrule.losses import load_backbone
from chainrule.methods import Adam, StyleTask, Stylize, Task
from chainrule.models import Model
from tiny import load_once, save_family

TINY = "Stable Diffusion 1.x"
QUICK = Stylize(rank=2, epochs=2, batch=3, steps=2, optimiser=Adam(rate=0.01), other_seeds=(7,))
PICTURE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
PROMPTS = ("a red square", "a blue circle")


def studio(model: Model) -> StyleTask:
    features = load_backbone()
    return StyleTask(model, PROMPTS, (0, 1), PICTURE, features, features)


def weights(model: Model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.network.module.state_dict().items()}


def test_an_epoch_draws_every_prompt_with_every_seed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], Stylize.draw

    def noted(
        method: Stylize, model: Model, samples: Sequence[tuple[str, int]], *rest: object
    ) -> Tensor:
        drawn.append(samples)
        return draw(method, model, samples, *rest)

    monkeypatch.setattr(Stylize, "draw", noted)
    work = studio(load_once(TINY))
    assert len(list(QUICK.run(work))) == QUICK.count_iterations(work) == 4
    first, second = (
        [pair for batch in part for pair in batch] for part in (drawn[2:4], drawn[4:6])
    )
    assert sorted(first) == sorted(second) == sorted(work.samples)
    assert first != second


def test_the_loss_falls_and_the_network_is_as_it_was_afterwards() -> None:
    work, method = (
        studio(load_once(TINY)),
        QUICK.model_copy(update={"epochs": 12, "batch": 4, "content": 0.0}),
    )
    before = weights(work.model)
    states = list(method.run(work))
    assert states[-1].losses[-1, 0] < states[0].losses[0, 0]
    after = weights(work.model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not work.model.network.module._forward_pre_hooks
    sheet = method.result(work, states[-1])
    assert sheet.numbers["style"] == states[-1].losses[-1, 0]
    for column in sheet.columns.values():
        assert not torch.allclose(*column)
    still = method.result(work, replace(method.begin(work), losses=torch.zeros(1, 2)))
    for column in still.columns.values():
        torch.testing.assert_close(*column)
    assert weights(work.model).keys() == before.keys()


def test_a_look_at_what_there_is_does_not_disturb_a_run() -> None:
    work = studio(load_once(TINY))
    whole = list(QUICK.run(work))
    looked = []
    for state in QUICK.run(work):
        QUICK.result(work, state)
        looked.append(state)
    for one, other in zip(whole, looked, strict=True):
        for name, value in one.tensors().items():
            assert torch.equal(other.tensors()[name], value)
    assert not getattr(work.model.network.module, "peft_config", {})


def test_a_run_that_is_closed_or_fails_leaves_the_network_as_it_was() -> None:
    work = studio(load_once(TINY))
    before = weights(work.model)
    states = QUICK.run(work)
    next(states)
    assert weights(work.model).keys() != before.keys()
    states.close()
    assert weights(work.model).keys() == before.keys()
    broken = replace(work, content=lambda images: [images.flatten(2) * float("nan")])
    with pytest.raises(UserError, match="not finite in iteration 0: lower the rate"):
        list(QUICK.run(broken))
    assert weights(work.model).keys() == before.keys()


def test_what_is_written_is_what_was_learnt(tmp_path: Path) -> None:
    """Anybody's loader of a LoRA draws from the file what was drawn in the end."""
    folder = save_family(TINY, tmp_path / "pipeline")
    work = studio(chainrule.load(folder))
    *_, last = QUICK.run(work)
    sheet = QUICK.result(work, last)
    for name, write in QUICK.artefacts(work, last).items():
        write(tmp_path / name)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [
        "pytorch_lora_weights.safetensors"
    ]
    again = chainrule.load(folder, loras=[tmp_path / "pytorch_lora_weights.safetensors"])
    with torch.no_grad():
        drawn = QUICK.draw(again, [(PROMPTS[0], 0)])
    torch.testing.assert_close(
        drawn[0], next(iter(sheet.columns.values()))[1], rtol=1e-4, atol=1e-4
    )


def test_it_says_what_it_lacks() -> None:
    model = load_once(TINY)
    task = Task(model, model.denoiser("a red square"), (0,), prompts=PROMPTS, pictures=(PICTURE,))
    with pytest.raises(UserError, match="nothing sees the style"):
        QUICK.prepare(task)
    seen = QUICK.model_copy(update={"features": str(SCENES.classifier)})
    assert seen.prepare(task).samples == [(prompt, 0) for prompt in PROMPTS]
    with pytest.raises(UserError, match="a prompt is empty"):
        seen.prepare(replace(task, prompts=("a red square", "")))
    with pytest.raises(UserError, match="tokens and this model reads"):
        seen.model_copy(update={"other": ("red " * 30,)}).prepare(task)
