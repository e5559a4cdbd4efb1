"""A run's folder: everything that it needs, and everything that comes of it.

    spec.json               what is asked for, whole; files are named as they are in the folder
    inputs/                 the files that it reads, copied in
    digests.json            of spec.json and of these files
    networks.json           fingerprints of the networks that are files here, if there are any
    <method>.safetensors    a method's state after its last iteration, with its own digest
    images/                 <method>-<seed>.png; a method that trains, audits or inverts shows its
                            images in contact-sheet.png instead, and lists them in report.csv
    previews/               of a training, <method>-<iteration>.png: what it had learnt by then
    contact-sheet.png, loss.png, report.json, report.csv

Every file is written under another name and then renamed, so that a stop at any moment leaves whole
files, and everything random can be replayed: a resumed run ends with the bytes of one that was
never stopped. What a run goes on from is known by its digest, and what it makes of it is written
again. There are no links in it, so that a folder from elsewhere leads nowhere.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

import chainrule
from chainrule.errors import UserError, find_reason
from chainrule.runs.networks import find_fingerprints, require_same
from chainrule.runs.spec import RunSpec, parse_text
from chainrule.specs import expand, list_files, map_files

SPEC, DIGESTS, SHEET = "spec.json", "digests.json", "contact-sheet.png"
NETWORKS = "networks.json"
INPUTS, IMAGES, PREVIEWS = "inputs", "images", "previews"
LONGEST = 80
"""How many letters of a method's settings, or of an input's name, a file's name may have."""
DIGITS = 4
"""The least number of digits of a seed in a file's name."""


AGAIN = "delete it, and the method begins again"
"""What helps against a state that is none."""
PARTIAL = ".part-"
"""How the name of a file begins that is not yet whole."""


class StateError(UserError):
    """A method's state that nothing can go on from; it is left as it is, for its owner."""


class DamagedStateError(StateError):
    """One that has lost what it held, so that nothing is lost if it is made again."""


@dataclass(frozen=True)
class Kept:
    """A method's work so far, as a file holds it.

    Args:
        tensors: Its state.
        finished: Whether that is all.
        seconds: How long it took.
        passes: How often the network was evaluated on one latent, forwards and backwards.
    """

    tensors: Mapping[str, Tensor]
    finished: bool = False
    seconds: float = 0.0
    passes: int = 0


