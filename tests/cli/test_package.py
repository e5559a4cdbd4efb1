"""Another package brings a method of each kind, a loss, a solver and a family: one file each, and an entry point.

All is done as its user would: the package is installed (a folder on the path, with the metadata that pip writes), and
the command line knows what is in it. This is the proof that to add one, one file is touched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import tiny

ONE_SHOT = '''
"""A one-shot method."""

from typing import Literal

from pydantic import Field

from chainrule.methods.base import Drawn, Needs, Steps, Task
from chainrule.methods.chains import OneShot, generate


class Truncate(OneShot):
    """Draws from noise that is a little too small.

    Limits: none that a toy would know.
    """

    kind: Literal["toy-truncate"] = "toy-truncate"
    needs = Needs.NOISE
    share: float = Field(default=0.9, gt=0, le=1, description="How much of the noise is left.")
    steps: Steps = 3

    def draw(self, task, on_step=None) -> Drawn:
        return generate(task, self.share * task.x_T, self.steps, on_step=on_step)
'''

ITERATING = '''
"""A method that iterates: the noise walks at random, and the best is kept."""

import os
import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from chainrule.methods.base import Method, Needs, Result, State, Steps
from chainrule.methods.chains import generate
from chainrule.methods.chunking import decode, evaluate


@dataclass(frozen=True, eq=False)
class WalkState(State):
    x_T: Tensor
    best_x_T: Tensor
    best: Tensor
    terms: Tensor

    @property
    def iteration(self):
        return len(self.terms)

    @property
    def numbers(self):
        return {"best": self.best.mean().item()}


class Walk(Method):
    """Walks at random, and keeps the best.

    Limits: it goes nowhere.
    """

    kind: Literal["toy-walk"] = "toy-walk"
    needs = Needs.LOSS | Needs.NOISE
    state: ClassVar[type[State]] = WalkState
    iterations: int = Field(default=3, ge=1, description="How far it walks.")
    stride: float = Field(default=0.5, ge=0, description="How long a step of the walk is.")
    steps: Steps = 3

    def count_iterations(self, task):
        return self.iterations

    def probe(self, steps):
        return self.model_copy(update={"steps": steps, "iterations": 1})

    def run(self, task, state=None, on_step=None):
        if state is None:
            names = task.require_loss().names
            worst = torch.full((len(task.seeds),), torch.inf)
            state = WalkState(task.x_T, task.x_T, worst, worst.new_zeros(0, len(names), len(worst)))
        while state.iteration < self.iterations:
            k = state.iteration
            while k == 2 and "TOY_HANGS" in os.environ:
                time.sleep(1)
            latents = generate(task, state.x_T, self.steps, on_step=on_step).latents
            terms = task.require_loss().terms(decode(task, latents))
            better = terms.sum(dim=0) < state.best
            z = task.noise.stream("toy-walk/steps").normal(k, state.x_T.shape[1:])
            state = WalkState(
                state.x_T + self.stride * z,
                torch.where(better[:, None, None, None], state.x_T, state.best_x_T),
                torch.minimum(terms.sum(dim=0), state.best),
                torch.cat([state.terms, terms[None]]),
            )
            yield state

    def result(self, task, state):
        latents = generate(task, state.best_x_T, self.steps).latents
        return Result(decode(task, latents), latents, state.best_x_T, state.best, state.terms)
'''

TRAINING = '''
"""A method that trains, and writes what it has learnt."""

from typing import ClassVar, Literal

import torch
from pydantic import Field

from chainrule.methods.base import Method, Needs, Sheet, State, Steps
from chainrule.methods.chains import generate
from chainrule.methods.training import Training, train
from chainrule.optimise import Adam


class Tint(Method):
    """Learns a shift of the noise that all seeds share.

    Limits: a shift is not much.
    """

    kind: Literal["toy-tint"] = "toy-tint"
    needs = Needs.LOSS
    state: ClassVar[type[State]] = Training
    iterations: int = Field(default=2, ge=1, description="How often it is improved.")
    steps: Steps = 3
    optimiser: Adam = Adam(rate=0.1)

    def count_iterations(self, task):
        return self.iterations

    def probe(self, steps):
        return self.model_copy(update={"steps": steps, "iterations": 1})

    def draw(self, task, shift, on_step=None):
        return task.model.decode(generate(task, task.x_T + shift, self.steps, on_step=on_step).latents)

    def run(self, task, state=None, on_step=None):
        shift = {"shift": torch.zeros(1, task.x_T.shape[1], 1, 1)}
        state = Training.begin(shift, 1) if state is None else state
        leaf = {"shift": state.values["shift"].clone().requires_grad_()}

        def objective(k):
            return task.require_loss()(self.draw(task, leaf["shift"], on_step)).mean()[None]

        return train(leaf, objective, self.optimiser, self.iterations, state)

    def result(self, task, state):
        images = {"before": self.draw(task, 0.0), "after": self.draw(task, state.values["shift"])}
        rows = [f"seed {seed}" for seed in task.seeds]
        numbers = {"loss": state.losses[-1].sum().item()}
        return Sheet(images, rows, {name: [""] * len(rows) for name in images}, "tinted", numbers)

    def artefacts(self, task, state):
        from safetensors.torch import save_file

        return {"shift.safetensors": lambda path: save_file(dict(state.values), path)}
'''

LOSS = '''
"""A loss."""

from typing import ClassVar, Literal

from pydantic import Field

from chainrule.losses.base import Call, LossSpec


class RednessSpec(LossSpec):
    """That the image is red."""

    hint: ClassVar[str] = "toy-redness=0.9"
    kind: Literal["toy-redness"] = "toy-redness"
    target: float = Field(description="How red.")
    channel: int = Field(default=0, ge=0, le=2, description="Which colour is meant.")

    def load(self, device="cpu"):
        return Call(lambda images: (images[:, self.channel].mean(dim=(1, 2)) - self.target).square(), "redness")
'''

SOLVER = '''
"""A solver: DDIM that holds back a little."""

from dataclasses import dataclass

from chainrule.diffusion.solvers.ddim import DDIM


@dataclass(frozen=True)
class Shy(DDIM):
    def step(self, denoiser, state, k, t, s):
        (x,) = super().step(denoiser, state, k, t, s)
        return (0.99 * x,)
'''

FAMILY = '''
"""A family of pipelines that diffusers does not have."""

from diffusers import StableDiffusionPipeline

from chainrule.models.families.stable_diffusion import adapt as theirs


class ToyPipeline(StableDiffusionPipeline):
    pass


def adapt(pipeline, name, size):
    return theirs(pipeline, name, size)


adapt.pipeline = ToyPipeline
'''

FILES = {
    "truncate": ONE_SHOT,
    "walk": ITERATING,
    "tint": TRAINING,
    "redness": LOSS,
    "shy": SOLVER,
    "family": FAMILY,
}
ENTRY_POINTS = """
[chainrule.methods]
toy-truncate = toys.truncate:Truncate
toy-walk = toys.walk:Walk
toy-tint = toys.tint:Tint

