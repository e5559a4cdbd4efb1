"""A run's folder has all that it needs, and notices what is not its own."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from chainrule.bundled import SCENES
from chainrule.errors import UserError
from chainrule.images import to_pil
from chainrule.runs import (
    MethodBegun,
    RunSpec,
    Warned,
    execute,
    find_run,
    parse_spec,
    resume,
)
from chainrule.runs import (
    folder as folders,
)
from chainrule.runs.folder import Folder, Kept, digest_tensors, name_file, write_atomically
from chainrule.runs.networks import find_place
from command import images
from conftest import tiny_model

MODEL = tiny_model()


def draw(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed))).save(path)
    return path


def ask(photo: Path, target: Path, **changes: object) -> RunSpec:
    return parse_spec(
        {
            "inputs": {"photo": photo, "source": "a cat", "prompt": "a dog", "seed": (0, 1)},
            "losses": [
                {"kind": "picture", "target": target},
                {"kind": "histogram", "target": photo},
            ],
            "methods": [
                {"kind": "sdedit", "steps": 2},
                {"kind": "doodl", "iterations": 1, "steps": 2, "crops": 0, "mix": 0.99},
            ],
            **changes,
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Path]:
    """The spec and the folder of a run that reads two files of the same name."""
    folder = tmp_path_factory.mktemp("made")
    spec = ask(draw(folder / "a" / "photo.png", 0), draw(folder / "b" / "photo.png", 1))
    list(execute(spec, folder / "run", MODEL))
    return spec, folder / "run"


@pytest.fixture
def copy(made: tuple[RunSpec, Path], tmp_path: Path) -> Path:
    return shutil.copytree(made[1], tmp_path / "copy")


def test_it_holds_its_inputs(made: tuple[RunSpec, Path]) -> None:
    spec, folder = made
    assert {path.name for path in (folder / "inputs").iterdir()} == {"photo.png", "1-photo.png"}
    assert (folder / "inputs" / "1-photo.png").read_bytes() == spec.losses[0].target.read_bytes()
    written = json.loads((folder / "spec.json").read_text())
    assert written["version"] == 2
    assert written["inputs"]["photo"] == written["losses"][1]["target"] == "inputs/photo.png"
    assert written["losses"][0]["target"] == "inputs/1-photo.png"
    assert set(json.loads((folder / "digests.json").read_text())) == {
        "spec.json",
        "inputs/photo.png",
        "inputs/1-photo.png",
    }


def test_names_of_inputs_are_never_taken_twice(tmp_path: Path) -> None:
    names = ("a/photo.png", "b/1-photo.png", "c/photo.png", "d/2-photo.png", "e/photo.png")
    pictures = [draw(tmp_path / name, seed) for seed, name in enumerate(names)]
    losses = [{"kind": "picture", "target": picture} for picture in pictures]
    spec = parse_spec({"methods": [{"kind": "plain"}], "losses": losses})
    folder = Folder.create(tmp_path / "run", spec)
    for loss, picture in zip(folder.spec.losses, pictures, strict=True):
        assert loss.target.read_bytes() == picture.read_bytes()


def test_moved_elsewhere_it_goes_on_and_is_made_again(
    made: tuple[RunSpec, Path], tmp_path: Path
) -> None:
    """Its photos are deleted where they were, and so is the folder itself."""
    spec = ask(
        draw(tmp_path / "old" / "photo.png", 0), draw(tmp_path / "old" / "other" / "photo.png", 1)
    )
    events = execute(spec, tmp_path / "old" / "run", MODEL)
    for _ in range(7):
        next(events)
    events.close()  # type: ignore[attr-defined]
    shutil.copytree(tmp_path / "old" / "run", tmp_path / "new" / "run")
    shutil.rmtree(tmp_path / "old")
    list(resume(tmp_path / "new" / "run", MODEL))
    assert images(tmp_path / "new" / "run") == images(made[1])
    again = find_run(tmp_path / "new" / "run" / "images" / "doodl-0001.png")
    list(execute(again, tmp_path / "again", MODEL))
    assert images(tmp_path / "again") == {
        name: pixels for name, pixels in images(made[1]).items() if name.startswith("doodl")
    }


def test_the_same_run_is_known_by_its_files(
    made: tuple[RunSpec, Path], copy: Path, tmp_path: Path
) -> None:
    spec, folder = made[0], Folder.open(copy)
    assert folder.holds(spec)
    assert folder.holds(folder.spec)
    assert folder.holds(folder.written)
    elsewhere = ask(draw(tmp_path / "photo.png", 0), draw(tmp_path / "x" / "photo.png", 1))
    assert folder.holds(elsewhere)
    gone = ask(tmp_path / "nowhere" / "photo.png", tmp_path / "nowhere" / "x" / "photo.png")
    assert folder.holds(gone)
    assert not folder.holds(
        ask(draw(tmp_path / "photo.png", 2), draw(tmp_path / "x" / "photo.png", 1))
    )
    assert not folder.holds(ask(spec.inputs.photo, spec.inputs.photo))
    assert not folder.holds(spec.model_copy(update={"methods": spec.methods[:1]}))


def replace_photo(folder: Path, other: Path) -> None:
    shutil.copyfile(other / "inputs" / "1-photo.png", folder / "inputs" / "photo.png")


def delete_photo(folder: Path, _: Path) -> None:
    (folder / "inputs" / "photo.png").unlink()


def replace_digests(folder: Path, other: Path) -> None:
    shutil.copyfile(other / "digests.json", folder / "digests.json")


def empty_digests(folder: Path, _: Path) -> None:
    (folder / "digests.json").write_text("{}")


def break_digests(folder: Path, _: Path) -> None:
    (folder / "digests.json").write_text("[1")


def replace_both(folder: Path, other: Path) -> None:
    for name in ("digests.json", "inputs/photo.png", "inputs/1-photo.png"):
        shutil.copyfile(other / name, folder / name)


def replace_all(folder: Path, other: Path) -> None:
    replace_both(folder, other)
    replace_spec(folder, other)


def point_outside(folder: Path, _: Path) -> None:
    """As a stranger would, with digests that fit."""
    text = (folder / "spec.json").read_text().replace("inputs/photo.png", "/tmp/secret.png")
    (folder / "spec.json").write_text(text)
    digests = json.loads((folder / "digests.json").read_text())
    digests["/tmp/secret.png"] = digests.pop("inputs/photo.png")
    digests["spec.json"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "digests.json").write_text(json.dumps(digests))


def replace_state(folder: Path, other: Path) -> None:
    shutil.copyfile(other / "sdedit.safetensors", folder / "sdedit.safetensors")


def swap_states(folder: Path, _: Path) -> None:
    shutil.copyfile(folder / "doodl.safetensors", folder / "sdedit.safetensors")


def replace_spec(folder: Path, other: Path) -> None:
    shutil.copyfile(other / "spec.json", folder / "spec.json")


def empty_state(folder: Path, _: Path) -> None:
    (folder / "doodl.safetensors").write_bytes(b"")


def random_state(folder: Path, _: Path) -> None:
    (folder / "doodl.safetensors").write_bytes(random.Random(0).randbytes(3000))


def truncate_state(folder: Path, _: Path) -> None:
    whole = (folder / "doodl.safetensors").read_bytes()
    (folder / "doodl.safetensors").write_bytes(whole[: len(whole) // 2])


def foreign_state(folder: Path, _: Path) -> None:
    save_file({"x": torch.zeros(2)}, folder / "doodl.safetensors")


def delete_spec(folder: Path, _: Path) -> None:
    (folder / "spec.json").unlink()


REFUSED = {
    replace_photo: r"photo.png is not what it was: put it back, or begin the run anew",
    delete_photo: r"photo.png cannot be read \(No such file or directory\): put it back",
    replace_digests: r"spec.json is not what it was: put it back",
    empty_digests: r"digests.json is of another run: put it back",
    break_digests: r"digests.json is damaged \(.*\): begin the run anew",
    replace_both: r"spec.json is not what it was: put it back",
    replace_all: r"sdedit.safetensors is the state of another run: delete it, and the method begins again",
    replace_state: r"sdedit.safetensors is the state of another run: delete it",
    swap_states: r"sdedit.safetensors is the state of another run: delete it",
    replace_spec: r"spec.json is not what it was: put it back, or begin the run anew",
    point_outside: r"spec.json names .*secret.png, which is not in its folder: begin the run anew",
    foreign_state: r"doodl.safetensors is the state of another run: delete it",
    delete_spec: r"copy holds no run \(no spec.json\): name a folder that chainrule wrote",
}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another run, with files of the same names."""
    folder = tmp_path_factory.mktemp("other")
    spec = ask(draw(folder / "a" / "photo.png", 2), draw(folder / "b" / "photo.png", 3))
    changed = {"methods": [{"kind": "sdedit", "steps": 3}, {"kind": "doodl", "steps": 2}]}
    events = execute(
        ask(spec.inputs.photo, spec.losses[0].target, **changed), folder / "run", MODEL
    )
    for _ in range(6):
        next(events)
    events.close()  # type: ignore[attr-defined]
    return folder / "run"


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_is_not_its_own_is_refused_in_one_sentence(
    change: Callable[[Path, Path], None], copy: Path, other: Path
) -> None:
    change(copy, other)
    before = images(copy)
    with pytest.raises(UserError, match=REFUSED[change]) as caught:
        list(resume(copy, MODEL))
    assert "\n" not in str(caught.value)
    assert images(copy) == before


