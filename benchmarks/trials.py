"""What the benchmark of robustness tries: commands, where they run, and what came of them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shlex
import socket
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

import chainrule
from chainrule.diffusion.control import Learnt
from chainrule.diffusion.control.bottleneck import bottleneck
from chainrule.models import trained
from chainrule.models.directions import Saved, save_direction
from chainrule.models.trained import Part
from chainrule.scenes.base import Scene, Thing, render
from forks import Ask, Ended, Forks

VERDICTS = ("clear", "unclear", "traceback", "hang", "silently different")
LONGEST = 600
"""The letters that a sentence may have."""
P, Q = "a red circle on a white background", "a green circle on a white background"
EDIT = "edit {photo} --from '{p}' --prompt '{q}' --steps 2 --seed 0"
GUIDE = "guide '{p}' --steps 2 --seed 0-1 --loss"
TUNE = (
    "tune {photo} {after} --prompt 'a {{}} on a white background' --iterations 60 --steps 2 "
    "--seed 0-1 --method"
)
ASKS = {
    "plain": "generate '{p}' --steps 3 --seed 0-2 --method plain",
    "one-step": f"{GUIDE} classifier=heart --method one-step",
    "tfg": f"{GUIDE} classifier=heart --method tfg:like=universal",
    "noise-aware": f"{GUIDE} classifier=heart --method noise-aware",
    "semantic": f"{GUIDE} text=heart --method semantic",
    "best-of": f"{GUIDE} 0.5*brightness=0.9 --loss symmetry --method best-of --count 3",
    "search": f"{GUIDE} text=heart --method search --by moves --budget 40",
    "variations": "generate '{p}' --steps 3 --seed 0-2 --method variations:near=7,apart=0.3",
    "doodl": f"{GUIDE} classifier=heart --method doodl --iterations 4 --crops 2",
    "hybrid": f"{GUIDE} classifier=heart --method hybrid --budget 60",
    "adjoint-dpm": f"{GUIDE} histogram={{photo}} --method adjoint-dpm --iterations 4",
    "reno": f"{GUIDE} text=heart --method reno --iterations 4 --final-steps 3",
    "dno": f"{GUIDE} brightness=0.8 --method dno --iterations 4",
    "langevin": f"{GUIDE} symmetry --method langevin --iterations 4 --temperature 0.01",
    "reconstruction": f"{EDIT} --method reconstruction",
    "inversion": "invert {photo} --from '{p}' --steps 2",
    "edict": f"{EDIT} --method edict",
    "ddim": f"{EDIT} --method ddim",
    "sdedit": f"{EDIT} --method sdedit",
    "ilvr": f"{EDIT} --method ilvr",
    "repaint": f"{EDIT} --method repaint --mask {{mask}} --exact --repeats 2",
    "blended": f"{EDIT} --method blended --mask colour=red --loss aesthetic=9 --crops 2",
    "diffedit": f"{EDIT} --method diffedit --noises 2",
    "prompt-to-prompt": "edit --from '{p}' --prompt '{q}' --steps 2 --seed 0 "
    "--method prompt-to-prompt --weight green=2",
    "asyrp": f"{EDIT} --method asyrp",
    "effect": "tune {photo} {after} --method effect --prompt '{p}' --iterations 4 --steps 2 "
    "--vectors 2 --seed 0",
    "stylize": "tune {after} --method stylize --prompt '{p}' --prompt '{q}' --seed 0-1 --epochs 2 "
    "--batch 2 --other '{p}' --other-seeds 100 --steps 2",
    "textual-inversion": f"{TUNE} textual-inversion --batch 2",
    "dreambooth": f"{TUNE} dreambooth --rank 2 --prior-images 2 --batch 1",
    "reward": "tune --prompt '{p}' --prompt '{q}' --loss symmetry --method reward --rank 2 "
    "--iterations 30 --steps 2 --batch 1 --seed 0-1",
    "imagic": f"{EDIT} --method imagic --rank 2 --embedding-iterations 30 --iterations 30",
    "unitune": f"{EDIT} --method unitune --rank 2 --iterations 60 --batch 1",
    "diffusion-clip": "tune {photo} {after} --method diffusion-clip --rank 2 --iterations 20 "
    "--change 'a red circle > a blue circle' --inversion-steps 4 --steps 2 --batch 1",
    "asyrp-trained": "tune {photo} {after} --method asyrp-trained --iterations 20 --steps 2 "
    "--change 'a red circle > a blue circle' --batch 1 --until 1",
    "asyrp-edit": f"{EDIT} --method asyrp-edit --directions {{direction}}",
    "diffusion-clip-edit": f"{EDIT} --method diffusion-clip-edit --tuned {{tuned}}",
    "audit": "audit '{p}' '{q}' --seed 0-1 --tau 0.1,0.3 --iterations 2 --steps 4 --batch 4",
}
"""A small run of each method: how it is asked for."""
# --- what came of it ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A case and what came of it.

    Args:
        kind: Its kind.
        number: Which of its kind it is.
        said: What it is, or the commands to do it again.
        verdict: One of `VERDICTS`.
        why: What is wrong with it.
        ended: How its last process ended.
    """

    kind: str
    number: int
    said: str
    verdict: str
    why: str = ""
    ended: Ended | None = None

    @property
    def cause(self) -> str:
        """What cases that fail alike have in common."""
        lines = [] if self.ended is None else self.ended.err.strip().splitlines()
        last = lines[-1] if self.verdict == "traceback" and lines else self.why
        return re.sub(r"/\S+|\d+|'[^']*'", "_", f"{self.verdict}: {last}")[:160]


