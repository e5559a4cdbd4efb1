"""An audit: who is searched, where, and what counts as a success."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chainrule import UserError
from chainrule.bundled import SCENES
from chainrule.losses import ImageClassifier
from chainrule.losses.classifier import match_labels
from chainrule.memory import Plan
from chainrule.methods import Audit, AuditTask, Task
from chainrule.methods.audited import AuditState, shared_weights
from chainrule.vision import Preprocess
from conftest import tiny_model
from tiny import load_once

AS_IT_IS = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3, dtype=torch.float32)
AUDIT = Audit(tau=(0.3, 0.05), iterations=4, steps=3)


def brightness(threshold: float, names: tuple[str, str] = ("dark", "light")) -> ImageClassifier:
    """Tells dark from light images."""

    def network(pixels: Tensor) -> Tensor:
        light = 20 * (pixels.mean(dim=(1, 2, 3)) - threshold)
        return torch.stack([-light, light], dim=1)

    return ImageClassifier(network, names, AS_IT_IS)


def blind(names: tuple[str, str] = ("dark", "light")) -> ImageClassifier:
    """Sees the first class in everything."""
    return ImageClassifier(
        lambda pixels: torch.tensor([1.0, 0.0]).expand(len(pixels), 2), names, AS_IT_IS
    )


def suspect(
    classifier: ImageClassifier | None = None, judge: ImageClassifier | None = None
) -> AuditTask:
    return AuditTask(
        tiny_model(),
        ("one", "two words"),
        (0, 1, 2),
        classifier or brightness(0.5),
        judge or blind(),
    )


def states(case: AuditTask, method: Audit = AUDIT) -> list[AuditState]:
    return list(method.run(case))


def test_only_images_that_both_read_alike_are_searched() -> None:
    case = suspect()
    first = AUDIT.start(case)
    last = states(case)[-1]
    assert 0 < int((first.label >= 0).sum()) < 6
    alone = first.label < 0
    assert torch.equal(last.x_T[alone], first.x_T[alone])
    assert (last.level[alone] == 2).all()


def test_the_noise_stays_in_its_ball_and_successes_are_real() -> None:
    case, radii = suspect(), AUDIT.radii
    assert radii == [0.05, 0.3]
    last = states(case)[-1]
    away = (last.x_T - last.start).flatten(1).abs().amax(dim=1)
    assert (away <= radii[-1] + 1e-6).all()
    misled = last.level < 2
    assert misled.any()
    for i in torch.nonzero(misled).flatten().tolist():
        assert away[i] <= radii[last.level[i]] + 1e-6
    assert (last.seen[misled] != last.label[misled]).all()
    assert last.numbers == {"audited": int((last.label >= 0).sum()), "misled": int(misled.sum())}


def test_what_the_judge_sees_otherwise_is_no_success() -> None:
    """A judge that always agrees with the classifier is never misled by what misleads it."""
    last = states(suspect(judge=brightness(0.5)))[-1]
    assert (last.level == 2).all()


def test_it_has_as_many_iterations_as_it_says() -> None:
    case = suspect()
    found = states(case)
    assert len(found) == AUDIT.count_iterations(case) == 9
    assert [state.iteration for state in found] == list(range(1, 10))


def test_images_are_searched_in_parts() -> None:
    whole, parts = states(suspect()), states(suspect().under(Plan(batch_size=1)))
    for one, other in zip(whole[-1].tensors().values(), parts[-1].tensors().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_classes_are_the_same_by_name() -> None:
    case = suspect(
        judge=replace(brightness(0.5, ("light", "dark")), network=brightness(0.5).network)
    )
    assert (
        AUDIT.start(case).label == -1
    ).all()  # the judge's names are the wrong way round: never the same
    with pytest.raises(
        UserError,
        match=r"agree on none of the images \(classifier: light 4 of 6, dark 2 of 6; "
        r"judge: dark 4 of 6, light 2 of 6\): name prompts of what both know",
    ):
        states(case)


def test_a_judge_of_other_things_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"share no class \(the classifier has dark, light; the judge has cat, dog\)",
    ):
        suspect(judge=blind(("cat", "dog")))
    for names in (("dark", ""), ("dark",)):
        with pytest.raises(UserError, match="the judge has fewer than two classes, or one without"):
            suspect(judge=blind(names))


@pytest.mark.parametrize(
    ("labels", "known", "found"),
    [
        (["Dark", "LIGHT "], ["light", "dark"], (1, 0)),
        (["circle, round thing"], ["square", "Round Thing"], (1,)),
        (["moon"], ["tiger, moon", "moon"], (1,)),  # the whole label is preferred
        (["crane"], ["crane, bird", "crane, machine"], (-1,)),  # either might be meant
        (["crane", "crane"], ["crane", "crane"], (0, 1)),  # the same list: by number
        (["round"], ["round thing"], (-1,)),
    ],
)
def test_labels_match_by_any_of_their_names(labels: Any, known: Any, found: Any) -> None:
    assert match_labels(labels, known) == found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("role", ["classifier", "judge"])
def test_logits_that_are_not_finite_are_refused(role: str, value: float) -> None:
    broken = replace(brightness(0.5), network=lambda pixels: torch.full((len(pixels), 2), value))
    with pytest.raises(UserError, match=f"the {role} gives logits that are not finite"):
        states(suspect(**{role: broken}))


def test_a_network_that_breaks_on_the_way_is_refused() -> None:
    first = AUDIT.start(suspect())
    bad = nan_after(brightness(0.5))
    with pytest.raises(UserError, match="the classifier gives logits that are not finite"):
        list(AUDIT.run(suspect(bad), first))


def nan_after(own: ImageClassifier) -> ImageClassifier:
    return replace(own, network=lambda pixels: own.network(pixels) + float("nan"))


def test_a_class_that_contradicts_the_prompt_is_shown(tmp_path: Path) -> None:
    """What both read as dark, of a prompt that says light, may be a mistake that is corrected."""
    case = replace(suspect(judge=blind()), prompts=("Lights on", "two words"), seeds=range(6))
    last = states(case)[-1]
    records = AUDIT.result(case, last).records
    against = [i for i in range(6) if last.label[i] == 0]
    assert against
    assert [i for i, each in enumerate(records) if each["contradicts"]] == against
    assert [each["named"] for each in records] == ["light"] * 6 + [""] * 6
    lights, words = AUDIT.report(case, last)["prompts"]
    assert (lights["names"], lights["contradicted"]) == (["light"], len(against))
    moved = int((last.level[torch.tensor(against)] < 2).sum())
    assert moved
    assert lights["corrected"] == lights["contradicted_misled"] == moved
    assert (words["contradicted"], words["corrected"]) == (0, 0)
    AUDIT.artefacts(case, last)["report.md"](tmp_path / "report.md")
    said = (tmp_path / "report.md").read_text()
    assert f"In {len(against)} of the images that were searched, the class that both" in said
    assert f"in {moved} of those the classifier went over" in said
    assert "1 of 2 prompts name none of the classifier's classes" in said


def test_every_reading_is_in_the_table(tmp_path: Path) -> None:
    case = suspect()
    last = states(case)[-1]
    records = AUDIT.result(case, last).records
    every = torch.arange(6)
    for when, x in (("before", last.start), ("after", last.x_T)):
        images = AUDIT.draw(case, x, every)
        for role, network in (("classifier", case.classifier), ("judge", case.judge)):
            sure, index = network(images).softmax(dim=1).max(dim=1)
            assert [each[f"{role}_{when}"] for each in records] == [
                network.labels[i] for i in index.tolist()
            ]
            found = torch.tensor([each[f"{role}_{when}_probability"] for each in records])
            torch.testing.assert_close(found, sure, atol=1e-3, rtol=0)
    apart = [each for each in records if not each["class"]]
    assert apart
    assert all(each["classifier_before"] != each["judge_before"] for each in apart)
    counts = AUDIT.report(case, last)["prompts"]
    assert sum(each["disagreed"] for each in counts) == len(apart)
    AUDIT.artefacts(case, last)["report.md"](tmp_path / "report.md")
    said = (tmp_path / "report.md").read_text()
    assert not any(each["names"] for each in counts)
    assert f"{len(counts)} of {len(counts)} prompts name none of the classifier's classes" in said
    for each in counts:
        row = (
            f"| {each['prompt']} | none | 3 | {each['disagreed']} | {each['misled']} | not known |"
        )
        assert row in said


def test_no_label_or_prompt_breaks_the_table(tmp_path: Path) -> None:
    names = ("da|rk\n\x1b[2J", "![all](x)")
    case = replace(suspect(brightness(0.5, names), blind(names)), prompts=("a|b\nc", "two"))
    AUDIT.artefacts(case, states(case)[-1])["report.md"](tmp_path / "report.md")
    said = (tmp_path / "report.md").read_text()
    assert "\x1b" not in said
    assert "| da\\|rk \\\\x1b[2J |" in said
    assert "| a\\|b c |" in said
    rows = [line.replace("\\|", "") for line in said.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {5, 7}


def test_classes_of_one_name_have_rows_of_their_own() -> None:
    case = suspect(brightness(0.5, ("all", "all")), brightness(0.4, ("all", "all")))
    assert {"all (0)", "all (1)", "all"} >= set(AUDIT.report(case, AUDIT.start(case))["audited"])
    assert AUDIT.report(case, AUDIT.start(case))["audited"]["all"] > 1


def test_a_judge_must_be_another() -> None:
    model = load_once()
    task = Task(model, model.denoiser("a red circle"), (0,), prompts=("a red circle",))
    with pytest.raises(UserError, match="the judge is the classifier itself"):
        Audit(classifier=str(SCENES.judge), judge=str(SCENES.judge)).prepare(task)
    other = replace(task, model=replace(model, name="somebody's", world=None))
    with pytest.raises(UserError, match="there is no independent judge"):
        AUDIT.prepare(other)
    with pytest.raises(UserError, match="a prompt is empty"):
        AUDIT.prepare(replace(task, prompts=("a red circle", " ")))


def linear(seed: int = 0) -> ImageClassifier:
    """A network with weights, which can be another's copy."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 2))
    return ImageClassifier(layers, ("dark", "light"), AS_IT_IS)


