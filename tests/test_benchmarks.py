"""Every benchmark runs at toy size, prints its table, and publishes nothing."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS.parent / "docs" / "results.md"
PARTS = ("base", "contest", "sizes")
"""What benchmarks are made of."""
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in PARTS)
MORE = {
    "scenes_quality --noise-aware": "| t |",
    "beauty --tune --only one-step": "| method | kept |",
    "budget --tune --only rate": "| method | images |",
    "editing --tune --only Asyrp Blended": "| method | as asked |",
    "guided --tune": "| method | images |",
    "inversion --tune --only EDICT,": "| method | images |",
    "personalisation --tune --only one-step": "| method | images |",
    "text --tune --only one-step": "| method | images |",
    "vocabulary --tune --only noise-aware": "| method | images |",
    "speed --only targets batches kept switches profile": "| way | network passes |",
}
"""Ways to run them besides, and a table that each prints."""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a benchmark changes for its own process is put back."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a benchmark prints at toy size."""
    name, *options = line.split()
    published, pictures = RESULTS.read_bytes(), _list_pictures()
    load(name).main(["--toy", *options])
    assert RESULTS.read_bytes() == published
    assert _list_pictures() == pictures
    return capsys.readouterr().out


def _list_pictures() -> dict[str, int]:
    folder = RESULTS.parent / "images"
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_at_toy_size(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(name, capsys)
    assert f"`python benchmarks/{name}.py" in found
    head = next(i for i, line in enumerate(found.splitlines()) if line.startswith("| --- |"))
    assert found.splitlines()[head + 1].startswith("| ")


@pytest.mark.slow
@pytest.mark.parametrize("line", MORE)
def test_its_other_parts_run_too(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert MORE[line] in run(line, capsys)


@pytest.mark.parametrize("name", NAMES)
def test_it_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load(name).main(["--help"])
    assert stopped.value.code == 0
    assert "--toy" in capsys.readouterr().out
    assert f"`python benchmarks/{name}.py`" in (load(name).__doc__ or "")


@pytest.mark.parametrize("name", ["gradients", "speed"])
def test_memcnn_is_compared_with(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("memcnn", reason="memcnn is optional: pip install --no-deps memcnn")
    line = "speed --only growth" if name == "speed" else name
    assert "memcnn" in run(line, capsys)


def test_the_gpu_benchmark_runs_tiny_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--sizes", "tiny", "--side", "256", "--steps", "2", "3"]
    load("gpu").main(["--device", "cpu", *sizes, "--dry"])
    found = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in found if line.startswith("| tiny")]
    assert [row[1] for row in rows] == ["bfloat16", "bfloat16", "float16", "float16"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_how_to_try_it() -> None:
    with pytest.raises(SystemExit, match="there is no GPU here: try it with --device cpu"):
        load("gpu").main([])


def test_a_toy_option_gives_way_to_what_is_asked_for() -> None:
    options = load("base").Options("a benchmark")
    options.add("--seeds", type=int, default=32, toy=2)
    assert options.parse([]).seeds == 32
    assert not options.parse([]).dry
    toy = options.parse(["--toy"])
    assert toy.seeds == 2
    assert toy.dry
    assert options.parse(["--toy", "--seeds", "5"]).seeds == 5


def test_a_section_is_put_in_place_of_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load("base")
    monkeypatch.setattr(base, "RESULTS", tmp_path / "results.md")
    for text in ("one", "two"):
        base.publish("a", text, dry=False)
        base.publish("b", "three", dry=False)
    base.publish("a", "four", dry=True)
    lines = [line for line in (tmp_path / "results.md").read_text().splitlines() if line]
    assert lines == [
        "# Results",
        *("<!-- a -->", "two", "<!-- end of a -->"),
        *("<!-- b -->", "three", "<!-- end of b -->"),
    ]


def test_what_made_images_is_told_apart() -> None:
    contest, methods = load("contest"), load("chainrule.methods")
    one, other = (contest.Contender("plain", methods.Plain(steps=n)) for n in (10, 20))
    assert one.made_by != other.made_by
    assert one.made_by != one.shorten().made_by
    best = contest.Contender("best", contest.optimise_from, {"method": methods.DOODL()})
    assert best.shorten().settings["method"].steps == load("base").TOY["steps"]
    assert best.made_by != best.shorten().made_by
