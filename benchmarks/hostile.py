"""Files that mean harm: bombs, lies about sizes, code where there should be numbers."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save

from chainrule.bundled import SCENES

BIG = 200 << 20
"""The bytes that a bomb becomes."""
GUIDE = "guide '{p}' --method one-step --steps 2 --seed 0 -q -o {out}"
DRAW = "generate '{p}' --steps 2 --seed 0 -q -o {out}"
EDIT = "edit {photo} --from '{p}' --prompt '{q}' --method sdedit --steps 2 --seed 0 -q -o {out}"
USES = {
    "picture": [
        EDIT.replace("{photo}", "{f}"),
        f"{EDIT} --mask {{f}}",
        "invert {f} --steps 2 -q -o {out}",
        *(f"{GUIDE} --loss {kind}={{f}}" for kind in ("picture", "image", "histogram", "style")),
        "tune {f} --method stylize --prompt '{p}' --epochs 1 --steps 2 --seed 0 -q -o {out}",
        "tune {photo} {f} --method effect --prompt '{p}' --iterations 1 --steps 2 --seed 0 -q "
        "-o {out}",
        "rerun {f} -q -o {out}",
    ],
    "carried": ["rerun {f} -q -o {out}", "rerun {f} --trust -q -o {out}"],
    "tensors": [
        f"{DRAW} --embedding {{f}}",
        f"{DRAW} --lora {{f}}",
        f"{DRAW} --model {{f}}",
        f"{GUIDE} --loss aesthetic=5 --rater {{f}}",
        f"{GUIDE} --loss style={{photo}} --features {{f}}",
        f"{GUIDE} --loss classifier=heart --classifier {{f}}",
    ],
    "classifier": [
        f"{GUIDE} --loss classifier=heart --classifier {{f}}",
        f"{GUIDE} --loss perceptual={{photo}} --features {{f}}",
        "audit '{p}' --steps 2 --iterations 1 --seed 0-3 --classifier {f} -q -o {out}",
        "audit '{p}' --steps 2 --iterations 1 --seed 0-3 --judge {f} -q -o {out}",
    ],
    "clip": [
        f"{GUIDE} --loss text=heart --clip {{f}}",
        f"{GUIDE} --loss image={{photo}} --clip {{f}}",
        f"{GUIDE} --loss aesthetic=5 --clip {{f}}",
        f"{GUIDE} --loss style={{photo}} --features {{f}}",
    ],
    "pipeline": [f"{DRAW} --model {{f}}", "estimate '{p}' --loss symmetry --steps 2 --model {f}"],
    "lora": [f"{DRAW} --lora {{f}}", f"{DRAW} --embedding {{f}}"],
    "spec": ["run {f} -q -o {out}"],
}
"""Each kind of file, and every option that takes one."""


@dataclass(frozen=True)
class Trap:
    """Where a hostile file is made, and what it tries to reach.

    Args:
        folder: An empty folder for it.
        marker: A file that its code would make.
        secret: A picture that is nobody's business.
        picture: A picture that chainrule made.
        rng: Where chance comes from.
    """

    folder: Path
    marker: Path
    secret: Path
    picture: Path
    rng: random.Random

    @property
    def code(self) -> str:
        """Python that leaves its mark."""
        return f"open({str(self.marker)!r}, 'w').close()\n"

    def write(self, name: str, data: bytes | str) -> Path:
        """A file of the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
        return path


Make = Callable[[Trap], Path]
HOSTILE: dict[str, tuple[str, Make]] = {}
"""By name: the kind of a file (see `USES`), and what makes it."""


def add(kind: str, name: str, make: Make) -> None:
    """Add a file to `HOSTILE`."""
    HOSTILE[f"{kind}: {name}"] = kind, make


def writes(name: str, data: bytes | str) -> Make:
    """What writes a file."""
    return lambda trap: trap.write(name, data)


# --- pictures -----------------------------------------------------------------------------------


def chunk(tag: bytes, data: bytes, length: int | None = None) -> bytes:
    """A chunk of a PNG, which may lie about its length."""
    size = struct.pack(">I", len(data) if length is None else length)
    return size + tag + data + struct.pack(">I", zlib.crc32(tag + data))


