"""The command line, in this process."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from chainrule.cli import app


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
