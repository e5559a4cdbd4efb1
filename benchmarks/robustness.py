"""What happens to bad input, at kills, to damage and to malice: `python benchmarks/robustness.py`.

Every case is the command line in a process of its own (`forks.py`), with standard input that says
yes. What comes of it is

    clear               one sentence that says what is wrong and what to do; or the right result
    unclear             an exit code that is not 0, and less or more than such a sentence
    traceback           an exception that nobody caught
    hang                no end within `--patience` seconds
    silently different  exit code 0 and another result than undamaged; bad input taken without a
                        word; a file outside changed, shown or read; code run

and all but the first must be zero. Cases are numbered, and each depends on `--seed` and its number
alone: `--only inputs --start 17 --count 1` is one again.
"""

from __future__ import annotations

import itertools
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from base import Options, machine, publish, table
from chainrule.methods.registry import METHODS
from damage import Damage, find_leak, lay_out
from forks import Forks
from hostile import HOSTILE, USES, Trap
from slips import Bad
from trials import ASKS, VERDICTS, Case, Place, check_run, compare, fill, judge, shell, snapshot

DAMAGED = ("plain", "sdedit", "doodl", "stylize", "audit", "effect")
"""The methods whose folders are damaged."""


def ask_badly(place: Place, number: int, rng: random.Random, folder: Path) -> Case:
    """A bad command."""
    argv, refused = Bad(place, rng, folder).make()
    output = folder / "out"
    said = {"-o", "--output"} & set(argv)
    names = ("methods", "models", "estimate")
    if not said and argv[0] not in names and not argv[0].startswith("-"):
        more = ["-q"] if argv[0] == "resume" else ["-q", "-o", str(output)]
        argv = [argv[0], *more, *argv[1:]]
    gone = rng.random() < 0.02
    if gone:
        output = folder / "gone-out"
        (cwd := folder / "gone").mkdir()
    ended = place.ask(argv, cwd if gone else folder, gone=gone)

    def check() -> str | None:
        if refused:
            return "it was taken without a word"
        makes = str(output) in argv
        return check_run(output) if makes and "--help" not in argv else None

    return Case("inputs", number, shell(argv), *judge(ended, check), ended)


def kill(place: Place, number: int, rng: random.Random, folder: Path) -> Case:
    """A run that is killed, up to three times, and then goes on to its end."""
    kind = [*ASKS][number % len(ASKS)]
    whole = place.make(kind)
    writes, seconds = place.measured(kind)
    run, said, ended = folder / "run", [], None
    kills = rng.choice([1, 1, 2, 3])
    for left in range(kills, -1, -1):
        begun = (run / "spec.json").exists()
        first = [*fill(ASKS[kind], place.files), "-q", "-o", str(run)]
        argv = ["resume", str(run), "-q"] if begun else first
        by_count = rng.random() < 0.5
        at = rng.randint(1, int(writes)) if by_count else None
        after = None if by_count else rng.uniform(0, seconds)
        moment = f"# killed at write {at}" if by_count else f"# killed after {after:.3f} s"
        said.append(f"{shell(argv)}  {moment if left else ''}")
        if left:
            place.ask(argv, folder, folder=str(run), kill_at=at, kill_after=after)
        else:
            ended = place.ask(argv, folder)
    if ended is None:
        raise RuntimeError("nothing was done")

    verdict, why = judge(ended, lambda: compare(snapshot(run), snapshot(whole)))
    if verdict == "clear" and ended.code != 0:
        verdict, why = "silently different", "what was killed cannot go on"
    return Case("kills", number, "\n  ".join(said), verdict, why, ended)


def damage(place: Place, number: int, rng: random.Random, folder: Path) -> Case:
    """A damaged folder: its run goes on, or one of its pictures is made again."""
    kind = DAMAGED[number % len(DAMAGED)]
    half = rng.random() < 0.5
    other = place.make("sdedit" if kind == "plain" else "plain")
    run, elsewhere = folder / "run", folder / "elsewhere"
    shutil.copytree(place.make(kind, whole=not half), run, symlinks=True)
    lay_out(elsewhere, place.files["photo"])
    before = snapshot(elsewhere)
    pictures = sorted((run / "images").glob(f"{kind}-*.png"))
    again = not half and bool(pictures) and rng.random() < 0.35
    done, unread = Damage(run, other, elsewhere, rng).do()
    argv = ["resume", str(run), "-q"]
    if again:
        picture = rng.choice(pictures)
        argv = ["rerun", str(picture), "-q", "-o", str(folder / "again")]
    ended = place.ask(argv, folder, guarded=str(elsewhere))

    def check() -> str | None:
        if again:
            name = f"images/{picture.name}"
            whole = place.make(kind) / name
            with Image.open(whole) as one, Image.open(folder / "again" / name) as two:
                return None if one.tobytes() == two.tobytes() else "another picture"
        return compare(snapshot(run), snapshot(place.make(kind)))

    verdict, why = judge(ended, check)
    leak = find_leak(ended, folder / "again" if again else run, elsewhere, before)
    opened = [did for did in ended.did if did.startswith("opened")] if unread else []
    if verdict in ("clear", "unclear") and (leak or opened):
        verdict, why = "silently different", leak or opened[0]
    state = "half done" if half else "done"
    return Case("folders", number, f"{shell(argv)}  # {kind}, {state}: {done}", verdict, why, ended)