def change(classifier: ImageClassifier, **changed: Any) -> ImageClassifier:
    """A copy whose weights are changed, by the names of their functions."""
    layers = copy.deepcopy(classifier.network)
    for name, weight in layers.named_parameters():
        weight.data = changed.get(name.replace(".", "_"), lambda value: value)(weight.data)
    return replace(classifier, network=layers)


def rename(classifier: ImageClassifier) -> ImageClassifier:
    """The same weights in a network of another structure."""
    own = copy.deepcopy(classifier.network)
    return replace(classifier, network=nn.ModuleDict({"body": own, "head": nn.Identity()})["body"])


SAME: dict[str, Callable[[ImageClassifier], ImageClassifier]] = {
    "itself": lambda own: own,
    "the same network": lambda own: replace(own, labels=own.labels[::-1]),
    "a copy": lambda own: replace(own, network=copy.deepcopy(own.network)),
    "under other names": rename,
    "shown otherwise": lambda own: replace(change(own), preprocess=Preprocess((8, 8))),
    "saved in float16": lambda own: replace(own, network=copy.deepcopy(own.network).half().float()),
    "saved in bfloat16": lambda own: replace(own, network=copy.deepcopy(own.network).bfloat16()),
    "in float64": lambda own: replace(own, network=copy.deepcopy(own.network).double()),
}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("case", SAME)
def test_a_copy_of_the_classifier_is_no_judge(case: str, swapped: bool) -> None:
    pair = [linear(), SAME[case](linear()) if case not in ("itself", "the same network") else None]
    pair[1] = pair[1] or SAME[case](pair[0])
    own, other = reversed(pair) if swapped else pair
    with pytest.raises(UserError, match=r"the judge is the classifier itself.*: name another"):
        AUDIT(suspect(own, other))


