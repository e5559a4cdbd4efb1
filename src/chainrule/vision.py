"""What a recognition network is shown: images resized and normalised as it expects.

All of it is differentiable.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chainrule.errors import UserError, find_reason
from chainrule.specs import expand

CAPTURING = "transformers.utils.output_capturing"
LONGEST = 200
"""How much is quoted of another library's message."""
PATIENCE = 10.0
"""Seconds to wait for the hub's answer."""


@dataclass(frozen=True)
class Preprocess:
    """`images (B, 3, H, W) in [0, 1] -> (B, 3, *size)`, in the network's `dtype`.

    Args:
        size: The height and width that the network takes, in pixels.
        mean: The mean of each channel in its training, in [0, 1].
        std: The standard deviation of each channel in its training.
        flipped: Whether the network wants blue first.
        dtype: That of the network's weights.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    flipped: bool = False
    dtype: torch.dtype = torch.float32

    def __call__(self, images: Tensor) -> Tensor:
        if tuple(images.shape[-2:]) != self.size:
            images = functional.interpolate(
                images, self.size, mode="bilinear", antialias=True, align_corners=False
            )
        mean, std = (images.new_tensor(value)[:, None, None] for value in (self.mean, self.std))
        pixels = ((images - mean) / std).to(self.dtype)
        return pixels.flip(1) if self.flipped else pixels


def load_pretrained(
    auto_class: str, name: str | Path, what: str, *, unasked: tuple[str, ...] = ()
) -> tuple[Any, Preprocess]:
    """A `transformers` vision network, frozen and whole, and what it is to be shown.

    Only a download shows a progress bar, and no code that comes with the weights is run.

    Args:
        auto_class: The name of the class that loads it, as in "AutoModel".
        name: A folder, or a name on the hub.
        what: Its kind in words, for messages: "image classifier".
        unasked: Parts of tensors' names that may be missing, because nothing asks them.

    Returns:
        The network, in float32, and the preprocessing that its folder names.

    Raises:
        UserError: There is none of that name, it is of another kind, or parts of it are missing.
    """
    import transformers
    from transformers import PreTrainedConfig
    from transformers.image_processing_base import ImageProcessingMixin

    source = find_source(name, what)
    folder = Path(source).is_dir()
    loader = getattr(transformers, auto_class)
    try:
        with quiet_transformers(bars=not folder):  # a download shows how far it is
            _refuse_what_asks_for_more(PreTrainedConfig.get_config_dict(source)[0], Path(source))
            network, found = loader.from_pretrained(
                source,
                dtype=torch.float32,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
            )
            _check_whole(network, found, unasked)
            try:
                settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
            except OSError as error:
                raise UserError(
                    "it does not say what it is to be shown",
                    "put its preprocessor_config.json beside its config.json",
                ) from error
        preprocess = _preprocess(settings)
    except MemoryError:
        raise
    except Exception as error:  # transformers raises many kinds
        reason, cure = explain(error)
        raise UserError(
            f"{str(expand(name))!r} cannot be loaded as {_article(what)} ({reason})", cure
        ) from error
    return network.eval().requires_grad_(False), preprocess


def find_source(name: str | Path, what: str) -> str:
    """Where a network is: its folder, here or in the hub's cache, or its name if the hub has it.

    The hub is asked once, and only for what its cache has not.

    Args:
        name: A folder, or owner/name.
        what: Its kind in words, for messages.

    Raises:
        UserError: There is none of that name, or the hub cannot be asked.
    """
    source = str(expand(name))
    if Path(source).is_dir():
        return source
    if str(name).startswith((".", "/", "~")):
        raise UserError(f"there is no {what} at {name}", "name a folder or a model on the hub")
    if Path(source).exists():
        raise UserError(f"{name} is a file, and no folder of {_article(what)}", "name its folder")
    if not all(part.strip() for part in source.split("/")) or source.count("/") != 1:
        raise UserError(
            f"there is no folder {source!r} here",
            "name a folder or owner/name; omit it for that of the model's world",
        )
    cached = _find_cached(source)
    if cached is None:
        ask_hub(source, f"there is no folder {source!r} here,")
    return source if cached is None else str(cached)


def _find_cached(name: str) -> Path | None:
    """The folder of a network in the hub's cache, if all of it is there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError as error:
        raise UserError(f"{name!r} is not a name on the hub", "write owner/name") from error
    folder = Path(found).parent if isinstance(found, str) else None
    if folder is None or not (folder / "preprocessor_config.json").exists():
        return None
    names = ("model.safetensors", "pytorch_model.bin")
    if any((folder / each).exists() for each in names):
        return folder
    for each in names:
        index = folder / f"{each}.index.json"
        if index.exists():
            parts = set(json.loads(index.read_text()).get("weight_map", {}).values())
            return folder if all((folder / part).exists() for part in parts) else None
    return None