@pytest.mark.parametrize("change", [empty_state, random_state, truncate_state])
def test_a_damaged_state_is_begun_again_with_a_word_and_no_other(
    change: Callable[[Path, Path], None], made: tuple[RunSpec, Path], copy: Path
) -> None:
    """Also if it is stopped once more before there is a new one."""
    change(copy, copy)
    before = (copy / "sdedit.safetensors").read_bytes()
    warned = r"doodl.safetensors is damaged \(.*\): doodl begins again"
    events = resume(copy, MODEL)
    for event in events:
        if isinstance(event, MethodBegun) and event.label == "doodl":
            events.close()  # type: ignore[attr-defined]
            assert event.done == 0
    seen = list(resume(copy, MODEL))
    messages = [event.message for event in seen if isinstance(event, Warned)]
    assert len([message for message in messages if re.search(warned, message)]) == 1
    assert images(copy) == images(made[1])
    assert (copy / "sdedit.safetensors").read_bytes() == before
    again = [event.message for event in resume(copy, MODEL) if isinstance(event, Warned)]
    assert not [message for message in again if "begins again" in message]


@pytest.mark.parametrize("change", [replace_state, foreign_state])
def test_a_strange_state_stays_and_the_other_methods_go_on(
    change: Callable[[Path, Path], None], made: tuple[RunSpec, Path], copy: Path, other: Path
) -> None:
    change(copy, other)
    strange = "sdedit" if change is replace_state else "doodl"
    found = "doodl" if change is replace_state else "sdedit"
    kept = (copy / f"{strange}.safetensors").read_bytes()
    for file in [copy / f"{found}.safetensors", *(copy / "images").iterdir()]:
        file.unlink()
    with pytest.raises(UserError, match=rf"{strange}.safetensors is the state of another run"):
        list(resume(copy, MODEL))
    assert (copy / f"{strange}.safetensors").read_bytes() == kept
    whole = images(made[1])
    assert images(copy) == {name: whole[name] for name in whole if name.startswith(found)}
    (copy / f"{strange}.safetensors").unlink()
    list(resume(copy, MODEL))
    assert images(copy) == whole


