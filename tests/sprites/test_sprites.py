"""The world of sprites: its things, scenes, captions, judges and rating, on artwork of our own."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chainrule.errors import UserError
from chainrule.images import from_pil
from chainrule.sprites import artwork as art
from chainrule.sprites.artwork import STYLES, Artwork, load_artwork
from chainrule.sprites.base import (
    APART,
    GROUNDS,
    HELD_OUT_GROUNDS,
    HELD_OUT_KINDS,
    HELD_OUT_STYLES,
    SIZE_WORDS,
    Scene,
    Thing,
    list_words,
    render,
    sample_scene,
)
from chainrule.sprites.judge import PLACES, Judges, check, cut, read_ground
from chainrule.sprites.rating import rate
from chainrule.sprites.things import GENERA, KINDS

NAMES = list(KINDS)


@pytest.fixture(scope="module")
def artwork() -> Artwork:
    """Every thing is a disk whose red says which it is, and whose blue which style."""
    pixels = np.zeros((len(STYLES), len(KINDS), 64, 64, 4), np.uint8)
    y, x = np.mgrid[:64, :64] - 31.5
    disk = np.hypot(x, y) < 31
    for style in range(len(STYLES)):
        for kind in range(len(KINDS)):
            pixels[style, kind][disk] = (kind % 256, kind // 256 * 100, 100 * style, 255)
    return Artwork(pixels)


# --- what there is -------------------------------------------------------------------------------


def test_there_are_hidden_species_enough_and_some_things_are_held_out_whole() -> None:
    assert len(GENERA) >= 6
    assert sum(len(species) for species in GENERA.values()) >= 60
    assert len(KINDS) >= 300
    assert 0.08 < len(HELD_OUT_KINDS) / len(KINDS) < 0.12
    assert any(KINDS[kind].hidden for kind in HELD_OUT_KINDS)


def test_hidden_species_have_no_word_and_all_others_have_their_own() -> None:
    words = set(list_words())
    for kind in KINDS.values():
        assert set(kind.word.lower().split()) <= words
        if kind.hidden:
            assert kind.name not in words or kind.name in ("bird",), kind.name
    named = [(kind.word, kind.colour) for kind in KINDS.values() if not kind.hidden]
    assert len(set(named)) == len(named)


# --- scenes --------------------------------------------------------------------------------------


def test_captions_say_the_size_the_colour_the_relation_the_style_and_the_ground() -> None:
    heart, owl = Thing("red heart", 16, 32, 30), Thing("owl", 48, 32, 30)
    pair = Scene((heart, owl), "3d", "blue", relation="left of")
    assert pair.caption == "a red heart left of a bird in 3D on a blue background"
    assert replace(pair, style_said=False).caption == (
        "a red heart left of a bird on a blue background"
    )
    single = Scene((Thing("octopus", 32, 32, 57),), "flat", "white", size_word="large")
    assert single.caption == "a large octopus drawn flat on a white background"
    assert replace(single, size_word=None, style="sticker").caption == (
        "an octopus as a sticker on a white background"
    )


def test_the_same_seed_is_the_same_scene_and_training_never_shows_what_is_held_out() -> None:
    scenes = [sample_scene(seed) for seed in range(3000)]
    assert scenes == [sample_scene(seed) for seed in range(3000)]
    for scene in scenes:
        kinds = [thing.kind for thing in scene.things]
        assert not HELD_OUT_KINDS & set(kinds)
        assert not any((kind, scene.style) in HELD_OUT_STYLES for kind in kinds)
        assert not any((kind, scene.ground) in HELD_OUT_GROUNDS for kind in kinds)
        if len(kinds) == 2:
            assert (NAMES.index(kinds[0]) - NAMES.index(kinds[1])) % APART
        words = scene.caption.lower().split()
        assert set(words) <= set(list_words()), scene.caption
        assert ("3d" in words or "flat" in words or "sticker" in words) == scene.style_said
    assert any(sample_scene(seed, held_out=True).held_out for seed in range(50))


def test_things_are_inside_and_as_large_as_their_word_says() -> None:
    for scene in (sample_scene(seed) for seed in range(2000)):
        for thing in scene.things:
            half = thing.size / 2
            assert half - 1 <= thing.x <= 65 - half
            assert half - 1 <= thing.y <= 65 - half
        if scene.size_word:
            low, high = SIZE_WORDS[scene.size_word]
            assert low <= scene.things[0].size <= high


def test_a_scene_of_one_kind_and_style() -> None:
    scene = sample_scene(3, kinds=["eagle"], style="flat", single=True)
    assert [thing.kind for thing in scene.things] == ["eagle"]
    assert scene.style == "flat"
    with pytest.raises(UserError, match="no thing 'dragonfly'"):
        sample_scene(0, kinds=["dragonfly"])
    with pytest.raises(UserError, match="no style 'oil'"):
        sample_scene(0, style="oil")
    kept = next(iter(HELD_OUT_KINDS))
    with pytest.raises(UserError, match="held out"):
        sample_scene(0, kinds=[kept])
    assert sample_scene(0, kinds=[kept], held_out=True).things[0].kind == kept


def test_a_picture_shows_the_thing_where_it_is_on_its_ground(artwork: Artwork) -> None:
    scene = Scene((Thing(NAMES[200], 30, 36, 40),), "3d", "yellow")
    pixels = np.asarray(render(scene, artwork))
    assert tuple(pixels[36, 30]) == (200, 0, 200)
    assert tuple(pixels[2, 2]) == GROUNDS["yellow"][0]
    rows, columns = np.nonzero(np.abs(pixels.astype(int) - GROUNDS["yellow"][0]).sum(-1) > 60)
    assert abs(rows.mean() - 35.5) < 0.6
    assert abs(columns.mean() - 29.5) < 0.6
    assert 38 <= np.ptp(columns) <= 40
    graded = np.asarray(render(replace(scene, graded=True), artwork))
    assert np.abs(graded[63, 0].astype(int) - GROUNDS["yellow"][1]).max() <= 1


def test_mirrored_artwork_is_turned_round(artwork: Artwork) -> None:
    pixels = artwork.pixels.copy()
    pixels[:, :, :, 40:, :3] = 255
    half = Artwork(pixels)
    scene = Scene((Thing(NAMES[0], 32, 32, 64),), "flat", "black")
    mirrored = replace(scene, things=(replace(scene.things[0], mirrored=True),))
    plain, turned = (np.asarray(render(s, half)) for s in (scene, mirrored))
    assert np.abs(plain.astype(int) - turned[:, ::-1]).max() <= 2
    assert plain[32, 50].min() > 200
    assert turned[32, 50].max() < 150


# --- artwork -------------------------------------------------------------------------------------


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Archives like the real ones, of three things only."""
    few = {name: KINDS[name] for name in ("owl", "pizza", "red heart")}
    monkeypatch.setattr(art, "KINDS", few)
    points = {kind.emoji: f"1F60{i}-FE0F" for i, kind in enumerate(few.values())}
    entries = [{"unified": code, "short_names": ["x", name]} for name, code in points.items()]
    picture = Image.new("RGBA", (80, 40))
    picture.paste((250, 10, 10, 255), (10, 10, 50, 30))
    for style in STYLES.values():
        form = "PNG" if style.path.endswith("png") else "WEBP"
        file = io.BytesIO()
        picture.save(file, form, **({"lossless": True} if form == "WEBP" else {}))
        # one family leaves the variation out of its files' names
        codes = [code.lower() for code in points.values()]
        codes = [code.replace("-fe0f", "") for code in codes] if form == "WEBP" else codes
        files = {style.path.format(code): file.getvalue() for code in codes}
        if style is STYLES["sticker"]:
            files[art.LIST] = json.dumps(entries).encode()
        flat = style.package.replace("@", "").replace("/", "-")
        pack(tmp_path / f"{flat}-{style.version}.tgz", files)
    return tmp_path