def test_a_function_without_weights_is_no_judge_of_itself() -> None:
    own = brightness(0.5)
    with pytest.raises(UserError, match="the judge is the classifier itself"):
        AUDIT(suspect(own, replace(own, preprocess=Preprocess((8, 8)))))


def test_a_judge_that_shares_the_backbone_is_said(tmp_path: Path) -> None:
    own = linear()
    other = change(own, **{"3_weight": torch.neg})
    assert 0.9 < shared_weights(own.networks, other.networks) < 1
    with pytest.warns(
        UserWarning, match=r"9[0-9].[0-9]% of the classifier's weights are the judge"
    ):
        case = AUDIT.prepare(suspect(own, other))
    found = AUDIT.report(case, AUDIT.start(case))
    assert found["shared_weights"] == shared_weights(own.networks, other.networks)
    AUDIT.artefacts(case, AUDIT.start(case))["report.md"](tmp_path / "report.md")
    assert (
        "of the classifier's weights are the judge's as well"
        in (tmp_path / "report.md").read_text()
    )


@pytest.mark.parametrize("other", ["another", "fine-tuned", "blind"])
def test_an_independent_judge_is_taken(other: str, recwarn: pytest.WarningsRecorder) -> None:
    own = linear()
    judges = {
        "another": linear(1),
        "fine-tuned": change(own, **{"1_weight": lambda value: value + 0.01 * value.sign()}),
        "blind": blind(),
    }
    AUDIT.prepare(suspect(own, judges[other]))
    assert not [each for each in recwarn if "weights" in str(each.message)]
    assert shared_weights(own.networks, judges[other].networks) < 0.9


def test_a_copied_folder_is_found_by_its_weights(tmp_path: Path) -> None:
    """Whatever it is called, and in the precision in which it was saved."""
    model = load_once()
    task = Task(model, model.denoiser("a red circle"), 0, prompts="a red circle")
    shutil.copytree(SCENES.classifier, tmp_path / "judge")
    weights = load_file(tmp_path / "judge" / "model.safetensors")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        cast = {key: v.to(dtype) if v.is_floating_point() else v for key, v in weights.items()}
        save_file(cast, tmp_path / "judge" / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match="the judge is the classifier itself"):
            Audit(judge=str(tmp_path / "judge")).prepare(task)