def test_what_no_memory_is_left_for_is_not_damaged(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(folders, "_digest_state", fail)
    with pytest.raises(MemoryError):
        Folder.open(copy).read_state("doodl", "cpu")


def test_what_killed_runs_left_half_written_goes_and_what_another_writes_now_stays(
    made: tuple[RunSpec, Path], copy: Path
) -> None:
    whole = sorted(path.relative_to(copy) for path in copy.rglob("*"))
    names = (".part-report.json", "images/.part-x.png", "inputs/.part-y.png", ".part-a.safetensors")
    for name in names:
        (copy / name).write_bytes(b"half")
    mine = copy / "images" / ".part-now.png"
    mine.write_bytes(b"half")
    os.utime(mine, (2**31, 2**31))
    list(resume(copy, MODEL))
    assert mine.is_file()
    mine.unlink()
    assert sorted(path.relative_to(copy) for path in copy.rglob("*")) == whole
    (copy / names[0]).write_bytes(b"half")
    events = resume(copy, MODEL)
    for event in events:
        if isinstance(event, MethodBegun):
            events.close()  # type: ignore[attr-defined]
    assert not list(copy.rglob(".part-*"))


# --- states that nobody's iteration made ------------------------------------------------------


SPOILT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "shorter": lambda t: t[..., :-1] if t.ndim else t[None],
    "longer": lambda t: torch.cat([t, t], dim=-1) if t.ndim else torch.stack([t, t]),
    "flat": lambda t: t.reshape(-1) if t.ndim != 1 else t[None],
    "one image more": lambda t: torch.cat([t, t[:1]]) if t.ndim else t[None],
    "complex": lambda t: t.to(torch.complex64),
    "other numbers": lambda t: t.long() if t.is_floating_point() else t.float(),
    "words": lambda t: t.bool(),
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("label", ["sdedit", "doodl"])
def test_a_state_made_by_hand_is_one_sentence(label: str, how: str, copy: Path) -> None:
    """With right digests; each tensor in turn, and none, and one too many."""
    folder = Folder.open(copy)
    kept = folder.read_state(label, "cpu")
    names = {name: {name: SPOILT[how](tensor)} for name, tensor in kept.tensors.items()}
    if how == "shorter":
        names |= {"nothing": {"other": torch.zeros(2)}}
    for name, changed in names.items():
        if name in ("draws", "redrawn") and how in ("words",):
            continue  # 0 and 1, as they were
        for finished in (True, False):
            folder.write_state(label, Kept({**kept.tensors, **changed}, finished))
            with pytest.raises(UserError, match=rf"{label}.safetensors cannot be gone on from"):
                list(resume(copy, MODEL))


def test_a_state_that_is_deleted_is_made_again(made: tuple[RunSpec, Path], copy: Path) -> None:
    empty_state(copy, copy)
    (copy / "doodl.safetensors").unlink()
    list(resume(copy, MODEL))
    assert images(copy) == images(made[1])


def test_no_byte_of_a_state_can_change_unnoticed(copy: Path) -> None:
    path, folder = copy / "sdedit.safetensors", Folder.open(copy)
    whole, tensors = path.read_bytes(), folder.read_state("sdedit", "cpu").tensors
    rng = random.Random(0)
    noticed = 0
    for _ in range(200):
        place = rng.randrange(len(whole))
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :]
        )
        try:
            found = folder.read_state("sdedit", "cpu").tensors
        except UserError:
            noticed += 1
        else:  # of what does not matter: how long it took, with which version
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert noticed > 150


