"""Checkpoints in one file, in the layout of the original code (as CivitAI has them).

The file has the weights. Its configuration and its tokenizer come from a diffusers folder of the
same family, and diffusers converts.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from chainrule.errors import UserError
from chainrule.models.folders import CheckpointWarning, Folder, check_whole, open_folder
from chainrule.models.hub import find_cached
from chainrule.models.quiet import first_line, reading
from chainrule.specs import expand


class Kind(NamedTuple):
    """A family of files: its name, its pipelines, and where on the hub its configuration is."""

    name: str
    families: tuple[str, ...]
    repositories: tuple[str, ...]


SD = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "LatentConsistencyModelPipeline")
XL = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
KINDS: dict[str, Kind] = {
    "v1": Kind(
        "Stable Diffusion 1",
        SD,
        (
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "runwayml/stable-diffusion-v1-5",
            "CompVis/stable-diffusion-v1-4",
        ),
    ),
    "v2": Kind(
        "Stable Diffusion 2",
        SD,
        ("stabilityai/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1-base"),
    ),
    "inpainting": Kind(
        "Stable Diffusion 1 inpainting",
        ("StableDiffusionInpaintPipeline",),
        (
            "stable-diffusion-v1-5/stable-diffusion-inpainting",
            "runwayml/stable-diffusion-inpainting",
        ),
    ),
    "inpainting_v2": Kind(
        "Stable Diffusion 2 inpainting",
        ("StableDiffusionInpaintPipeline",),
        ("stabilityai/stable-diffusion-2-inpainting",),
    ),
    "xl_base": Kind("Stable Diffusion XL", XL, ("stabilityai/stable-diffusion-xl-base-1.0",)),
    "xl_inpaint": Kind(
        "Stable Diffusion XL inpainting",
        ("StableDiffusionXLInpaintPipeline",),
        ("diffusers/stable-diffusion-xl-1.0-inpainting-0.1",),
    ),
}
"""By what diffusers infers from the names of the tensors."""

OTHERS = {
    "xl_refiner": "the refiner of Stable Diffusion XL, which has no use without the base model",
    "upscale": "an upscaler",
    "controlnet": "a ControlNet, which steers another checkpoint",
    "flux-dev": "a Flux checkpoint, which is read from its diffusers folder only",
    "flux-schnell": "a Flux checkpoint, which is read from its diffusers folder only",
    "sd3": "a Stable Diffusion 3 checkpoint, which is read from its diffusers folder only",
    "sd35": "a Stable Diffusion 3.5 checkpoint, which is read from its diffusers folder only",
}
"""What else it infers, by how that begins."""

NETWORK, TEXT = "model.diffusion_model.", ("cond_stage_model.", "conditioner.")
AUTOENCODER = ("first_stage_model.",)
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


class SingleFile:
    """A file of weights; opening it reads the names and shapes of its tensors.

    Args:
        path: The file.

    Raises:
        UserError: It is no checkpoint that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix == ".gguf":
            raise UserError(
                f"{path} is quantised (gguf), which is not supported",
                "choose the checkpoint as .safetensors in float16 or float32",
                "model",
            )
        if path.suffix in PICKLES:
            raise UserError(
                f"{path} is a pickle, which could run code",
                "convert it to .safetensors, or fetch it so",
                "model",
            )
        self.shapes = _read_shapes(path)
        other = _name_other(self.shapes)
        if other is not None:
            what, cure = other
            raise UserError(f"{path} is {what}, not a checkpoint", cure, "model")

    @cached_property
    def kind(self) -> Kind:
        """Its family. Raises UserError if it is not supported."""
        from diffusers.loaders.single_file_utils import infer_diffusers_model_type

        empty = {name: torch.empty(shape, device="meta") for name, shape in self.shapes.items()}
        with reading(str(self.path)):
            inferred = str(infer_diffusers_model_type(empty))
        if inferred in KINDS:
            return KINDS[inferred]
        known = (text for begin, text in OTHERS.items() if inferred.startswith(begin))
        raise UserError(
            f"{self.path} is {next(known, f'of the family {inferred}')}",
            f"single files of {', '.join(kind.name for kind in KINDS.values())} are read",
            "model",
        )

    def find_config(self, config: str | Path | None) -> Folder:
        """The folder that has its configuration.

        Args:
            config: The one that was named, as a folder or by its name on the hub.

        Raises:
            UserError: There is none.
        """
        named, repositories = config is not None, self.kind.repositories
        if config is not None and expand(config).is_dir():
            return open_folder(expand(config), str(config))
        for name in (str(config),) if named else repositories:
            cached = find_cached(name) if name.count("/") == 1 else None
            if cached is not None:
                return open_folder(cached, name)
        if named:
            raise UserError(
                f"there is no diffusers folder {str(config)!r}, nor one of that name in the hub's "
                "cache",
                "name a folder with a model_index.json",
                "config",
            )
        raise UserError(
            f"{self.path} is a {self.kind.name} checkpoint, and a single file lacks its "
            "configuration and its tokenizer",
            f"name a diffusers folder that has them as config, or fetch {repositories[0]} into "
            "the hub's cache (hf download)",
            "config",
        )

    def check_family(self, family: str) -> str:
        """The family of a configuration. Raises UserError if it is not the file's."""
        if family not in self.kind.families:
            raise UserError(
                f"{self.path} is a {self.kind.name} checkpoint, and the configuration is of a "
                f"{family}",
                f"name that of a {self.kind.families[0]}",
                "config",
            )
        return family

    def read(self, folder: Folder, kind: Any, dtype: torch.dtype) -> Any:
        """The pipeline.

        Args:
            folder: Its configuration.
            kind: The pipeline's class.
            dtype: The weights'.

        Raises:
            UserError: The two do not belong together, or a part of the weights is missing.
        """
        from diffusers.utils import is_accelerate_available

        if not is_accelerate_available():
            # without it, diffusers does not say which weights a file lacks
            raise UserError("a single file needs accelerate", "pip install accelerate", "model")
        cure = "name the configuration that belongs to it, or fetch the file again"
        with reading(str(self.path), cure):
            pipeline = kind.from_single_file(
                str(self.path),
                config=str(folder.path),
                local_files_only=True,
                dtype=dtype,
                safety_checker=None,
            )
        for part, network in pipeline.components.items():
            if isinstance(network, nn.Module):
                tensors = (*network.named_parameters(), *network.named_buffers())
                missing = [name for name, value in tensors if value.is_meta]
                check_whole(f"the {part} of {self.path}", missing)
                network.eval()
        if self.kind.name.startswith("Stable Diffusion 2"):
            predicts = pipeline.scheduler.config.get("prediction_type", "epsilon")
            warnings.warn(
                f"{self.path} does not say whether its network predicts the noise or v; it is "
                f"taken for {predicts}, as {folder.name} has it",
                CheckpointWarning,
                stacklevel=2,
            )
        return self._mark_v(pipeline)

    def _mark_v(self, pipeline: Any) -> Any:
        """The pipeline with the parameterization of the file: XL's say v by an empty tensor."""
        changes = {"prediction_type": "v_prediction"} if "v_pred" in self.shapes else {}
        zero = {"rescale_betas_zero_snr": True} if "ztsnr" in self.shapes else {}
        if changes:
            scheduler = pipeline.scheduler
            pipeline.scheduler = type(scheduler).from_config(scheduler.config, **changes, **zero)
        return pipeline


