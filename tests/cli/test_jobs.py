"""Effects, styles and audits from the command line: their files, in plain diffusers too; stopped and resumed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

import chainrule
from chainrule import sample
from chainrule.bundled import SCENES
from chainrule.cli.ask import COMMANDS
from chainrule.images import from_pil, to_pil
from chainrule.methods import METHODS
from chainrule.runs import Iteration, execute, read_spec
from chainrule.scenes.base import Scene, Thing, render
from command import call, images
from tiny import load_once, save_family

PROMPT, OTHER = "a red square on a white background", "a blue circle on a black background"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    before = render(Scene((Thing("square", "red", 32, 32, 20, 5.0),), "white"))
    before.save(folder / "before.png")
    to_pil(from_pil([before])[0].flip(0)).save(folder / "after.png")
    return folder


@pytest.fixture(scope="module")
def commands(pictures: Path) -> dict[str, list[object]]:
    steps = ["--steps", "2"]
    return {
        "effect": [
            "tune", pictures / "before.png", pictures / "after.png", "--method", "effect:vectors=2", "--prompt", PROMPT,
            "--iterations", "2", "--seed", "0", "--other", OTHER, *steps,
        ],
        "stylize": [
            "tune", pictures / "after.png", "--method", "stylize:epochs=1", "--prompt", PROMPT, "--prompt", OTHER,
            "--seed", "0-1",
            "--batch", "2", "--other", "a green shape, on gray", "--other-seeds", "100", *steps,
        ],
        "audit": ["audit", PROMPT, OTHER, "--seed", "0-1", "--tau", "0.3,0.1", "--iterations", "2", *steps],
    }  # fmt: skip


@pytest.fixture(scope="module")
def done(
    commands: dict[str, list[object]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("jobs") / name for name in commands}
    for name, command in commands.items():
        code, output = call(*command, "--output", folders[name], "-q")
        assert (code, output) == (0, str(folders[name] / "contact-sheet.png"))
    return folders


FILES = {
    "effect": {"embedding.safetensors", "inputs"},
    "stylize": {"pytorch_lora_weights.safetensors", "inputs"},
    "audit": {"report.md", "curve.png"},
}


@pytest.mark.parametrize("name", FILES)
def test_a_folder_holds_everything(done: dict[str, Path], name: str) -> None:
    common = {
        "spec.json",
        "digests.json",
        f"{name}.safetensors",
        "contact-sheet.png",
        "report.json",
        "report.csv",
    }
    assert {path.name for path in done[name].iterdir()} == common | FILES[name]
    assert Image.open(done[name] / "contact-sheet.png").size > (200, 200)


def test_what_was_typed_is_what_was_done(done: dict[str, Path]) -> None:
    (effect,) = read_spec(done["effect"] / "spec.json").methods
    assert (effect.vectors, effect.iterations, effect.other) == (2, 2, (OTHER,))
    (stylize,) = read_spec(done["stylize"] / "spec.json").methods
    assert (stylize.other, stylize.other_seeds) == (("a green shape, on gray",), (100,))
    (audit,) = read_spec(done["audit"] / "spec.json").methods
    assert audit.radii == [0.1, 0.3]


def test_a_report_counts_every_image(done: dict[str, Path]) -> None:
    report = json.loads((done["audit"] / "report.json").read_text())["methods"]["audit"]["numbers"]
    assert (report["images"], report["radii"]) == (4, [0.1, 0.3])
    classes = [count for name, count in report["audited"].items() if name != "all"]
    assert sum(classes) == report["audited"]["all"] <= 4
    for row in report["misled"].values():
        assert 0 <= row[0]["value"] <= row[1]["value"] <= 1
    with (done["audit"] / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["prompt"], row["seed"]) for row in rows] == [
        (p, s) for p in (PROMPT, OTHER) for s in ("0", "1")
    ]
    assert {row["label"] for row in rows} == {"audit"}
    assert sum(row["class"] != "" for row in rows) == report["audited"]["all"]
    said = (done["audit"] / "report.md").read_text()
    for line in said.splitlines():
        if line.startswith("!["):
            assert (done["audit"] / line.split("(")[1].rstrip(")")).is_file()


def stop(done: Path, folder: Path, iteration: int) -> None:
    events = execute(read_spec(done / "spec.json"), folder, load_once())
    for event in events:
        if isinstance(event, Iteration) and event.done == iteration:
            events.close()  # type: ignore[attr-defined]


def test_stopped_and_resumed_it_ends_the_same(done: dict[str, Path], tmp_path: Path) -> None:
    """The others are tested on tiny networks: tests/runs/test_execute.py."""
    stop(done["audit"], tmp_path / "audit", 3)
    report = json.loads((tmp_path / "audit" / "report.json").read_text())["methods"]["audit"]
    assert (report["numbers"]["radii"], report["finished"]) == ([0.1], False)
    assert (
        "It was stopped before the larger ones were done"
        in (tmp_path / "audit" / "report.md").read_text()
    )
    code, output = call("resume", tmp_path / "audit")
    assert code == 0, output
    for file in ("contact-sheet.png", "report.md", "curve.png"):
        assert (done["audit"] / file).read_bytes() == (tmp_path / "audit" / file).read_bytes()
    whole, resumed = (
        load_file(folder / "audit.safetensors") for folder in (done["audit"], tmp_path / "audit")
    )
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_a_sheet_makes_itself_again(done: dict[str, Path], tmp_path: Path) -> None:
    code, output = call("rerun", done["effect"] / "contact-sheet.png", "-o", tmp_path / "again")
    assert code == 0, output
    for name in ("contact-sheet.png", "embedding.safetensors"):
        assert (done["effect"] / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def latents(pipeline: StableDiffusionPipeline, prompt: str) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    noise = load_once().noise([5])
    drawn = pipeline(
        prompt, latents=noise, num_inference_steps=2, guidance_scale=3.0, output_type="latent"
    )
    return drawn.images


def ours(model: chainrule.Model, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return sample(model.denoiser(prompt), model.noise([5]), model.schedule.times(2))


def test_both_open_in_plain_diffusers(done: dict[str, Path]) -> None:
    file, prompt = done["effect"] / "embedding.safetensors", f"{PROMPT} <effect>"
    pipeline = StableDiffusionPipeline.from_pretrained(SCENES.pipeline)
    pipeline.load_textual_inversion(str(file))
    pipeline.load_lora_weights(str(done["stylize"]), weight_name="pytorch_lora_weights.safetensors")
    model = chainrule.load(
        embeddings=[file], loras=[done["stylize"] / "pytorch_lora_weights.safetensors"]
    )
    torch.testing.assert_close(ours(model, prompt), latents(pipeline, prompt), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours(model, prompt), ours(load_once(), PROMPT), atol=1e-3)


def test_both_are_used_from_the_command_line(done: dict[str, Path], tmp_path: Path) -> None:
    embedding = done["effect"] / "embedding.safetensors"
    code, output = call(
        "generate", f"{PROMPT} <effect>", "--embedding", embedding, "--lora", done["stylize"], "--steps", "2", "--seed", "0",
        "-o", tmp_path / "both",
    )  # fmt: skip
    assert code == 0, output
    code, output = call(
        "rerun",
        tmp_path / "both" / "images" / "plain-0000.png",
        "-o",
        tmp_path / "again",
        "--trust",
    )
    assert code == 0, output
    assert images(tmp_path / "both") == images(tmp_path / "again")


def test_on_another_checkpoint(pictures: Path, tmp_path: Path) -> None:
    folder = save_family("Stable Diffusion 1.x", tmp_path / "sd")
    common = ["-m", folder, "--steps", "1", "--seed", "0", "--prompt", "a cat", "-o"]
    code, output = call(
        "tune",
        pictures / "after.png",
        "--method",
        "stylize",
        "--epochs",
        "1",
        "--features",
        SCENES.classifier,
        *common,
        tmp_path / "one",
    )
    assert code == 0, output
    code, output = call(
        "tune",
        pictures / "before.png",
        pictures / "after.png",
        "--method",
        "effect",
        "--iterations",
        "1",
        *common,
        tmp_path / "two",
    )
    assert code == 0, output


def test_prompts_may_be_in_a_file(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n\n  {OTHER}\n")
    settings = [
        "--epochs",
        "1",
        "--steps",
        "1",
        "--batch",
        "4",
        "--seed",
        "0",
        "--other-seeds",
        "9",
    ]
    code, output = call("tune", pictures / "after.png", "--method", "stylize", "--prompts", tmp_path / "prompts.txt", *settings, "-o",
                        tmp_path / "run")  # fmt: skip
    assert code == 0, output
    assert read_spec(tmp_path / "run" / "spec.json").inputs.prompt == (PROMPT, OTHER)


@pytest.mark.parametrize(("kind", "seeds"), [("effect", 4), ("stylize", 10)])
def test_what_pan_et_al_learn_has_their_settings_whatever_the_preset(
    kind: str, seeds: int, pictures: Path
) -> None:
    tune = next(command for command in COMMANDS if command.name == "tune")
    for preset in (None, "faithful", "tuned"):
        files = [pictures / "before.png", pictures / "after.png"]
        values = {"pictures": files, "prompt": [PROMPT], "method": [kind], "preset": preset}
        spec = tune.spec([], values)
        assert spec.methods == (METHODS[kind](),)
        assert len(spec.inputs.seed) == seeds
    both = tune.spec([], {**values, "method": ["effect:bits=8", "stylize"], "seed": "3"})
    assert [method.optimiser.bits for method in both.methods] == [8, 32]
    assert both.inputs.seed == (3,)


def test_a_small_model_is_tuned_whole_and_a_large_one_by_a_lora(pictures: Path) -> None:
    tune = next(command for command in COMMANDS if command.name == "tune")
    values = {"pictures": [pictures / "before.png"], "prompt": ["a {}"]}
    for name in (None, "scenes"):  # what was not typed is None
        (small,) = tune.spec([], {**values, "model": name}).methods
        assert (small.kind, small.rank, small.moved_by.rate) == ("dreambooth", None, 2e-4)
    (large,) = tune.spec([], {**values, "model": "owner/name"}).methods
    assert (large.kind, large.rank, large.moved_by.rate) == ("dreambooth", 8, 1e-4)


@pytest.mark.parametrize(
    ("name", "preset", "kinds"),
    [
        ("guide", None, ["plain", "hybrid"]),
        ("guide", "best", ["plain", "hybrid"]),
        ("guide", "tuned", ["plain", "one-step", "doodl"]),
        ("edit", None, ["reconstruction", "one-step", "doodl"]),
        ("edit", "best", ["reconstruction", "hybrid"]),
    ],
)
def test_what_is_done_where_no_method_is_named(
    name: str, preset: str | None, kinds: list[str], pictures: Path
) -> None:
    command = next(each for each in COMMANDS if each.name == name)
    photo = {"photo": pictures / "before.png"} if name == "edit" else {}
    values = {"prompt": PROMPT, "loss": ["classifier=heart"], "preset": preset, **photo}
    assert [method.kind for method in command.spec([], values).methods] == kinds


LONG = "a red square " * 10


@pytest.fixture(scope="module")
def known(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The names that stand for files in the table below."""
    folder = save_family("Stable Diffusion 1.x", tmp_path_factory.mktemp("sd") / "sd")
    return {"BEFORE": pictures / "before.png", "AFTER": pictures / "after.png", "SD": folder}


