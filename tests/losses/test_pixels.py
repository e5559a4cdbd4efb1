"""Losses on pixels and on the features of a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

from chainrule import Noise, UserError
from chainrule.losses import (
    Brightness,
    Call,
    ColourHistogram,
    Cutouts,
    Loss,
    Perceptual,
    Style,
    Symmetry,
    Target,
    load_backbone,
    load_vgg,
)
from chainrule.losses.cutouts import crop
from chainrule.losses.features import BLOCKS, Features
from chainrule.losses.style import gram


def images(batch: int = 3, side: int = 32) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def vgg_weights(depth: int) -> dict[str, Tensor]:
    """Random weights of a VGG, named as torchvision names them, classifier and all."""
    weights, index, before = {"classifier.0.weight": torch.zeros(1, 1)}, 0, 3
    generator = torch.Generator().manual_seed(0)
    for width, convolutions in BLOCKS[depth]:
        for _ in range(convolutions):
            scale = (2 / (9 * before)) ** 0.5
            value = scale * torch.randn(width, before, 3, 3, generator=generator)
            weights[f"features.{index}.weight"] = value
            weights[f"features.{index}.bias"] = torch.zeros(width)
            index, before = index + 2, width
        index += 1
    return weights


@pytest.fixture(scope="session", params=["vgg16", "vgg19", "resnet", "vit"])
def features(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Features:
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param.startswith("vgg"):
        torch.save(vgg_weights(int(request.param[3:])), path / "vgg.pth")
        return load_vgg(path / "vgg.pth")
    if request.param == "resnet":
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        )
        ResNetModel(config).save_pretrained(path)
    else:
        sizes = {
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 8,
        }
        ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(path)
    (path / "preprocessor_config.json").write_text('{"size": {"height": 32, "width": 32}}')
    return load_backbone(path)


def losses() -> list[Loss]:
    picture = images(side=16)[0]
    return [
        Symmetry(),
        Target(picture),
        Target(picture, power=1.0),
        Brightness(0.7),
        ColourHistogram(picture),
    ]


@pytest.mark.parametrize("loss", losses(), ids=lambda loss: f"{loss.names[0]}")
def test_each_image_has_its_own_loss_and_gradient(loss: Loss) -> None:
    x = images().requires_grad_()
    values = loss(x)
    torch.testing.assert_close(loss(x[1:2]), values[1:2])
    (gradient,) = torch.autograd.grad(values[1], x)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0


def test_pixel_losses_are_their_formulas() -> None:
    x, picture = images(), images()[0]
    torch.testing.assert_close(Symmetry()(x), ((x - x.flip(3)) ** 2).mean(dim=(1, 2, 3)))
    assert Symmetry()(torch.cat([x, x.flip(3)], dim=3)).abs().max() == 0
    torch.testing.assert_close(Target(picture)(x), ((x - picture) ** 2).mean(dim=(1, 2, 3)))
    torch.testing.assert_close(
        Target(x.flip(0))(x), ((x - x.flip(0)) ** 2).mean(dim=(1, 2, 3))
    )  # one for each
    mask = torch.zeros(32, 32)
    mask[:8] = 1
    torch.testing.assert_close(
        Target(picture, mask, power=1.0)(x), (x - picture)[:, :, :8].abs().mean(dim=(1, 2, 3))
    )
    grey = torch.full((1, 3, 4, 4), 0.25)
    torch.testing.assert_close(Brightness(0.75)(grey), torch.tensor([0.25]))


def test_a_histogram_does_not_care_for_places() -> None:
    x = images()
    shuffled = x[0].flatten(1)[:, torch.randperm(32 * 32)].unflatten(1, (32, 32))
    torch.testing.assert_close(ColourHistogram(shuffled)(x)[0], torch.tensor(0.0))
    torch.testing.assert_close(ColourHistogram(x[0] + 0.1)(x)[0], torch.tensor(0.1))


def test_a_mask_of_the_wrong_size_or_empty_is_refused() -> None:
    with pytest.raises(
        UserError, match="the mask is 16x32 and the picture 32x32: they must be the same size"
    ):
        Target(images()[0], torch.ones(32, 16))
    with pytest.raises(UserError, match="the mask is empty"):
        Target(images()[0], torch.zeros(32, 32))


def test_content_and_style_are_distances(features: Features) -> None:
    x = images().requires_grad_()
    for loss in (Perceptual(features, images()[0]), Style(features, images()[0])):
        values = loss(x)
        assert values[0].item() == pytest.approx(0.0, abs=1e-9)
        assert values[1:].min() > 1e-9
        (gradient,) = torch.autograd.grad(values[1], x)
        assert gradient[1].abs().sum() > 0
        assert gradient[[0, 2]].abs().sum() == 0


def test_a_gram_matrix_forgets_places() -> None:
    f = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(gram(f[:, :, torch.randperm(12)]), gram(f))
    torch.testing.assert_close(gram(f)[1, 2, 3], (f[1, 2] * f[1, 3]).sum() / 60)


def test_a_file_that_is_no_vgg_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(UserError, match="have 1 convolutions, VGG-16 has 13"):
        load_vgg(tmp_path / "vgg.pth")


def test_what_judges_places_is_not_shown_crops() -> None:
    picture, x = images(side=16)[0], images()
    placed = Symmetry() + 2.0 * Target(picture)
    anywhere = Call(lambda x: x.std(dim=(1, 2, 3)), "spread")
    noise = Noise((0, 1, 2)).stream("doodl/crops")
    both = crop(placed + 0.5 * anywhere, 3, 0.3).replay(noise, 5)
    assert both.names == ("symmetry", "2*picture", "0.5*spread")
    terms = both.terms(x)
    torch.testing.assert_close(terms[:2], placed.terms(x))
    torch.testing.assert_close(terms[2], 0.5 * Cutouts(anywhere, 3).replay(noise, 5)(x))
    assert not torch.allclose(terms[2], 0.5 * anywhere(x))


def test_pictures_of_other_images_are_refused() -> None:
    with pytest.raises(UserError, match="there are 3 pictures for 1 images: give one for all"):
        Target(images())(images(1))


def test_two_losses_of_one_kind_have_two_names() -> None:
    picture = images()[0]
    twice = Target(picture) + 0.5 * Target(picture.flip(2))
    assert twice.names == ("picture", "0.5*picture")
    again = twice + Target(picture) + Target(picture)
    assert again.names == ("picture", "0.5*picture", "picture (2)", "picture (3)")
