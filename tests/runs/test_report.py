"""What a run leaves: pictures with numbers in their names, numbers in its reports, a curve for each loss."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

import tiny
from chainrule.errors import UserError
from chainrule.images import to_pil
from chainrule.methods import METHODS, Plain
from chainrule.methods.chunking import finish
from chainrule.runs import Iteration, MethodBegun, RunSpec, Warned, execute, parse_spec, resume
from chainrule.runs import report as report_module
from chainrule.runs.report import Reporter, dump_csv, dump_json, fill_holes, has_holes
from chainrule.runs.scores import Score
from conftest import tiny_model

DOODL = {"kind": "doodl", "iterations": 2, "steps": 2, "crops": 0, "mix": None}
SPEC = parse_spec(
    {
        "inputs": {"prompt": "a cat", "seed": (0, 12345)},
        "losses": [{"kind": "brightness", "target": 0.9}, {"kind": "brightness", "target": 0.5}],
        "methods": [{"kind": "plain", "steps": 2}, {"kind": "plain", "steps": 3}, DOODL],
    }
)
LABELS = ["plain steps=2", "plain steps=3", "doodl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    list(execute(SPEC, path, tiny_model()))
    return path


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_names_are_in_the_order_of_the_seeds(folder: Path) -> None:
    names = [
        f"{kind}-{seed}.png"
        for kind in ("doodl", "plain-steps=2", "plain-steps=3")
        for seed in ("00000", "12345")
    ]
    assert sorted(path.name for path in (folder / "images").iterdir()) == names


def texts(value: Any, where: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where there are texts."""
    if isinstance(value, dict):
        return [place for key, part in value.items() for place in texts(part, (*where, key))]
    if isinstance(value, list):
        return [place for part in value for place in texts(part, where)]
    return [where] if isinstance(value, str) else []


def test_a_report_is_numbers_only(folder: Path) -> None:
    found = report(folder)
    assert all(place[0] == "environment" or place[-1] == "kind" for place in texts(found))
    assert all("." in text or " " not in text for text in map(str, found["environment"].values()))
    assert set(found["environment"]) >= {
        "chainrule",
        "torch",
        "diffusers",
        "device",
        "dtype",
        "threads",
    }
    assert (found["seeds"], list(found["methods"])) == ([0, 12345], LABELS)
    for entry in found["methods"].values():
        assert entry["finished"] is True
        assert len(entry["losses"]) == 2
        assert entry["seconds"] > 0
    # evaluations of the network on one latent: the guidance's pairs, the gradient, and its rebuilt steps
    passes = [entry["passes"] for entry in found["methods"].values()]
    assert passes == [2 * 2 * 2, 2 * 3 * 2, 2 * 2 * 2 * (2 * 3 + 1)]


def test_each_loss_of_a_kind_has_its_own_curve(folder: Path) -> None:
    entry = report(folder)["methods"]["doodl"]
    assert list(entry["terms"]) == ["brightness", "brightness (2)"]
    one, other, sum_ = (torch.tensor(each) for each in (*entry["terms"].values(), entry["history"]))
    assert one.shape == other.shape == (3, 2)
    torch.testing.assert_close(one + other, sum_)
    assert not torch.allclose(one, other)
    plain = report(folder)["methods"]["plain steps=2"]
    torch.testing.assert_close(sum_.amin(dim=0), torch.tensor(entry["losses"]))
    assert "terms" not in plain
    alone = Image.open(folder / "loss.png").size
    assert alone[0] > 100 < alone[1]


