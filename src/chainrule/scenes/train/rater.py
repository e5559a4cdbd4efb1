"""The head that rates pictures by the guiding CLIP's embedding, as the public ones do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.torch import save_file
from torch import Tensor

from chainrule.losses.clip import load_clip
from chainrule.scenes.rating import rate
from chainrule.scenes.train.base import Settings, reconstructions

RIDGE = 1e-3


@torch.no_grad()
def train(settings: Settings, rate: Callable[[Tensor], float] = rate, count: int = 20_000) -> None:
    """Least squares with a small ridge, from embeddings of reconstructions to their ratings.

    Args:
        settings: Where and how.
        rate: The rating of an image (3, 64, 64) in [0, 1].
        count: How many pictures, the last tenth of them to measure.
    """
    data, clip = reconstructions(settings), load_clip(settings.weights / "clip", settings.device)
    embeddings, ratings = [], []
    for index in torch.arange(min(count, len(data))).split(200):
        images = data.batch(index.numpy(), settings.device) / 2 + 0.5
        embeddings.append(clip.embed_images(images).cpu())
        ratings += [rate(image) for image in images.cpu()]
    x, y = torch.cat(embeddings).double(), torch.tensor(ratings).double()
    test = len(x) // 10
    weight, bias = _fit_line(x[:-test], y[:-test])
    error = x[-test:] @ weight + bias - y[-test:]
    print(
        f"rater: explains {1 - (error.square().mean() / y[-test:].var()).item():.3f} "
        "of the ratings' variance"
    )
    path = settings.weights / "rater" / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": weight[None].half(), "bias": bias[None].half()}, path)


def _fit_line(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(weight (D,), bias) of the least squares line from `x` (N, D) to `y` (N,)."""
    centred, offset = x - x.mean(dim=0), y - y.mean()
    gram = (
        centred.T @ centred / len(x) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype) * centred.var()
    )
    weight = torch.linalg.solve(gram, centred.T @ offset / len(x))
    return weight, y.mean() - x.mean(dim=0) @ weight
