"""Tiny checkpoints in the formats of real ones: random weights, made in a moment."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity, profile
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    SiglipConfig,
    SiglipModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    ViTConfig,
    ViTForImageClassification,
)

import chainrule
from chainrule.bundled import SCENES
from chainrule.diffusion.control import Learnt
from chainrule.diffusion.control.bottleneck import bottleneck
from chainrule.models import Model
from chainrule.models.directions import Saved, save_direction

LABELS = ("star", "heart", "moon")
PREPROCESSOR = json.dumps(
    {
        "size": {"height": 8, "width": 8},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
)


def pipeline(scheduler) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    return StableDiffusionPipeline(
        vae=vae(),
        **_clip(),
        unet=_unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def vae(channels: int = 4, **changes) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **changes,
    )


def _clip(suffix: str = "", kind: type = CLIPTextModel) -> dict:
    tokenizer = CLIPTokenizer.from_pretrained(SCENES.pipeline / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        projection_dim=12,
        eos_token_id=tokenizer.eos_token_id,
    )
    return {f"text_encoder{suffix}": kind(config).eval(), f"tokenizer{suffix}": tokenizer}


def _t5(suffix: str = "") -> dict:
    """Its tokens are letters."""
    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("\u2581", -2.0), *letters]
    config = T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return {
        f"text_encoder{suffix}": T5EncoderModel(config).eval(),
        f"tokenizer{suffix}": T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512),
    }


def _unet(**changes) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **({"cross_attention_dim": 16} | changes),
    )


def _consistency() -> LatentConsistencyModelPipeline:
    return LatentConsistencyModelPipeline(
        vae=vae(),
        **_clip(),
        unet=_unet(time_cond_proj_dim=8),
        scheduler=LCMScheduler(**BETAS, set_alpha_to_one=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _xl() -> StableDiffusionXLPipeline:
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    return StableDiffusionXLPipeline(
        vae=vae(force_upcast=True),
        **_clip(),
        **_clip("_2", CLIPTextModelWithProjection),
        add_watermarker=False,
        unet=_unet(
            cross_attention_dim=32, projection_class_embeddings_input_dim=12 + 6 * 4, **sizes
        ),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
    )


def _three(*, with_t5: bool = True) -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(
        vae=vae(16, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        **_clip("", CLIPTextModelWithProjection),
        **_clip("_2", CLIPTextModelWithProjection),
        **(_t5("_3") if with_t5 else {"text_encoder_3": None, "tokenizer_3": None}),
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            pos_embed_max_size=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _flux(*, guided: bool) -> FluxPipeline:
    dynamic = {"use_dynamic_shifting": guided, "shift": 3.0 if guided else 1.0}
    return FluxPipeline(
        vae=vae(4, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        **_clip(),
        **_t5("_2"),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=guided,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**dynamic),
    )


def _pixart(kind: type, **changes) -> DiffusionPipeline:
    return kind(
        **_t5(),
        vae=vae(),
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            cross_attention_dim=24,
            caption_channels=32,
            sample_size=8,
            patch_size=2,
            norm_num_groups=4,
            **changes,
        ),
        scheduler=DPMSolverMultistepScheduler(
            num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02
        ),
    )


def _dit() -> DiTPipeline:
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    return DiTPipeline(transformer, vae(), DDIMScheduler(clip_sample=False), id2label=CLASSES)


CLASSES = {0: "tench, Tinca tinca", 1: "goldfish"}


def _pixels(classes: int | None = None) -> DDPMPipeline:
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    )
    if classes:
        return DDIMPipeline(unet, DDIMScheduler(clip_sample=False))
    return DDPMPipeline(unet, DDPMScheduler(clip_sample=False))


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS = {
    "sd1": PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False),
    "sd2": DDIMScheduler(
        **BETAS,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ),
    "zero": DDIMScheduler(
        **BETAS,
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ),
}


def _inpainting() -> StableDiffusionInpaintPipeline:
    return StableDiffusionInpaintPipeline(
        vae=vae(),
        **_clip(),
        unet=_unet(in_channels=9),
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _xl_inpainting() -> StableDiffusionXLInpaintPipeline:
    plain = _xl()
    unet = UNet2DConditionModel.from_config(plain.unet.config, in_channels=9)
    return StableDiffusionXLInpaintPipeline(**{**plain.components, "unet": unet})


FAMILIES = {
    "Stable Diffusion 1.x": lambda: pipeline(SCHEDULERS["sd1"]),
    "Stable Diffusion inpainting": _inpainting,
    "Stable Diffusion XL inpainting": _xl_inpainting,
    "Stable Diffusion 2.x (v)": lambda: pipeline(SCHEDULERS["sd2"]),
    "Stable Diffusion 2.x (v, zero SNR)": lambda: pipeline(SCHEDULERS["zero"]),
    "Stable Diffusion turbo": lambda: pipeline(
        EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    ),
    "Latent consistency (LCM)": _consistency,
    "Stable Diffusion XL": _xl,
    "Stable Diffusion 3": _three,
    "Stable Diffusion 3 without T5": lambda: _three(with_t5=False),
    "Flux.1 dev": lambda: _flux(guided=True),
    "Flux.1 schnell": lambda: _flux(guided=False),
    "PixArt-alpha": lambda: _pixart(PixArtAlphaPipeline),
    "PixArt-Sigma": lambda: _pixart(PixArtSigmaPipeline),
    "DiT (classes)": _dit,
    "Pixels, told nothing": _pixels,
    "Pixels, told a class": lambda: _pixels(5),
}
"""A tiny pipeline of each family, with random weights."""


ODD = {"PixArt-alpha, large": lambda: _pixart(PixArtAlphaPipeline, use_additional_conditions=True)}


def family(name: str) -> DiffusionPipeline:
    torch.manual_seed(0)
    found = (FAMILIES | ODD)[name]()
    for part in found.components.values():  # diffusers' transformers start their last layer at zero
        if isinstance(part, torch.nn.Module):
            part.eval()
            for parameter in part.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
    found.set_progress_bar_config(disable=True)
    return found


def save_family(name: str, folder: Path) -> Path:
    """The pipeline of `family` as its authors publish it."""
    found = family(name)
    found.save_pretrained(folder)
    if isinstance(found, DiTPipeline):  # whose classes diffusers reads but does not write
        index = folder / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": CLASSES}))
    return folder


def save_clip(folder: Path, kind: str = "clip") -> Path:
    """A CLIP or SigLIP of 12 numbers, with the bundled tokenizer."""
    tokenizer = CLIPTokenizer.from_pretrained(SCENES.clip)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        **sizes,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "projection_dim": 12,
        **special,
    }
    vision = {**sizes, "image_size": 8, "patch_size": 4, "projection_dim": 12}
    torch.manual_seed(0)
    if kind == "clip":
        CLIPModel(
            CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        ).save_pretrained(folder)
    else:
        SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(PREPROCESSOR)
    return folder


def save_head(path: Path, width: int = 12) -> Path:
    """An aesthetic head: one linear layer."""
    generator = torch.Generator().manual_seed(0)
    save_file(
        {"weight": torch.randn(1, width, generator=generator), "bias": torch.full((1,), 5.0)}, path
    )
    return path


def save_classifier(folder: Path) -> ViTForImageClassification:
    """A classifier of `LABELS`; returns it too."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    network = ViTForImageClassification(config).eval()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(PREPROCESSOR)
    return network