def ask_hub(name: str, otherwise: str, field: str | None = None) -> None:
    """Raise UserError if the hub does not give a network. One question, no second.

    Args:
        name: owner/name.
        otherwise: What is wrong where nothing comes from the hub, for messages.
        field: The setting that names it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=PATIENCE)
    except GatedRepoError as error:
        raise UserError(
            f"{name} asks to be agreed to on the hub",
            "agree on its page, and log in (hf auth login)",
            field,
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{otherwise} and the hub does not give a model of that name",
            "check the name; of a private one, log in (hf auth login)",
            field,
        ) from error
    except Exception as error:  # the connection's, of many kinds
        raise UserError(
            f"{otherwise} and the hub cannot be asked ({find_reason(error)})",
            "check the name and the connection",
            field,
        ) from error


def explain(error: Exception) -> tuple[str, str]:
    """Why a network or its weights cannot be loaded, in one clause, and the cure.

    Args:
        error: What transformers, torch or safetensors raised.
    """
    if isinstance(error, UserError):
        return error.cause, error.cure or "check the name"
    text = str(error)
    if "trust_remote_code" in text or "custom code" in text:
        return "it comes with code of its own, which is not run", "name one that transformers knows"
    if isinstance(error, UnpicklingError) or "weights_only" in text or "Weights only" in text:
        return "its pickle is damaged, or holds more than tensors", "save it as safetensors"
    if type(error).__name__ == "SafetensorError":
        return "its weights are damaged", "fetch them again"
    first = text.splitlines()[0] if text.strip() else type(error).__name__
    return first if len(first) <= LONGEST else f"{first[:LONGEST]}...", "check the name"


class Portable:
    """What asks networks of transformers, and can be pickled after it has.

    At its first use transformers hangs closures into a network, which capture its hidden states,
    and which no pickle takes. It hangs them anew into one that has none.
    """

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that it asks."""
        return ()

    def __getstate__(self) -> dict[str, Any]:
        return _forget_hooks(self.__dict__, self.networks)


def _forget_hooks(state: dict[str, Any], networks: Sequence[nn.Module]) -> dict[str, Any]:
    """A state whose networks, with the same weights, have no hooks of transformers.

    Args:
        state: What some object holds; it stays as it is.
        networks: The networks in it.
    """
    hooked = [each for each in networks if any(map(_captures, each.modules()))]
    if not hooked:
        return dict(state)
    # what else a pipeline has is not copied
    parts = [each for value in state.values() for each in getattr(value, "components", {}).values()]
    kept = [part for part in parts if not any(part is each for each in hooked)]
    kept += [weight for each in hooked for weight in (*each.parameters(), *each.buffers())]
    memo = {id(each): each for each in kept}
    copied = copy.deepcopy(state, memo)
    for network in hooked:
        for module in memo[id(network)].modules():
            for key in _captures(module):
                del module._forward_hooks[key]
            module.__dict__.pop("_output_capturing_hooks_installed", None)
    return copied


def _captures(module: nn.Module) -> list[int]:
    """The keys of the hooks by which transformers captures a module's output."""
    hooks = module._forward_hooks.items()
    return [key for key, hook in hooks if getattr(hook, "__module__", "") == CAPTURING]


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Within it, a network that does not take images of the size that it was said to is said.

    Args:
        what: The network, for messages.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, UserError) or "size" not in str(error).lower():
            raise
        raise UserError(
            f"{what} does not take what its preprocessor_config.json says ({explain(error)[0]})",
            "write the size of its training there",
        ) from error


def _refuse_what_asks_for_more(config: Any, source: Path) -> None:
    """Raise UserError for a network that is not all of it: its code, or its weights, elsewhere."""
    for key, value in _walk(config):
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise UserError(
                f"its attention is code from elsewhere, {value[:80]!r}, which is not run",
                "name another, or remove that from its config.json",
            )
    if isinstance(config, dict) and config.get("quantization_config"):
        raise UserError("its weights are quantised", "name one in float32, float16 or bfloat16")
    if (source / "adapter_config.json").exists():
        raise UserError(
            "it is an adapter of another network", "merge them, and name the folder of the merged"
        )


