"""The networks of the world of sprites, and how each is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from chainrule.models.noise_aware import NoiseAwareClassifier
from chainrule.scenes.train import autoencoder, classifier, clip, noise_aware, rater, semantic, unet
from chainrule.scenes.train.base import (
    Settings,
    mark_present,
    save_half,
    save_vision,
)
from chainrule.sprites.artwork import STYLES
from chainrule.sprites.base import HELD_OUT_KINDS, Scene, list_words
from chainrule.sprites.judge import PLACES, cut
from chainrule.sprites.rating import rate
from chainrule.sprites.things import KINDS

CHANNELS = 8
"""Of the latents, 16x16: twice the shapes'; artwork has more to tell."""

GUIDED = tuple(name for name in KINDS if name not in HELD_OUT_KINDS)
"""What guides know: all that the generator has seen."""


def train_autoencoder(settings: Settings) -> None:
    """64x64 pixels <-> 8 channels of 16x16, convolutions only."""
    torch.manual_seed(0)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 80, 128),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    autoencoder.teach(model, settings, steps=4000, batch=128)
    save_half(model, settings.weights / "pipeline" / "vae")


def train_unet(settings: Settings) -> None:
    """The generator; its text encoder learns with it, from nothing."""
    tokenizer = save_words(settings)
    torch.manual_seed(2)
    model = UNet2DConditionModel(
        sample_size=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(96, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    text = clip.new(tokenizer, _see(8, 64, 1), text_layers=3, width=128, seed=12).config.text_config
    text_encoder = CLIPTextModel(text)
    unet.teach(model, text_encoder, settings, steps=8000, batch=1024, pairs=384, rate=1.2e-3)
    unet.save(model, text_encoder, settings)


def train_unet_on(settings: Settings) -> None:
    """The generator that is there, further: mostly at high noise, where it is furthest behind.

    Meant for a GPU. What two cores can show it in an hour is a tenth of what it has seen, and in
    batches of 64 a rate of 4e-4 undid more in 20 minutes than it taught.
    """
    folder = settings.weights / "pipeline"
    model = UNet2DConditionModel.from_pretrained(folder / "unet").float()
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
    batch, rate = (256, 6e-4) if settings.on_gpu else (64, 1e-4)
    pairs = batch * 3 // 8
    unet.teach(
        model,
        text_encoder,
        settings,
        steps=8000,
        batch=batch,
        pairs=pairs,
        rate=rate,
        name="unet-on",
        early=0.1,
    )
    unet.save(model, text_encoder, settings)


def save_words(settings: Settings) -> CLIPTokenizer:
    """Write the list of words and the tokenizer to which each is one token."""
    settings.weights.mkdir(parents=True, exist_ok=True)
    (settings.weights / "words.json").write_text(json.dumps(list_words(), indent=0) + "\n")
    tokenizer = clip.new_tokenizer(sorted(list_words()))
    tokenizer.save_pretrained(settings.weights / "pipeline" / "tokenizer")
    return tokenizer


def _see(patch: int, width: int, layers: int) -> dict[str, int]:
    """The settings of the image half of a CLIP."""
    return {
        "patch_size": patch,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
    }


def confuse(scene: Scene) -> list[str]:
    """Captions that a bag of words would take for the scene's (`clip.confusions`)."""
    if scene.relation is None:
        return []
    turned = replace(scene, relation=clip.OPPOSITE[scene.relation])
    return [turned.caption] if turned.caption != scene.caption else []


def train_clip(settings: Settings) -> None:
    """The guiding CLIP."""
    tokenizer = save_words(settings)
    model = clip.new(tokenizer, _see(8, 160, 4), text_layers=3, width=128, seed=1)
    _teach_clip(model, tokenizer, settings, "clip", steps=4000, part=0)


def train_judge_clip(settings: Settings) -> None:
    """The judging CLIP: other patches, width, depth, seed and half of the data."""
    tokenizer = save_words(settings)
    model = clip.new(tokenizer, _see(16, 192, 3), text_layers=2, width=96, seed=101)
    _teach_clip(model, tokenizer, settings, "judge-clip", steps=4000, part=1)


def _teach_clip(
    model: Any, tokenizer: CLIPTokenizer, settings: Settings, name: str, *, steps: int, part: int
) -> None:
    model.to(settings.device)
    clip.contrastive(settings, name, model, steps, part, confuse, batch=256)
    folder = settings.weights / name.replace("-", "_")
    save_vision(model, folder)
    tokenizer.save_pretrained(folder)


def _name(labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def train_classifier(settings: Settings) -> None:
    """The guide: a residual network that says of each thing whether it is there (sigmoids)."""
    torch.manual_seed(3)
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 96, 160],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        hidden_act="silu",
        **_name(GUIDED),
    )
    model = ResNetForImageClassification(config).to(settings.device)
    scenes = settings.list_scenes(settings.rebuilt)
    present = mark_present(scenes, GUIDED, lambda thing: thing.kind).to(settings.device)

    def compare(logits: Tensor, index: Tensor) -> Tensor:
        wanted = present[index]
        each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return each.sum(dim=1).mean() / 10

    mine = np.arange(0, settings.rebuilt, 2)
    classifier.teach(
        model, settings, "classifier", mine, compare, steps=4000, data=10, batch=256, ema=0.997
    )


def train_judge(settings: Settings) -> None:
    """The judge: a ConvNeXt that names the one thing of a picture, or of a window of it.

    Other architecture, seed, half of the data, labels (what is held out as well) and loss: what
    fools the guide need not fool it. No guidance ever touches it.
    """
    torch.manual_seed(103)
    config = ConvNextConfig(
        patch_size=4,
        num_stages=3,
        hidden_sizes=[48, 96, 192],
        depths=[2, 2, 3],
        layer_scale_init_value=1.0,  # the usual 1e-6 is for much longer trainings
        **_name(tuple(KINDS)),
    )
    model = ConvNextForImageClassification(config).to(settings.device)
    scenes = settings.list_scenes(settings.rebuilt)
    number = {name: i for i, name in enumerate(KINDS)}
    which = torch.tensor(
        [[number[scene.things[k % len(scene.things)].kind] for k in (0, 1)] for scene in scenes]
    ).to(settings.device)
    double = torch.tensor([scene.relation is not None for scene in scenes]).to(settings.device)
    middle = ((32, 32), (32, 32))
    centres = torch.tensor([PLACES.get(scene.relation or "", middle) for scene in scenes])
    centres = centres.float().to(settings.device)

    def look(x: Tensor, index: Tensor) -> Tensor:
        """Of two things, only one: the first where the scene's number has a second bit."""
        windows = cut(x, centres[index, (index // 2) % 2])
        return torch.where(double[index][:, None, None, None], windows, x)

    def compare(logits: Tensor, index: Tensor) -> Tensor:
        wanted = which[index, (index // 2) % 2]
        return functional.cross_entropy(logits, wanted, label_smoothing=0.05)

    mine = np.arange(1, settings.rebuilt, 2)
    classifier.teach(
        model,
        settings,
        "judge",
        mine,
        compare,
        steps=5000,
        data=5,
        batch=256,
        ema=0.997,
        look=look,
    )


def train_style_judge(settings: Settings) -> None:
    """Tells the three styles; no guidance ever touches it."""
    torch.manual_seed(104)
    config = ResNetConfig(
        embedding_size=24,
        hidden_sizes=[24, 48, 96],
        depths=[2, 2, 2],
        layer_type="basic",
        hidden_act="silu",
        **_name(tuple(STYLES)),
    )
    model = ResNetForImageClassification(config).to(settings.device)
    scenes = settings.list_scenes(settings.rebuilt)
    number = {name: i for i, name in enumerate(STYLES)}
    which = torch.tensor([number[scene.style] for scene in scenes]).to(settings.device)

    def compare(logits: Tensor, index: Tensor) -> Tensor:
        return functional.cross_entropy(logits, which[index])

    mine = np.arange(1, settings.rebuilt, 2)
    classifier.teach(
        model, settings, "style-judge", mine, compare, steps=4500, data=11, batch=128, ema=0.997
    )


def train_noise_aware(settings: Settings) -> None:
    """Says of noisy latents which things they will show (sigmoids)."""
    torch.manual_seed(4)
    model = NoiseAwareClassifier(in_channels=CHANNELS, width=48, labels=list(GUIDED))
    noise_aware.teach(model, settings, steps=4000, batch=256, say=lambda thing: thing.kind)


def train_semantic(settings: Settings) -> None:
    """Says of noisy latents what the guiding CLIP says of the clean picture."""
    semantic.train(settings, channels=CHANNELS, width=48, steps=4000, batch=256)


def train_rater(settings: Settings) -> None:
    """Rates pictures by the guiding CLIP's embedding."""
    rater.train(settings, rate, count=8000)
