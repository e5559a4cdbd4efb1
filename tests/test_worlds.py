"""Worlds by name: the networks that are asked are those of the world that the model comes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import chainrule
from chainrule import UserError, bundled
from chainrule.bundled import SCENES, SPRITES, World, find_network, find_world
from chainrule.cli.ask import COMMANDS
from chainrule.losses import (
    AestheticSpec,
    load_backbone,
    load_classifier,
    load_clip,
    load_features,
    load_rater,
)
from chainrule.losses.base import weighted_terms
from chainrule.methods import METHODS
from chainrule.methods.base import Task
from chainrule.models import Model, installed, trained
from chainrule.models.noise_aware import (
    NoiseAwareClassifier,
    NoiseAwareEncoder,
    load_noise_aware,
)
from chainrule.runs import find_run, list_strange, read_spec
from chainrule.runs.load import load_task
from chainrule.runs.scores import find_score
from chainrule.runs.spec import parse_spec
from chainrule.runs.usual import choose_tuning
from chainrule.specs import locate
from chainrule.studio.preview import fit_preview
from command import call, images

PROMPT = "a red circle on a white background"
QUICK = ["--steps", "2", "--iterations", "2", "--crops", "2"]


def rename(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(f'"{old}"', f'"{new}"'))


def mark(file: Path, text: str) -> None:
    """Write in a configuration, and in its parts, whose it is."""
    config = json.loads(file.read_text())
    parts = [config, *(value for key, value in config.items() if key.endswith("_config"))]
    for part in parts:
        part["marked"] = text
    file.write_text(json.dumps(config))


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a world that draws what scenes draws, and calls a heart a bird."""
    folder = tmp_path_factory.mktemp("worlds") / "weights"
    shutil.copytree(SCENES.folder, folder)
    for part in ("classifier", "judge", "noise_aware_classifier"):
        rename(folder / part / "config.json", "heart", "bird")
    for part in ("classifier", "judge", "clip"):
        mark(folder / part / "config.json", f"sprites' {part}")
    (folder / "words.json").write_text(json.dumps(["bird", "red", "circle", "on", "a"]))
    return folder


@pytest.fixture
def sprites(copied: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = replace(SPRITES, folder=copied)
    monkeypatch.setitem(bundled.WORLDS, "sprites", world)
    return world


@pytest.fixture
def missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = replace(SPRITES, folder=tmp_path / "weights")
    monkeypatch.setitem(bundled.WORLDS, "sprites", world)
    return world


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "orange").save(path)
    return path


def find_marks(networks: Iterable[nn.Module]) -> set[str | None]:
    """Whose the networks of transformers are; None: they are not marked, as those of scenes."""
    outer = [[m.config for m in network.modules() if hasattr(m, "config")] for network in networks]
    return {getattr(configs[0], "marked", None) for configs in outer if configs}


# --- models -------------------------------------------------------------------------------------


def test_a_world_is_loaded_by_its_name_and_by_its_folder(sprites: World) -> None:
    models = [chainrule.load("sprites"), chainrule.load(sprites.pipeline)]
    assert {(model.name, model.world) for model in models} == {("sprites", "sprites")}
    assert chainrule.load().world == chainrule.load("scenes").world == "scenes"
    assert installed()[:2] == ["scenes", "sprites"]
    assert getattr(find_world("sprites"), "name", None) == "sprites"
    assert models[0].text.example == SPRITES.example


def test_a_tuned_pipeline_is_of_the_world_that_it_came_from(sprites: World, tmp_path: Path) -> None:
    model, folder = chainrule.load("sprites"), tmp_path / "tuned"
    trained.save(folder, model, trained.Part(), {})
    again = chainrule.load(folder)
    assert (again.name, again.world) == (str(folder), "sprites")
    assert (again.guidance_scale, again.photo_scale) == (model.guidance_scale, model.photo_scale)
    assert getattr(find_world(str(folder)), "name", None) == "sprites"
    trained.save(tmp_path / "stranger", replace(model, world=None), trained.Part(), {})
    assert chainrule.load(tmp_path / "stranger").world is None
    for text in ('{"world": "elsewhere"}', "[]", "{", '{"world": 3}'):
        (folder / "chainrule.json").write_text(text)
        with pytest.raises(UserError, match="names no world that is known here"):
            chainrule.load(folder)