LEARN, STYLE = ["tune", "--method", "effect"], ["tune", "--method", "stylize"]
EFFECT = [*LEARN, "BEFORE", "AFTER", "--prompt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*LEARN, "none.png", "AFTER", "--prompt", "red"], "there is no file"),
        (
            [*LEARN, "AFTER", "--prompt", "red"],
            "is learnt from two pictures, not 1: name one before and one after it",
        ),
        ([*EFFECT, " "], "effect needs to know what the images should show: say it (--prompt)"),
        ([*EFFECT, "red", "--word", "quar"], "is not a new word"),
        ([*EFFECT, "red", "--vectors", "0"], "vectors cannot be '0'"),
        ([*EFFECT, "red", "--iterations", "0"], "iterations cannot be '0'"),
        ([*EFFECT, "red", "--other", LONG], "this model reads 22"),
        ([*EFFECT, "red", "--vectors", "40"], "this model reads 22"),
        ([*EFFECT, "red", "--steps", "0"], "steps cannot be '0'"),
        ([*EFFECT, "red", "--epochs", "2"], "nothing that was chosen has a setting 'epochs'"),
        ([*STYLE, "AFTER", "--prompt", "red", "--epochs", "0"], "epochs cannot be '0'"),
        ([*STYLE, "AFTER", "--prompt", LONG], "this model reads 22"),
        ([*STYLE, "AFTER"], "there is no prompt to show it in: say what to draw"),
        ([*LEARN, "BEFORE", "AFTER"], "there is no prompt to show it in: say what to draw"),
        ([*EFFECT, "red", "--prompt", "blue"], "give effect one prompt"),
        (
            [*STYLE, "BEFORE", "AFTER", "--prompt", "red"],
            "a style is learnt from one picture, not 2: name one",
        ),
        ([*STYLE, "AFTER", "--prompts", "none.txt"], "none.txt cannot be read as prompts"),
        ([*STYLE, "AFTER", "--prompts", "BEFORE"], "cannot be read as prompts"),
        (
            [*STYLE, "AFTER", "--prompt", "red", "--features", "./no"],
            "there is no vision network at ./no",
        ),
        ([*STYLE, "AFTER", "--prompt", "red", "--rank", "0"], "rank cannot be '0'"),
        (
            [*STYLE, "AFTER", "--prompt", "red", "-m", "SD"],
            "nothing sees the style: name a VGG's weights",
        ),
        (["audit", LONG], "this model reads 22"),
        (["audit", ""], "the prompt is empty: say what to draw"),
        (["audit", "red", ""], "the prompt is empty: say what to draw"),
        (["audit", "a red square", "--tau", "x"], "tau cannot be 'x'"),
        (["audit", "a red square", "--tau", "0"], "greater than 0"),
        (
            ["audit", "a red square", "-m", "SD"],
            "there is no independent judge: name an image classifier",
        ),
        (
            ["audit", "a red square", "--classifier", "x", "--judge", "x"],
            "the judge is the classifier itself",
        ),
        (
            ["guide", "red", "--loss", "classifier=heart", "--adjoint", "--method", "plain"],
            "has a setting 'adjoint'",
        ),
        (["generate", "red", "--embedding", "none.safetensors"], "there is no file"),
        (["generate", "red", "--lora", "BEFORE"], "cannot be loaded as a LoRA"),
        (["generate", "red", "--embedding", "BEFORE"], "cannot be loaded as a textual inversion"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_mistakes_get_one_sentence_and_leave_nothing(
    arguments: list[str], message: str, known: dict[str, Path], tmp_path: Path
) -> None:
    code, output = call(*(known.get(value, value) for value in arguments), "-o", tmp_path / "out")
    assert code == 2, output
    assert message in output
    assert output.startswith("error:")
    assert output.count("error:") == 1
    assert not (tmp_path / "out").exists()