def header(width: int = 64, height: int = 64, depth: int = 8, colours: int = 2) -> bytes:
    """A PNG's first chunk."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))


PIXELS, END = chunk(b"IDAT", zlib.compress(bytes(64 * 193))), chunk(b"IEND", b"")


@cache
def bomb() -> bytes:
    """What becomes `BIG` when it is decompressed."""
    return zlib.compress(bytes(BIG), 9)


PNGS: dict[str, Callable[[], bytes]] = {
    "more pixels than atoms": lambda: header(60000, 60000) + PIXELS,
    "no pixels": lambda: header(0, 0) + PIXELS,
    "large": lambda: (
        header(13000, 13000, 1, 0) + chunk(b"IDAT", zlib.compress(bytes(13000 * 1626), 9))
    ),
    "text bomb": lambda: header() + chunk(b"zTXt", b"a\0\0" + bomb()) + PIXELS,
    "settings bomb": lambda: header() + chunk(b"iTXt", b"chainrule\0\1\0\0\0" + bomb()) + PIXELS,
    "many texts": lambda: header() + chunk(b"tEXt", b"a\0" + bytes(60000)) * 1200 + PIXELS,
    "profile bomb": lambda: header() + chunk(b"iCCP", b"a\0\0" + bomb()) + PIXELS,
    "endless chunk": lambda: header() + chunk(b"tEXt", b"a\0b", 0xFFFFFFFF) + PIXELS,
    "endless pixels": lambda: header() + chunk(b"IDAT", b"x", 0x7FFFFFFF),
    "short header": lambda: chunk(b"IHDR", b"12345") + PIXELS,
    "odd colours": lambda: header(colours=9) + PIXELS,
    "odd depth": lambda: header(depth=7) + PIXELS,
    "no palette": lambda: header(colours=3) + PIXELS,
    "nothing in it": header,
    "ended before it began": lambda: END + header() + PIXELS,
    "not compressed": lambda: header() + chunk(b"IDAT", b"no zlib"),
    "frames without end": lambda: header() + chunk(b"acTL", b"\xff" * 8) + PIXELS,
    "odd transparency": lambda: header() + chunk(b"tRNS", b"x") + PIXELS,
    "odd orientation": lambda: (
        header() + chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 40) + PIXELS
    ),
    "odd letters": lambda: header() + chunk(b"iTXt", b"chainrule\0\0\0\0\0\xff\xfe\0") + PIXELS,
}


def write_png(name: str) -> Make:
    """What writes one of `PNGS`."""
    return lambda trap: trap.write("a.png", b"\x89PNG\r\n\x1a\n" + PNGS[name]() + END)


for _name in PNGS:
    add("picture", _name, write_png(_name))


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """A TIFF of (tag, type, count, value)."""
    fields = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + struct.pack("<I", following)
    )


SIZED = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
MOST, LEAST = 2**31 - 1, -(2**31)
OTHERS = {
    "loop.tif": tiff([*SIZED, (273, 4, 1, 8), (279, 4, 1, 4096)], 8),
    "strips.tif": tiff([*SIZED, (273, 4, MOST, 8), (279, 4, MOST, 8)]),
    "samples.tif": tiff([*SIZED, (277, 3, 1, 65535), (273, 4, 1, 8), (279, 4, 1, 4096)]),
    "screen.gif": b"GIF89a\xff\xff\xff\xff\xf7\0\0"
    + bytes(768)
    + b",\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0;",
    "wide.bmp": b"BM" + struct.pack("<4I2i2H6I", 99, 0, 54, 40, MOST, LEAST, 1, 24, *[0] * 6),
    "wide.ppm": b"P6 100000 100000 255\n" + bytes(99),
    "numbers.ppm": b"P3 2 2 255\n" + b"9" * 100_000,
    "frame.webp": b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6,
    "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) run\n",
    "script.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
    "lies.jpg": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\x03"
    b"\x01\x22\0\x02\x11\x01\x03\x11\x01\xff\xda\0\x0c",
    "parts.jpg": b"\xff\xd8\xff\xc0\0\x08\x08\0\x40\0\x40\xff\xff\xda\0\x0c\xff\xd9",
}
for _name, _data in OTHERS.items():
    add("picture", _name, writes(_name, _data))


def write_cut(trap: Trap, form: str) -> Path:
    """A picture of noise of which the end is missing."""
    whole = io.BytesIO()
    Image.frombytes("RGB", (64, 64), trap.rng.randbytes(64 * 64 * 3)).save(whole, form)
    return trap.write(f"cut.{form.lower()}", whole.getvalue()[: -len(whole.getvalue()) // 3])


def write_flipped(trap: Trap, form: str) -> Path:
    """A picture with bytes changed at random."""
    whole = io.BytesIO()
    Image.open(trap.secret).convert("RGB").save(whole, form)
    data = bytearray(whole.getvalue())
    for _ in range(6):
        data[trap.rng.randrange(4, len(data))] = trap.rng.randrange(256)
    return trap.write(f"flipped.{form.lower()}", bytes(data))


for _name in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
    add("picture", f"cut {_name}", partial(write_cut, form=_name))
    add("picture", f"flipped {_name}", partial(write_flipped, form=_name))


# --- what a picture carries ---------------------------------------------------------------------


def carry(trap: Trap, change: Callable[[dict[str, Any]], Any] | str) -> Path:
    """A picture of chainrule with other settings in it."""
    with Image.open(trap.picture) as image:
        image.load()
        text = change
        if not isinstance(change, str):
            settings = json.loads(image.text["chainrule"])  # type: ignore[attr-defined]
            changed = change(settings)
            text = json.dumps(settings if changed is None else changed)
        info = PngImagePlugin.PngInfo()
        info.add_itxt("chainrule", str(text), zip=True)
        image.save(trap.folder / "carried.png", pnginfo=info)
    return trap.folder / "carried.png"


def name_loss(trap: Trap, **loss: Any) -> Path:
    def alter(origin: dict[str, Any]) -> None:
        origin["run"].update(losses=[loss], methods=[{"kind": "one-step", "steps": 2}])
        origin["label"] = None

    return carry(trap, alter)


def name_checkpoint(trap: Trap, **changes: Any) -> Path:
    return carry(trap, lambda origin: origin["run"]["checkpoint"].update(changes))


def name_photo(trap: Trap, name: str) -> Path:
    def alter(origin: dict[str, Any]) -> None:
        origin["run"]["inputs"]["photo"] = name
        origin["run"]["methods"] = [{"kind": "sdedit", "steps": 2}]
        origin["digests"] = {name: hashlib.sha256(trap.secret.read_bytes()).hexdigest()}
        origin["label"] = None

    trap.write("spec.json", "{}")
    return carry(trap, alter)


CARRIED: dict[str, Make] = {
    "nested": lambda trap: carry(trap, "[" * 100_000),
    "nested settings": lambda trap: carry(trap, '{"run":' * 50_000 + "1" + "}" * 50_000),
    "not a number": lambda trap: carry(trap, '{"seed": 1e999, "run": {"methods": NaN}}'),
    "long number": lambda trap: carry(trap, '{"seed": ' + "9" * 100_000 + "}"),
    "NUL": lambda trap: carry(trap, lambda origin: origin["run"]["inputs"].update(prompt="a\0b")),
    "half a letter": lambda trap: carry(trap, '{"program": "\\ud800", "run": {}, "digests": {}}'),
    "a list": lambda trap: carry(trap, lambda origin: []),
    "nothing": lambda trap: carry(trap, ""),
    "code of a classifier": lambda trap: name_loss(
        trap, kind="classifier", target="heart", classifier=str(make_code(trap, "classifier"))
    ),
    "code of features": lambda trap: name_loss(
        trap,
        kind="perceptual",
        target=str(trap.secret),
        features=str(make_code(trap, "classifier")),
    ),
    "a network of the hub": lambda trap: name_loss(
        trap, kind="classifier", target="heart", classifier="someone/classifier"
    ),
    "a model of the hub": lambda trap: name_checkpoint(trap, model="someone/model"),
    "a model here": lambda trap: name_checkpoint(trap, model=str(make_pipeline(trap))),
    "words here": lambda trap: name_checkpoint(trap, embedding=[str(trap.secret)]),
    "a LoRA here": lambda trap: name_checkpoint(trap, lora=[str(trap.secret)]),
    "a photo here": lambda trap: name_photo(trap, str(trap.secret)),
    "a photo above": lambda trap: name_photo(trap, f"../{trap.secret.parent.name}/secret.png"),
    "a picture here": lambda trap: name_loss(trap, kind="picture", target=str(trap.secret)),
    "a million seeds": lambda trap: carry(
        trap, lambda origin: origin["run"]["inputs"].update(seed=list(range(100_000)))
    ),
    "another seed": lambda trap: carry(
        trap, lambda origin: origin.update(seed=-5, label="x\x1b[2J")
    ),
}
for _name, _make in CARRIED.items():
    add("carried", _name, _make)


# --- tensors ------------------------------------------------------------------------------------


def tensors(facts: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


FOUR, TWICE = entry(0, 16, [4]), b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
NOT = torch.full((1, 64), float("nan"))
SAFE = {
    "endless header": tensors({}, length=2**63 - 1),
    "header of 90 MB": tensors({}, length=90_000_000),
    "overlapping": tensors({"a": FOUR, "b": FOUR}),
    "named twice": tensors(b"{%b,%b}" % (TWICE, TWICE.replace(b"[0,8]", b"[8,16]"))),
    "beyond the end": tensors({"a": entry(0, 2**40, [2**38])}),
    "backwards": tensors({"a": entry(16, 0, [4])}),
    "huge and empty": tensors({"a": entry(0, 0, [2**62, 0])}),
    "odd kind": tensors({"a": entry(0, 16, [4], "F99")}),
    "nested": tensors(b"[" * 100_000),
    "empty": b"",
    "no tensors": tensors({}, b""),
    "odd names": save({name: torch.ones(1) for name in ("\x1b[2J[red]", "", "<a>" * 9999)}),
    "not numbers": save({"<a>": NOT, "0.weight": NOT.clone()}),
    "whole numbers": save({"<a>": NOT.byte(), "0.weight": NOT.byte()}),
    "no shape": save({"<a>": torch.tensor(1.0), "0.weight": torch.tensor(1.0)}),
}
for _name, _data in SAFE.items():
    add("tensors", _name, writes("a.safetensors", _data))


class Evil:
    """What runs code when it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, (self.code,)


