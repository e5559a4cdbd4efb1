"""The generator of the bundled world: a small U-Net in a StableDiffusionPipeline folder."""

from __future__ import annotations

import json

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from chainrule.scenes.train.base import (
    Settings,
    autocast,
    draw_noisy,
    fit,
    latents,
    save_half,
)
from chainrule.scenes.train.clip import read_captions

STEPS = 24_000
BATCH = 64
PAIRS = 32
"""How many of a batch show two things.

Which is which is harder to learn than what a single thing looks like.
"""
DROP_CAPTION = 0.1


def new() -> UNet2DConditionModel:
    """An untrained U-Net (2.3 M weights); attention at 8x8 only, where it is cheap."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule; the network predicts the velocity."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def train(settings: Settings) -> None:
    """As `teach`, and write it.

    The text encoder begins as CLIP's and learns with the U-Net: a contrastive loss hardly asks
    which thing is where.
    """
    torch.manual_seed(2)
    text_encoder = CLIPTextModel.from_pretrained(settings.weights / "clip").float()
    model = new()
    teach(model, text_encoder, settings, steps=STEPS, batch=BATCH, pairs=PAIRS)
    save(model, text_encoder, settings)


def teach(
    model: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    settings: Settings,
    *,
    steps: int,
    batch: int,
    pairs: int,
    rate: float = 1e-3,
    name: str = "unet",
    early: float | None = None,
) -> None:
    """Velocity matching with captions dropped now and then; timesteps stratified over the batch.

    Args:
        model: The U-Net, which is changed.
        text_encoder: What reads captions; it learns too.
        settings: Where and how.
        steps: How many batches.
        batch: How many latents are in each.
        pairs: How many of a batch show two things.
        rate: The highest learning rate.
        name: What the training is called in the work folder.
        early: The share of timesteps below 300, where little noise is left to remove; None: all
            timesteps are as likely.
    """
    codes = latents(settings)
    tokenizer = CLIPTokenizer.from_pretrained(settings.weights / "pipeline" / "tokenizer")
    model.to(settings.device)
    text_encoder.to(settings.device)
    scenes = settings.list_scenes(len(codes))
    distinct = ["", *sorted({scene.caption for scene in scenes})]
    number = {caption: i for i, caption in enumerate(distinct)}
    which = torch.tensor([number[scene.caption] for scene in scenes], device=settings.device)
    things = np.array([len(scene.things) for scene in scenes])
    single, double = np.flatnonzero(things == 1), np.flatnonzero(things == 2)
    tokens = read_captions(tokenizer, distinct).to(settings.device)
    alpha_bar = scheduler().alphas_cumprod
    if not settings.on_gpu:  # in bfloat16 on a CPU, faster backwards than fused attention
        model.set_attn_processor(AttnProcessor())
    # Not compiled: torch 2.13's inductor leaves most weights' gradients zero here (bfloat16, CPU;
    # cosine 0.09 with the eager gradient, no warning), and eager steps take the same time.

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rng, device = np.random.default_rng(step), generator.device
        chosen = np.concatenate([rng.choice(double, pairs), rng.choice(single, batch - pairs)])
        index = rng.permutation(chosen)  # timesteps rise along the batch
        dropped = torch.rand(batch, generator=generator, device=device) < DROP_CAPTION
        captions = which[torch.from_numpy(index).to(settings.device)]
        said = tokens[captions.masked_fill(dropped.to(settings.device), 0)]
        t = spread_timesteps(batch, early, generator)
        x_t, v = (
            value.to(settings.device) for value in draw_noisy(codes, alpha_bar, index, t, generator)
        )
        with autocast(settings):
            out = model(x_t, t.to(settings.device), text_encoder(said).last_hidden_state).sample
        return (out.float() - v).square().mean()

    both = nn.ModuleDict({"unet": model, "text_encoder": text_encoder})
    fit(name, both, loss, settings, steps=steps, rate=rate, ema=0.9985)


def spread_timesteps(count: int, early: float | None, generator: torch.Generator) -> Tensor:
    """Timesteps that rise along a batch from a random one on, and then begin anew.

    Args:
        count: How many.
        early: The share of those below 300; None: all are as likely.
        generator: Of the random numbers.

    Returns:
        (count,), integers from 0 to 999.
    """
    device = generator.device
    offset = torch.rand(1, generator=generator, device=device)
    jitter = torch.rand(count, generator=generator, device=device)
    u = ((torch.arange(count, device=device) + jitter) / count + offset) % 1.0
    t = 1000 * u
    if early is not None:
        t = torch.where(u < early, 300 * u / early, 1000 - 700 * (1 - u) / (1 - early))
    return t.long().clamp(max=999)


def save(model: UNet2DConditionModel, text_encoder: CLIPTextModel, settings: Settings) -> None:
    """Write the two networks, and what makes the folder a pipeline.

    Args:
        model: The U-Net.
        text_encoder: The text encoder that learnt with it.
        settings: Where to.
    """
    folder = settings.weights / "pipeline"
    save_half(model, folder / "unet")
    save_half(text_encoder, folder / "text_encoder")
    scheduler().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
