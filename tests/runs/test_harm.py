"""What can happen to a run's folder: damage, strangers, links, a disk that is full."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError

from chainrule.errors import LONGEST, UserError
from chainrule.images import to_pil
from chainrule.runs import Iteration, RunSpec, execute, find_run, parse_spec, resume
from chainrule.runs.folder import Folder
from command import contents, images
from conftest import tiny_model

MODEL = tiny_model()
SECRET = b"what is not this run's business"


def draw(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed))
    to_pil(picture).save(path)
    return path


def ask(folder: Path, seed: int = 0) -> RunSpec:
    doodl = {"kind": "doodl", "iterations": 1, "steps": 2, "crops": 0, "mix": None}
    return parse_spec(
        {
            "inputs": {"prompt": "a dog", "seed": (seed,)},
            "losses": [{"kind": "picture", "target": draw(folder / "photo.png", seed)}],
            "methods": [{"kind": "plain", "steps": 1 + seed}, doodl],
        }
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run, the same half done, and another one."""
    place = tmp_path_factory.mktemp("runs")
    spec = ask(place)
    list(execute(spec, place / "whole", MODEL))
    list(execute(ask(place / "elsewhere", 1), place / "other", MODEL))
    events = execute(spec, place / "half", MODEL)
    for event in events:
        if isinstance(event, Iteration) and event.label == "doodl":
            events.close()  # type: ignore[attr-defined]
    return {path.name: path for path in (place / "whole", place / "half", place / "other")}


def list_files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def check_resumed(folder: Path, whole: Path) -> UserError | None:
    """It ends as if nothing had been, or says in a sentence why not, and what to do."""
    error = catch(lambda: list(resume(folder, MODEL)))
    if error is None:
        assert not list(folder.rglob(".part-*"))
        assert contents(folder) == contents(whole)
    return error


def catch(call: Callable[[], Any]) -> UserError | None:
    """The error of a call, which is one sentence; None if there is none."""
    try:
        call()
    except UserError as error:
        found = error
    else:
        return None
    assert found.cure
    assert str(found).isprintable()
    assert len(str(found)) < 2 * LONGEST + 10
    return found


# --- damage -------------------------------------------------------------------------------------

BOMBS = (
    b"", b"{}", b"[]", b"null", b"[1", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 100_000, b"NaN",
    b'{"version": 2, "methods": 3}', b'{"version": 2, "version": 1}', b'"\\ud800"', b"\xff\xfe\x00",
    b'{"spec.json": NaN}', b'{"spec.json": {"a": 1e999}}', b"\x00" * 1000,
)  # fmt: skip


def damage(whole: bytes, kind: str, rng: random.Random) -> bytes:
    if kind == "truncated":
        return whole[: rng.randrange(len(whole))]
    if kind == "random":
        return rng.randbytes(rng.randrange(1, 2000))
    if kind == "bomb":
        return rng.choice(BOMBS)
    if kind == "longer":
        return whole + rng.randbytes(8)
    place = rng.randrange(len(whole))
    return whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :]