def _read_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of a file's tensors by their names."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises several kinds
        raise UserError(
            f"{path} is not a .safetensors file, or is damaged ({first_line(error)})",
            "name a checkpoint, or fetch it again",
            "model",
        ) from error


def _name_other(shapes: Mapping[str, list[int]]) -> tuple[str, str] | None:
    """What a file is that is not a whole checkpoint, and what to do with it; None if it is one."""

    def has(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in shapes)

    if any("lora_" in name or ".hada_" in name or ".lokr_" in name for name in shapes):
        return "a LoRA", "name it as lora, beside the checkpoint that it is for"
    if has("emb_params", "string_to_param", "clip_l", "clip_g") or (
        len(shapes) == 1 and next(iter(shapes)).startswith("<")
    ):
        return "a textual inversion", "name it as embedding, beside the checkpoint that it is for"
    if has("control_model.", "controlnet_"):
        return "a ControlNet", "name the checkpoint that it steers"
    whole = "name a file that has the network, the text encoder and the autoencoder"
    if has(NETWORK):
        lacking = [
            part
            for part, names in {"text encoder": TEXT, "autoencoder": AUTOENCODER}.items()
            if not has(*names)
        ]
        of_another = has(f"{NETWORK}joint_blocks.", f"{NETWORK}double_blocks.")
        if lacking and not of_another:
            return f"a network without its {' and '.join(lacking)}", whole
        return None
    if has("encoder.", "decoder.", *AUTOENCODER):
        return "an autoencoder (VAE)", whole
    if has("text_model.", "text_projection", *TEXT):
        return "a text encoder", whole
    if has("down_blocks.", "transformer_blocks.", "conv_in."):
        return "one part of a diffusers folder", "name the folder that has the model_index.json"
    if has("double_blocks.", "joint_blocks."):
        return "a transformer without its text encoders and autoencoder", whole
    return "a file of tensors of another kind", whole
