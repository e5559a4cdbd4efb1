"""The examples run; what they show is in docs/images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    output = tmp_path / "picture.png"
    options = ["--iterations", "1", "--steps", "3", "--output", str(output)]
    subprocess.run([sys.executable, str(path), *options], check=True, capture_output=True, timeout=300)
    assert Image.open(output).width > 600
