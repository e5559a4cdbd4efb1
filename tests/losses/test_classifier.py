from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from chainrule import Noise, UserError
from chainrule.losses import Call, Classifier, Cutouts, Loss, load_classifier
from chainrule.losses.classifier import ClassifierSpec, ImageClassifier, cross_entropy
from chainrule.noise import generator
from chainrule.vision import Preprocess
from tiny import LABELS, save_classifier


def images(batch: int = 3, side: int = 16) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    return ImageClassifier(network, LABELS, Preprocess((8, 8)))


def brightness() -> Loss:
    return Call(lambda x: x.mean(dim=(1, 2, 3)))


def test_classifier_losses_are_the_formulas() -> None:
    net, x = classifier(), images()
    small = functional.interpolate(x, (8, 8), mode="bilinear", antialias=True, align_corners=False)
    logits = net.network(small * 2 - 1)
    torch.testing.assert_close(net(x), logits)
    one_hot = torch.tensor([[0.0, 1.0, 0.0]] * 3)
    expected = functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").mean(
        dim=1
    )
    torch.testing.assert_close(Classifier(net, "heart")(x), expected)
    expected = functional.cross_entropy(logits, torch.tensor([1, 1, 1]), reduction="none")
    torch.testing.assert_close(Classifier(net, 1, cross_entropy)(x), expected)


def test_images_of_any_precision_are_judged() -> None:
    loss, x = Classifier(classifier(), "heart"), images().double().requires_grad_()
    assert loss(x).dtype == torch.float64
    assert torch.autograd.grad(loss(x).sum(), x)[0].abs().sum() > 0


def test_a_class_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no class 'hearth': it has, for example, heart"):
        Classifier(classifier(), "hearth")
    with pytest.raises(UserError, match="no class 3: this classifier has 3"):
        Classifier(classifier(), "3")


def test_losses_add_and_scale() -> None:
    a, b, x = brightness(), Call(lambda v: v.amax(dim=(1, 2, 3))), images()
    torch.testing.assert_close((0.5 * a + b * 2.0)(x), 0.5 * a(x) + 2 * b(x))


def test_a_loss_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(UserError, match="one number for each of the 3 images"):
        Call(lambda x: x.mean())(images())
    with pytest.raises(UserError, match=r"must return a tensor, .* returns float"):
        Call(lambda x: x.mean().item())(images())


def test_cutouts_are_replayable_and_belong_to_their_image() -> None:
    x, noise = images(), Noise((1, 2, 3)).stream("doodl/crops")
    loss = Cutouts(Call(lambda v: v.std(dim=(1, 2, 3))), count=5)
    values = loss.replay(noise, 7)(x)
    assert torch.equal(values, loss.replay(noise, 7)(x))
    assert not torch.equal(values, loss.replay(noise, 8)(x))
    torch.testing.assert_close(loss.replay(noise.select([1]), 7)(x[1:2]), values[1:2])
    torch.testing.assert_close(loss.replay(noise, 7).select([2, 0])(x[[2, 0]]), values[[2, 0]])


def test_the_crops_of_published_pictures_stay_what_they_were() -> None:
    """Draw k of the stream is draw k after 1 << 21 of the seed; what nobody replays is draw 0."""
    x, loss = images(), Cutouts(Call(lambda v: v.std(dim=(1, 2, 3))), count=5)
    seeds = (1, 2, 3)
    published = torch.stack(
        [torch.rand(5, 3, generator=generator(seed, (1 << 21) + 4)) for seed in seeds]
    )
    assert torch.equal(loss.replay(Noise(seeds).stream("doodl/crops"), 4)._draw(3), published)
    first = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loss._draw(3), first.expand(3, 5, 3))
    one_for_all = loss.replay(Noise((2,)).stream("doodl/crops"), 4)
    assert torch.equal(one_for_all._draw(3), published[1].expand(3, 5, 3))
    torch.testing.assert_close(one_for_all.select([2])(x[2:]), one_for_all(x)[2:])


def test_crops_of_other_images_are_refused() -> None:
    loss = Cutouts(brightness(), count=2).replay(Noise((1, 2)).stream("doodl/crops"), 0)
    with pytest.raises(UserError, match="those of 2 images, and there are 3: select"):
        loss(images())


def test_cutouts_have_the_papers_sizes() -> None:
    """side = s + u^0.3 (1 - s) of the image's, with s = 224 / 512; inside the image."""
    rows = Noise((0,)).uniform(0, (4000, 3))[0]
    boxes = torch.tensor(Cutouts(brightness())._boxes(rows.tolist(), 512, 640), dtype=torch.float64)
    top, left, side = boxes.unbind(1)
    assert side.min() >= 224
    assert side.max() <= 512
    assert ((top >= 0) & (top + side <= 512) & (left >= 0) & (left + side <= 640)).all()
    expected = 224 + 288 / 1.3  # the mean of u^0.3 is 1 / 1.3
    assert side.mean().item() == pytest.approx(expected, rel=0.02)
    assert (left + side > 512).any()  # every place is reached


