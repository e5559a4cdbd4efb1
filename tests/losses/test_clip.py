"""CLIP's losses, and what is built on its embeddings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from chainrule import UserError
from chainrule.losses import Aesthetic, ClipImage, ClipText, load_clip, load_rater
from chainrule.losses.aesthetic import linear_layers
from chainrule.losses.clip import Clip, spherical_distance
from tiny import save_clip


@pytest.fixture(scope="session", params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def clip(folder: Path) -> Clip:
    return load_clip(folder)


def images(batch: int = 3, side: int = 16) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0, math.pi])
def test_spherical_distance_is_half_the_square_of_the_angle(angle: float) -> None:
    u = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    distance = spherical_distance(u, v)
    assert distance.item() == pytest.approx(angle**2 / 2, abs=1e-9)
    if angle < 3:
        assert torch.isfinite(torch.autograd.grad(distance, u)[0]).all()


def test_losses_are_distances_of_unit_embeddings(clip: Clip) -> None:
    x = images()
    u, v = clip.embed_images(x), clip.embed_texts(["a red shape"])
    torch.testing.assert_close(u.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(
        ClipText(clip, "a red shape")(x), 2 * torch.asin((u - v).norm(dim=1) / 2) ** 2
    )
    mean = torch.nn.functional.normalize((u[:1] + u[1:2]) / 2, dim=1)
    expected = 2 * torch.asin((u - mean).norm(dim=1) / 2) ** 2
    torch.testing.assert_close(ClipImage(clip, [x[0], x[1]])(x), expected)
    assert ClipImage(clip, [x[0]])(x)[0].item() < 1e-6


def test_gradients_reach_the_pixels_and_each_image_has_its_own_loss(clip: Clip) -> None:
    x = images().double().requires_grad_()
    loss = ClipText(clip, "a red shape")
    values = loss(x)
    assert values.dtype == torch.float64
    (gradient,) = torch.autograd.grad(values[1], x)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0
    torch.testing.assert_close(loss(x[1:2]), values[1:2])


def test_an_ensemble_is_a_weighted_sum_whose_terms_are_named(clip: Clip) -> None:
    a, b, x = ClipText(clip, "a red shape"), ClipImage(clip, [images()[0]]), images()
    both = 0.5 * a + 0.25 * b
    torch.testing.assert_close(both(x), 0.5 * a(x) + 0.25 * b(x))
    torch.testing.assert_close(both.terms(x), torch.stack([0.5 * a(x), 0.25 * b(x)]))
    assert both.names == (f"0.5*{clip.name} text=a red shape", f"0.25*{clip.name} image")
    assert both.networks == (clip.network,)


def test_what_cannot_be_read_is_said(clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty: say what"):
        ClipText(clip, "  ")
    with pytest.raises(UserError, match=r"tokens and .* reads 24: shorten"):
        ClipText(clip, "red " * 60)
    with pytest.raises(UserError, match="no pictures"):
        ClipImage(clip, [])
    with pytest.raises(UserError, match="there is no CLIP at"):
        load_clip(tmp_path / "nothing")


@pytest.mark.parametrize(
    "shapes",
    [
        {"weight": (1, 0)},
        {"layers.0.weight": (5, 0), "layers.2.weight": (4, 5), "layers.10.weight": (1, 4)},
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_public_heads_load(
    clip: Clip, folder: Path, tmp_path: Path, shapes: dict[str, tuple[int, int]], suffix: str
) -> None:
    width = clip.width
    weights = {key: torch.randn(after, before or width) for key, (after, before) in shapes.items()}
    weights |= {
        key.replace("weight", "bias"): torch.randn(shape[0]) for key, shape in shapes.items()
    }
    path = tmp_path / f"head{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    rater, x = load_rater(path, folder), images()
    expected = rater.clip.embed_images(x)
    for key in shapes:
        expected = expected @ weights[key].T + weights[key.replace("weight", "bias")]
    torch.testing.assert_close(rater(x), expected[:, 0])
    assert rater.networks == (rater.clip.network, rater.head)
    torch.testing.assert_close(Aesthetic(rater, 10.0)(x), (expected[:, 0] - 10).abs())


def test_a_head_of_another_clip_and_no_head_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_file({"weight": torch.randn(1, 768)}, path)
    with pytest.raises(UserError, match="reads embeddings of 768 numbers"):
        load_rater(path, folder)
    with pytest.raises(UserError, match="are not an aesthetic head"):
        linear_layers({"weight": torch.randn(3, 12)})
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(UserError, match="cannot be read as the weights of an aesthetic head"):
        load_rater(tmp_path / "text.pth", folder)
    with pytest.raises(UserError, match="there is no file"):
        load_rater(tmp_path / "nothing.pth", folder)
