"""What the README and the documents tell people to type is what can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

import chainrule
from chainrule.cli import ask
from chainrule.runs import RunSpec
from command import call
from tiny import family, load_once

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("tasks", "python", "methods", "checkpoints", "studio", "studies")
}
DOCUMENTS = "\n".join([README, *PAGES.values(), (ROOT / "CONTRIBUTING.md").read_text()])
JOINED = re.sub(r" \\\n\s*", " ", DOCUMENTS)
KINDS = (
    "generate|guide|edit|invert|tune|audit|estimate|run|resume|rerun|methods|models|studio|study"
)
TYPED = re.findall(
    rf"(?:^|(?<=`))chainrule (?:{KINDS})(?: [^`\n]+)?(?=[`\n])", JOINED, re.MULTILINE
)
NOT_HERE = ("truncate", "NAME", "METHOD")
"""Of the example of another package, and what stands for any name."""
COMMANDS = sorted(
    {line for line in TYPED if not set(line.split()) & set(NOT_HERE)}
    - {f"chainrule {kind}" for kind in KINDS.split("|")}
)
PYTHON = "\n".join(
    block
    for page in (README, PAGES["python"], PAGES["checkpoints"])
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
)
TINY = {
    "CompVis/stable-diffusion-v1-4": "Stable Diffusion 1.x",
    "stabilityai/stable-diffusion-xl-base-1.0": "Stable Diffusion XL",
    "stabilityai/stable-diffusion-3.5-medium": "Stable Diffusion 3",
    "google/ddpm-cat-256": "Pixels, told nothing",
}


def understand(*_: Any, **__: Any) -> None:
    raise chainrule.UserError("understood")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_can_be_parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    asked: list[RunSpec] = []
    make = ask.make_spec

    def keep(*rest: Any, **named: Any) -> RunSpec:
        asked.append(make(*rest, **named))
        return asked[-1]

    for face in ("ask", "show"):
        monkeypatch.setattr(f"chainrule.cli.{face}.make_spec", keep)
    for place in (
        "ask.execute",
        "show.load_model",
        "again.read_spec",
        "again.Folder.open",
        "again.find_run",
        "study.create_study",
        "study.StudyFolder.open",
        "studio.make_app",
    ):
        monkeypatch.setattr(f"chainrule.cli.{place}", understand)
    _, *arguments = shlex.split(command, comments=True)
    code, output = call(*arguments)
    if arguments[0] == "methods":
        assert code == 0
        return
    assert (code, output) == (2, "error: understood")
    if arguments[0] in ("run", "resume", "rerun", "study", "studio"):
        return
    (spec,) = asked
    for name in re.findall(r"docs/[\w./-]+", command):
        assert (ROOT / name).is_file()
    named = [
        part.split(":")[0]
        for part, before in zip(arguments[1:], arguments, strict=False)
        if before == "--method"
    ]
    if named:
        assert [method.kind for method in spec.methods] == named


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 30
    assert {command.split()[1] for command in COMMANDS} >= set(KINDS.split("|")) - {"models"}


@pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")
def test_the_python_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the first block to the last, with tiny networks in the place of large ones, and few steps."""
    load, bundled = chainrule.load, load_once()

    def load_tiny(
        name: Any = None, *, size: tuple[int, int] | None = None, **_: Any
    ) -> chainrule.Model:
        if name is None:
            return bundled
        return load(family(TINY[name]) if name in TINY else name, size=size and (16, 16))

    monkeypatch.setattr(chainrule, "load", load_tiny)
    monkeypatch.setattr(FluxPipeline, "from_pretrained", lambda *_, **__: family("Flux.1 dev"))
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"times\(\d+\)", "times(3)", PYTHON)
    code = re.sub(r"karras\(model.schedule, \d+\)", "karras(model.schedule, 3)", code)
    code = re.sub(r"steps=\d+", "steps=3", code)
    code = re.sub(r"SDEdit\(strength=([\d.]+)\)", r"SDEdit(strength=\1, steps=3)", code)
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec", dont_inherit=True), namespace)
    assert namespace["image"].shape == (1, 3, 8, 8)
    assert namespace["x_0"].requires_grad
    assert len(namespace["result"].images) == 2
    assert namespace["edited"].shape == (2, 3, 64, 64)
    kept = namespace["images"][:, :, 32:]
    assert torch.equal(
        namespace["edited"][:, :, 32:], kept
    )  # the last edit has a mask, and is exact
    assert (tmp_path / "runs" / "plain" / "contact-sheet.png").is_file()


LINKS = [
    (page, link)
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    if not link.startswith("http")
]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda value: getattr(value, "name", value))
def test_links_lead_somewhere(page: Path, link: str) -> None:
    """To a file, and in it to a heading."""
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    assert target.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        assert anchor in [
            re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings
        ]


def test_the_readme_is_short_and_says_first_where_the_command_is() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    assert any(".venv/bin/chainrule" in line for line in lines[:40])
