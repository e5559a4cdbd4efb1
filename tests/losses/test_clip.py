"""CLIP's losses, and what is built on its embeddings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from chainrule import UserError
from chainrule.losses import Aesthetic, ClipImage, ClipText, load_clip, load_rater
from chainrule.losses.aesthetic import read_head
from chainrule.losses.clip import Clip, spherical_distance
from chainrule.vision import load_weights
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


def test_words_that_a_worlds_clip_has_never_seen_are_said(
    clip: Clip, recwarn: pytest.WarningsRecorder
) -> None:
    ClipText(clip, "a penguin")
    ClipText(load_clip(), "a red circle")
    assert not recwarn.list
    with pytest.warns(UserWarning, match="CLIP does not know the words: penguin; it knows red"):
        ClipText(load_clip(), "a red penguin")


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


class Head(nn.Module):
    """A head as its authors build it; `layers` says of what: L linear, D dropout, R ReLU."""

    def __init__(self, layers: str, width: int) -> None:
        super().__init__()
        sizes, built = [width, *(12, 9, 6, 4)[: layers.count("L") - 1], 1], []
        for letter in layers:
            if letter == "L":
                before, *sizes = sizes
            built.append(
                {"L": nn.Linear(before, sizes[0]), "D": nn.Dropout(0.5), "R": nn.ReLU()}[letter]
            )
        self.layers = nn.Sequential(*built)


LINEAR, RELU = "LDLDLDLL", "LRDLRDLRDLRL"
"""improved-aesthetic-predictor's two: sac+logos+ava1-l14-linearMSE and ava+logos-l14-reluMSE."""


@pytest.mark.parametrize("layers", [LINEAR, RELU, "L", "LL", "LRDL", "LLDL", "LDLL", "LRDLL"])
@pytest.mark.parametrize("form", ["pth", "safetensors", "lightning", "half"])
def test_a_head_is_the_network_that_its_authors_built(
    folder: Path, tmp_path: Path, layers: str, form: str
) -> None:
    torch.manual_seed(0)
    clip = load_clip(folder)
    head = Head(layers, clip.width).eval()
    if form == "half":
        head.half()
    weights, path = (
        head.state_dict(),
        tmp_path / f"head.{'safetensors' if form == 'safetensors' else 'pth'}",
    )
    save_file(weights, path) if form == "safetensors" else torch.save(
        {"state_dict": weights} if form == "lightning" else weights, path
    )
    rater, x = load_rater(path, folder), images()
    expected = head.float().layers(clip.embed_images(x))[:, 0]
    torch.testing.assert_close(rater(x), expected)
    torch.testing.assert_close(Aesthetic(rater, 10.0)(x), (expected - 10).abs())
    assert not any(weight.requires_grad for weight in rater.head.parameters())


def test_a_head_of_one_layer_needs_no_number_and_no_bias(folder: Path, tmp_path: Path) -> None:
    """LAION's sa_0_4_*_linear.pth."""
    weight, bias = torch.randn(1, load_clip(folder).width), torch.randn(1)
    for state in ({"weight": weight, "bias": bias}, {"weight": weight}, {"linear.weight": weight}):
        torch.save(state, tmp_path / "head.pth")
        rater, x = load_rater(tmp_path / "head.pth", folder), images()
        expected = rater.clip.embed_images(x) @ weight.T + state.get("bias", torch.zeros(1))
        torch.testing.assert_close(rater(x), expected[:, 0])
        assert rater.networks == (rater.clip.network, rater.head)


@pytest.mark.parametrize("layers", ["LDL", "LRL", "LDLDLDL", "LLDLRDL"])
def test_a_head_whose_numbers_leave_it_open_is_refused(layers: str) -> None:
    with pytest.raises(
        UserError, match=r"leave open whether ReLU or dropout .*: number them 0, 3, 6"
    ):
        read_head(Head(layers, 12).state_dict())


NO_HEAD: dict[str, dict[str, tuple[int, ...]]] = {
    "three numbers": {"weight": (3, 12)},
    "nothing linear": {"weight": (1, 12, 1, 1)},
    "LPIPS": {"lin0.model.1.weight": (1, 64, 1, 1), "lin1.model.1.weight": (1, 128, 1, 1)},
    "normalised between": {"layers.0.weight": (4, 12), "layers.1.weight": (4,), "layers.2.weight": (1, 4)},
    "of another size": {"layers.0.weight": (4, 12), "layers.1.weight": (1, 5)},
    "without numbers": {"fc.weight": (4, 12), "out.weight": (1, 4)},
    "the bias alone": {"bias": (1,)},
    "a wrong bias": {"weight": (1, 12), "bias": (2,)},
    "more than it": {"weight": (1, 12), "bias": (1,), "scale": ()},
    "a VGG": {"features.0.weight": (64, 3, 3, 3), "features.0.bias": (64,)},
}  # fmt: skip


@pytest.mark.parametrize("case", NO_HEAD)
def test_weights_that_are_no_head_are_refused(case: str) -> None:
    with pytest.raises(UserError, match="are not an aesthetic head: linear layers that end in one"):
        read_head({key: torch.zeros(shape) for key, shape in NO_HEAD[case].items()})


def test_more_between_two_layers_is_refused() -> None:
    with pytest.raises(UserError, match="more than ReLU and dropout"):
        read_head(Head("LRRDL", 12).state_dict())


HEADS = Path(__file__).parents[3] / "shared" / "files" / "aesthetic"


@pytest.mark.skipif(not HEADS.is_dir(), reason="the public heads are not on this machine")
@pytest.mark.parametrize(
    ("name", "layers"),
    [("ava+logos-l14-reluMSE.pth", RELU), ("sac+logos+ava1-l14-linearMSE.pth", LINEAR), ("sa_b_32.pth", "L"), ("sa_l_14.pth", "L")],
)  # fmt: skip
def test_the_public_heads_are_what_their_names_say(name: str, layers: str) -> None:
    weights = load_weights(HEADS / name, "a head")
    sizes = [value.shape for key, value in weights.items() if key.endswith("weight")]
    left = iter(sizes)
    others = {"R": nn.ReLU, "D": nn.Dropout}
    built = [others[each]() if each in others else nn.Linear(*next(left)[::-1]) for each in layers]
    head = nn.Sequential(*built).eval()
    head.load_state_dict(
        {
            key.removeprefix("layers.") if "." in key else f"0.{key}": value
            for key, value in weights.items()
        }
    )
    x = nn.functional.normalize(
        torch.randn(64, sizes[0][1], generator=torch.Generator().manual_seed(0)), dim=1
    )
    torch.testing.assert_close(read_head(weights)(x), head(x))


def test_a_head_of_another_clip_and_no_head_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_file({"weight": torch.randn(1, 768)}, path)
    often = "often openai/clip-vit-large-patch14"
    with pytest.raises(UserError, match=f"reads embeddings of 768 numbers .*: name .*{often}"):
        load_rater(path, folder)
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(UserError, match="cannot be read as the weights of an aesthetic head"):
        load_rater(tmp_path / "text.pth", folder)
    with pytest.raises(UserError, match="there is no file"):
        load_rater(tmp_path / "nothing.pth", folder)
