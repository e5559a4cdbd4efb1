"""Bad commands: slips of the pen, values that cannot be, and specs that are broken."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import typer.main

from chainrule.cli._app import app
from chainrule.cli._settings import find_settings
from chainrule.losses.registry import LOSSES
from chainrule.methods.registry import METHODS
from trials import ASKS, Place, fill

MORE = [
    "guide '{p}' --loss image={photo} --loss style={after} --method best-of --count 2 --steps 2",
    "guide '{p}' --loss perceptual={photo} --preset quick --method one-step --steps 2 --seed 0",
    "estimate '{p}' --loss classifier=heart --method doodl --steps 3 --seed 0",
    "run {spec}",
    "resume {run}",
    "rerun {run}/images/plain-0000.png",
    "methods doodl",
    "models",
]
"""Other commands, to be asked badly."""


BAD, FINE = True, False
"""Whether a value must be refused, or may be taken."""
NUMBERS = {
    "abc": BAD, "nan": BAD, "NaN": BAD, "1/2": BAD, "0x10": BAD, "[1]": BAD, "9" * 5000: BAD,
    "--": BAD,
    "inf": FINE, "-inf": FINE, "1e999": FINE, "-1": FINE, "0": FINE, "-0.0": FINE, "1e308": FINE,
    "2.5": FINE,
    "1e-320": FINE, "1,2": FINE, "\u0663": FINE, "1_0": FINE, "": FINE, "none": FINE, " 2 ": FINE,
    "1e400": FINE,
}  # fmt: skip
WORDS = {
    "": FINE, " ": FINE, "[red]": FINE, "[/]": FINE, "[/red]x[bold": FINE, "\x1b[31m\x07": FINE,
    "a\nb": FINE,
    "\udcff\udcfe": FINE, "x" * 100_000: FINE, "\U0001f4a5": FINE, "{p}": FINE, "%s%n": FINE,
    "None": FINE, "()": FINE,
    "$(touch x)": FINE, "a,b=c": FINE, "=": FINE, "\u202e": FINE,
}  # fmt: skip
PATHS = [
    "", "nosuch.png", "~nosuchuser/x.png", "{folder}", "{fifo}", "{loop}", "{empty}", "{binary}",
    "{socket}",
    "{photo}/x", "/dev/null", "/dev/zero", "/dev/stdin", "/proc/self/mem", "x" * 5000,
    "[red]nosuch.png",
    "\udcff.png", "https://host.invalid/a.png", "a\nb.png", "..", "/dev/full", "~",
]  # fmt: skip
OPTIONS: dict[str, dict[str, bool]] = {
    "seed": dict.fromkeys(
        ["a", "-1", "3-1", "0-2147483646", "0,0", "1,,2", "2147483648", "0-" + "9" * 20, "1.5",
        "0x1", "0-3-5",
         "9" * 5000, ",", "0 1", "-", "1-", "0-10000"], BAD) | {" 0 ": FINE, "": FINE,
         "\u0663": FINE},
    "size": dict.fromkeys(
        ["0x0", "-64x64", "64", "64x", "axb", "9" * 20 + "x64", "64x64x64", "1000000x1000000",
        "0x64", "", "65x63",
         "x"], BAD) | {"8x8": FINE, "64X64": FINE, "32x96": FINE},
    "memory": dict.fromkeys(["0", "-1GB", "8 parsecs", "nan", "GB", "nanGB", "1,5GB"], BAD)
    | {"10MB": FINE, "1": FINE, "8GB": FINE, "9" * 400 + "GB": FINE, "1e999GB": FINE, "1e3": FINE},
    "device": dict.fromkeys(
        ["cuda:99", "hpu", "meta", "", "gpu", "cpu:-1", "xla", "mps", "cpu cpu", "mkldnn", "opengl",
        "privateuseone",
         "vulkan", "cpu:x", "[red]", "\udcff"], BAD) | {"cpu:7": FINE, "CPU": FINE},
    "dtype": dict.fromkeys(["float8", "int8", "", "torch.float32", "None"],
    BAD) | {"bfloat16": FINE, "float64": FINE},
    "variant": dict.fromkeys(["fp16", "../x", "[red]"], FINE),
    "model": dict.fromkeys(
        ["nosuch", "a/b", "/nonexistent", "..", "~nosuchuser/x", "a/b/c", "{photo}", "", "Scenes",
        "\udcff", "a b/c",
         "x" * 300, "x/" + "y" * 300, "{fifo}", "./", "{folder}", "-", "a/[b]", "../a", "a/b\nc",
         "hf://a/b"], BAD),
    "embedding": dict.fromkeys(PATHS, BAD),
    "lora": dict.fromkeys(PATHS, BAD),
    "mask": dict.fromkeys([*PATHS, "colour=", "colour=nocolour", "colour=#12345", "color=red",
    "text"], BAD)
    | {"text=": FINE, "text=[red]": FINE, "colour=white": FINE},
    "preset": dict.fromkeys(["quik", "", "FAITHFUL", "[red]"], BAD),
    "method": dict.fromkeys(
        ["", "doodle", "doodl:steps", "doodl:steps=", "doodl:=3", "plain:foo=1", "plain:kind=doodl",
        ":", "plain,doodl",
         "[red]", "plain:steps=nan", "plain:steps=99999999999", "doodl:optimiser=nosuch",
         "plain:solver=[x]"], BAD)
    | {"doodl:": FINE, "plain:steps=2,steps=3": FINE, "PLAIN": FINE},
    "loss": dict.fromkeys(
        ["", "classifier", "classifier=", "classifier=nosuch", "clasifier=heart", "nan*symmetry",
        "inf*symmetry",
         "aesthetic=nan", "aesthetic=abc", "brightness=2", "brightness=-1", "picture=nosuch.png",
         "image={fifo}",
         "text=", "text= ", "*symmetry", "symmetry=3", "1*2*symmetry", "classifier=-1",
         "classifier=999",
         "classifier=1e3", "image={photo},,", "image={photo},nosuch", "style=/dev/zero",
         "histogram={folder}",
         "1e999*symmetry", "[red]", "=", "aesthetic", "perceptual={binary}"], BAD)
    | {"0*symmetry": FINE, "-1*symmetry": FINE, "1e300*symmetry": FINE, "aesthetic=1e30": FINE},
    "guidance_scale": NUMBERS,
    "output": dict.fromkeys(
        ["{photo}", "{photo}/x", "/dev/null", "/proc/nosuch/x", "x" * 300, "{folder}", "{fifo}",
        "{loop}", ""],
        BAD) | {".": FINE, "~nosuchuser/x": FINE, "\udcff": FINE, "a\nb": FINE, "[red]": FINE},
    "prompts": dict.fromkeys([path for path in PATHS if path != "/dev/null"],
    BAD) | {"{letters}": BAD, "{text}": FINE},
    "photo": dict.fromkeys(PATHS, BAD),
    "pictures": dict.fromkeys(PATHS, BAD),
    "spec": dict.fromkeys([*PATHS, "{photo}", "{text}"], BAD),
    "folder": dict.fromkeys([*PATHS, "{photo}"], BAD),
    "picture": dict.fromkeys([*PATHS, "{photo}", "{spec}", "{run}"], BAD),
    "name": {"nosuch": BAD, "[red]": BAD, "DOODL": BAD},
}  # fmt: skip
"""Values of options and arguments, by their names in Python."""
WORDS_OF = "edit {photo} --from '{p}' --prompt '{q}' --method prompt-to-prompt"
LINES = [
    "nosuch", "generat '{p}'", "--nosuch", "-x", "--version=3", "generate", "generate ''",
    "generate '{p}' again",
    "guide '{p}'", "guide", "edit", "edit {photo}", "invert", "tune {photo} --method effect",
    "tune {photo} {after} {photo} --method effect",
    "tune {photo} --method stylize", "audit", "run", "resume", "rerun", "models x",
    "methods a b", "estimate",
    "estimate '{p}'",
    "generate '{p}' --exact --steps 2", "generate '{p}' --mask {mask} --steps 2",
    "generate '{p}' --loss symmetry",
    "edit {photo} --prompt '{q}' --method sdedit --exact --steps 2",
    "edit {photo} --prompt '{q}' --method sdedit --strength 0.1 --steps 1",
    "edit --from '{p}' --prompt '{q}' --method sdedit --mask {mask} --mask nosuch.png --steps 2",
    "guide '{p}' --loss symmetry --method doodl --method doodl --steps 2",
    "guide '{p}' --loss symmetry --method plain --rank 4 --steps 2",
    "guide '{p}' --loss symmetry --method plain --memory 10MB --steps 2",
    "generate '{p}' --method one-step --steps 2", "generate '{p}' --method sdedit --steps 2",
    "generate '{p}' --method repaint", "generate '{p}' --method stylize",
    "generate '{p}' --method effect",
    "audit '{p}' --method doodl", "audit '{p}' --classifier {photo}",
    "audit '{p}' --tau 0 --steps 2",
    "audit '{p}' --judge nosuch/judge --steps 2",
    "tune {photo} --method stylize --prompts {letters}",
    "tune {photo} {mask} --method effect --word effect --steps 2",
    "tune {photo} {after} --method effect --vectors 0",
    "generate '{p}' --solver nosuch", "generate '{p}' --grid nosuch", "generate '{p}' --steps 1001",
    "guide '{p}' --loss text=heart --clip nosuch/clip --method one-step",
    "guide '{p}' --loss text=heart --clip 0*{folder} --method one-step",
    "guide '{p}' --loss aesthetic=5 --rater {photo} --method one-step",
    "guide '{p}' --loss style={photo} --features {text} --method one-step",
    f"{WORDS_OF} --weight green=nan --steps 2",
    f"{WORDS_OF} --weight purple=2 --steps 2",
    f"{WORDS_OF} --blend nosuchword --steps 2",
    "edit {photo} {after} --prompt '{q}'", "invert {photo} --mask {mask}", "rerun {run}/loss.png",
]  # fmt: skip
"""Lines that must be refused as they are."""
ENDLESS = {"iterations", "epochs", "repeats", "count", "start_of", "noises"}
"""Settings of which any number may be asked for, if one has the time."""


class Bad:
    """Makes one bad command.

    Args:
        place: Where.
        rng: Where chance comes from.
        folder: An empty folder for it.
    """

    def __init__(self, place: Place, rng: random.Random, folder: Path) -> None:
        self.rng, self.folder = rng, folder
        run = place.make("plain")
        self.names = {**place.files, "run": str(run), "spec": str(run / "spec.json")}
        self.lines = [*ASKS.values(), *MORE]
        self.commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]

    def make(self) -> tuple[list[str], bool]:
        """The command, and whether it must be refused."""
        ways = {
            self.set_setting: 6, self.set_option: 8, self.misspell: 3, self.leave_out: 2,
            self.add_foreign: 2,
            self.take_line: 3, self.break_spec: 5, self.mix_up: 2,
        }  # fmt: skip
        (way,) = self.rng.choices([*ways], [*ways.values()])
        return way(fill(self.rng.choice(self.lines), self.names))

    def _pick(self, values: dict[str, bool]) -> tuple[str, bool]:
        value, bad = self.rng.choice([*values.items()])
        return value.format(**self.names) if "{" in value else value, bad

    def _params(self, argv: list[str]) -> list[Any]:
        return list(self.commands[argv[0]].params)

    def _chosen(self, argv: list[str]) -> list[Any]:
        """The methods and losses of a command."""
        after, at = argv[1:], range(len(argv) - 1)
        kinds = [after[i].split(":")[0] for i in at if argv[i] == "--method"]
        default = {"invert": "inversion"}.get(argv[0], argv[0])
        losses = [after[i].split("=")[0].split("*")[-1] for i in at if argv[i] == "--loss"]
        methods = [METHODS.own[kind] for kind in kinds or [default] if kind in METHODS.own]
        return [*methods, *(LOSSES.own[kind] for kind in losses if kind in LOSSES.own)]

    def set_setting(self, argv: list[str]) -> tuple[list[str], bool]:
        """A setting of a method or a loss."""
        kinds = [kind for kind in self._chosen(argv) if find_settings(kind)]
        if not kinds:
            return self.set_option(argv)
        kind = self.rng.choice(kinds)
        name, path = self.rng.choice([*find_settings(kind).items()])
        number = re.search(r"\b(int|float)\b", str(kind.model_fields[path[0]].annotation))
        value, bad = self._pick(NUMBERS if number else WORDS)
        bad = bad and len(path) == 1 and "dict" not in str(kind.model_fields[path[0]].annotation)
        if name.split(".")[-1] in ENDLESS and re.search(r"\d{3}|e\d", value):
            value, bad = "-1", BAD
        return [*argv, f"--{name.replace('_', '-')}", value], bad

    def set_option(self, argv: list[str]) -> tuple[list[str], bool]:
        """An option or an argument of the command."""
        params = self._params(argv)
        if not params:
            return [*argv, "more"], BAD
        param = self.rng.choice(params)
        values = OPTIONS.get(param.name, WORDS)
        value, bad = self._pick(values if self.rng.random() < 0.9 else WORDS)
        bad = bad and param.name in OPTIONS and value in {self._fill(v) for v in values}
        if param.param_type_name == "argument":
            plain = [not word.startswith("-") for word in argv]
            places = [i for i in range(1, len(argv)) if plain[i - 1] and plain[i]]
            if not places:
                return [*argv, value], bad
            argv[self.rng.choice(places)] = value
            return argv, bad and not value.startswith("-")
        if getattr(param, "is_flag", False):
            return [*argv, f"{param.opts[0]}={value}"], FINE
        return [*argv, param.opts[0], value], bad

    def _fill(self, value: str) -> str:
        return value.format(**self.names) if "{" in value else value

    def misspell(self, argv: list[str]) -> tuple[list[str], bool]:
        """A slip of the pen in an option, a command, a method or a loss."""
        flags = [i for i, word in enumerate(argv) if word.startswith("--")]
        places = [0, *flags, *(i + 1 for i in flags if argv[i] == "--method")]
        i = self.rng.choice(places)
        word, at = argv[i], self.rng.randrange(len(argv[i]) - 3, len(argv[i]))
        slips = [word[:at] + word[at + 1 :], word[:at] + "q" + word[at:], word.upper()]
        slips = [
            slip for slip in slips if slip not in (word, "--fro") and not slip.startswith("---")
        ]
        argv[i] = self.rng.choice(slips)
        known = {
            flag for each in self.commands.values() for param in each.params for flag in param.opts
        }
        return argv, argv[i] not in known

    def leave_out(self, argv: list[str]) -> tuple[list[str], bool]:
        """A value that is missing."""
        flags = [i for i, word in enumerate(argv) if word.startswith("--") and word != "--exact"]
        if not flags:
            return argv[:1], argv[0] not in ("methods", "models")
        i = self.rng.choice(flags)
        rest = argv[:i] + argv[i + 2 :]
        return [*rest, argv[i]], BAD

    def add_foreign(self, argv: list[str]) -> tuple[list[str], bool]:
        """A setting of what was not chosen."""
        mine = {name for kind in self._chosen(argv) for name in find_settings(kind)}
        every = [*METHODS.own.values(), *LOSSES.own.values()]
        others = sorted({name for kind in every for name in find_settings(kind)} - mine)
        known = {flag for param in self._params(argv) for flag in param.opts}
        flag = f"--{self.rng.choice(others).replace('_', '-')}"
        return [*argv, flag, "1"], flag not in known

    def take_line(self, argv: list[str]) -> tuple[list[str], bool]:
        """One of `LINES`."""
        return fill(self.rng.choice(LINES), self.names), BAD

    def mix_up(self, argv: list[str]) -> tuple[list[str], bool]:
        """Two bad things at once."""
        argv, bad = self.set_option(argv)
        if argv[0] not in self.commands:
            return argv, bad
        more, worse = self.set_setting(argv)
        return more, bad or worse

    def break_spec(self, argv: list[str]) -> tuple[list[str], bool]:
        """A spec that is broken."""
        spec = json.loads(Path(self.names["spec"]).read_text())
        name = self.rng.choice(["a.json", "a.json", "a.yaml", "[red].json", "a"])
        path = self.folder / name
        path.write_bytes(break_json(spec, self.rng))
        return ["run", str(path)], FINE


JUNK: list[Any] = [
    None, [], {}, -1, 0, 2.5, "", "x", True, [[]], "\ud800", "a\0b", "[red]", float("nan"),
    float("inf"), 2**70,
    "x" * 100_000, {"kind": "doodl"}, ["plain"], "nosuch.png", "/dev/zero", {"": ""}, [None],
    "\x1b[2J",
]  # fmt: skip


def break_json(values: Any, rng: random.Random) -> bytes:
    """JSON with something wrong in it: junk in one place, or bytes that are not JSON."""
    text = json.dumps(values)
    if rng.random() < 0.3:
        cut = text[: rng.randrange(len(text))]
        whole = [
            cut, "", "[" * 100_000, '{"a":' * 100_000, "\ufeff" + text, text + text, "[]", "5",
            "null", "\0" + text,
            text.replace("3", "9" * 5000, 1), text.replace('"', "'"), f"{text},", "&a [*a]",
            "!!python/name:os.system",
        ]  # fmt: skip
        broken = [each.encode() for each in whole]
        broken += [text.encode("utf-16"), rng.randbytes(400), b"\xff" + text.encode()]
        return rng.choice(broken)
    values = json.loads(text)
    holder: Any = values
    while True:
        keys = [*holder] if isinstance(holder, dict) else [*range(len(holder))]
        key = rng.choice(keys)
        inner = holder[key]
        if not (isinstance(inner, (dict, list)) and inner) or rng.random() < 0.2:
            break
        holder = inner
    junk = rng.choice([each for each in JUNK if not (key in ENDLESS and each == 2**70)])
    if isinstance(holder, dict) and rng.random() < 0.15:
        holder[rng.choice(["nosuch", "", "\x1b[2J", "x" * 9999, "[red]"])] = junk
    elif isinstance(holder, dict) and rng.random() < 0.1:
        del holder[key]
    else:
        holder[key] = junk
    return json.dumps(values).encode()