def test_cutouts_of_a_constant_image_are_that_constant_and_the_gradient_is_its() -> None:
    x = torch.full((2, 3, 16, 16), 0.25, requires_grad=True)
    loss = Cutouts(brightness(), count=4)
    torch.testing.assert_close(loss(x), torch.tensor([0.25, 0.25]))
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    torch.testing.assert_close(gradient.sum(dim=(1, 2, 3)), torch.ones(2))


def test_zero_crops_are_refused() -> None:
    with pytest.raises(UserError, match="choose 1 or more"):
        Cutouts(brightness(), count=0)


def test_any_transformers_classifier_loads_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = save_classifier(tmp_path)
    capfd.readouterr()
    loaded, x = load_classifier(tmp_path), images(side=8)
    assert capfd.readouterr() == ("", "")
    mean, std = (
        torch.tensor([0.1, 0.2, 0.3])[:, None, None],
        torch.tensor([0.4, 0.5, 0.6])[:, None, None],
    )
    torch.testing.assert_close(loaded(x), network((x - mean) / std).logits)
    assert loaded.labels == LABELS
    (weights,) = loaded.networks
    assert not any(p.requires_grad for p in weights.parameters())


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "not-a-name"])
def test_a_missing_classifier_is_said(name: str) -> None:
    with pytest.raises(
        UserError,
        match=r"no image classifier at|no folder 'not-a-name' here: name a folder or owner",
    ):
        load_classifier(name)


def write_labels(folder: Path, **settings: object) -> Path:
    """A classifier of three classes, whose configuration says something else of them."""
    save_classifier(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id2label": {0: "a", 1: "b", 3: "c"}}, "numbers its 3 classes 0, 1, 3: number them from"),
        ({"id2label": {0: "a", 1: " \n", 2: "c"}}, "class 1 of the classifier .* has no name"),
    ],
)
def test_labels_that_are_no_names_are_refused(tmp_path: Path, settings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_classifier(write_labels(tmp_path, **settings))


CONTRADICTORY = [
    ({"id2label": {0: "a", 1: "b", 2: "a"}, "label2id": {"a": 2, "b": 1}}, r"have one name \(a\)"),
    ({"label2id": {LABELS[0]: 1, LABELS[1]: 0}}, "contradicts its id2label .*: id2label is follow"),
    ({"label2id": {LABELS[0]: "x"}}, "contradicts its id2label"),
    ({"problem_type": "multi_label_classification"}, "yes or no to each class by itself"),
]


@pytest.mark.parametrize(("settings", "message"), CONTRADICTORY)
def test_labels_that_contradict_each_other_are_said(tmp_path: Path, settings, message: str) -> None:
    with pytest.warns(UserWarning, match=message) as said:
        load_classifier(write_labels(tmp_path, **settings))
    assert len(said) == 1


def test_labels_are_read_as_one_printable_line(tmp_path: Path) -> None:
    names = {0: "two\nlines", 1: "\x1b[2Jgone", 2: " plain "}
    folder = write_labels(tmp_path, id2label=names, label2id={})
    assert load_classifier(folder).labels == ("two lines", "\\x1b[2Jgone", "plain")


def test_a_yes_or_no_to_each_class_is_what_the_papers_loss_asks(tmp_path: Path, recwarn) -> None:
    folder = write_labels(tmp_path, problem_type="multi_label_classification")
    ClassifierSpec(target=LABELS[0], classifier=str(folder)).load()
    assert not recwarn.list


def test_a_class_is_found_by_any_of_its_names() -> None:
    net = replace(classifier(), labels=("tench, Tinca tinca", "Heart", "crane"))
    assert [net.index(name) for name in ("tench", "tinca TINCA", "heart", "Heart")] == [0, 0, 1, 1]
    with pytest.raises(UserError, match="no class 'tinca'"):
        net.index("tinca")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_their_network(value: float) -> None:
    net = replace(classifier(), network=lambda x: torch.full((len(x), 3), value))
    with pytest.raises(UserError, match="the classifier gives logits that are not finite"):
        Classifier(net, "heart")(images())
    net(torch.full((2, 3, 8, 8), torch.nan))  # whose fault is the images'


def test_code_that_comes_with_weights_is_not_run(tmp_path: Path) -> None:
    config = {"model_type": "stranger", "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('run')")
    with pytest.raises(UserError, match="cannot be loaded as an image classifier"):
        load_classifier(tmp_path)
