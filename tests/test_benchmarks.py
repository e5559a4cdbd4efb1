"""Every benchmark runs at toy size, prints its table, and publishes nothing."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from chainrule import sprites
from chainrule.sprites.artwork import STYLES
from chainrule.sprites.things import KINDS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS.parent / "docs" / "results.md"
PARTS = (
    "approximate",
    "artwork_audit",
    "artwork_effect",
    "artwork_learning",
    "artwork_style",
    "artwork_words",
    "artwork_world",
    "base",
    "contest",
    "graphs",
    "damage",
    "forks",
    "hostile",
    "sizes",
    "slips",
    "trials",
    "ways",
    "wishes",
)
"""What benchmarks are made of."""
OF_ARTWORK = ("artwork_edits", "sprites_quality")
"""What needs the networks of the world of sprites, and artwork."""
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
    if name == "artwork" and not load(name).WEIGHTS.exists():
        pytest.skip("the weights of the world of sprites are not installed")
    published, pictures = RESULTS.read_bytes(), _list_pictures()
    load(name).main(["--toy", *options])
    assert RESULTS.read_bytes() == published
    assert _list_pictures() == pictures
    return capsys.readouterr().out


def _list_pictures() -> dict[str, int]:
    folder = RESULTS.parent / "images"
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_at_toy_size(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name in OF_ARTWORK:
        _require_sprites()
        _make_artwork(tmp_path / "artwork")
        name = f"{name} --artwork artwork"
    found, name = run(name, capsys), name.split()[0]
    assert f"`python benchmarks/{name}.py" in found
    head = next(i for i, line in enumerate(found.splitlines()) if line.startswith("| --- |"))
    assert found.splitlines()[head + 1].startswith("| ")


def _require_sprites() -> None:
    pipeline = Path(sprites.__file__).parent / "weights" / "pipeline"
    if not pipeline.exists():
        pytest.skip("the networks of the world of sprites are not installed")


def _make_artwork(folder: Path) -> None:
    """Artwork that stands in for the real one, which is fetched and never committed."""
    folder.mkdir()
    shape = (len(STYLES), len(KINDS), 64, 64, 4)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(folder / "artwork.npz", pixels=pixels)


@pytest.mark.parametrize("table", ["words", "learning", "style", "effect", "audit"])
def test_each_table_of_edits_on_artwork_tells_how_it_is_made(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _require_sprites()
    _make_artwork(tmp_path / "artwork")
    options = f"--tables {table} --collect --artwork artwork --sheet sheets"
    found = run(f"artwork_edits {options}", capsys)
    assert f"`python benchmarks/artwork_edits.py --tables {table}" in found
    assert (tmp_path / "sheets" / f"artwork-{table}.png").exists()


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


def test_orders_are_those_of_the_tables() -> None:
    orders = load("orders")
    head = "| method | right |\n| --- | --- |\n"
    rows = (
        "plain | 0.10 [0.05, 0.15]",
        "best of 9 | 0.50 [0.40, 0.60]",
        "DOODL tuned | 0.55 [0.45, 0.65]",
    )
    others = (
        "plain | 0.90 [0.80, 1.00]",
        "best of 3 | 0.20 [0.10, 0.30]",
        "DOODL tuned | 0.95 [0.90, 1.00]",
    )
    page = "".join(
        f"<!-- {name} -->\n### Two\n{head}"
        + "".join(f"| {row} |\n" for row in some)
        + f"<!-- end of {name} -->\n"
        for name, some in (("one", rows), ("other", others))
    )
    one, other = (
        orders.read_scores(page, orders.Column(name, "right", "Two")) for name in ("one", "other")
    )
    assert one["best of"] == (0.5, 0.4, 0.6)
    assert orders.read_scores(page, orders.Column("none", "right")) == {}
    # plain and the best of some are decided in both, and turned round; the others in one world only
    assert orders.compare(one, other)[2:] == ["0 of 1 (of 3)", "plain and best of"]
    assert orders.compare(one, one)[2:] == ["2 of 2 (of 3)", "none"]
    with pytest.raises(SystemExit, match="no column 'left'"):
        orders.read_scores(page, orders.Column("one", "left"))
    with pytest.raises(SystemExit, match="no heading 'Three'"):
        orders.read_scores(page, orders.Column("one", "right", "Three"))


def test_a_budget_of_photos_pays_for_iterations() -> None:
    """An iteration costs three chains; one leads to the noise, and one back."""
    artwork = load("artwork")
    whole = artwork.edit_within(None)
    for iterations in (1, 5, whole.iterations):
        budget = artwork.CHAIN * (3 * iterations + 2)
        assert artwork.edit_within(budget).iterations == iterations
        assert artwork.edit_within(budget + artwork.CHAIN).iterations == iterations
    assert artwork.edit_within(budget) == whole
    with pytest.raises(SystemExit, match="a budget of 199 is too small for photos: they take 200"):
        artwork.edit_within(199)


def test_a_budget_is_shared_out_as_the_preset_is() -> None:
    contest = load("contest")
    whole = contest.Rivals("classifier").tuned
    for budget in (100, 300, 1080):
        less = contest.spend_within(whole, budget)
        assert contest.count_equal_draws(less) * less.steps == budget
    assert less == whole
    with pytest.raises(SystemExit, match="a budget of 80 is too small: 5 draws take 100"):
        contest.spend_within(whole, 80)


def test_what_made_images_is_told_apart() -> None:
    contest, methods = load("contest"), load("chainrule.methods")
    one, other = (contest.Contender("plain", methods.Plain(steps=n)) for n in (10, 20))
    assert one.made_by != other.made_by
    assert one.made_by != one.shorten().made_by
    best = contest.Contender("best", contest.optimise_from, {"method": methods.DOODL()})
    assert best.shorten().settings["method"].steps == load("base").TOY["steps"]
    assert best.made_by != best.shorten().made_by


@pytest.mark.parametrize(
    ("verdict", "code", "err"),
    [
        ("clear", 2, "warning: a word\nerror: there is no x: name another\n"),
        ("clear", 0, "warning: a word\n"),
        ("clear", 2, "Usage: x\n╭─ Error ───╮\n│ No such option: --x │\n╰───────╯\n"),
        ("unclear", 2, ""),
        ("unclear", 2, "error: a: b\nerror: c: d\n"),
        ("unclear", 2, "error: no cure\n"),
        ("unclear", 2, "error: a: b\nand more\n"),
        ("unclear", 2, f"error: a: {'b' * 600}\n"),
        ("unclear", 2, "error: a: 'NoneType' object\n"),
        ("unclear", 2, "error: a\x1b[31m: b\n"),
        ("traceback", 1, "Traceback (most recent call last):\nKeyError: 1\n"),
        ("traceback", None, ""),
    ],
)
def test_what_is_clear_is_told_from_what_is_not(verdict: str, code: int | None, err: str) -> None:
    ended = load("forks").Ended(code, hung=False, seconds=1.0, out="", err=err, writes=0)
    assert load("trials").judge(ended, lambda: None)[0] == verdict


def test_what_is_asked_of_real_artwork_can_be_judged() -> None:
    artwork, base, things = (
        load("artwork"),
        load("chainrule.sprites.base"),
        load("chainrule.sprites.things"),
    )
    kinds = things.KINDS
    assert all(kinds[name].hidden and name not in base.HELD_OUT_KINDS for name in artwork.SPECIES)
    for ground in artwork.GROUNDS:
        assert not {(name, ground) for name in artwork.SPECIES} & base.HELD_OUT_GROUNDS
    scenes = artwork.find_scenes(9)
    assert len({scene.caption for scene in scenes}) == 9
    assert [artwork.tell_apart(scene) for scene in scenes] == ["style", "ground", "pair"] * 3
    assert all(scene.held_out for scene in scenes)
    assert set(artwork.KNOWN_THINGS) <= base.HELD_OUT_KINDS
    for kind, called in artwork.KNOWN_THINGS.items():
        stand_in = "apple" if kind == called else called
        assert artwork.make_contexts(called)[0].caption.split()[1] == kinds[stand_in].word
        assert not any(scene.held_out for scene in artwork.make_contexts(stand_in))


def test_a_thing_of_real_artwork_is_judged_with_its_context() -> None:
    artwork, base, judge = (
        load("artwork"),
        load("chainrule.sprites.base"),
        load("chainrule.sprites.judge"),
    )
    losses, images = load("chainrule.losses"), load("chainrule.images")
    labels = ("lobster", "crab", "snowman")

    def network(pixels: torch.Tensor) -> torch.Tensor:  # a thing is as red, green or blue
        return 20 * pixels[:, :, 24:40, 24:40].mean(dim=(2, 3))

    seer = losses.ImageClassifier(network, labels, lambda pixels: pixels)
    judges = judge.Judges(seer, seer)
    alone, _, beside, _ = artwork.make_contexts("crab")
    blue = images.from_pil([base.paint_ground("blue", graded=False)])
    red = blue.clone()
    red[:, :, 20:44, 20:44] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    found = artwork.judge_thing(judges, "lobster", alone, torch.cat([blue, red, 1 - red]))
    assert found["context"].tolist() == [1, 1, 0]
    assert found["right"].tolist() == found["strict"].tolist() == [0, 1, 0]
    assert beside.caption == "a crab left of a snowman on a purple background"


def test_methods_that_are_missing_are_left_out_and_said() -> None:
    artwork, contest, methods = load("artwork"), load("contest"), load("chainrule.methods")
    one, other, gone = (contest.Contender(n, methods.Plain()) for n in ("one", "other", "gone"))
    asked = artwork.Table(
        "", (one, other, gone), ((one, other), (gone, one)), lambda _: [], lambda _: {}, ["a"], ()
    )
    made = contest.Made(torch.zeros(2, 3, 64, 64), 1.0, 1.0)
    judged = {one: {"right": np.array([[0.0, 1.0]])}, other: {"right": np.array([[1.0, 1.0]])}}
    said = "\n".join(artwork.report("x", asked, {one: made, other: made}, judged))
    assert "Not run, and left out: gone." in said
    assert "| one, less other | -0.5" in said
    assert "(x, right): other (1.00) > one (0.50)." in said
    assert artwork.report("x", asked, {}, {}) == ["Not run, and left out: one; other; gone."]


def test_a_result_that_is_wrong_and_a_hang_are_told() -> None:
    forks, trials = load("forks"), load("trials")
    done = forks.Ended(0, hung=False, seconds=1.0, out="", err="", writes=0)
    assert trials.judge(done, lambda: "other bytes")[0] == "silently different"
    hung = forks.Ended(None, hung=True, seconds=99.0, out="", err="", writes=0)
    assert trials.judge(hung, lambda: None)[0] == "hang"


def test_results_are_compared_without_what_a_stop_costs(tmp_path: Path) -> None:
    trials = load("trials")
    folders = [tmp_path / name for name in ("one", "other", "wrong")]
    for folder, seconds, loss in zip(folders, (0.25, 12.5, 12.5), (3, 3, 4), strict=True):
        folder.mkdir()
        (folder / "report.json").write_text(f'{{"seconds": {seconds}, "loss": {loss}}}')
        (folder / "report.csv").write_text(f'a,seconds,b\n"x,1",{seconds},{loss}\n')
        facts = {"seconds": str(seconds), "digest": str(seconds), "loss": str(loss)}
        save_file({"x": torch.ones(2)}, folder / "x.safetensors", metadata=facts)
    one, other, wrong = map(trials.snapshot, folders)
    assert trials.compare(one, other) is None
    assert trials.compare(one, wrong) == "other bytes in report.csv, report.json, x.safetensors"
