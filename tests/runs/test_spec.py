"""What a run is asked for, written down and read again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError

from chainrule.errors import UserError
from chainrule.losses.registry import LOSSES
from chainrule.memory import Plan
from chainrule.methods import DOODL
from chainrule.methods.registry import METHODS
from chainrule.noise import parse_seeds
from chainrule.optimise import Adam, Momentum
from chainrule.runs import Checkpoint, Inputs, RunSpec, parse_spec, read_spec
from chainrule.runs.load import load_task
from chainrule.runs.spec import parse_memory, parse_size
from chainrule.specs import Spec, explain_error
from conftest import tiny_model

TARGETS: dict[str, dict[str, Any]] = {
    "classifier": {"target": "heart", "objective": "bce"},
    "text": {"target": "a red heart", "clip": {"": 0.5, "other": 2.0}},
    "image": {"target": ("/tmp/a.png", "/tmp/b.png")},
    "clip-direction": {"target": "a dog > a cat", "source": "/tmp/a.png"},
    "aesthetic": {"target": 10.0, "rater": "/tmp/head.pth"},
    "symmetry": {},
    "brightness": {"target": 0.8},
    **{kind: {"target": "/tmp/a.png"} for kind in ("picture", "histogram", "perceptual", "style")},
}
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {"steps": 7, "solver": "heun", "grid": "karras"},
    "doodl": {"optimiser": Adam(rate=0.3), "mix": None, "final_steps": 9, "start_of": 3},
    "audit": {"tau": (0.5, 0.1)},
    "stylize": {"other": ("a, b", "c"), "other_seeds": (5,)},
    "sdedit": {"strength": 0.25},
}


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_comes_back_from_json(kind: str) -> None:
    method = METHODS[kind](**CHANGES.get(kind, {}))
    spec = RunSpec(methods=(method,))
    again = parse_spec(json.loads(spec.dump()))
    assert again == spec
    assert type(again.methods[0]) is METHODS[kind]
    assert again.methods[0] == method
    assert again.dump() == spec.dump()


def test_every_loss_has_a_case() -> None:
    assert set(TARGETS) == set(LOSSES.own)


@pytest.mark.parametrize("kind", TARGETS)
def test_every_loss_comes_back_from_json(kind: str) -> None:
    loss = LOSSES[kind](weight=0.5, **TARGETS[kind])
    spec = RunSpec(methods=(METHODS["plain"](),), losses=(loss,))
    again = parse_spec(json.loads(spec.dump()))
    assert again == spec
    assert type(again.losses[0]) is LOSSES[kind]
    assert again.dump() == spec.dump()


def test_the_whole_of_a_run_comes_back_from_json(tmp_path: Path) -> None:
    spec = parse_spec(
        {
            "checkpoint": {
                "model": "owner/name",
                "size": "512x768",
                "dtype": "bfloat16",
                "lora": ["/tmp/a"],
            },
            "inputs": {
                "prompt": ["a cat", "a dog"],
                "seed": "3,5-7",
                "photo": "/tmp/p.png",
                "guidance_scale": "2.5",
            },
            "methods": [{"kind": "sdedit", "strength": 0.6}, {"kind": "sdedit", "strength": 0.8}],
            "memory": "8GB",
            "stop_after": {"sdedit strength=0.6": 1},
        }
    )
    assert spec.checkpoint.size == (512, 768)
    assert spec.inputs.seed == (3, 5, 6, 7)
    assert spec.memory == 8 * 10**9
    (tmp_path / "spec.json").write_text(spec.dump())
    assert read_spec(tmp_path / "spec.json") == spec


def test_yaml_is_read_where_it_can_be(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed, and nothing needs it")
    (tmp_path / "spec.yaml").write_text(
        "inputs:\n  prompt: a cat\n  seed: 0-2\nmethods:\n  - kind: sdedit\n    strength: 0.6\n"
    )
    spec = read_spec(tmp_path / "spec.yaml")
    assert (spec.inputs.prompt, spec.inputs.seed) == (("a cat",), (0, 1, 2))
    assert spec == parse_spec(
        {
            "inputs": {"prompt": "a cat", "seed": "0-2"},
            "methods": [{"kind": "sdedit", "strength": 0.6}],
        }
    )
    (tmp_path / "spec.yaml").write_text("inputs: [\n")
    with pytest.raises(UserError, match=r"spec.yaml is not \w+ \(.*\): mend it") as caught:
        read_spec(tmp_path / "spec.yaml")
    assert "\n" not in str(caught.value)


def test_without_pyyaml_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    (tmp_path / "spec.yml").write_text("methods: []\n")
    with pytest.raises(
        UserError, match="reading YAML needs PyYAML: pip install pyyaml, or write JSON"
    ):
        read_spec(tmp_path / "spec.yml")


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_another_version_is_refused_in_a_sentence(version: object, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(
        json.dumps({"version": version, "methods": [{"kind": "gone", "what": 1}]})
    )
    wanted = (
        rf"spec.json is of another version of chainrule \(format {version!r}, not 2\): make it anew"
    )
    with pytest.raises(UserError, match=wanted):
        read_spec(tmp_path / "spec.json")


NO_SEEDS: dict[str, Any] = {
    "a negative one": "-1",
    "one in a list": "3,-1",
    "a negative range": "-1-3",
    "too large": "2147483648",
    "too large in a list": "0,99999999999",
    "a fraction": "1.5",
    "a word": "random",
    "a negative number": -1,
    "a large number": 2**31,
    "a fractional number": 1.5,
    "a switch": True,
    "a negative number in a list": [0, -1],
    "a large number in a list": [0, 2**31],
    "nothing": None,
    "a mapping": {"0": 1},
}


@pytest.mark.parametrize("name", NO_SEEDS)
def test_what_is_no_seed_is_refused_with_what_one_is(name: str) -> None:
    spec = {"methods": [{"kind": "plain"}], "inputs": {"seed": NO_SEEDS[name]}}
    with pytest.raises(UserError, match=r"whole numbers? from 0 to 2147483647") as caught:
        parse_spec(spec)
    assert caught.value.field == "seeds"
    if not isinstance(NO_SEEDS[name], (str, type(None))):  # what else trains or draws by seeds
        learnt = {"kind": "stylize", "other_seeds": NO_SEEDS[name]}
        with pytest.raises(UserError, match=r"whole numbers? from 0 to 2147483647"):
            parse_spec({"methods": [learnt]})


@pytest.mark.parametrize("text", ["8", " 16 ", "1.5", "512"])
def test_memory_without_a_unit_is_asked_back(text: str) -> None:
    """Nobody means eight bytes; a run's own file writes bytes."""
    said = rf"{text.strip()} is so many bytes.*did you mean {text.strip()}GiB\?"
    for value in (text, json.loads(text)):
        with pytest.raises(UserError, match=said) as caught:
            parse_spec({"methods": [{"kind": "plain"}], "memory": value})
        assert caught.value.field == "memory"
    assert (parse_memory("90kB"), parse_memory(90_000)) == (90_000, 90_000)


