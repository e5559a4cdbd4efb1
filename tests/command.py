"""The command line, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from chainrule.cli._app import app


def call(*arguments: object) -> tuple[int, str]:
    """(exit code, everything printed, in one line)."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def images(folder: Path) -> dict[str, bytes]:
    """The pixels of a run's images, by their names."""
    return {
        path.name: Image.open(path).tobytes() for path in sorted((folder / "images").glob("*.png"))
    }


def contents(folder: Path) -> dict[str, Any]:
    """All of a folder; of states the tensors, of reports what is not a matter of time."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        kept = path.suffix == ".safetensors" and "embedding" not in name and "lora" not in name
        if kept:
            found[name] = {key: (t.dtype, t.tolist()) for key, t in load_file(path).items()}
        elif name == "report.json":
            found[name] = timeless(json.loads(path.read_text()))
        elif name != "report.csv":
            found[name] = path.read_bytes()
    return found


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: timeless(part) for key, part in value.items() if key not in ("seconds", "passes")
        }
    return value