def allocated(work: Callable[[], object]) -> int:
    """The most bytes that the allocator itself had given out during some work."""
    live = peak = 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@cache
def save_tuned(model: Model) -> str:
    """A LoRA of a model's first matrix that has a layer's name, in the file of a training."""
    own = [(n, w) for part in model.network.networks for n, w in part.named_parameters()]
    name, weight = next((n, w) for n, w in own if w.dim() == 2 and n.endswith(".weight"))
    layer, draw = name.removesuffix(".weight"), torch.Generator().manual_seed(0)
    sizes = {"A": (1, weight.shape[1]), "B": (weight.shape[0], 1)}
    lora = {
        f"unet.{layer}.lora_{each}.weight": torch.randn(size, generator=draw)
        for each, size in sizes.items()
    }
    path = Path(tempfile.mkdtemp(prefix="chainrule-")) / "pytorch_lora_weights.safetensors"
    save_file(lora, path)
    return str(path)


@cache
def save_moved(model: Model) -> str:
    """A direction of a model's bottleneck, in the file of a training."""
    told = model.denoiser("", guidance_scale=1.0)
    begun = Learnt.begin(bottleneck(told, torch.zeros(1, *model.codec.latent_shape), 301.0))
    draw = torch.Generator().manual_seed(0)
    values = {n: v + torch.randn(v.shape, generator=draw) for n, v in begun.values.items()}
    path = Path(tempfile.mkdtemp(prefix="chainrule-")) / "direction.safetensors"
    save_direction(path, Saved(Learnt(values), 1.0, -1.0), "")
    return str(path)


def required(kind: str, model: Model | None = None) -> dict[str, Any]:
    """The settings without which a method has nothing to do."""
    if kind in ("diffusion-clip", "asyrp-trained"):
        return {"change": "a red circle > a blue circle"}
    if kind == "asyrp-edit":
        return {"directions": {save_moved(model or load_once()): 1.0}}
    if kind == "diffusion-clip-edit":
        return {"tuned": {save_tuned(model or load_once()): 1.0}}
    return {}


@cache
def load_once(name: str = "scenes") -> Model:
    """A model that tests share: the bundled one, or a tiny one of a family. Who changes it changes it back."""
    return chainrule.load(None if name == "scenes" else family(name))