KINDS = ("flipped", "truncated", "random", "bomb", "longer", "deleted", "swapped")


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    which=st.sampled_from(["half", "whole"]),
    place=st.floats(0, 0.999),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10**6),
)
def test_whatever_is_damaged_it_ends_the_same_or_says_so(
    runs: dict[str, Path], which: str, place: float, kind: str, seed: int
) -> None:
    folder = Path(shutil.copytree(runs[which], Path(mkdtemp()) / "run"))
    names, rng = list_files(folder), random.Random(seed)
    name = names[int(place * len(names))]
    if kind == "deleted":
        (folder / name).unlink()
    elif kind == "swapped":
        other = runs["other"] / name.replace("0000", "0001")
        shutil.copyfile(other, folder / name)
    else:
        (folder / name).write_bytes(damage((folder / name).read_bytes(), kind, rng))
    check_resumed(folder, runs["whole"])
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize("which", ["half", "whole"])
def test_a_folder_in_the_place_of_any_file_is_one_sentence(
    which: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    for name in list_files(runs[which]):
        folder = Path(shutil.copytree(runs[which], tmp_path / name / "run"))
        (folder / name).unlink()
        (folder / name / "x").mkdir(parents=True)
        assert check_resumed(folder, runs["whole"]) is not None, name


@pytest.mark.parametrize("name", ["images", "inputs"])
def test_a_file_in_the_place_of_a_folder_is_one_sentence(
    name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(runs["whole"], tmp_path / "run"))
    shutil.rmtree(folder / name)
    (folder / name).write_text("a file")
    assert check_resumed(folder, runs["whole"]) is not None


# --- links --------------------------------------------------------------------------------------


def places(folder: Path) -> list[str]:
    """All files and folders of a run, and what is written on the way to each."""
    names = [path.relative_to(folder) for path in folder.rglob("*")]
    partial = [name.with_name(f".part-{name.name}") for name in names if (folder / name).is_file()]
    return sorted(name.as_posix() for name in [*names, *partial])


def make_victim(place: Path, *, folder: bool) -> Path:
    """A file or a folder that is nobody's business."""
    place.mkdir(parents=True)
    if not folder:
        (place / "victim").write_bytes(SECRET)
        return place / "victim"
    for name in ("photo.png", "plain-0000.png", "mine"):
        (place / "victim").mkdir(exist_ok=True)
        (place / "victim" / name).write_bytes(SECRET)
    return place / "victim"


def harmed(victim: Path) -> bool:
    files = [path for path in [victim, *victim.rglob("*")] if path.is_file()]
    return len(files) not in (1, 3) or any(path.read_bytes() != SECRET for path in files)


@pytest.mark.parametrize("which", ["half", "whole"])
@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_no_link_leads_out_of_a_folder(
    which: str, link: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    for name in places(runs[which]):
        folder = Path(shutil.copytree(runs[which], tmp_path / name / "run"))
        was = folder / name
        victim = make_victim(tmp_path / name / "elsewhere", folder=was.is_dir())
        if was.is_dir() and link == "hard":
            continue
        shutil.rmtree(was) if was.is_dir() else was.unlink(missing_ok=True)
        was.symlink_to(victim) if link == "symbolic" else was.hardlink_to(victim)
        error = check_resumed(folder, runs["whole"])
        assert not harmed(victim), name
        assert link == "hard" or (error is not None and "is a link" in str(error)), name
        if name.endswith(".png") and "images" in name:
            continue  # then it is the picture that is named
        place = tmp_path / name / "again"
        picture = folder / "images" / "plain-0000.png"
        if catch(lambda: list(execute(find_run(picture), place, MODEL))) is None:  # noqa: B023
            assert images(place)["plain-0000.png"] == images(runs["whole"])["plain-0000.png"]
        assert not harmed(victim), name


@pytest.mark.parametrize("name", ["inputs", "images", "digests.json"])
def test_a_new_run_follows_no_link(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """As in a folder that somebody made ready for it."""
    victim = make_victim(tmp_path / "elsewhere", folder="." not in name)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(victim)
    with pytest.raises(UserError, match=r"is a link|is not empty"):
        list(execute(ask(tmp_path), tmp_path / "run", MODEL))
    assert not harmed(victim)


def test_a_pipe_in_a_folder_is_not_waited_for(runs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("digests.json", "inputs/photo.png", "plain.safetensors", "images/plain-0000.png"):
        folder = Path(shutil.copytree(runs["whole"], tmp_path / name / "run"))
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert "is a link, or no file" in str(check_resumed(folder, runs["whole"]))


# --- a full disk --------------------------------------------------------------------------------


class Disk:
    """A disk that is full from the n-th write on."""

    def __init__(self, patch: pytest.MonkeyPatch, room: int, code: int) -> None:
        self.left, self.code = room, code
        for holder, name in (
            (os, "replace"), (os, "mkdir"), (Path, "write_text"), (shutil, "copyfile"), (Image.Image, "save"),
        ):  # fmt: skip
            patch.setattr(holder, name, self.guard(getattr(holder, name), OSError))
        save = self.guard(safetensors.torch.save_file, SafetensorError)
        patch.setattr(safetensors.torch, "save_file", save)

    def guard(self, write: Callable[..., Any], kind: type[Exception]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            if not self.left:
                if kind is OSError:
                    raise OSError(self.code, os.strerror(self.code))
                raise kind(f"Error while serializing: I/O error: {os.strerror(self.code)}")
            self.left -= 1
            return write(*arguments, **named)

        return guarded


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=os.strerror)
def test_wherever_it_cannot_be_written_it_says_so_and_goes_on_later(
    code: int, runs: dict[str, Path], tmp_path: Path
) -> None:
    spec, room, step = ask(tmp_path), 0, 2 if code == errno.ENOSPC else 9
    while True:
        folder = tmp_path / f"run{room}"
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, room, code)
            error = catch(lambda: list(execute(spec, folder, MODEL)))  # noqa: B023
        if error is None:
            break
        said = str(error).replace("Error while serializing: I/O error: ", "")
        assert f"cannot be written ({os.strerror(code)})" in said
        assert ("make room there" if code == errno.ENOSPC else "choose another place") in said
        assert not disk.left
        assert not list(folder.rglob(".part-*"))
        if (folder / "spec.json").exists():  # what is there is whole
            found = Folder.open(folder)
            for label in ("plain", "doodl"):
                found.read_state(label, "cpu")
        list(execute(spec, folder, MODEL))
        assert contents(folder) == contents(runs["whole"])
        room += step
    assert room > 30
    assert disk.left >= 0


def test_a_full_disk_at_a_stop_is_told(tmp_path: Path) -> None:
    """What there is could not be written: nobody should be told that it was."""
    events = execute(ask(tmp_path), tmp_path / "run", MODEL)
    for event in events:
        if isinstance(event, Iteration) and event.label == "doodl":
            break
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, 0, errno.ENOSPC)
        with pytest.raises(UserError, match="No space left on device"):
            events.close()  # type: ignore[attr-defined]