UNREADABLE = {
    "": r"spec.json is not JSON \(Expecting value.*\): mend it, or make it anew",
    "{": "spec.json is not JSON",
    "[" * 100_000: "spec.json is not JSON",
    "[1]": "spec.json is not the spec of a run: it is a mapping with methods",
    '{"version": 2}': "methods is missing: write it",
    '{"methods": []}': r"methods cannot be \[\]: tuple should have at least 1 item",
    '{"methods": [{"kind": "sdedti"}]}': "there is no method 'sdedti': did you mean sdedit",
    '{"methods": [{}]}': "a method has no kind: write it, as",
    '{"methods": ["plain"]}': "methods.0 cannot be 'plain'",
    '{"methods": [{"kind": "plain", "stepz": 3}]}': "plain has no setting 'stepz': did you mean steps?",
    '{"methods": [{"kind": "plain", "solver": "eulr"}]}': "there is no solver 'eulr': did you mean euler",
    '{"methods": [{"kind": "plain"}, {"kind": "plain"}]}': "a method is named twice with the same settings",
    '{"methods": [{"kind": "plain"}], "losses": [{"kind": "beauty"}]}': "there is no loss 'beauty': choose among",
    '{"methods": [{"kind": "plain"}], "inputs": {"seed": []}}': "seed cannot be",
    '{"methods": [{"kind": "plain"}], "inputs": {"seed": "5-2"}}': "'5-2' is not a range of seeds",
    '{"methods": [{"kind": "plain"}], "inputs": {"seed": "1,1"}}': "a seed is named twice",
    '{"methods": [{"kind": "plain"}], "checkpoint": {"size": "big"}}': "'big' is not a size",
    '{"methods": [{"kind": "plain"}], "checkpoint": {"dtype": "int8"}}': "dtype cannot be 'int8'",
    '{"methods": [{"kind": "plain"}], "memory": "much"}': "'much' is not an amount of memory",
    '{"methods": [{"kind": "plain"}], "memory": 0}': "memory cannot be 0",
    '{"methods": [{"kind": "plain"}], "stop_after": {"doodl": 2}}': "there is no method 'doodl' to stop: choose plain",
    '{"methods": [{"kind": "plain"}], "stop_after": {"plain": 0}}': "stop_after.plain cannot be 0",
    '{"methods": [{"kind": "plain"}], "more": 1}': "run has no setting 'more': choose among checkpoint, inputs",
}