[chainrule.losses]
toy-redness = toys.redness:RednessSpec

[chainrule.solvers]
toy-shy = toys.shy:Shy

[chainrule.families]
ToyPipeline = toys.family:adapt
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "toys").mkdir()
    (folder / "toys" / "__init__.py").write_text("")
    for name, text in FILES.items():
        (folder / "toys" / f"{name}.py").write_text(text)
    info = folder / "toys-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the family that the package brings."""
    folder = tiny.save_family("Stable Diffusion 1.x", tmp_path_factory.mktemp("toy") / "checkpoint")
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "ToyPipeline"}))
    return folder


SEVERAL = """
import json, sys
from typer.testing import CliRunner
from chainrule.cli._app import app

for arguments in json.load(sys.stdin):
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    print(json.dumps([result.exit_code, " ".join(result.output.split())]))
"""


def start(installed: Path, *arguments: str, **more: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", **more}
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def call_all(installed: Path, *commands: list[object]) -> list[tuple[int, str]]:
    """What several commands of one process end with and print."""
    process = start(installed, "-c", SEVERAL)
    asked = json.dumps([[str(word) for word in command] for command in commands])
    printed, said = process.communicate(asked)
    assert process.returncode == 0, said
    return [tuple(json.loads(line)) for line in printed.splitlines()]


METHODS = ("toy-truncate", "toy-walk", "toy-tint")


def pictures(folder: Path) -> dict[str, bytes]:
    paths = [*(folder / "images").glob("*.png"), folder / "contact-sheet.png"]
    return {path.name: Image.open(path).tobytes() for path in paths}


def test_they_run_are_killed_resumed_made_again_and_estimated(
    installed: Path, checkpoint: Path, tmp_path: Path
) -> None:
    guide: list[object] = [
        "guide", "a cat", "--loss", "toy-redness=0.9", "--channel", "1", "--seed", "0,1", "-m", checkpoint, "--steps",
        "2", "--stride", "0.25", "--method", "toy-truncate:share=0.8", "--method", "toy-walk", "--method", "toy-tint",
        "--method", "plain:solver=toy-shy", "--method", "doodl:iterations=1,crops=0", "--preset", "faithful", "-o",
    ]  # fmt: skip
    killed = tmp_path / "killed"
    process = start(installed, "-m", "chainrule", *map(str, guide), str(killed), TOY_HANGS="1")
    while not (killed / "toy-walk.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()  # in its third iteration at the latest, which never ends
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "toy-tint.safetensors").exists()

    whole = tmp_path / "whole"
    estimate = [word for word in guide[:-1] if word not in ("--method", "plain:solver=toy-shy")]
    estimate = ["estimate", *estimate[1:14], "--seed", "0"]
    asked = [option for method in METHODS for option in ("--method", method)]
    found = call_all(
        installed,
        [*guide, whole],
        ["resume", killed],
        ["rerun", whole / "images" / "toy-walk-0001.png", "-o", tmp_path / "walk", "--trust"],
        ["rerun", whole / "contact-sheet.png", "-o", tmp_path / "sheet", "--trust"],
        ["run", whole / "spec.json", "-o", tmp_path / "spec"],
        [*estimate, *asked],
        ["methods"],
        ["methods", "toy-walk"],
        [
            "guide",
            "a cat",
            "--loss",
            "toy-redness=0.9",
            "--method",
            "toy-walk",
            "--strid",
            "1",
            "-m",
            checkpoint,
        ],
        ["guide", "a cat", "--loss", "redness", "-m", checkpoint],
        ["generate", "a cat", "--solver", "toy-sly", "-m", checkpoint],
    )
    for code, said in found[:8]:
        assert code == 0, said
    labels = ["toy-truncate", "toy-walk", "toy-tint", "plain", "doodl"]
    report = json.loads((whole / "report.json").read_text())["methods"]
    assert list(report) == labels
    assert all(entry["finished"] and entry["passes"] > 0 for entry in report.values())
    assert (report["toy-walk"]["iterations"], report["toy-tint"]["iterations"]) == (3, 2)
    assert set(report["toy-walk"]["terms"]) == {"redness"}
    drawn = {
        f"{label}-{seed}.png"
        for label in labels
        if label != "toy-tint"
        for seed in ("0000", "0001")
    }
    assert set(pictures(whole)) == {*drawn, "contact-sheet.png"}
    spec = json.loads((whole / "spec.json").read_text())
    assert spec["methods"][0] == {"kind": "toy-truncate", "share": 0.8, "steps": 2}
    assert spec["methods"][1] == {"kind": "toy-walk", "iterations": 3, "stride": 0.25, "steps": 2}
    assert spec["losses"] == [{"kind": "toy-redness", "weight": 1.0, "target": 0.9, "channel": 1}]

    assert (
        pictures(killed)
        == pictures(whole)
        == pictures(tmp_path / "sheet")
        == pictures(tmp_path / "spec")
    )
    shifts = [
        (folder / "shift.safetensors").read_bytes() for folder in (killed, whole, tmp_path / "spec")
    ]
    assert shifts[0] == shifts[1] == shifts[2]
    for name in ("toy-walk-0000.png", "toy-walk-0001.png"):
        assert pictures(tmp_path / "walk")[name] == pictures(whole)[name]

    estimated, listed, described, unknown, loss, solver = (said for _, said in found[5:])
    for method in METHODS:
        assert method in estimated
        assert method in listed
    assert "Walks at random, and keeps the best. Limits: it goes nowhere." in described
    assert "stride 0.5 How long a step of the walk is." in described
    assert [code for code, _ in found[8:]] == [2, 2, 2]
    assert unknown.startswith("error: there is no option or setting --strid: did you mean --stride")
    assert "style=FILE, toy-redness=0.9, if you like" in loss
    assert solver.startswith("error: there is no solver 'toy-sly': ")
    assert "toy-shy" in solver.partition(": ")[2].partition(": ")[2]


def test_a_name_of_ours_cannot_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from chainrule.errors import UserError
    from chainrule.methods import METHODS as OURS
    from chainrule.specs import Registry

    entry = EntryPoint("doodl", "toys.walk:Walk", "chainrule.methods")
    monkeypatch.setattr("chainrule.specs.entry_points", lambda group: [entry])
    registry = Registry(OURS.group, OURS.what, OURS.own)
    with pytest.raises(
        UserError,
        match=r"toys.walk:Walk calls its method 'doodl', which there is already: rename it",
    ):
        registry["doodl"]
