"""A study is made of runs, and nothing that a rater can see says whose picture is whose."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chainrule.errors import UserError
from chainrule.images import to_pil
from chainrule.runs import Folder
from chainrule.study import Asked, StudyFolder, create_study
from chainrule.study.make import LARGEST
from chainrule.study.protocols import PROTOCOLS, EditSuccess, Free, Pairwise, SameThing
from studies import LABELS, METHODS, PROMPT, draw, make_study, write_run


def show(folder: StudyFolder) -> list[tuple[str, ...]]:
    """Of each question, its seed and its methods."""
    study = folder.study
    labels = {each.name: each.method or "" for each in study.pictures}
    return [(str(study.clusters[q.cluster].seed), *(labels[name] for name in q.pictures))
            for q in study.questions]  # fmt: skip


def pixels(path: Path) -> list[list[list[int]]]:
    return np.asarray(Image.open(path)).tolist()


def test_pairs_are_of_one_prompt_and_seed(tmp_path: Path) -> None:
    made = make_study(tmp_path, seeds=(0, 12345))
    one, two, three = LABELS
    pairs = [(one, two), (one, three), (two, three)]
    assert show(made) == [(seed, *pair) for seed in ("0", "12345") for pair in pairs]
    assert made.study.methods == LABELS
    run = Folder.open(tmp_path / "run")
    pictures = {each.name: each for each in made.study.pictures}
    for question in made.study.questions:
        for name in question.pictures:
            seed = made.study.clusters[question.cluster].seed
            original = run.image_path(pictures[name].method or "", seed)
            assert pixels(made.find_picture(name)) == pixels(original)
    made.check_pictures()


def test_methods_are_chosen(tmp_path: Path) -> None:
    made = make_study(tmp_path, seeds=(0,), methods=("doodl", "plain"))
    assert show(made) == [("0", "doodl", "plain")]
    run = tmp_path / "run"
    against = create_study(tmp_path / "b", [run], Asked(against="doodl"))
    assert [labels for _, *labels in show(against)][:2] == [
        ["plain", "doodl"],
        ["one-step", "doodl"],
    ]
    assert len(show(against)) == 2 * 1
    also = create_study(tmp_path / "c", [run], Asked(methods=("plain",), against="doodl"))
    assert [labels for _, *labels in show(also)] == [["doodl", "plain"]]


def test_nothing_says_whose_a_picture_is(tmp_path: Path) -> None:
    made = make_study(tmp_path)
    said = [*LABELS, PROMPT, "chainrule", "seed", "run"]
    files = sorted((made.path / "pictures").iterdir())
    assert len(files) == 4 * 3 + 1  # one of noise
    for file in files:
        assert not any(word.encode() in file.read_bytes() for word in said)
        assert len(file.stem) == 16
        assert set(file.stem) <= set("0123456789abcdef")
        with Image.open(file) as picture:
            assert (picture.info, picture.mode, picture.size) == ({}, "RGB", (8, 8))
    # the order of the names is not that of the methods
    by_name = [each.method for each in made.study.pictures if each.method]
    assert by_name != sorted(by_name, key=LABELS.index)
    assert not any(word in question.name for question in made.study.questions for word in said)


def test_the_same_seed_makes_the_same_study(tmp_path: Path) -> None:
    one = make_study(tmp_path)
    again, other = (
        create_study(tmp_path / name, [tmp_path / "run"], Asked(seed=seed))
        for name, seed in (("again", 1), ("other", 2))
    )
    assert again.study == one.study
    assert {each.name for each in one.study.pictures}.isdisjoint(
        p.name for p in other.study.pictures
    )
    free = [create_study(tmp_path / name, [tmp_path / "run"]).study.seed for name in ("x", "y")]
    assert free[0] != free[1]


def test_several_runs_are_joined(tmp_path: Path) -> None:
    """By prompt and seed, of which one may be in some of the runs only."""
    one = write_run(tmp_path / "one", (0, 1), methods=METHODS[:1])
    two = write_run(tmp_path / "two", (1, 2), methods=METHODS[1:2])
    made = create_study(tmp_path / "study", [one, two])
    assert show(made) == [("1", "plain", "one-step")]
    assert [each.name for each in made.study.runs] == ["one", "two"]
    three = write_run(tmp_path / "three", (0, 1), methods=METHODS[1:2], inputs={"prompt": "a dog"})
    with pytest.raises(UserError, match="plain has no picture of a prompt and seed that another"):
        create_study(tmp_path / "none", [one, three])


def test_each_seed_may_have_its_prompt(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", (3, 4), inputs={"prompt": ("a cat", "a dog")})
    made = create_study(tmp_path / "study", [run])
    assert [(c.prompt, c.seed) for c in made.study.clusters] == [("a cat", 3), ("a dog", 4)]


def test_two_pictures_of_one_method_are_told(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", (0,))
    shutil.copytree(one, tmp_path / "copy")
    same = create_study(tmp_path / "same", [one, tmp_path / "copy"])
    assert len(same.study.questions) == 3
    draw(Folder.open(tmp_path / "copy").image_path("doodl", 0), seed=77)
    with pytest.raises(UserError, match="two pictures of the same method, prompt and seed"):
        create_study(tmp_path / "other", [one, tmp_path / "copy"])


def test_runs_with_names_may_have_the_same_methods(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", (0,), methods=METHODS[:1])
    two = write_run(tmp_path / "two", (0,), methods=METHODS[:1])
    draw(Folder.open(two).image_path("plain", 0), seed=77)
    made = create_study(tmp_path / "study", {"old": one, "new": two})
    assert show(made) == [("0", "old", "new")]
    three = write_run(tmp_path / "three", (0,))
    several = create_study(tmp_path / "several", {"old": one, "new": three})
    assert several.study.methods == ("old", "new plain", "new one-step", "new doodl")


def test_an_edit_is_beside_its_original(tmp_path: Path) -> None:
    photo = draw(tmp_path / "photo.png", 5, size=16)
    edits = {"inputs": {"photo": photo, "prompt": "a dog"}, "losses": [], "methods": [
        {"kind": "sdedit", "strength": 0.5}, {"kind": "sdedit", "strength": 0.6}]}  # fmt: skip
    run = write_run(tmp_path / "run", (0, 1), **edits)
    made = create_study(tmp_path / "study", [run], Asked(protocol=EditSuccess()))
    assert show(made) == [(s, f"sdedit strength={x}") for s in "01" for x in (0.5, 0.6)]
    (beside,) = {question.beside for question in made.study.questions}
    assert pixels(made.find_picture(str(beside))) == pixels(photo)
    check = made.study.checks[0]
    assert (check.check, check.right, check.beside) == ("noise", ("no",), beside)
    with pytest.raises(UserError, match="plain-run has no original to show"):
        create_study(
            tmp_path / "x", [write_run(tmp_path / "plain-run")], Asked(protocol=EditSuccess())
        )


@pytest.mark.parametrize("given", ["pictures", "loss"])
def test_a_thing_is_beside_its_pictures(given: str, tmp_path: Path) -> None:
    thing = draw(tmp_path / "thing.png", 6)
    changes: dict[str, Any] = {"inputs": {"pictures": (thing,)}}
    if given == "loss":
        changes = {"losses": [{"kind": "image", "target": (thing,)}]}
    run = write_run(tmp_path / "run", (0,), **changes)
    made = create_study(tmp_path / "study", [run], Asked(protocol=SameThing()))
    assert pixels(made.find_picture(str(made.study.questions[0].beside))) == pixels(thing)
    assert made.study.checks[0].right == ("mismatch", "other")


def test_a_cameras_original_is_made_smaller(tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (LARGEST + 100, 50)).save(wide)
    run = write_run(
        tmp_path / "run", (0,), inputs={"photo": wide}, losses=[], methods=[{"kind": "sdedit"}]
    )
    made = create_study(tmp_path / "study", [run], Asked(protocol=EditSuccess()))
    with Image.open(made.find_picture(str(made.study.questions[0].beside))) as picture:
        assert picture.width == LARGEST


def test_sizes_that_tell_methods_apart_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for seed in range(4):
        draw(Folder.open(run).image_path("doodl", seed), seed, size=9)
    with pytest.warns(UserWarning, match="differ in size, by which raters may tell them apart"):
        create_study(tmp_path / "study", [run])


@pytest.mark.parametrize("kind", PROTOCOLS.own)
def test_checks_have_right_and_wrong_answers(kind: str, tmp_path: Path) -> None:
    thing = draw(tmp_path / "thing.png", 6)
    run = write_run(tmp_path / "run", inputs={"pictures": (thing,), "photo": thing})
    protocol = PROTOCOLS[kind](question="Is it calm?")
    made = create_study(tmp_path / "study", [run], Asked(protocol=protocol, checks=4, seed=0))
    assert len(made.study.checks) == 4
    assert {each.check for each in made.study.checks} == set(protocol.checks)
    known = {each.name: each for each in made.study.pictures}
    for check in made.study.checks:
        for position in range(protocol.compared):
            outcomes = {protocol.outcome(each.value, position) for each in protocol.choices}
            assert outcomes & set(check.right)
            assert outcomes - set(check.right)
        noise = [name for name in check.pictures if known[name].method is None]
        assert len(noise) == (check.check == "noise")
    bars = list(protocol.bars.values())
    outcomes = {protocol.outcome(each.value, 0) for each in protocol.choices}
    assert all(bar < outcomes for bar in bars)


@pytest.mark.parametrize(("asked", "said"), [
    ({"methods": ("plain",)}, "a pair needs two methods"),
    ({"methods": ("plain", "plain")}, "a method is named twice"),
    ({"methods": ("plain", "dodl")}, "no pictures of 'dodl': did you mean doodl?"),
    ({"against": "sdedit"}, "no pictures of 'sdedit'"),
    ({"against": "doodl", "protocol": Free(question="Is it calm?")}, "free compares no pairs"),
    ({"raters": 0}, "raters cannot be 0"), ({"per_rater": 0}, "per_rater cannot be 0"),
    ({"checks": -1}, "checks cannot be -1"), ({"seed": 2**31}, "seed cannot be 2147483648"),
])  # fmt: skip
def test_what_cannot_be_is_refused(asked: dict[str, Any], said: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", (0,))
    with pytest.raises(UserError, match=said):
        create_study(tmp_path / "study", [run], Asked(**asked))
    assert not (tmp_path / "study").exists()


def test_runs_without_pictures_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", (0,))
    shutil.rmtree(run / "images")
    with pytest.raises(UserError, match="these runs have no pictures: name runs that are done"):
        create_study(tmp_path / "study", [run])
    with pytest.raises(UserError, match="is not a run's folder"):
        create_study(tmp_path / "study", [tmp_path / "no"])


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    made = make_study(tmp_path)
    with pytest.raises(UserError, match="study is not empty: choose another"):
        create_study(made.path, [tmp_path / "run"])
    (made.path / "study.json").unlink()  # as if it had been stopped before its end
    assert create_study(made.path, [tmp_path / "run"], Asked(seed=1)).study == made.study


def test_what_was_changed_is_noticed(tmp_path: Path) -> None:
    made = make_study(tmp_path)
    file = made.path / "study.json"
    text = file.read_text()
    file.write_text(text.replace('"seed": 1,', '"seed": 2,', 1))
    with pytest.raises(UserError, match="is not what it was when the study was made"):
        StudyFolder.open(made.path)
    file.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        StudyFolder.open(made.path)
    file.write_text(text)
    picture = made.find_picture(made.study.pictures[0].name)
    to_pil(__import__("torch").zeros(3, 8, 8)).save(picture)
    with pytest.raises(UserError, match="is missing, or not what it was"):
        StudyFolder.open(made.path).check_pictures()
    picture.unlink()
    picture.symlink_to(file)
    with pytest.raises(UserError, match="is a link"):
        StudyFolder.open(made.path)
    with pytest.raises(UserError, match="holds no study"):
        StudyFolder.open(tmp_path)


def test_a_protocol_says_what_an_answer_means() -> None:
    pair = Pairwise()
    assert [pair.outcome("first", i) for i in (0, 1)] == ["better", "worse"]
    assert [pair.outcome("second", i) for i in (0, 1)] == ["worse", "better"]
    assert [pair.outcome(each, 1) for each in ("both", "neither")] == ["both", "neither"]
    assert [each.value for each in pair.askable] == ["both", "neither"]
    own = Free(
        question="Is it calm?", answers=("Very", "A little", "No"), success=("Very", "A little")
    )
    assert own.bars == {"success": {"Very", "A little"}}
    assert Free(question="Is it calm?").bars == {"success": {"Yes"}}
    for values, said in (
        ({"answers": ("a", "a")}, "an answer is there twice"),
        ({"success": ("maybe",)}, "'maybe' is no answer: choose among Yes, No"),
        ({"success": ("Yes", "No")}, "every answer would be a success"),
        ({"answers": ("a",)}, "at least 2"),
        ({"question": ""}, "at least 1 char"),
    ):
        with pytest.raises(UserError, match=said):
            Free(**{"question": "Is it calm?", **values})
    with pytest.raises(UserError, match="did you mean pairwise"):
        PROTOCOLS["pairwse"]