def list_settings() -> dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]]:
    """Each setting of each part of a spec: how a spec is made that has it, and its name."""
    one = {"kind": "plain"}
    places: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], type[BaseModel]]] = {
        "run": (lambda part: {"methods": [one], **part}, RunSpec),
        "inputs": (lambda part: {"methods": [one], "inputs": part}, Inputs),
        "checkpoint": (lambda part: {"methods": [one], "checkpoint": part}, Checkpoint),
    }
    for name, method in METHODS.own.items():
        places[name] = (lambda part, name=name: {"methods": [{"kind": name, **part}]}), method
    for name, loss in LOSSES.own.items():
        places[name] = (
            (lambda part, name=name: {"methods": [one], "losses": [{"kind": name, **part}]}),
            loss,
        )
    for name, optimiser in (("momentum", Momentum), ("adam", Adam)):
        places[name] = (
            lambda part, name=name: {
                "methods": [{"kind": "doodl", "optimiser": {"kind": name, **part}}]
            },
            optimiser,
        )
    return {
        f"{place} {field}": (make, field)
        for place, (make, kind) in places.items()
        for field in kind.model_fields
        if field not in ("kind", "version") and len(field) > 3
    }


SETTINGS = list_settings()


@pytest.mark.parametrize("case", SETTINGS)
def test_a_misspelt_setting_at_any_depth_is_guessed(case: str) -> None:
    """As an option on the command line is: by whom it would be, and what was meant."""
    make, name = SETTINGS[case]
    slip = name[:2] + name[3:]
    place = case.split(" ")[0]
    with pytest.raises(UserError, match=rf"^{place} has no setting '{slip}': did you .*\b{name}\b"):
        parse_spec(make({slip: 1}))


SLIPS: dict[str, dict[str, Any]] = {
    "did you mean adam?": {"kind": "doodl", "optimiser": {"kind": "adm"}},
    "in the place of 'knd'": {"kind": "doodl", "optimiser": {"knd": "adam"}},
    "did you mean printed?": {"kind": "doodl", "turns": "prnted"},
    "a method has no kind: .* in the place of 'kid'": {"kid": "plain"},
}


@pytest.mark.parametrize("said", SLIPS)
def test_a_misspelt_word_is_guessed(said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_spec({"methods": [SLIPS[said]]})
    with pytest.raises(UserError, match="dtype cannot be 'flaot32': did you mean float32"):
        parse_spec({"methods": [{"kind": "plain"}], "checkpoint": {"dtype": "flaot32"}})


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: text[:60])
def test_what_is_not_a_spec_is_refused_in_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(UserError, match=UNREADABLE[text]) as caught:
        read_spec(tmp_path / "spec.json")
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*nowhere.json: name the spec of a run"):
        read_spec(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match=r" is not a file: name the spec of a run"):
        read_spec(tmp_path)
    (tmp_path / "spec.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"cannot be read \(.*\): name the spec of a run"):
        read_spec(tmp_path / "spec.json")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("3", (3,)),
        ("1,5", (1, 5)),
        ("0-3", (0, 1, 2, 3)),
        (" 2 - 3 , 0", (2, 3, 0)),
        ((4, 2), (4, 2)),
    ],
)
def test_seeds(text: Any, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "1,", "-1", "1--2", "2147483648", "0-2147483648", "3-1"])
def test_what_names_no_seeds_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_seeds(text)


