"""Benchmarks that cannot run here run at a tiny size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_gpu_benchmark_runs_tiny_on_the_cpu() -> None:
    options = ["--device", "cpu", "--sizes", "tiny", "--side", "64", "--steps", "2", "3", "--dry"]
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "gpu.py"), *options]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line for line in found.stdout.splitlines() if line.startswith("| tiny")]
    assert len(rows) == 4
    assert [row.split(" | ")[1] for row in rows] == ["bfloat16", "bfloat16", "float16", "float16"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_how_to_try_it() -> None:
    found = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True)
    assert found.returncode == 1
    assert "there is no GPU here: try it with --device cpu" in found.stderr