def attack(place: Place, number: int, rng: random.Random, folder: Path) -> Iterator[Case]:
    """A hostile file, given to every option that takes such a file."""
    names = sorted(HOSTILE)
    random.Random(place.seed).shuffle(names)
    name = names[number % len(names)]
    kind, make = HOSTILE[name]
    elsewhere = folder / "elsewhere"
    lay_out(elsewhere, place.files["photo"])
    before, marker = snapshot(elsewhere), folder / "marker"
    picture = next((place.make("plain") / "images").glob("*.png"))
    (folder / "trap").mkdir()
    file = make(Trap(folder / "trap", marker, elsewhere / "secret.png", picture, rng))
    for i, use in enumerate(USES[kind]):
        output = folder / f"out-{i}"
        argv = fill(use, {**place.files, "f": str(file), "out": str(output)})
        guarded = str(elsewhere) if kind == "carried" else ""
        ended = place.ask(argv, folder, guarded=guarded)
        draws = "{out}" in use
        verdict, why = judge(ended, lambda out=output, d=draws: check_run(out) if d else None)  # type: ignore[misc]
        leak = find_leak(ended, output, elsewhere, before)
        did = [] if "--trust" in argv else ended.did  # who trusts a picture lets it name files
        if verdict in ("clear", "unclear") and (leak or did or marker.exists()):
            why = "code was run" if marker.exists() else leak or "; ".join(did)[:200]
            verdict = "silently different"
        marker.unlink(missing_ok=True)
        yield Case("files", number, f"{shell(argv)}  # {name}", verdict, why, ended)


Do = Callable[[Place, int, random.Random, Path], "Case | Iterator[Case]"]
KINDS: dict[str, tuple[str, int, Do]] = {
    "inputs": ("bad commands and specs", 600, ask_badly),
    "kills": ("runs killed with -9, then resumed", 105, kill),
    "folders": ("damaged folders, resumed or rerun", 120, damage),
    "files": ("hostile files, each to every option", len(HOSTILE), attack),
}


def do(place: Place, kind: str, numbers: Sequence[int], *, told: bool) -> list[Case]:
    """The cases of a kind, each printed if they are to be told."""
    _, _, work = KINDS[kind]
    cases: list[Case] = []
    for number in numbers:
        folder = place.work / f"{kind}-{number}"
        folder.mkdir()
        found = work(place, number, random.Random(f"{place.seed} {kind} {number}"), folder)
        mine = [found] if isinstance(found, Case) else [*found]
        cases += mine
        for case in mine if told else []:
            said = "" if case.ended is None else case.ended.err.strip()[:400]
            print(f"{kind} {number}: {case.verdict} {case.why}\n  {case.said[:400]}\n  {said}")
        if all(case.verdict == "clear" for case in mine):
            shutil.rmtree(folder, ignore_errors=True)
    return cases


def tell(cases: Sequence[Case]) -> None:
    """Print what failed: of those that fail alike, the first in full."""
    failed = [case for case in cases if case.verdict != "clear"]
    for _, alike in itertools.groupby(
        sorted(failed, key=lambda case: case.cause), lambda c: c.cause
    ):
        first, *others = alike
        numbers = ", ".join(f"{case.kind} {case.number}" for case in others)
        print(f"\n--- {first.verdict} ({first.kind} {first.number}): {first.why}")
        print(f"  {first.said[:1500]}")
        if first.ended is not None:
            print(
                "".join(f"  | {line[:300]!s}\n" for line in first.ended.err.splitlines()[-6:]),
                end="",
            )
        if numbers:
            print(f"  and {len(others)} more alike: {numbers[:300]}")


def main(argv: Sequence[str] | None = None) -> None:
    options = Options(__doc__)
    options.add("--only", nargs="+", choices=[*KINDS], default=[*KINDS], toy=[*KINDS])
    options.add("--count", type=int, default=None, toy=1, help="of each kind; all, if not said")
    options.add("--start", type=int, default=0, toy=0, help="the number of the first case")
    options.add("--seed", type=int, default=0, toy=0)
    options.add_argument("--tell", action="store_true", help="print every case")
    options.add("--patience", type=float, default=60.0, toy=60.0, help="seconds until it hangs")
    arguments = options.parse(argv)
    if set(ASKS) != set(METHODS.own):
        raise SystemExit(f"these methods are not tried: {sorted(set(METHODS.own) ^ set(ASKS))}")
    work, rows, cases = Path(tempfile.mkdtemp(prefix="robustness-")), [], []
    (work / "said").mkdir()
    with Forks(work / "said") as forks:
        place = Place(work, forks, arguments.seed, arguments.patience)
        for kind in arguments.only:
            what, count, _ = KINDS[kind]
            first, begun = arguments.start, time.monotonic()
            numbers = range(first, first + (arguments.count or count))
            mine = do(place, kind, numbers, told=arguments.tell)
            found = Counter(case.verdict for case in mine)
            seconds = f"{time.monotonic() - begun:.0f}"
            rows.append([what, len(mine), *(found[verdict] for verdict in VERDICTS), seconds])
            cases += mine
    tell(cases)
    failed = sum(case.verdict != "clear" for case in cases)
    text = [
        "## What bad input, kills, damage and malice come to",
        f"`python benchmarks/robustness.py --seed {arguments.seed}` on {machine()}. Clear: one "
        "sentence with cause and cure and an exit code that is not 0, or the right result, byte "
        "for byte that of a run that was neither killed nor damaged.",
        table(["what", "cases", *VERDICTS, "s"], rows),
    ]
    publish(
        "robustness", "\n\n".join(text), dry=arguments.dry or failed > 0 or len(rows) < len(KINDS)
    )
    if failed:
        print(f"\n{failed} failed; their folders are in {work}", file=sys.stderr)
        raise SystemExit(1)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