def test_weights_that_are_missing_are_said_with_their_cure(missing: World, tmp_path: Path) -> None:
    said = r"the world 'sprites' has no pipeline here .* python -m chainrule\.sprites\.train"
    with pytest.raises(UserError, match=said):
        chainrule.load("sprites")
    with pytest.raises(UserError, match="has no judge here"):
        load_classifier("sprites", role="judge")
    assert not missing.installed
    assert "sprites" not in installed()
    code, output = call("generate", PROMPT, "-m", "sprites", "-o", tmp_path / "run")
    assert code != 0
    assert "chainrule.sprites.train" in output


def test_a_worlds_name_is_the_world_and_a_path_is_a_folder(
    sprites: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SCENES.pipeline, "sprites")
    assert locate("sprites") == "sprites"
    assert locate("./sprites") == str(tmp_path / "sprites")
    assert chainrule.load("sprites").world == "sprites"
    assert chainrule.load("./sprites").world is None
    assert chainrule.load(Path("sprites")).world is None
    assert find_world("./sprites") is None
    assert find_network("owner/name", "clip") == "owner/name"


def test_words_that_a_world_does_not_know_are_said(sprites: World) -> None:
    with pytest.warns(UserWarning, match="does not know the words: square; it knows bird, red"):
        chainrule.load("sprites").text(["a bird on a square"])
    with pytest.warns(UserWarning, match="does not know the words: bird; it knows red, orange"):
        chainrule.load().text(["a bird on a square"])


