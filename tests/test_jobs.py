"""Effects, styles and audits from the command line: their files, in plain diffusers too; stopped and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

import chainrule
from chainrule import bundled, sample
from chainrule.jobs import AuditJob, EffectJob, Job, StylizeJob, execute, prepared
from chainrule.jobs.base import OnIteration
from chainrule.pictures import from_pil
from chainrule.scenes.base import Scene, Thing, render
from test_cli import call
from tiny import save_family

PROMPT = "a red square on a white background"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    before = render(Scene((Thing("square", "red", 32, 32, 20, 5.0),), "white"))
    before.save(folder / "before.png")
    Image.fromarray((from_pil([before])[0].flip(0) * 255).byte().permute(1, 2, 0).numpy()).save(folder / "after.png")
    return folder


@pytest.fixture(scope="module")
def commands(pictures: Path) -> dict[str, list[object]]:
    steps = ["--steps", "2"]
    return {
        "effect": [
            "effect", pictures / "before.png", pictures / "after.png", "--prompt", PROMPT, "--vectors", "2",
            "--iterations", "4", "--seed", "0", "--other", "a blue circle on a black background", *steps,
        ],
        "stylize": [
            "stylize", pictures / "after.png", "--prompt", PROMPT, "--prompt", "a blue circle on a black background",
            "--seed", "0-1", "--epochs", "2", "--batch", "2", "--other", "a green shape on a gray background", *steps,
        ],
        "audit": ["audit", PROMPT, "a blue circle on a black background", "--seed", "0-1", "--tau", "0.3,0.1", *steps],
    }  # fmt: skip


@pytest.fixture(scope="module")
def done(commands: dict[str, list[object]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("jobs") / name for name in commands}
    for name, command in commands.items():
        code, output = call(*command, "--output", folders[name])
        assert code == 0, output
        assert output.endswith("grid.png")
    return folders


FILES = {
    "effect": {"embedding.safetensors"},
    "stylize": {"pytorch_lora_weights.safetensors"},
    "audit": {"report.md", "report.json", "curve.png"},
}


@pytest.mark.parametrize("name", FILES)
def test_a_folder_holds_everything(done: dict[str, Path], name: str) -> None:
    assert {path.name for path in done[name].iterdir()} == {
        "settings.json", "state.safetensors", "grid.png", *FILES[name]
    }  # fmt: skip
    assert Image.open(done[name] / "grid.png").size > (200, 200)


def test_a_report_counts_every_image(done: dict[str, Path]) -> None:
    report = json.loads((done["audit"] / "report.json").read_text())
    assert (report["images"], report["radii"]) == (4, [0.1, 0.3])
    classes = [count for name, count in report["audited"].items() if name != "all"]
    assert sum(classes) == report["audited"]["all"] <= 4
    for row in report["misled"].values():
        assert 0 <= row[0]["value"] <= row[1]["value"] <= 1


JOBS: dict[str, type[Job]] = {"effect": EffectJob, "stylize": StylizeJob, "audit": AuditJob}


@pytest.mark.parametrize("name", JOBS)
def test_stopped_and_resumed_it_ends_the_same(done: dict[str, Path], name: str, tmp_path: Path) -> None:
    job = JOBS[name].model_validate_json((done[name] / "settings.json").read_text())
    with pytest.raises(KeyboardInterrupt):
        execute(prepared(job, tmp_path / name), tmp_path / name, stopping_at(2))
    assert (tmp_path / name / "grid.png").exists()  # what there is so far
    code, output = call("resume", tmp_path / name)
    assert code == 0, output
    whole, resumed = (load_file(folder / "state.safetensors") for folder in (done[name], tmp_path / name))
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
    for file in FILES[name]:
        assert (done[name] / file).read_bytes() == (tmp_path / name / file).read_bytes()


def stopping_at(last: int) -> OnIteration:
    def on_iteration(count: int, total: int, note: str) -> None:
        if count == last:
            raise KeyboardInterrupt

    return on_iteration


def latents(pipeline: StableDiffusionPipeline, prompt: str) -> torch.Tensor:
    model = chainrule.load()
    return pipeline(
        prompt, latents=model.noise([5]), num_inference_steps=3, guidance_scale=3.0, output_type="latent"
    ).images


def test_the_word_opens_in_plain_diffusers(done: dict[str, Path]) -> None:
    file, prompt = done["effect"] / "embedding.safetensors", f"{PROMPT} <effect>"
    pipeline = StableDiffusionPipeline.from_pretrained(bundled.PIPELINE)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(str(file))
    theirs = latents(pipeline, prompt)
    model = chainrule.load(embeddings=[file])
    with torch.no_grad():
        ours = sample(model.denoiser(prompt), model.noise([5]), model.schedule.times(3))
        other = sample(model.denoiser(PROMPT), model.noise([5]), model.schedule.times(3))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, other, atol=1e-3)


def test_the_lora_opens_in_plain_diffusers(done: dict[str, Path]) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(bundled.PIPELINE)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(done["stylize"]))
    theirs = latents(pipeline, PROMPT)
    model = chainrule.load(loras=[done["stylize"]])
    with torch.no_grad():
        ours = sample(model.denoiser(PROMPT), model.noise([5]), model.schedule.times(3))
        plain = chainrule.load()
        other = sample(plain.denoiser(PROMPT), model.noise([5]), model.schedule.times(3))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, other, atol=1e-3)


def test_both_are_used_from_the_command_line(done: dict[str, Path], tmp_path: Path) -> None:
    code, output = call(
        "generate", f"{PROMPT} <effect>", "--embedding", done["effect"] / "embedding.safetensors", "--lora",
        done["stylize"], "--steps", "2", "--seed", "0", "-o", tmp_path / "both",
    )  # fmt: skip
    assert code == 0, output
    code, output = call("rerun", tmp_path / "both" / "images" / "plain-0.png", "-o", tmp_path / "again")
    assert code == 0, output
    one, other = (Image.open(tmp_path / name / "images" / "plain-0.png").tobytes() for name in ("both", "again"))
    assert one == other


def test_jobs_on_another_checkpoint(pictures: Path, tmp_path: Path) -> None:
    folder = save_family("Stable Diffusion 1.x", tmp_path / "sd")
    network = str(bundled.CLASSIFIER)
    common = ["-m", folder, "--steps", "1", "-o"]
    code, output = call(
        "stylize", pictures / "after.png", "--prompt", "a cat", "--seed", "0", "--epochs", "1", "--features", network,
        *common, tmp_path / "style",
    )  # fmt: skip
    assert code == 0, output
    code, output = call(
        "effect", pictures / "before.png", pictures / "after.png", "--prompt", "a cat", "--iterations", "1", "--seed",
        "0", *common, tmp_path / "effect",
    )  # fmt: skip
    assert code == 0, output


LONG = "a red square " * 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["effect", "none.png", "AFTER", "--prompt", "x"], "there is no file"),
        (["effect", "BEFORE", "AFTER", "--prompt", " "], "say what the picture before shows"),
        (["effect", "BEFORE", "AFTER", "--prompt", "x", "--word", "quar"], "is no new word"),
        (["effect", "BEFORE", "AFTER", "--prompt", "x", "--vectors", "0"], "vectors cannot be 0"),
        (["effect", "BEFORE", "AFTER", "--prompt", "x", "--iterations", "0"], "iterations cannot be 0"),
        (["effect", "BEFORE", "AFTER", "--prompt", "x", "--other", LONG], "this model reads 22"),
        (["stylize", "AFTER", "--prompt", "x", "--epochs", "0"], "epochs cannot be 0"),
        (["stylize", "AFTER", "--prompt", LONG], "this model reads 22"),
        (["audit", LONG], "this model reads 22"),
        (["guide", "x", "--loss", "classifier=heart", "--adjoint"], "say --method adjoint-dpm"),
        (["effect", "BEFORE", "AFTER", "--prompt", "x", "--vectors", "40"], "this model reads 22"),
        (["effect", "BEFORE", "AFTER", "--prompt", "x", "--steps", "0"], "cannot be 0"),
        (["stylize", "AFTER"], "there are no prompts"),
        (["stylize", "AFTER", "--prompts", "none.txt"], "none.txt cannot be read as prompts"),
        (["stylize", "AFTER", "--prompts", "BEFORE"], "cannot be read as prompts"),
        (["stylize", "AFTER", "--prompt", "x", "--features", "./no"], "there is no vision network at ./no"),
        (["stylize", "AFTER", "--prompt", "x", "--rank", "0"], "rank cannot be 0"),
        (["stylize", "AFTER", "--prompt", "x", "-m", "SD"], "name the network that sees the style"),
        (["audit", ""], "there is no prompt, or an empty one"),
        (["audit", "a red square", "--tau", "x"], "names no radii"),
        (["audit", "a red square", "--tau", "0"], "greater than 0"),
        (["audit", "a red square", "-m", "SD"], "name an independent judge"),
        (["audit", "a red square", "--classifier", "x", "--judge", "x"], "the judge is the classifier itself"),
        (["generate", "x", "--embedding", "none.safetensors"], "there is no file"),
        (["generate", "x", "--lora", "BEFORE"], "cannot be loaded as a LoRA"),
        (["generate", "x", "--embedding", "BEFORE"], "cannot be loaded as a textual inversion"),
    ],
    ids=str,
)
def test_mistakes_get_one_sentence_and_leave_nothing(
    arguments: list[str], message: str, pictures: Path, tmp_path: Path
) -> None:
    known = {"BEFORE": pictures / "before.png", "AFTER": pictures / "after.png"}
    if "SD" in arguments:
        known["SD"] = save_family("Stable Diffusion 1.x", tmp_path / "sd")
    code, output = call(*(known.get(value, value) for value in arguments), "-o", tmp_path / "out")
    assert code == 2, output
    assert message in output
    assert output.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_an_audit_that_was_stopped_reports_what_was_searched(done: dict[str, Path], tmp_path: Path) -> None:
    job = AuditJob.model_validate_json((done["audit"] / "settings.json").read_text())
    with pytest.raises(KeyboardInterrupt):
        execute(prepared(job, tmp_path / "audit"), tmp_path / "audit", stopping_at(job.audit.iterations + 3))
    report = json.loads((tmp_path / "audit" / "report.json").read_text())
    assert report["radii"] == [0.1]
    assert "It was stopped before the larger ones were done" in (tmp_path / "audit" / "report.md").read_text()


def test_a_job_s_picture_makes_itself_again(done: dict[str, Path], tmp_path: Path) -> None:
    code, output = call("rerun", done["effect"] / "grid.png", "-o", tmp_path / "again")
    assert code == 0, output
    one, other = (load_file(folder / "embedding.safetensors") for folder in (done["effect"], tmp_path / "again"))
    assert torch.equal(one["<effect>"], other["<effect>"])


def test_a_damaged_state_is_named(done: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(done["effect"], tmp_path / "damaged")
    (tmp_path / "damaged" / "state.safetensors").write_bytes(b"no")
    code, output = call("resume", tmp_path / "damaged")
    assert code == 2
    assert "is damaged" in output
    assert "delete it" in output


def test_several_loras_add_up(done: dict[str, Path]) -> None:
    """Each of them changes the picture, and both together otherwise than either."""
    found = []
    for count in (0, 1, 2):
        model = chainrule.load(loras=[done["stylize"]] * count)
        with torch.no_grad():
            found.append(model.denoiser(PROMPT, guidance_scale=1.0)(model.noise([0]), 501.0).x0)
    changes = [(found[i] - found[0]).norm() for i in (1, 2)]
    assert changes[0] > 0
    assert changes[1] > 1.5 * changes[0]