def _walk(config: Any) -> Iterator[tuple[str, Any]]:
    """Every setting of a configuration and of those within it."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield str(key), value
            yield from _walk(value)


def _check_whole(network: Any, found: Mapping[str, Any], unasked: tuple[str, ...]) -> None:
    """Raise UserError if a part of the network was made up, because its weights are not there."""
    unasked += ("num_batches_tracked", "position_ids")  # which older files do not have
    missing = {key for key in found["missing_keys"] if not any(part in key for part in unasked)}
    others = {str(each[0]) for each in found["mismatched_keys"]}
    for keys, wrong in ((missing, "are missing"), (others, "are of another size")):
        if keys:
            some = ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
            raise UserError(
                f"{len(keys)} of the weights of a {type(network).__name__} {wrong}: {some}",
                "name a complete network of this kind",
            )
    if getattr(network, "_hf_peft_config_loaded", False):
        raise UserError("it is an adapter of another network", "name that, with the adapter merged")


@contextmanager
def quiet_transformers(*, bars: bool = False) -> Iterator[None]:
    """Within it, transformers does not report what it loads; it draws progress bars if `bars`."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    hide = logging.is_progress_bar_enabled() and not bars
    logging.set_verbosity_error()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if hide:
            logging.enable_progress_bar()


def load_weights(path: str | Path, what: str) -> dict[str, Tensor]:
    """The state dict in a file that holds nothing but tensors.

    Args:
        path: A safetensors file, or one of PyTorch.
        what: What it should be, in words, for messages: "a VGG".

    Raises:
        UserError: There is no such file, or it is not a state dict.
    """
    path = expand(path)
    if not path.is_file():
        wrong = f"{path} is not a file" if path.exists() else f"there is no file {path}"
        raise UserError(wrong, f"name the weights of {what}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            with warnings.catch_warnings():  # of a pickle's age
                warnings.simplefilter("ignore")
                found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # both libraries raise many kinds
        reason, _ = explain(error)
        raise UserError(
            f"{path} cannot be read as the weights of {what} ({reason})",
            "name a safetensors file, or a state dict of tensors only",
        ) from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} holds no state dict", f"name the weights of {what}")
    if not found:
        raise UserError(f"{path} is empty", f"name the weights of {what}")
    return {str(key): value for key, value in found.items()}


def _article(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _preprocess(settings: Any) -> Preprocess:
    """What a preprocessor's settings ask for. Without a mean there, nothing is normalised."""
    if not isinstance(settings, dict):
        raise UserError("its preprocessor_config.json holds no settings", "fetch it again")
    _refuse_own_processor(settings)
    mean, std = settings.get("image_mean"), settings.get("image_std")
    flipped = bool(settings.get("do_flip_channel_order", False))
    if not settings.get("do_normalize", mean is not None):
        return Preprocess(_size(settings), (0.0,) * 3, (1.0,) * 3, flipped)
    half = (0.5,) * 3
    centre, spread = (_colour(half if value is None else value) for value in (mean, std))
    if min(spread) <= 0:
        raise UserError(f"its image_std is {list(spread)}", "numbers above 0 are wanted there")
    return Preprocess(_size(settings), centre, spread, flipped)


def _refuse_own_processor(settings: Mapping[str, Any]) -> None:
    """Raise UserError for settings that only code beside the weights knows how to read."""
    import transformers

    own = settings.get("auto_map")
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if kind is None and isinstance(own, dict):
        kind = own.get("AutoImageProcessor") or own.get("AutoFeatureExtractor")
    if own and kind is not None and not hasattr(transformers, str(kind)):
        raise UserError(
            f"its image processor ({str(kind)!r:.60}) is code of its own, which is not run",
            "name a network whose image processor transformers knows",
        )


def _colour(value: Any) -> tuple[float, ...]:
    """A number for each of three channels; one stands for all."""
    values = value if isinstance(value, (list, tuple)) else [value] * 3
    if len(values) != 3 or not all(isinstance(each, (int, float)) for each in values):
        raise UserError(
            f"its image_mean and image_std are not of three colours but {value!r:.60}",
            "name a network of RGB images",
        )
    return tuple(map(float, values))


def _size(settings: dict[str, Any]) -> tuple[int, int]:
    """The input size in a preprocessor's settings, which have had several forms over the years."""
    size = settings.get("crop_size") or settings.get("size") or 224
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = [edge, edge] if edge else [size.get("height"), size.get("width")]
    sides = [size, size] if isinstance(size, int) else size
    if (
        not isinstance(sides, (list, tuple))
        or len(sides) != 2
        or not all(isinstance(side, int) and side > 0 for side in sides)
    ):
        raise UserError(
            f"its preprocessor_config.json names no size of images ({size!r:.60})",
            "write one there, as {'height': 224, 'width': 224}",
        )
    return sides[0], sides[1]