class Folder:
    """A folder with a run in it.

    Args:
        path: Where it is.
        spec: What is asked for; its files are named by where they are now.
        written: The same, with files named as in `spec.json`.
    """

    def __init__(self, path: Path, spec: RunSpec, written: RunSpec) -> None:
        self.path, self.spec, self.written = path, spec, written

    @classmethod
    def create(cls, path: str | Path, spec: RunSpec) -> Folder:
        """A new folder, with its inputs. Raises UserError if it cannot be, or holds something.

        Args:
            path: Where: a folder that is not there, or is empty.
            spec: What is asked for.
        """
        path = Path(path)
        require_empty(path)
        with _explain(path):
            path.mkdir(parents=True, exist_ok=True)
            require_own(path)
            written, digests = _copy_inputs(path, spec)
            text = written.dump()
            digests[SPEC] = hashlib.sha256(text.encode()).hexdigest()
            write_text(path / DIGESTS, json.dumps(digests, indent=2))
            networks = find_fingerprints(written)
            if networks:
                write_text(path / NETWORKS, json.dumps(networks, indent=2))
            write_text(path / SPEC, text)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Folder:
        """A folder that is there. Raises UserError if it holds no run, or a damaged one."""
        path = Path(path)
        with _explain(path, "read", "name a folder that chainrule wrote"):
            if not path.is_dir():
                raise UserError(f"{path} is not a run's folder", "name one that chainrule wrote")
            require_own(path)
            if not (path / SPEC).is_file():
                raise UserError(
                    f"{path} holds no run (no {SPEC})", "name a folder that chainrule wrote"
                )
            digests = _read_all_digests(path)
            text = (path / SPEC).read_bytes()
        if SPEC not in digests:
            raise UserError(
                f"{path / DIGESTS} is of another run", "put it back, or begin the run anew"
            )
        if hashlib.sha256(text).hexdigest() != digests[SPEC]:
            raise UserError(
                f"{path / SPEC} is not what it was", "put it back, or begin the run anew"
            )
        written = parse_text(text.decode(), path / SPEC, as_written=True)
        _check_inputs(path, written)
        return cls(path, map_files(written, lambda file: path / file), written)

    def holds(self, spec: RunSpec) -> bool:
        """Whether its run is the one of `spec`, whose files may be elsewhere."""
        if spec in (self.spec, self.written):
            return True
        names = _name_inputs(spec)
        same = map_files(spec, lambda file: names[file]) == self.written
        return same and all(
            digest_file(file) == digest_file(self.path / name)
            for file, name in names.items()
            if os.path.isfile(file)
        )

    @property
    def networks(self) -> dict[str, str]:
        """The fingerprints of the networks that are files here, as they are now."""
        return find_fingerprints(self.written)

    def require_same_networks(self) -> None:
        """Raise UserError if a network is not what it was when the folder was made."""
        require_same(self.path / NETWORKS, self.networks)

    # --- states ---------------------------------------------------------------------------------

    def read_state(self, label: str, device: str) -> Kept | None:
        """A method's work so far; None if there is none.

        Args:
            label: The method's name in the run.
            device: Where its tensors should be.

        Raises:
            DamagedStateError: If the file is damaged.
            StateError: If it is of another run, or cannot be read.
        """
        from safetensors import safe_open

        path = self.state_path(label)
        if not os.path.lexists(path):
            return None
        try:
            with path.open("rb"):  # what the system refuses is not damaged
                pass
        except OSError as error:
            cause = f"{path} cannot be read ({find_reason(error)})"
            raise StateError(cause, "mend that, or move it away") from error
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                facts = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest, own = facts.pop("digest", None), facts.get("run") == self._identity(label)
            if digest != _digest_state(tensors, facts) and (own or digest is not None):
                raise ValueError("its digest is another")
            kept = _kept(tensors, facts)
        except MemoryError:
            raise
        except Exception as error:  # of what is damaged, its readers raise many kinds
            raise DamagedStateError(f"{path} is damaged ({find_reason(error)})", AGAIN) from error
        if not own:
            raise StateError(f"{path} is the state of another run", AGAIN)
        return replace(kept, tensors={name: each.to(device) for name, each in tensors.items()})

    def write_state(self, label: str, kept: Kept) -> None:
        """Write a method's work so far, in the place of what was there.

        Args:
            label: The method's name in the run.
            kept: Its work so far.
        """
        from safetensors.torch import save_file

        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in kept.tensors.items()}
        facts = {
            "chainrule": chainrule.__version__,
            "run": self._identity(label),
            "finished": str(kept.finished).lower(),
            "seconds": f"{kept.seconds:.3f}",
            "passes": str(kept.passes),
        }
        facts["digest"] = _digest_state(tensors, facts)
        with write_atomically(self.state_path(label)) as path:
            save_file(tensors, path, metadata=facts)

    def state_path(self, label: str) -> Path:
        """The file of a method's state, which may not be there.

        Args:
            label: The method's name in the run.
        """
        return self.path / f"{name_file(label)}.safetensors"

    def image_path(self, label: str, seed: int) -> Path:
        """The file of an image, which may not be there.

        Args:
            label: The method's name in the run.
            seed: The image's.
        """
        digits = max(DIGITS, len(str(max(self.spec.inputs.seed))))
        return self.path / IMAGES / f"{name_file(label)}-{seed:0{digits}d}.png"

    def _identity(self, label: str) -> str:
        """What a state belongs to: this run's inputs, and this method."""
        method = dict(self.written.labelled())[label]
        parts = self.written.model_dump(mode="json", exclude={"methods", "memory", "stop_after"})
        whole = [parts, method.model_dump(mode="json"), read_digests(self.path)]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _kept(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Kept:
    """A state's file. Raises ValueError for facts that are not numbers."""
    finished = facts.get("finished") == "true"
    return Kept(tensors, finished, float(facts.get("seconds", 0)), int(facts.get("passes", 0)))


def _digest_state(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """SHA-256 of all that a state's file says."""
    said = json.dumps([digest_tensors(tensors), facts], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def name_file(label: str) -> str:
    """A label as a file's name: with a digest, where it would not tell it from others."""
    plain = label.replace(" ", "-")
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.=+") else "-" for c in plain)
    settings = all("=" in word for word in label.split(" ")[1:])
    if safe == plain and settings and len(safe) <= LONGEST:
        return safe
    return f"{safe[:LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of some tensors: names, kinds, shapes, bytes."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        flat = torch.empty(tensor.numel(), dtype=tensor.dtype)  # of stride 1, whatever it was
        digest.update(flat.copy_(tensor.reshape(-1)).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def require_empty(path: Path) -> None:
    """Raise UserError if a folder of that name holds something.

    What a run that was killed while its folder was made has left behind is nothing.
    """
    made = (DIGESTS, NETWORKS, SPEC)
    begun = {INPUTS, DIGESTS, NETWORKS, *(f"{PARTIAL}{name}" for name in made)}
    with _explain(path):
        if path.is_dir() and not {found.name for found in path.iterdir()} <= begun:
            raise UserError(
                f"{path} is not empty", f"choose another, or `chainrule resume {path}`", "output"
            )


def require_own(path: Path) -> None:
    """Raise UserError for a link, or what is no file, in a run's folder.

    Nothing outside of it can be read or written through what is left.
    """
    folders = [path, *(path / name for name in (INPUTS, IMAGES, PREVIEWS))]
    for folder in folders:  # in this order: a link is found before it is looked into
        if not folder.is_dir():
            continue
        for found in sorted(folder.iterdir()):
            if found.is_symlink() or not (found.is_file() or found.is_dir()):
                raise UserError(
                    f"{found} is a link, or no file",
                    "a run's folder has nothing but files: put the file there, or delete the link",
                )


def read_digests(path: Path) -> dict[str, str]:
    """The digests of a folder's inputs, by their names in it."""
    return {name: digest for name, digest in _read_all_digests(path).items() if name != SPEC}


def _read_all_digests(path: Path) -> dict[str, str]:
    try:
        found: Any = json.loads((path / DIGESTS).read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in found.items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        reason = find_reason(error)
        raise UserError(f"{path / DIGESTS} is damaged ({reason})", "begin the run anew") from error


def _copy_inputs(path: Path, spec: RunSpec) -> tuple[RunSpec, dict[str, str]]:
    """Copy the files that a spec names; the spec with their new names, and their digests."""
    digests: dict[str, str] = {}
    names = _name_inputs(spec)
    for file, name in names.items():
        (path / INPUTS).mkdir(exist_ok=True)
        with write_atomically(path / name) as partial:
            shutil.copyfile(expand(file), partial)
        digests[name.as_posix()] = digest_file(path / name)
    return map_files(spec, lambda file: names[file]), digests


def _name_inputs(spec: RunSpec) -> dict[Path, Path]:
    """The files that a spec names, each with its name in a run's folder."""
    names: dict[Path, Path] = {}
    for file in list_files(spec):
        if file not in names:
            plain = "".join(_cut(part) for part in (file.stem, file.suffix))
            more = (f"{k}-{plain}" for k in count(1))
            free = (Path(INPUTS) / name for name in chain([plain], more))
            names[file] = next(name for name in free if name not in names.values())
    return names


def _cut(text: str) -> str:
    """A part of a file's name that is not too long for any disk."""
    return text.encode()[:LONGEST].decode(errors="ignore")


def _check_inputs(path: Path, written: RunSpec) -> None:
    """Raise UserError if a file that a run reads is not what it was, or not in its folder."""
    for file in list_files(written):
        require_input(file, path / SPEC)
    digests = read_digests(path)
    if set(digests) != {file.as_posix() for file in list_files(written)}:
        raise UserError(f"{path / DIGESTS} is of another run", "put it back, or begin the run anew")
    for name, digest in digests.items():
        try:
            same = digest_file(path / name) == digest
        except OSError as error:
            raise UserError(
                f"{path / name} cannot be read ({error.strerror or error})", "put it back"
            ) from error
        if not same:
            raise UserError(
                f"{path / name} is not what it was", "put it back, or begin the run anew"
            )


def require_input(file: Path, where: Path) -> None:
    """Raise UserError if a run's file is not one of those in its own folder.

    Args:
        file: Its name in the run.
        where: What names it, for the message.
    """
    if file.parent != Path(INPUTS) or file.name == "..":
        raise UserError(
            f"{where} names {file}, which is not in its folder", "begin the run anew with it"
        )


# --- files --------------------------------------------------------------------------------------


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path to write a file or a folder to, which becomes `path` only when all is written."""
    partial = path.with_name(f"{PARTIAL}{path.name}")
    with _explain(path):
        _remove(partial)
        try:
            yield partial
            if partial.is_dir():
                _remove(path)  # a folder cannot take the place of another
            os.replace(partial, path)
        except BaseException:
            _remove(partial)
            raise


def _remove(path: Path) -> None:
    """Remove a file or a folder; a link is not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def delete_partial(path: Path, before: float) -> None:
    """Delete what killed runs left half-written in a run's folder.

    Args:
        path: The folder.
        before: What was written since this time, in seconds since 1970, may be another's who works
            on the same run now: it stays.
    """
    for folder in (path, path / INPUTS, path / IMAGES, path / PREVIEWS):
        for found in folder.glob(f"{PARTIAL}*"):
            with suppress(OSError):  # another may have been quicker, and nobody misses it
                if not found.is_symlink() and found.lstat().st_mtime <= before:
                    _remove(found)


def write_text(path: Path, text: str) -> None:
    """Write a text file.

    Args:
        path: The file.
        text: What is in it.
    """
    with write_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> None:
    """Make a folder of a run, if it is not there."""
    with _explain(path):
        path.mkdir(exist_ok=True)


def delete(path: Path) -> None:
    """Delete a file, if it is there."""
    with _explain(path):
        path.unlink(missing_ok=True)


NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)


@contextmanager
def _explain(
    path: Path, done: str = "written", cure: str = "choose another place"
) -> Iterator[None]:
    """What the system refuses, in one sentence.

    Args:
        path: What it is about.
        done: What cannot be done with it.
        cure: What to do about it, where it is not known better.
    """
    field = "output" if done == "written" else None
    if "\0" in str(path):
        raise UserError(f"{path} is not the name of a file", "choose another", field)
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        reason = getattr(error, "strerror", None) or find_reason(error)
        if number in NO_ROOM or os.strerror(errno.ENOSPC) in reason:
            cure = "make room there, and go on"
        elif number in IN_THE_WAY and done == "written":
            cure = "move away what is there, or choose another place"
        raise UserError(f"{path} cannot be {done} ({reason})", cure, field) from error