def test_a_state_comes_back_as_it_was_written(copy: Path) -> None:
    folder = Folder.open(copy)
    tensors = {
        "half": torch.randn(2, 3).bfloat16(), "scalar": torch.tensor(3), "none": torch.zeros(0, 4),
        "turned": torch.randn(3, 4).T, "flag": torch.tensor([True, False]),
    }  # fmt: skip
    folder.write_state("sdedit", Kept(tensors, True, 1.5, 7))
    kept = folder.read_state("sdedit", "cpu")
    assert (kept.finished, kept.seconds, kept.passes) == (True, 1.5, 7)
    assert kept.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(kept.tensors[name], tensor)
        assert kept.tensors[name].dtype == tensor.dtype


def test_labels_are_names_of_files_that_differ() -> None:
    assert name_file("sdedit strength=0.6") == "sdedit-strength=0.6"
    long = "stylize other=" + "a red circle+" * 30
    labels = [
        "doodl",
        long,
        f"{long}!",
        f"{long}?",
        "a/b",
        "a b",
        "a-b",
        "a\u00e9b",
        "../x",
        "x" * 300,
    ]
    names = [name_file(label) for label in labels]
    assert all(len(name.encode()) <= 100 and "/" not in name for name in names)
    assert len(set(names)) == len(labels)


def test_what_fails_halfway_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    class StoppedError(Exception):
        pass

    def write() -> None:
        with write_atomically(tmp_path / "file") as partial:
            partial.write_text("new")
            raise StoppedError

    with pytest.raises(StoppedError):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_that_is_taken_or_cannot_be_written_is_refused(tmp_path: Path) -> None:
    spec = parse_spec({"methods": [{"kind": "plain"}]})
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty: choose another, or `chainrule resume"):
        Folder.create(tmp_path, spec)
    with pytest.raises(
        UserError, match=r"cannot be written \((Not a directory|File exists)\)"
    ) as caught:
        Folder.create(tmp_path / "mine" / "run", spec)
    assert caught.value.field == "output"
    with pytest.raises(
        UserError, match="mine is not a run's folder: name one that chainrule wrote"
    ):
        Folder.open(tmp_path / "mine")
    Folder.create(tmp_path / "empty" / "deep", spec)
    assert (tmp_path / "empty" / "deep" / "spec.json").is_file()


def test_a_tensor_of_one_element_has_a_digest_whatever_its_stride() -> None:
    odd = torch.arange(4)[::2][:1]
    assert odd.is_contiguous()
    assert digest_tensors({"a": odd}) == digest_tensors({"a": torch.tensor([0])})
    assert digest_tensors({"a": torch.zeros(0), "b": torch.zeros(())}) != digest_tensors({})


def test_a_run_goes_on_with_the_networks_that_it_began_with_only(tmp_path: Path) -> None:
    classifier = shutil.copytree(SCENES.classifier, tmp_path / "mine")
    loss = {"kind": "classifier", "target": "heart", "classifier": str(classifier)}
    spec = parse_spec(
        {
            "inputs": {"prompt": "a cat", "seed": (0,)},
            "losses": [loss],
            "methods": [{"kind": "plain", "steps": 2}],
        }
    )
    list(execute(spec, tmp_path / "run", MODEL))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(report["networks"]) == [str(classifier)]
    list(resume(tmp_path / "run", MODEL))
    weights = classifier / "model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    weights.write_bytes(whole)
    with pytest.raises(UserError, match=r"mine is not what it was: put it back"):
        list(resume(tmp_path / "run", MODEL))
    shutil.rmtree(classifier)
    with pytest.raises(UserError, match=r"mine is not what it was"):
        list(resume(tmp_path / "run", MODEL))


@pytest.mark.parametrize("name", ["{}", "{}:0.5", "word={}"])
def test_a_network_is_found_whatever_is_written_beside_it(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"x")
    assert find_place(name.format(file)) == file
    assert find_place(name.format("owner/name")) is None