def test_terms_of_the_noise_have_curves_and_its_statistics_are_told(tmp_path: Path) -> None:
    """Of methods that move it; and how well the chains of one that samples mix."""
    kept = {"norm", "flatness", "autocorrelation"}
    methods = [
        {**DOODL, "noise_terms": {"norm": 0.1, "spectrum": 0.2}},
        {"kind": "langevin", "iterations": 2, "steps": 2},
    ]
    asked = SPEC.model_copy(update={"methods": parse_spec({"methods": methods}).methods})
    list(execute(asked, tmp_path / "run", tiny_model()))
    optimised, sampled = report(tmp_path / "run")["methods"].values()
    names = ["brightness", "brightness (2)"]
    assert list(optimised["terms"]) == [*names, "noise norm", "noise spectrum"]
    parts = torch.tensor(list(optimised["terms"].values()))
    torch.testing.assert_close(parts.sum(dim=0), torch.tensor(optimised["history"]))
    assert set(optimised["numbers"]) == kept
    assert list(sampled["terms"]) == names
    assert set(sampled["numbers"]) == kept | {"acceptance", "effective samples", "step"}
    assert all(len(each) == 2 for each in sampled["numbers"].values())


def test_the_table_has_a_row_an_image(folder: Path) -> None:
    rows, found = table(folder), report(folder)
    assert [(row["label"], row["seed"]) for row in rows] == [
        (label, s) for label in LABELS for s in ("0", "12345")
    ]
    for row, loss in zip(
        rows, [loss for label in LABELS for loss in found["methods"][label]["losses"]], strict=True
    ):
        assert float(row["loss"]) == loss
        asked = json.loads(SPEC.model_dump_json())["methods"][LABELS.index(row["label"])]
        assert json.loads(row["settings"]) | {"kind": row["method"]} == asked
        entry = found["methods"][row["label"]]
        assert (int(row["passes"]), float(row["seconds"])) == (entry["passes"], entry["seconds"])


def test_two_methods_that_optimise_have_two_pictures_of_their_losses(tmp_path: Path) -> None:
    """Also where the run was stopped when there was one."""
    two = SPEC.model_copy(
        update={"methods": parse_spec({"methods": [DOODL, {**DOODL, "iterations": 1}]}).methods}
    )
    events = execute(two, tmp_path / "run", tiny_model())
    for event in events:
        if isinstance(event, Iteration):
            events.close()  # type: ignore[attr-defined]
    assert (tmp_path / "run" / "loss.png").is_file()
    list(resume(tmp_path / "run", tiny_model()))
    names = {path.name for path in (tmp_path / "run").glob("*loss.png")}
    assert names == {"doodl-iterations=2-loss.png", "doodl-iterations=1-loss.png"}


def test_stopped_before_anything_was_made_there_is_an_empty_sheet(tmp_path: Path) -> None:
    events = execute(SPEC, tmp_path / "run", tiny_model())
    assert isinstance(next(events), MethodBegun)
    events.close()  # type: ignore[attr-defined]
    assert Image.open(tmp_path / "run" / "contact-sheet.png").width > 0
    assert report(tmp_path / "run")["methods"] == {}
    assert table(tmp_path / "run") == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("pictures") / f"{i}.png" for i in range(2)]
    for path in paths:
        to_pil(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))).save(path)
    return paths


def check_files(spec: RunSpec, folder: Path, wanted: set[str]) -> None:
    list(execute(spec, folder, tiny.load_once("Stable Diffusion 1.x")))
    assert {path.name for path in folder.iterdir()} >= wanted


def test_two_methods_of_a_kind_do_not_overwrite_each_others_files(
    pictures: list[Path], tmp_path: Path
) -> None:
    effects = [{"kind": "effect", "vectors": n, "iterations": 1, "steps": 1} for n in (1, 2)]
    spec = parse_spec({"inputs": {"prompt": "a cat", "pictures": pictures}, "methods": effects})
    names = [f"effect-vectors={n}-embedding.safetensors" for n in (1, 2)]
    check_files(spec, tmp_path / "effect", set(names))
    assert [len(load_file(tmp_path / "effect" / name)["<effect>"]) for name in names] == [1, 2]
    edits = [{"kind": "prompt-to-prompt", "steps": n} for n in (1, 2)]
    inputs = {"photo": pictures[0], "source": "a cat", "prompt": "a dog"}
    maps = {f"prompt-to-prompt-steps={n}-attention.png" for n in (1, 2)}
    check_files(parse_spec({"inputs": inputs, "methods": edits}), tmp_path / "edit", maps)


