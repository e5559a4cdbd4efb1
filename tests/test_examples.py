"""The examples run; what they show is in docs/images."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    output = tmp_path / "picture.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(path))["main"](iterations=1, steps=3, output=output)
    assert Image.open(output).width > 600