def test_of_many_words_those_that_are_alike_are_said_first(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(copied, folder)
    (folder / "words.json").write_text(json.dumps([*(f"x{i}" for i in range(300)), "bird"]))
    monkeypatch.setitem(bundled.WORLDS, "sprites", replace(SPRITES, folder=folder))
    with pytest.warns(UserWarning, match="words: birds; it knows bird, x0, .*x38 ...$"):
        chainrule.load("sprites").text(["birds"])


# --- networks -----------------------------------------------------------------------------------


def test_networks_are_named_by_a_world(sprites: World) -> None:
    assert "bird" in load_classifier("sprites").labels
    assert "heart" in load_classifier("scenes").labels
    assert "heart" in load_classifier().labels
    judge = load_classifier("sprites", role="judge")
    assert find_marks(judge.networks) == {"sprites' judge"}
    clip = load_clip("sprites")
    assert (find_marks(clip.networks), clip.name) == ({"sprites' clip"}, "CLIP")
    for features in (load_features("sprites"), load_backbone("sprites")):
        assert find_marks(features.networks) == {"sprites' classifier"}
    assert find_marks(load_rater("sprites", "sprites").networks) == {"sprites' clip"}
    assert "bird" in load_noise_aware("bird", world="sprites").network.labels
    assert find_marks([*load_classifier().networks, *load_clip().networks]) == {None}
    with pytest.raises(UserError, match="has no class 'bird'"):
        load_noise_aware("bird")


LOSSES = {
    "classifier": ("classifier=bird", "classifier"),
    "text": ("text=a bird", "clip"),
    "clip-direction": ("clip-direction=a red circle > a bird", "clip"),
    "aesthetic": ("aesthetic=10", "clip"),
    "image": ("image={}", "clip"),
    "perceptual": ("perceptual={}", "classifier"),
    "style": ("style={}", "classifier"),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_ask_the_networks_of_the_models_world(
    kind: str, sprites: World, picture: Path
) -> None:
    text, network = LOSSES[kind]
    for name, thing, marked in (
        ("sprites", "bird", f"sprites' {network}"),
        ("scenes", "heart", None),
    ):
        losses = [text.format(picture).replace("bird", thing)]
        inputs = {"prompt": "a red circle", "photo": picture}
        values = {"checkpoint": {"model": name}, "inputs": inputs, "losses": losses}
        loss = load_task(parse_spec(values | {"methods": [{"kind": "sdedit"}]})).require_loss()
        assert find_marks(loss.networks) == {marked}


def test_a_named_network_is_asked_whatever_the_model(sprites: World) -> None:
    loss = {"kind": "classifier", "target": "heart", "classifier": "scenes"}
    values = {"checkpoint": {"model": "sprites"}, "inputs": {"prompt": PROMPT}, "losses": [loss]}
    values["methods"] = [{"kind": "doodl"}]
    assert find_marks(load_task(parse_spec(values)).require_loss().networks) == {None}
    loss = {"kind": "text", "target": "a bird", "clip": {"": 0.5, "sprites": 0.25, "scenes": 1.0}}
    terms = weighted_terms(load_task(parse_spec(values | {"losses": [loss]})).loss)
    found = [(weight, find_marks(term.networks)) for weight, term in terms]
    assert found == [(0.75, {"sprites' clip"}), (1.0, {None})]


def task(model: Model, **values: Any) -> Task:
    return Task(model, model.denoiser(PROMPT), 0, prompts=(PROMPT,), **values)


def test_methods_ask_the_networks_of_the_models_world(sprites: World) -> None:
    model = chainrule.load("sprites")
    audit = METHODS["audit"]().prepare(task(model))
    assert find_marks(audit.classifier.networks) == {"sprites' classifier"}
    assert find_marks(audit.judge.networks) == {"sprites' judge"}
    pictures = (torch.rand(3, 64, 64),)
    for features in (None, "sprites"):
        style = METHODS["stylize"](features=features).prepare(task(model, pictures=pictures))
        assert find_marks(style.style.networks) == {"sprites' clip"}
        assert find_marks(style.content.networks) == {"sprites' classifier"}


def test_what_learns_a_change_asks_the_networks_of_the_models_world(
    sprites: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = []
    monkeypatch.setattr(
        "chainrule.methods.change.load_clip",
        lambda name, device: named.append(name) or load_clip(name, device),
    )
    method = METHODS["diffusion-clip"](change="a bird > a red circle")
    method.prepare(task(chainrule.load("sprites"), pictures=(torch.rand(3, 64, 64),)))
    method.prepare(task(replace(chainrule.load(), world=None), pictures=(torch.rand(3, 64, 64),)))
    assert named == ["sprites", None]


def test_a_judge_that_is_the_classifier_is_refused_by_any_name(sprites: World) -> None:
    model = chainrule.load("sprites")
    with pytest.raises(UserError, match="the judge is the classifier itself"):
        METHODS["audit"](judge=str(sprites.classifier)).prepare(task(model))


def test_models_of_no_world_ask_as_before() -> None:
    model = replace(chainrule.load(), name="elsewhere", world=None)
    assert model.world is None
    with pytest.raises(UserError, match="only the bundled models have one"):
        METHODS["noise-aware"]().prepare(task(model))
    with pytest.raises(UserError, match="there is no independent judge"):
        METHODS["audit"]().prepare(task(model))
    with pytest.raises(UserError, match="nothing sees the style"):
        METHODS["stylize"]().prepare(task(model, pictures=(torch.rand(3, 64, 64),)))


# --- runs ---------------------------------------------------------------------------------------


def test_a_run_with_another_world(sprites: World, tmp_path: Path) -> None:
    """Only the world's own classifiers, of pictures and of noise, know a bird."""
    methods = ["--method", "plain", "--method", "noise-aware", "--method", "doodl"]
    folder = tmp_path / "run"
    guided = ["guide", PROMPT, "--loss", "classifier=bird", "-m", "sprites", *methods, *QUICK]
    code, output = call(*guided, "-o", folder)
    assert code == 0, output
    spec = read_spec(folder / "spec.json")
    assert spec.checkpoint.model == "sprites"
    assert spec.losses[0].classifier is None
    score = find_score(spec)
    assert score is not None
    assert score.write(0.5) == "judge: 50% bird"
    rated = find_score(spec.model_copy(update={"losses": (AestheticSpec(target=10),)}))
    assert rated is not None
    assert rated.ask(torch.ones(1, 3, 64, 64)) == [1.0]  # there is nothing on its ground
    before = images(folder)
    for state in (folder / "states").glob("doodl*"):  # as if it had been stopped before its end
        state.unlink()
    for image in (folder / "images").glob("doodl*"):
        image.unlink()
    code, output = call("resume", folder)
    assert code == 0, output
    assert images(folder) == before
    made = next((folder / "images").glob("doodl*.png"))
    assert find_run(made).checkpoint.model == "sprites"  # there is nobody to be trusted


def test_a_run_that_follows_a_text_by_the_encoder_of_noise(sprites: World, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    loss = ["--loss", "text=a bird", "--method", "semantic", "--steps", "2"]
    code, output = call("guide", PROMPT, *loss, "-m", "sprites", "-o", folder)
    assert code == 0, output


def test_the_presets_of_bundled_worlds(sprites: World) -> None:
    guide = next(command for command in COMMANDS if command.name == "guide")
    values = {"prompt": [PROMPT], "loss": ["classifier=bird"], "method": ["doodl"]}
    specs = {
        name: guide.spec([], {**values, "model": name}) for name in ("sprites", "scenes", "a/b")
    }
    assert specs["sprites"].methods == specs["scenes"].methods
    assert specs["sprites"].methods != specs["a/b"].methods
    assert choose_tuning("sprites") == choose_tuning(None)
    assert choose_tuning("sprites") != choose_tuning("a/b")


def test_an_estimate_of_another_world(sprites: World) -> None:
    run = ["estimate", PROMPT, "--loss", "classifier=bird", "--method", "one-step", "--steps", "2"]
    code, output = call(*run, "-m", "sprites")
    assert code == 0, output


def test_a_world_is_no_stranger_s_network(sprites: World) -> None:
    loss = {"kind": "text", "target": "a bird", "clip": {"scenes": 1.0, "a/b": 1.0}}
    values = {"checkpoint": {"model": "sprites"}, "losses": [loss], "methods": [{"kind": "plain"}]}
    assert list_strange(parse_spec(values)) == ["a/b"]


# --- latents of eight channels ------------------------------------------------------------------


@pytest.fixture(scope="session")
def widened(copied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose latents have eight channels; its networks have learnt nothing."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = tmp_path_factory.mktemp("wide") / "weights"
    shutil.copytree(copied, folder)
    pipeline = folder / "pipeline"
    torch.manual_seed(0)
    vae = {**AutoencoderKL.load_config(pipeline / "vae"), "latent_channels": 8}
    AutoencoderKL.from_config(vae).save_pretrained(pipeline / "vae")
    wide = {"in_channels": 8, "out_channels": 8}
    unet = {**UNet2DConditionModel.load_config(pipeline / "unet"), **wide}
    UNet2DConditionModel.from_config(unet).save_pretrained(pipeline / "unet")
    labels = list(load_classifier(folder / "classifier").labels)
    NoiseAwareClassifier(8, 16, labels).save_pretrained(folder / "noise_aware_classifier")
    dim = load_clip(folder / "clip").width
    NoiseAwareEncoder(8, 16, dim).save_pretrained(folder / "noise_aware_encoder")
    return folder


@pytest.fixture
def wide(widened: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setitem(bundled.WORLDS, "sprites", replace(SPRITES, folder=widened))
    return chainrule.load("sprites")


WIDE = ["plain", "one-step", "doodl", "dno", "reno", "noise-aware", "hybrid", "best-of", "tfg"]


@pytest.mark.parametrize("kind", WIDE)
def test_guidance_of_latents_of_eight_channels(kind: str, wide: Model, tmp_path: Path) -> None:
    short = {"doodl": QUICK, "dno": QUICK[:4], "reno": QUICK[2:4], "hybrid": ["--budget", "40"]}
    settings = short.get(kind, [] if kind == "best-of" else QUICK[:2])
    run = ["guide", PROMPT, "--loss", "classifier=bird", "--method", kind, *settings]
    code, output = call(*run, "-m", "sprites", "-o", tmp_path / "run")
    assert code == 0, output


@pytest.mark.parametrize("kind", ["sdedit", "semantic", "edict", "repaint", "diffedit"])
def test_edits_of_latents_of_eight_channels(
    kind: str, wide: Model, picture: Path, tmp_path: Path
) -> None:
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    mask = ["--mask", tmp_path / "mask.png"] if kind == "repaint" else []
    said = ["--from", "a red circle", "--prompt", PROMPT, *mask]
    run = ["edit", picture, *said, "--method", kind, "--steps", "4", "-m", "sprites"]
    code, output = call(*run, "-o", tmp_path / "run")
    assert code == 0, output


def test_a_preview_of_latents_of_eight_channels(wide: Model) -> None:
    latents = wide.noise([0, 1])
    assert latents.shape == (2, 8, 16, 16)
    assert fit_preview(wide, latents)(latents).shape[:2] == (2, 3)