UNCLEAR = re.compile(
    r"weights_only|NoneType|has no attribute|<class |<function |<built-in| object at 0x|\[Errno|"
    r"site-packages|trust_remote_code|errors\.pydantic|\w+Error\b|\w+Exception\b|std::"
)
"""What only programmers say."""


def find_fault(ended: Ended) -> str | None:
    """What is wrong with how a refusal is said; None if nothing is."""
    text = ended.err.replace("\r", "\n")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text + ended.out):
        return "it prints control characters"
    box = re.search(r"─ Error ─+╮\n(.*?)╰", text, re.DOTALL)
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    if box and not lines:
        sentence = " ".join(box[1].replace("│", " ").split())
    elif len(lines) != 1:
        return f"it says {len(lines)} sentences"
    else:
        sentence = lines[0].removeprefix("error: ")
        if ": " not in sentence:
            return "the sentence names no cure"
        if text.rstrip().splitlines()[-1] != lines[0]:
            return "something follows the sentence"
    if len(sentence) > LONGEST:
        return "the sentence is too long"
    found = UNCLEAR.search(text)
    return f"it says {found[0]!r}" if found else None


def judge(ended: Ended, check: Callable[[], str | None]) -> tuple[str, str]:
    """A verdict and its reason; `check` says what is wrong with a result (exit code 0)."""
    if ended.hung:
        return "hang", f"it ran for {ended.seconds:.0f} s"
    said = ended.err + ended.out
    if "Traceback (most recent" in said or ended.code is None:
        return "traceback", f"exit code {ended.code}"
    wrong = check() if ended.code == 0 else find_fault(ended)
    if wrong is None:
        return "clear", ""
    return ("silently different" if ended.code == 0 else "unclear"), wrong


def check_run(folder: Path) -> str | None:
    """What is wrong with the result of a run."""
    try:
        report = (folder / "report.json").read_text()
        json.loads(report)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for picture in folder.rglob("*.png"):
                Image.open(picture).load()
    except (OSError, ValueError) as error:
        return f"there is no whole result ({error})"
    found = re.search(r"\b(NaN|Infinity)\b", report)
    return f"its report says {found[0]}" if found else None


def snapshot(folder: Path) -> dict[str, str]:
    """Digests of all that came of a run, without how long it took."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(_timeless(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def _timeless(path: Path) -> bytes:
    """A file's bytes, without what a stop truly costs: seconds, and passes to begin once more."""
    if path.is_symlink():
        return f"a link to {os.readlink(path)}".encode()
    data = path.read_bytes()
    if path.name == "report.json":
        return re.sub(rb'"(seconds|passes)": [\d.]+', b"", data)
    if path.suffix == ".csv":
        rows = [*csv.reader(data.decode(errors="replace").splitlines())]
        timed = [
            i for i, name in enumerate(rows[0] if rows else []) if name in ("seconds", "passes")
        ]
        return repr([[w for i, w in enumerate(row) if i not in timed] for row in rows]).encode()
    if path.suffix == ".safetensors" and data[8:9] == b"{":
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])  # of which the order is random
        for name in ("seconds", "passes", "digest"):  # which is one of these, too
            header.get("__metadata__", {}).pop(name, None)
        return json.dumps(header, sort_keys=True).encode() + data[end:]
    return data