def test_an_artefact_never_takes_the_place_of_a_state(pictures: list[Path], tmp_path: Path) -> None:
    spec = parse_spec(
        {"inputs": {"photo": pictures[0]}, "methods": [{"kind": "inversion", "steps": 2}]}
    )
    check_files(spec, tmp_path / "run", {"inversion.safetensors", "latents.safetensors"})
    assert set(load_file(tmp_path / "run" / "latents.safetensors")) == {"x", "y"}
    list(resume(tmp_path / "run", tiny.load_once("Stable Diffusion 1.x")))
    numbers = report(tmp_path / "run")["methods"]["inversion"]["numbers"]
    assert set(numbers) == {"float32", "float64", "autoencoder"}


def test_pictures_of_a_photo_have_its_proportions(pictures: list[Path], tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.open(pictures[0]).resize((48, 32)).save(wide)
    spec = parse_spec({"inputs": {"photo": wide}, "methods": [{"kind": "sdedit", "steps": 2}]})
    list(execute(spec, tmp_path / "run", tiny.load_once("Stable Diffusion 1.x")))
    width, height = Image.open(tmp_path / "run" / "images" / "sdedit-0000.png").size
    assert width / height == pytest.approx(1.5, abs=0.1)


def test_no_cell_is_a_formula() -> None:
    values = ["=1+1", "+a", "-a", "@a", " =a", "a=1", -1.5, None, 3]
    text = dump_csv([{"=name": value, "other": "x"} for value in values] + [{"other": "y"}])
    rows = list(csv.reader(text.splitlines()))
    assert [row[0] for row in rows] == (
        ["'=name", "'=1+1", "'+a", "'-a", "'@a", "' =a", "a=1", "-1.5", "", "3", ""]
    )


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_null_with_a_word(
    value: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the report and the table, and wherever else JSON is written in a run's folder."""
    curve = torch.tensor([[[0.5, value]]])
    holed = lambda self, task, state: replace(finish(task, state), terms=curve)  # noqa: E731
    monkeypatch.setattr(Plain, "result", holed)
    monkeypatch.setattr(Reporter, "_ask_images", lambda self, images: [value] * len(images))
    monkeypatch.setattr(report_module, "find_score", lambda spec: Score("judge", list, str))
    one = {"losses": SPEC.losses[:1], "methods": SPEC.methods[:1]}
    events = list(execute(SPEC.model_copy(update=one), tmp_path / "run", tiny_model()))
    said = [event.message for event in events if isinstance(event, Warned)]
    assert any("plain has numbers that are not finite (scores, history, terms)" in m for m in said)
    for path in (tmp_path / "run").glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse_constant)
    entry = report(tmp_path / "run")["methods"]["plain"]
    assert entry["history"] == [[0.5, None]]
    assert entry["scores"] == {"judge": [None, None]}
    assert [row["judge"] for row in table(tmp_path / "run")] == ["", ""]
    for path in (tmp_path / "run").rglob("*.png"):
        text = Image.open(path).info.get("chainrule")
        if text is not None:
            json.loads(text, parse_constant=refuse_constant)


@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
))  # fmt: skip
def test_any_report_is_json(value: Any) -> None:
    found = json.loads(dump_json(value), parse_constant=refuse_constant)
    assert found == fill_holes(value)
    assert not has_holes(found)
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        assert has_holes(value)
    else:
        assert not has_holes(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_setting_is_without_a_number(value: float) -> None:
    """JSON has none for it: the run's folder could not be read again."""
    tried = 0
    for kind, method in METHODS.own.items():
        for name, info in method.model_fields.items():
            if "float" not in str(info.annotation):
                continue
            given: Any = (value,) if "tuple" in str(info.annotation) else value
            tried += 1
            with pytest.raises(UserError, match=name):
                parse_spec({"methods": [{"kind": kind, name: given}]})
            with pytest.raises(UserError):
                method(**{name: given})
    assert tried > 20