PLANS = [Plan(batch_size=1), Plan(batch_size=2), Plan(batch_size=5), Plan(decode_batch=1)]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_all_of_it_keeps_to_the_plan(plan: Plan) -> None:
    """From the first look to the contact sheet: the network, the decoder, both who judge."""
    most: dict[str, int] = {}

    def watch(name: str, of: Any) -> Any:
        def watched(first: Tensor, *rest: Any, **named: Any) -> Any:
            most[name] = max(most.get(name, 0), len(first))
            return of(first, *rest, **named)

        return watched

    def watched(classifier: ImageClassifier, name: str) -> ImageClassifier:
        return replace(classifier, network=watch(name, classifier.network))

    case = suspect(watched(brightness(0.5), "classifier"), watched(blind(), "judge"))
    object.__setattr__(case.model.codec, "decode", watch("decoder", case.model.codec.decode))
    found = {}
    for used in (Plan(), plan):
        most.clear()
        planned = case.under(used)
        first = AUDIT.start(planned)
        last = list(AUDIT.run(planned, first))[-1]
        every = torch.arange(len(last.label))
        found[used] = (first, last, AUDIT.compare(planned, last, every))
        sheet = AUDIT.result(planned, last)
        assert sheet.captions["after"]
        if used is not plan:
            assert most == {"classifier": 6, "judge": 6, "decoder": 6}
    assert most["decoder"] <= plan.decoded_at_once
    assert max(most.values()) <= (plan.batch_size or 6)
    (first, last, shown), (planned_first, planned_last, planned_shown) = found.values()
    for one, other in ((first, planned_first), (last, planned_last)):
        for name, tensor in one.tensors().items():
            torch.testing.assert_close(other.tensors()[name], tensor, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(planned_shown, shown, rtol=1e-5, atol=1e-5)


SPOILT: dict[str, Callable[[AuditState], dict[str, Tensor]]] = {
    "a class that there is not": lambda state: {"label": 0 * state.label + 2},
    "a class below none": lambda state: {"label": 0 * state.label - 2},
    "a second class that there is not": lambda state: {"second": 0 * state.second + 9},
    "a judge's class": lambda state: {"after": state.after + 5},
    "a radius that there is not": lambda state: {"level": state.level + 1},
    "too many iterations": lambda state: {"done": state.done + 100},
    "fewer than none": lambda state: {"done": state.done - 100},
    "one image less": lambda state: {"x_T": state.x_T[1:]},
    "another latent": lambda state: {"start": state.start[..., 1:]},
    "fractions of a class": lambda state: {"seen": state.seen.float()},
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_state_made_by_hand_is_refused(how: str) -> None:
    case = suspect()
    state = AUDIT.start(case)
    AUDIT.require_own(case, state)
    with pytest.raises(UserError, match="it is not a state of this task"):
        AUDIT.require_own(case, replace(state, **SPOILT[how](state)))


def test_what_was_found_is_reported(tmp_path: Path) -> None:
    case = suspect()
    last = states(case)[-1]
    found = AUDIT.report(case, last)
    assert found["radii"] == AUDIT.radii
    assert found["images"] == 6
    label = case.classifier.labels
    for name, shares in found["misled"].items():
        group = (last.label >= 0) if name == "all" else last.label == label.index(name)
        assert found["audited"][name] == group.sum()
        for i, share in enumerate(shares):
            assert share["value"] == pytest.approx((last.level[group] <= i).float().mean().item())
            assert share["low"] <= share["value"] <= share["high"]
    sheet = AUDIT.result(case, last)
    assert sheet.numbers == found
    assert [record["seed"] for record in sheet.records] == [0, 1, 2] * 2
    for i, record in enumerate(sheet.records):
        level = int(last.level[i])
        assert record["tau"] == (AUDIT.radii[level] if level < 2 else "")
    for name, write in AUDIT.artefacts(case, last).items():
        write(tmp_path / name)
    table = (tmp_path / "report.md").read_text()
    assert "| all |" in table
    assert "stopped" not in table
    assert Image.open(tmp_path / "curve.png").width > 100


def test_one_that_was_stopped_reports_the_searches_that_are_done(tmp_path: Path) -> None:
    case = suspect()
    state = states(case)[
        4
    ]  # the first iteration of the second search judges what the first one left
    assert AUDIT.report(case, state)["radii"] == AUDIT.radii[:1]
    AUDIT.artefacts(case, state)["report.md"](tmp_path / "report.md")
    assert "It was stopped before the larger ones were done" in (tmp_path / "report.md").read_text()
    assert AUDIT.report(case, AUDIT.start(case))["radii"] == []
