"""Damage to a run's folder, and files outside of it that nobody should touch."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from forks import Ended
from slips import break_json
from trials import compare, snapshot

TOKEN = "nobody-should-see-this"


@dataclass(frozen=True)
class Damage:
    """Damages a run's folder.

    Args:
        run: The folder.
        other: Another run's.
        elsewhere: A folder outside that should stay as it is.
        rng: Where chance comes from.
    """

    run: Path
    other: Path
    elsewhere: Path
    rng: random.Random

    def do(self) -> tuple[str, bool]:
        """What was done, and whether a file outside must not even be read."""
        files = [path for path in sorted(self.run.rglob("*")) if path.is_file()]
        important = [
            path
            for path in files
            if path.suffix in (".json", ".safetensors") or path.parent.name == "inputs"
        ]
        folders = [path for path in self.run.iterdir() if path.is_dir()]
        target = self.rng.choice(self.rng.choice([important, important, files, folders or files]))
        ways: list[Callable[[Path], None]] = [
            self.link,
            self.delete,
            self.link_nowhere,
            self.to_fifo,
        ]
        if target.is_file():
            ways += [
                self.cut,
                self.empty,
                self.randomise,
                self.flip,
                self.swap,
                self.to_folder,
                self.flip,
            ]
        if target.name in ("spec.json", "digests.json", "report.json"):
            ways += [self.junk] * 5
        if target.suffix == ".safetensors":
            ways += [self.junk_header] * 2
        if (self.run / "inputs").is_dir() and self.rng.random() < 0.3:
            ways, target = [self.point_out], self.run / "spec.json"
        way = self.rng.choice(ways)
        way(target)
        return f"{way.__name__} {target.relative_to(self.run)}", way == self.point_out

    def cut(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[: self.rng.randrange(max(path.stat().st_size, 1))])

    def empty(self, path: Path) -> None:
        path.write_bytes(b"")

    def randomise(self, path: Path) -> None:
        path.write_bytes(self.rng.randbytes(path.stat().st_size))

    def flip(self, path: Path) -> None:
        data = bytearray(path.read_bytes() or b"\0")
        data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        path.write_bytes(data)

    def delete(self, path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def swap(self, path: Path) -> None:
        alike = [p for p in sorted(self.other.rglob(f"*{path.suffix}")) if p.is_file()]
        same = [p for p in alike if p.name == path.name]
        if alike:
            path.write_bytes(self.rng.choice(same or alike).read_bytes())

    def to_folder(self, path: Path) -> None:
        path.unlink()
        (path / "in").mkdir(parents=True)

    def to_fifo(self, path: Path) -> None:
        self.delete(path)
        os.mkfifo(path)

    def link(self, path: Path) -> None:
        """To something outside, of the same kind."""
        folder = path.is_dir()
        self.delete(path)
        path.symlink_to(self.elsewhere / ("folder" if folder else f"secret{path.suffix}"))

    def link_nowhere(self, path: Path) -> None:
        """To what is not there, outside: whoever writes through it makes a file."""
        self.delete(path)
        path.symlink_to(self.rng.choice([self.elsewhere / "new", path]))

    def junk(self, path: Path) -> None:
        path.write_bytes(break_json(json.loads(path.read_text()), self.rng))

    def junk_header(self, path: Path) -> None:
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = break_json(json.loads(data[8:end]), self.rng)
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])

    def point_out(self, path: Path) -> None:
        """The names of inputs lead outside, with the right digests."""
        above = "../elsewhere/secret.png"
        whole = str(self.elsewhere / "secret.png")
        name = self.rng.choice([whole, above, f"inputs/../{above}"])
        digests = json.loads((self.run / "digests.json").read_text())
        old = self.rng.choice([name for name in digests if name.startswith("inputs/")])
        path.write_text(path.read_text().replace(json.dumps(old), json.dumps(name)))
        del digests[old]
        digests[name] = hashlib.sha256((self.elsewhere / "secret.png").read_bytes()).hexdigest()
        if path.name in digests:
            digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (self.run / "digests.json").write_text(json.dumps(digests))


def lay_out(elsewhere: Path, photo: str) -> None:
    """Files outside, each with a token that nobody should see."""
    (elsewhere / "folder").mkdir(parents=True)
    for name in (
        "secret.json",
        "secret.safetensors",
        "secret.csv",
        "secret.md",
        "folder/secret.txt",
    ):
        (elsewhere / name).write_text(f'{{"{TOKEN}": 1}}\n{TOKEN}\n')
    with Image.open(photo) as image:
        image.rotate(90).save(elsewhere / "secret.png")


def find_leak(ended: Ended, folder: Path, elsewhere: Path, before: dict[str, str]) -> str | None:
    """What came out of `elsewhere`, or was done to it."""
    changed = compare(snapshot(elsewhere), before)
    if changed:
        return f"outside of the folder there are {changed}"
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    shown = [path.name for path in files if TOKEN.encode() in path.read_bytes()]
    if TOKEN in ended.err + ended.out or shown:
        return f"a file outside is shown in {', '.join(shown) or 'its message'}"
    return None