def test_sizes_and_memory() -> None:
    assert parse_size(" 512 x 768 ") == (512, 768)
    assert parse_memory("1000000") == "1000000"  # pydantic reads it
    assert parse_memory("2GB") == 2 * 10**9
    with pytest.raises(UserError, match="'512' is not a size: write height and width"):
        parse_size("512")


def labels(*methods: dict[str, Any]) -> list[str]:
    return [label for label, _ in parse_spec({"methods": list(methods)}).labelled()]


def test_methods_of_a_kind_are_told_apart_by_their_settings() -> None:
    assert labels({"kind": "plain"}, {"kind": "sdedit"}) == ["plain", "sdedit"]
    assert labels({"kind": "sdedit"}, {"kind": "sdedit", "strength": 0.8}) == [
        "sdedit strength=0.6",
        "sdedit strength=0.8",
    ]
    two = labels(
        {"kind": "doodl", "mix": None, "renormalise": False}, {"kind": "doodl", "steps": 9}
    )
    assert two == [
        "doodl steps=50 mix=none renormalise=false",
        "doodl steps=9 mix=0.93 renormalise=true",
    ]
    assert (
        len(
            set(
                labels(
                    {"kind": "doodl"}, {"kind": "doodl", "optimiser": {"kind": "adam", "rate": 1}}
                )
            )
        )
        == 2
    )


def test_the_first_problem_is_said_short() -> None:
    with pytest.raises(ValidationError) as caught:
        RunSpec.model_validate({"methods": [{"kind": "sdedit", "strength": "x" * 500}]})
    said = str(explain_error(caught.value))
    assert re.match(r"strength cannot be 'x+\.\.\.x+': input should be a valid number", said)
    assert len(said) < 220


def test_a_prompt_for_each_seed_is_told_to_each_image() -> None:
    model = tiny_model()

    def drawn(prompt: Any, seed: str) -> torch.Tensor:
        spec = parse_spec(
            {"inputs": {"prompt": prompt, "seed": seed}, "methods": [{"kind": "plain", "steps": 2}]}
        )
        return spec.methods[0](load_task(spec, model)).images

    both = drawn(["a cat", "a horse"], "0,1")
    torch.testing.assert_close(both[:1], drawn("a cat", "0"))
    torch.testing.assert_close(both[1:], drawn("a horse", "1"))


KINDS: dict[str, type[Spec]] = {
    kind.__name__: kind
    for kind in (RunSpec, Checkpoint, Inputs, Plan, *METHODS.own.values(), *LOSSES.own.values())
}


@pytest.mark.parametrize("name", KINDS)
def test_in_python_too_what_cannot_be_is_one_sentence(name: str) -> None:
    """Of every kind: an unknown setting, and a value that no setting takes."""
    kind = KINDS[name]
    with pytest.raises(UserError) as caught:
        kind(stepz=3)
    assert caught.value.cure
    for setting in kind.model_fields:
        with pytest.raises(
            UserError, match=r"cannot be|there is no|is not|has no effect|is missing"
        ):
            kind(**{setting: object()})
    with pytest.raises(ValidationError):  # pydantic's own ways are pydantic's
        kind.model_validate({"stepz": 3})


def test_what_is_within_is_named_with_where_it_is() -> None:
    with pytest.raises(UserError, match=r"optimiser.*rate cannot be -1: input should be greater"):
        DOODL(optimiser={"kind": "momentum", "rate": -1})
    with pytest.raises(
        UserError, match=r"strength cannot be 2: input should be less than or equal"
    ):
        RunSpec(methods=({"kind": "sdedit", "strength": 2},))
    with pytest.raises(UserError, match=r"there is no method 'sdedti': did you mean sdedit"):
        RunSpec(methods=({"kind": "sdedti"},))


def test_its_schema_and_its_copies_are_pydantics() -> None:
    spec = parse_spec({"methods": [{"kind": "sdedit", "strength": 0.5}]})
    assert RunSpec.model_validate_json(spec.dump()) == spec
    assert RunSpec(**spec.model_dump()) == spec
    assert set(RunSpec.model_json_schema()["properties"]) == set(RunSpec.model_fields)