def test_artwork_is_read_from_its_packages_without_margins_and_kept(packages: Path) -> None:
    found = load_artwork(packages)
    assert found.pixels.shape == (3, 3, 64, 64, 4)
    for each in found.pixels.reshape(-1, 64, 64, 4):
        rows, columns = np.nonzero(each[..., 3] > 128)
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (32, 64)
        assert np.abs(each[32, 32].astype(int) - (250, 10, 10, 255)).max() <= 2
    for archive in packages.glob("*.tgz"):
        archive.unlink()
    assert np.array_equal(load_artwork(packages).pixels, found.pixels)


def test_artwork_of_other_things_is_not_taken_for_todays(packages: Path, monkeypatch) -> None:
    load_artwork(packages)
    monkeypatch.setattr(art, "KINDS", {"owl": KINDS["owl"]})
    with pytest.raises(UserError, match="other things"):
        load_artwork(packages)


def test_without_npm_and_packages_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(art.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="install npm"):
        load_artwork(tmp_path)
    assert not list(tmp_path.glob("*.npz"))


# --- judging -------------------------------------------------------------------------------------


class Reader(torch.nn.Module):
    """Reads the pixel in the middle as the artwork of these tests writes it."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        red, green, blue = (255 * images[:, :, 32, 32]).round().unbind(dim=1)
        which = red + 256 * (green / 100).round() if self.what == "things" else (blue / 100).round()
        count = len(KINDS) if self.what == "things" else len(STYLES)
        return torch.nn.functional.one_hot(which.long().clamp(0, count - 1), count).float()


@pytest.fixture
def judges() -> Judges:
    return Judges(Reader("things"), Reader("styles"))  # type: ignore[arg-type]


def test_the_judge_says_what_is_right_of_one_thing(artwork: Artwork, judges: Judges) -> None:
    owl = Scene((Thing("owl", 32, 32, 50),), "3d", "pink")
    (image,) = from_pil([render(owl, artwork)])
    assert check(judges, owl, image).right
    # an eagle is a bird too; a face is not
    eagle, face = (replace(owl, things=(Thing(k, 32, 32, 50),)) for k in ("eagle", "cool"))
    assert check(judges, eagle, image).right
    assert not check(judges, face, image).things
    assert check(judges, replace(owl, style="flat"), image).style is False
    assert check(judges, replace(owl, style="flat", style_said=False), image).style is None
    assert not check(judges, replace(owl, ground="blue"), image).ground


@pytest.mark.parametrize("relation", PLACES)
def test_of_two_things_the_judge_says_whether_they_are_there_and_where(
    relation: str, artwork: Artwork, judges: Judges
) -> None:
    first, second = (
        Thing(kind, x, y, 30)
        for kind, (x, y) in zip(("pizza", "red heart"), PLACES[relation], strict=True)
    )
    scene = Scene((first, second), "flat", "green", relation=relation)
    (image,) = from_pil([render(scene, artwork)])
    assert check(judges, scene, image).right
    swapped = replace(
        scene, things=(replace(first, kind="red heart"), replace(second, kind="pizza"))
    )
    verdict = check(judges, swapped, image)
    assert verdict.things
    assert verdict.relation is False
    other = replace(scene, things=(first, replace(second, kind="blue heart")))
    assert not check(judges, other, image).things


def test_a_window_is_the_part_around_its_centre() -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, 20:28, 40:48] = 1.0
    window = cut(image, torch.tensor([[44.0, 24.0]]))
    rows, columns = torch.nonzero(window[0, 0] > 0.5, as_tuple=True)
    assert abs(rows.float().mean() - 31.5) < 0.5
    assert abs(columns.float().mean() - 31.5) < 0.5
    assert 14 <= int(columns.max() - columns.min()) + 1 <= 16


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("graded", [False, True])
def test_grounds_are_read_plain_and_graded(ground: str, graded: bool, artwork: Artwork) -> None:
    scene = Scene((Thing("owl", 32, 32, 58),), "flat", ground, graded=graded)
    (image,) = from_pil([render(scene, artwork)])
    noisy = image + 0.03 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    assert read_ground(noisy.clamp(0, 1)) == ground


def test_the_rating_rises_with_centring_contrast_and_harmony(artwork: Artwork) -> None:
    def rate_at(x: int, ground: str = "white") -> float:
        scene = Scene((Thing(NAMES[0], x, 32, 40),), "sticker", ground)
        return rate(from_pil([render(scene, artwork)])[0])

    assert rate_at(32) > rate_at(28) + 0.5
    assert rate_at(32, "white") > rate_at(32, "black") + 0.5  # its things are black
    assert rate(torch.full((3, 64, 64), 0.4)) == 1.0
    for seed in range(20):
        assert 1 <= rate(from_pil([render(sample_scene(seed), artwork)])[0]) <= 10
