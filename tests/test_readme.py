"""What the README tells people to type is what can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

import chainrule
from chainrule.jobs import JOBS, Job
from chainrule.methods import Doodl
from chainrule.methods.presets import Preset
from chainrule.settings import Settings
from test_cli import call
from tiny import family

README = (Path(__file__).parents[1] / "README.md").read_text()
JOINED = re.sub(r" \\\n\s*", " ", README)
KINDS = "generate|guide|edit|invert|effect|stylize|audit|estimate"
COMMANDS = re.findall(rf"(?:^|(?<=`))chainrule (?:{KINDS}) [^`\n]+", JOINED, re.MULTILINE)
PYTHON = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
TINY = {
    "CompVis/stable-diffusion-v1-4": "Stable Diffusion 1.x",
    "stabilityai/stable-diffusion-xl-base-1.0": "Stable Diffusion XL",
    "stabilityai/stable-diffusion-3.5-medium": "Stable Diffusion 3",
    "google/ddpm-cat-256": "Pixels, told nothing",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_can_be_parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def understood(settings: Settings | Job) -> None:
        raise chainrule.UserError("understood")

    monkeypatch.setattr(Settings, "task", understood)
    for job in JOBS.values():
        monkeypatch.setattr(job, "work", understood)
    _, *arguments = shlex.split(command, comments=True)
    code, output = call(*arguments)
    if "--explain" in arguments:
        assert code == 0
        return
    assert (code, "understood" in output) == (2, True), output


@pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
def test_the_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first block to the last, with tiny networks in the place of large ones, and few steps."""
    load = chainrule.load

    def tiny(name=None, *, size=None, **_):
        return load(family(TINY[name]) if name in TINY else name, size=size and (16, 16))

    monkeypatch.setattr(chainrule, "load", tiny)
    monkeypatch.setattr(FluxPipeline, "from_pretrained", lambda *_, **__: family("Flux.1 dev"))
    quick = Preset(Doodl(iterations=1, steps=2, crops=2), 30.0)
    monkeypatch.setattr("chainrule.methods.presets.preset", lambda name: quick)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    code = re.sub(r"times\(\d+\)", "times(3)", PYTHON)
    namespace: dict = {"images": images}
    exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["image"].shape == (1, 3, 8, 8)
    assert namespace["x_0"].requires_grad
    assert len(namespace["result"].images) == 2


@pytest.mark.parametrize("picture", re.findall(r"!\[[^]]*\]\(([^)]+)\)", README))
def test_its_pictures_are_there(picture: str) -> None:
    assert (Path(__file__).parents[1] / picture).is_file()