def pack(trap: Trap, found: Any, name: str = "a.pt") -> Path:
    """A file of PyTorch."""
    file = io.BytesIO()
    torch.save(found, file)
    return trap.write(name, file.getvalue())


def zip_bomb(trap: Trap) -> Path:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(BIG))
        archive.writestr("archive/version", "3\n")
        archive.writestr("../../escaped", "x")
    return trap.write("bomb.pt", file.getvalue())


def pack_ones(trap: Trap, alter: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A file of PyTorch with tensors of another kind."""
    ones = alter(torch.ones(1, 64))
    return pack(trap, {"<a>": ones, "0.weight": ones})


PACKED: dict[str, Make] = {
    "code": lambda trap: pack(trap, {"<a>": Evil(trap.code)}),
    "code, of old": lambda trap: trap.write("a.bin", pickle.dumps({"<a>": Evil(trap.code)})),
    "code, renamed": lambda trap: pack(trap, {"<a>": Evil(trap.code)}, "a.safetensors"),
    "zip bomb": zip_bomb,
    "no tensors": lambda trap: pack(trap, {"<a>": "text", 5: [None]}),
    "a tensor alone": lambda trap: pack(trap, torch.ones(3)),
    "complex": lambda trap: pack_ones(trap, lambda ones: ones.to(torch.complex64)),
    "sparse": lambda trap: pack_ones(trap, lambda ones: ones.to_sparse()),
    "of no device": lambda trap: pack_ones(trap, lambda ones: ones.to("meta")),
    "cut": lambda trap: trap.write(
        "a.pt", pack(trap, {"<a>": torch.ones(1, 64)}).read_bytes()[:-300]
    ),
    "in itself": lambda trap: pack(trap, _loop()),
}
for _name, _make in PACKED.items():
    add("tensors", f"torch, {_name}", _make)


def _loop() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["state_dict"] = found
    return found


# --- folders ------------------------------------------------------------------------------------

SOURCES = {"classifier": SCENES.classifier, "clip": SCENES.clip, "pipeline": SCENES.pipeline}


def change(trap: Trap, kind: str, file: str, changes: Any) -> Path:
    """A copy of a bundled folder, with one file of it changed.

    Args:
        trap: Where.
        kind: Of what.
        file: Its file.
        changes: Its new bytes or text, or what changes in its JSON.
    """
    folder = trap.folder / kind
    if not folder.exists():
        shutil.copytree(SOURCES[kind], folder)
    if isinstance(changes, dict):
        old = folder / file
        changes = json.dumps((json.loads(old.read_text()) if old.is_file() else {}) | changes)
    trap.write(f"{kind}/{file}", changes)
    return folder


def make_code(trap: Trap, kind: str) -> Path:
    """A network's folder that brings code of its own."""
    autos = ("Config", "Model", "ModelForImageClassification", "ImageProcessor", "Processor")
    auto_map: dict[str, Any] = {f"Auto{auto}": "evil.Evil" for auto in autos}
    auto_map["AutoTokenizer"] = ["evil.Evil", None]
    for name in (CONFIG, SEEN, "tokenizer_config.json"):
        own = {"model_type": "evil"} if name == CONFIG else {}
        change(trap, kind, name, {"auto_map": auto_map, **own})
    trap.write(f"{kind}/evil.py", f"{trap.code}class Evil: pass\n")
    return trap.folder / kind


def make_pipeline(trap: Trap, name: str = "Evil") -> Path:
    """A pipeline's folder that brings code of its own, for a class of any name."""
    named = {"_class_name": ["pipeline", name], "unet": ["evil", "Net"]}
    change(trap, "pipeline", INDEX, named)
    trap.write("pipeline/unet/evil.py", f"{trap.code}class Net: pass\n")
    trap.write("pipeline/evil.py", f"{trap.code}class Net: pass\n")
    code = f"from diffusers import DiffusionPipeline\nclass {name}(DiffusionPipeline): pass\n"
    trap.write("pipeline/pipeline.py", trap.code + code)
    return trap.folder / "pipeline"


def evil_weights(trap: Trap, kind: str, folder: str, name: str) -> Path:
    """Weights that are a pickle of code, in place of the tensors."""
    change(trap, kind, f"{folder}{name}.bin", pack(trap, {"a": Evil(trap.code)}).read_bytes())
    name = "model" if name == "pytorch_model" else name
    (trap.folder / kind / f"{folder}{name}.safetensors").unlink()
    return trap.folder / kind


Changes = dict[str, tuple[str, Any]]
"""By name: a file of a folder, and its new bytes or text, or what changes in its JSON."""
CONFIG, SEEN, INDEX = "config.json", "preprocessor_config.json", "model_index.json"
NETWORKS: Changes = {
    "huge": (
        CONFIG,
        dict.fromkeys(("hidden_size", "embedding_size", "intermediate_size"), 10**9)
        | {"vision_config": {"hidden_size": 10**9}},
    ),
    "no numbers": (CONFIG, {"hidden_size": "x", "num_labels": "many", "vision_config": None}),
    "another kind": (CONFIG, {"model_type": "llama"}),
    "odd labels": (CONFIG, {"id2label": {"a": 5, "0": None}, "num_labels": 2}),
    "no JSON": (CONFIG, "[" * 100_000),
    "a list": (CONFIG, "[]"),
    "odd sizes": (SEEN, {"size": {"height": -1, "width": 10**9}, "crop_size": "x"}),
    "odd means": (SEEN, {"image_mean": [0.5], "image_std": [0, 0, 0], "do_normalize": True}),
    "cut weights": ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
    "odd tokens": ("tokenizer.json", '{"model": {"type": "BPE", "vocab": 5}}'),
    "an odd tokenizer": ("tokenizer_config.json", {"tokenizer_class": "os.system"}),
}
SCHEDULER, TOKENS = "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"
add("pipeline", "code of a known name", partial(make_pipeline, name="StableDiffusionPipeline"))
PIPELINES: Changes = {
    "class os.system": (INDEX, {"_class_name": "os.system"}),
    "class above": (INDEX, {"_class_name": "../evil"}),
    "class of no name": (INDEX, {"_class_name": None}),
    "class a list": (INDEX, {"_class_name": []}),
    "class a mapping": (INDEX, {"_class_name": {"a": 1}}),
    "class in brackets": (INDEX, {"_class_name": "[red]\x1b[2J" + "x" * 9999}),
    "part os.system": (INDEX, {"unet": ["os", "system"]}),
    "part a process": (INDEX, {"vae": ["subprocess", "Popen"]}),
    "part of no kind": (INDEX, {"unet": 5}),
    "part missing": (INDEX, {"unet": ["diffusers", "NoSuchNet"]}),
    "part of another": (INDEX, {"text_encoder": ["transformers", "Trainer"]}),
    "part null": (INDEX, {"unet": [None, None]}),
    "parts more": (INDEX, {"more": ["chainrule", "load"]}),
    "nested index": (INDEX, "[" * 100_000),
    "empty index": (INDEX, "{}"),
    "times without end": (SCHEDULER, {"num_train_timesteps": 10**12}),
    "times before zero": (SCHEDULER, {"num_train_timesteps": -1}),
    "odd betas": (SCHEDULER, {"trained_betas": [float("nan")] * 1000}),
    "betas of words": (SCHEDULER, {"beta_start": "a", "beta_schedule": "x"}),
    "no JSON": ("unet/config.json", "\xff{"),
    "huge": ("unet/config.json", {"block_out_channels": [10**7, 10**7]}),
    "of no channels": ("unet/config.json", {"in_channels": 0, "block_out_channels": []}),
    "odd scaling": ("vae/config.json", {"scaling_factor": "x", "latent_channels": 3}),
    "cut weights": ("unet/diffusion_pytorch_model.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
    "odd tokens": ("tokenizer/tokenizer.json", "5"),
    "an odd tokenizer": (TOKENS, {"tokenizer_class": ["os", "system"]}),
    "long words": (TOKENS, {"model_max_length": -3}),
}
for _kind, _found in {"classifier": NETWORKS, "clip": NETWORKS, "pipeline": PIPELINES}.items():
    for _name, (_file, _changes) in _found.items():
        add(_kind, _name, partial(change, kind=_kind, file=_file, changes=_changes))
for _kind, _folder, _name in (
    ("classifier", "", "pytorch_model"),
    ("clip", "", "pytorch_model"),
    ("pipeline", "unet/", "diffusion_pytorch_model"),
):
    pickled = partial(evil_weights, kind=_kind, folder=_folder, name=_name)
    add(_kind, "weights of code", pickled)
    add(_kind, "code", partial(make_code, kind=_kind) if _folder == "" else make_pipeline)


def make_lora(trap: Trap, config: Any, weights: bytes) -> Path:
    trap.write("lora/adapter_config.json", json.dumps(config))
    trap.write("lora/pytorch_lora_weights.safetensors", weights)
    return trap.folder / "lora"


LORA = save({"unet.down_blocks.0.a.lora_A.weight": torch.ones(2, 2), "x": torch.ones(2)})
CODE = {"auto_mapping": {"base_model_class": "os", "parent_library": "os"}}
LORAS: dict[str, Make] = {
    "names code": lambda trap: make_lora(
        trap, {**CODE, "base_model_name_or_path": str(trap.secret)}, LORA
    ),
    "weights of nothing": lambda trap: make_lora(trap, [], b""),
    "empty": lambda trap: trap.write("lora/x.txt", "x").parent,
    "weights of code": lambda trap: (
        trap.write(
            "lora/pytorch_lora_weights.bin", pack(trap, {"a": Evil(trap.code)}).read_bytes()
        ).parent
    ),
}
for _name, _make in LORAS.items():
    add("lora", _name, _make)


# --- specs --------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
SDEDIT = '"methods": [{"kind": "sdedit", "steps": 2}]}'
SPECS = {
    "laughs.yaml": LAUGHS + "methods: *a11\n",
    "laughs in words.yaml": LAUGHS + "inputs: {prompt: *a11}\nmethods: [{kind: plain, steps: 2}]\n",
    "loop.yaml": "inputs: &a {prompt: *a}\nmethods: &b [*b]\n",
    "nested.yaml": "[" * 20_000,
    "nested.json": '{"methods":' * 50_000,
    "keys.yaml": "? [1, 2]\n: 3\nmethods: []\n",
    "letters.json": '{"methods": [{"kind": "\\ud800"}]}',
    "nul.json": '{"inputs": {"prompt": "a\\u0000b", "photo": "a\\u0000.png"}, ' + SDEDIT,
    "devices.json": '{"inputs": {"prompt": "a", "photo": "/dev/zero"}, ' + SDEDIT,
    "folder.json": '{"inputs": {"prompt": "a", "photo": "/"}, ' + SDEDIT,
    "numbers.json": '{"methods": [{"kind": "plain", "steps": 1e999}], "memory": NaN}',
    "digits.json": '{"methods": [{"kind": "plain", "steps": ' + "9" * 100_000 + "}]}",
    "date.yaml": "version: 2024-01-01\nmethods: [{kind: plain, steps: 2001-12-14t21:59:43.10}]\n",
    "binary.yaml": "methods: !!binary aGVsbG8=\n",
    "set.yaml": "methods: !!set {plain}\n",
}
for _name, _text in SPECS.items():
    add("spec", _name, writes(_name, _text))
TAGS = {
    "tag.yaml": "methods: !!python/object/apply:builtins.exec [{code!r}]\n",
    "tag new.yaml": "methods: !!python/object/new:os.system [{shell!r}]\n",
    "tag name.yaml": "methods: !!python/name:os.system\n",
}


def write_tag(trap: Trap, name: str) -> Path:
    """A YAML file that asks for code to be run."""
    return trap.write(name, TAGS[name].format(code=trap.code, shell=f"touch {trap.marker}"))


for _name in TAGS:
    add("spec", _name, partial(write_tag, name=_name))
