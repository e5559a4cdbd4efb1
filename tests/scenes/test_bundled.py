"""The weights of the bundled world, as installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import chainrule
from chainrule import sample
from chainrule.bundled import SCENES
from chainrule.images import from_pil
from chainrule.losses import ImageClassifier, load_classifier
from chainrule.scenes.base import NAMED_SHAPES, SHAPES, render, sample_scene
from chainrule.scenes.judge import check, load_judge, probabilities


def pixels(scenes) -> torch.Tensor:
    return from_pil([render(scene) for scene in scenes])


@pytest.fixture(scope="module")
def model() -> chainrule.Model:
    return chainrule.load()


@pytest.fixture(scope="module")
def judge() -> ImageClassifier:
    return load_judge()


def test_weights_are_small_half_precision_safetensors() -> None:
    files = [path for path in SCENES.folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 10
    for path in weights:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        kinds = {value["dtype"] for value in header.values() if value["shape"]}
        assert kinds <= {"F16", "I64"}, path


def test_the_pipeline_opens_in_diffusers_and_agrees_with_ours(model: chainrule.Model) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(SCENES.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    x_T, prompt = model.noise([0]), "a red circle on a white background"
    theirs = pipeline(
        prompt, latents=x_T, num_inference_steps=10, guidance_scale=3.0, output_type="pt"
    ).images
    with torch.no_grad():
        ours = model.decode(sample(model.denoiser(prompt), x_T, model.schedule.times(10)))
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_judge_and_guide_know_fresh_scenes(model: chainrule.Model, judge: ImageClassifier) -> None:
    scenes = [sample_scene(seed, single=True) for seed in range(200)]
    images = pixels(scenes)
    with torch.no_grad():
        rebuilt = model.decode(model.encode(images))
    assert 10 * torch.log10(1 / (rebuilt - images).square().mean()) > 30
    target = torch.tensor([SHAPES.index(scene.things[0].shape) for scene in scenes])
    for network, least in ((judge, 0.95), (load_classifier(), 0.9)):
        assert (probabilities(network, rebuilt).argmax(dim=1) == target).float().mean() >= least


def test_the_generator_draws_what_the_caption_says(
    model: chainrule.Model, judge: ImageClassifier
) -> None:
    scenes = [sample_scene(seed, shape=NAMED_SHAPES[seed % 3], single=True) for seed in range(6)]
    scenes += [scene for scene in map(sample_scene, range(60)) if scene.relation][:6]
    with torch.no_grad():
        denoiser = model.denoiser([scene.caption for scene in scenes])
        images = model.decode(sample(denoiser, model.noise(range(12)), model.schedule.times(25)))
    verdicts = [check(judge, scene, image) for scene, image in zip(scenes, images, strict=True)]
    assert sum(verdict.colours and verdict.background for verdict in verdicts) >= 10
    assert all(verdict.shapes is not False for verdict in verdicts[:6])
    right = [verdict.shapes is not False and bool(verdict.relation) for verdict in verdicts[6:]]
    assert sum(right) >= 5


@pytest.mark.parametrize("folder", [SCENES.clip, SCENES.judge_clip], ids=lambda folder: folder.name)
def test_the_clips_load(folder: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    if not folder.exists():
        pytest.skip(f"{folder.name} is not trained yet")
    clip, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    tokens = tokenizer(["a red circle on a white background"], return_tensors="pt").input_ids
    features = clip.float().get_text_features(tokens)
    assert getattr(features, "pooler_output", features).shape == (1, 96)


@pytest.mark.skipif(
    not SCENES.noise_aware.exists(), reason="the noise-aware classifier is not trained yet"
)
def test_the_noise_aware_classifier_loads() -> None:
    from chainrule.models.noise_aware import NoiseAwareClassifier

    classifier = NoiseAwareClassifier.from_pretrained(SCENES.noise_aware)
    assert classifier(torch.zeros(2, 4, 16, 16), torch.tensor([0, 999])).shape == (2, len(SHAPES))
    assert classifier.labels == SHAPES