def compare(found: dict[str, str], wanted: dict[str, str]) -> str | None:
    """What differs between two results."""
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    return f"other bytes in {', '.join(names[:5])}" if names else None


# --- where it happens ---------------------------------------------------------------------------


@dataclass
class Place:
    """Where all of it happens.

    Args:
        work: A new folder.
        forks: Runs commands.
        seed: That of all chance.
        patience: After how many seconds of computing a command hangs.
    """

    work: Path
    forks: Forks
    seed: int
    patience: float
    bases: dict[tuple[str, bool], Path] = field(default_factory=dict)

    @cached_property
    def files(self) -> dict[str, str]:
        """Files by name, good ones and bad ones; made when first asked for."""
        folder = self.work / "files"
        folder.mkdir()
        red = Scene((Thing("circle", "red", 26, 30, 18),), "white")
        render(red).save(folder / "photo.png")
        render(red).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(folder / "after.png")
        mask = Image.new("L", (64, 64))
        mask.paste(255, (0, 0, 44, 48))
        mask.save(folder / "mask.png")
        (folder / "text.txt").write_text(f"{P}\n{Q}\n")
        (folder / "binary.png").write_bytes(bytes(range(256)) * 99)
        (folder / "letters.txt").write_bytes(P.encode("utf-16"))
        _save_lora(folder / "tuned.safetensors")
        _save_direction(folder / "direction.safetensors")
        (folder / "empty.png").touch()
        (folder / "loop.png").symlink_to("loop.png")
        os.mkfifo(folder / "fifo.png")
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(folder / "socket"))
        found = {path.stem: str(path) for path in folder.iterdir()}
        return {**found, "folder": str(folder), "p": P, "q": Q}

    def ask(self, argv: Sequence[str], cwd: Path, **more: Any) -> Ended:
        """Run a command in a folder."""
        asked = Ask(argv, str(cwd), self.patience, **more)
        return self.forks(asked)

    def make(self, kind: str, *, whole: bool = True) -> Path:
        """A finished run of a method, or one that was killed on its way; never to be changed."""
        if (kind, whole) not in self.bases:
            folder = self.work / "bases" / f"{kind}{'' if whole else '-half'}"
            folder.parent.mkdir(exist_ok=True)
            argv = [*fill(ASKS[kind], self.files), "-q", "-o", str(folder)]
            at = None if whole else self.writes(kind) * 2 // 3
            ended = self.ask(argv, folder.parent, folder=str(folder), kill_at=at)
            if whole and ended.code != 0:
                raise SystemExit(f"{shell(argv)} does not work:\n{ended.err[-2000:]}")
            (self.work / f"{kind}.json").write_text(json.dumps([ended.writes, ended.seconds]))
            self.bases[kind, whole] = folder
        return self.bases[kind, whole]

    def writes(self, kind: str) -> int:
        """How often a whole run of a method changes a file."""
        return int(self.measured(kind)[0])

    def measured(self, kind: str) -> list[float]:
        """How often a whole run of a method changes a file, and how long it takes."""
        self.make(kind)
        return json.loads((self.work / f"{kind}.json").read_text())


def _save_lora(path: Path) -> None:
    """A LoRA of the bundled model that changes something."""
    model, part = chainrule.load(), Part(rank=1)
    with trained.train(model, part) as weights:
        values = {name: weight.detach() + 0.05 for name, weight in weights.items()}
    trained.save(path, model, part, values)


def _save_direction(path: Path) -> None:
    """A direction of the bundled model's bottleneck that changes something."""
    model = chainrule.load()
    x, told = model.noise([0]), model.denoiser("", guidance_scale=1.0)
    begun = Learnt.begin(bottleneck(told, x, 301.0))
    values = {name: value + 0.05 for name, value in begun.values.items()}
    save_direction(path, Saved(Learnt(values), 301.0, 101.0), "")


def fill(line: str, names: dict[str, str]) -> list[str]:
    """A line as arguments, with the names of files in it."""
    return [word.format(**names) for word in shlex.split(line)]


def shell(argv: Sequence[str]) -> str:
    """A command as a shell takes it."""

    def quote(word: str) -> str:
        if len(word) > 300 and len(set(word)) == 1:
            return f'"$(printf %0{len(word)}d 0)"'  # any letter will do
        if word.isprintable():
            return shlex.quote(word)
        data = os.fsencode(word)
        plain = (chr(b) if 31 < b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in data)
        return f"$'{''.join(plain)}'"

    return " ".join(["chainrule", *map(quote, argv)])
