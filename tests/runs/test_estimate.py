"""What a run is said to take before it begins, and the plan that fits."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import chainrule
from chainrule import UserError
from chainrule.images import from_pil
from chainrule.losses import Classifier, load_classifier
from chainrule.memory import Plan, arrange, count_bytes, distinct_modules, measure_memory
from chainrule.methods import (
    DNO,
    DOODL,
    METHODS,
    AdjointDPM,
    AsyrpTrained,
    Audit,
    AuditTask,
    DiffusionCLIP,
    Effect,
    Hybrid,
    Imagic,
    Langevin,
    Method,
    Needs,
    Photo,
    Plain,
    ReNO,
    RewardTuning,
    Stylize,
    Task,
    UniTune,
)
from chainrule.runs import (
    Done,
    RunSpec,
    count_passes,
    estimate,
    execute,
    fit_plan,
    ladder,
    load_task,
    measure,
    parse_spec,
)
from chainrule.runs.estimate import count_resident
from chainrule.scenes.base import Scene, Thing, render
from tiny import allocated, load_once, save_classifier, save_family

pytestmark = pytest.mark.filterwarnings("ignore::chainrule.diffusion.solvers.edict.DriftWarning")

TINY = "Stable Diffusion 1.x"
SHOWN, WANTED = "a red circle on a white background", "a blue square on a white background"
TIGHT = Plan(decode_batch=1, gradient_checkpointing=True)

# --- it is right ------------------------------------------------------------------------------------------------


def task(name: str, folder: Path) -> Task:
    if name == "scenes":
        model, loss = load_once(), Classifier(load_classifier(), "heart")
    else:
        save_classifier(folder)
        model, loss = load_once(name), Classifier(load_classifier(folder), "star")
    return Task(model, model.denoiser("a red shape", guidance_scale=2.0), (0, 1), loss)


@pytest.mark.parametrize(
    ("name", "mix", "plan"),
    [
        (TINY, None, TIGHT),
        (TINY, 0.97, Plan(keep=3)),
        (TINY, None, Plan(batch_size=1, keep=2)),
        ("Stable Diffusion 3", 0.97, Plan()),
        pytest.param("scenes", None, Plan(keep=3), marks=pytest.mark.slow),
        pytest.param("scenes", 0.97, TIGHT, marks=pytest.mark.slow),
        pytest.param("Stable Diffusion XL", None, Plan(keep=3), marks=pytest.mark.slow),
        pytest.param("Stable Diffusion 3", None, TIGHT, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_estimate_is_what_the_allocator_gives(
    name: str, plan: Plan, mix: float | None, tmp_path: Path
) -> None:
    asked, method = task(name, tmp_path).under(plan), DOODL(iterations=1, steps=6, mix=mix, crops=2)
    said = measure("doodl", method, asked).under()
    with arrange(asked.model, asked.loss, plan):
        peak = allocated(lambda: method(asked))
    peak += count_bytes(distinct_modules(asked.model.networks, asked.loss.networks))
    assert abs(said.peak / peak - 1) < 0.15
    assert said.plan == plan


def prepared(method: Any) -> Any:
    """What an iterating method takes, on the bundled model."""
    scenes = (Scene((Thing("circle", colour, 32, 32, 20),), "white") for colour in ("red", "blue"))
    model, (before, after) = load_once(), from_pil([render(scene) for scene in scenes])
    draws = isinstance(method, (DOODL, AdjointDPM, ReNO, DNO, Langevin, Hybrid))
    told = Task(
        model,
        model.denoiser(WANTED, guidance_scale=2.0),
        (0, 1) if draws else (0,),
        Classifier(load_classifier(), "heart") if Needs.LOSS in method.needs or draws else None,
        prompts=(SHOWN,) if isinstance(method, Effect) else (SHOWN, WANTED),
        pictures=(after,) if isinstance(method, Stylize) else (before, after),
    )
    if Needs.PHOTO in method.needs:
        photo = Photo(before[None], told.denoiser, (64, 64))
        told = replace(told, photo=photo, prompts=(WANTED,))
    asked = method.prepare(told)
    if isinstance(
        asked, AuditTask
    ):  # a judge that agrees: then all images are searched, as is assumed
        asked = replace(asked, judge=asked.classifier)
    return asked


ITERATING: dict[str, Method] = {
    "doodl": DOODL(steps=4, mix=0.97, crops=2, iterations=2),
    "adjoint-dpm": AdjointDPM(steps=5, iterations=2),
    "hybrid": Hybrid(steps=5, budget=60, searched=0.0),
    "reno": ReNO(steps=4, iterations=2),
    "dno": DNO(steps=5, iterations=2),
    "langevin": Langevin(steps=5, iterations=2),
    "effect": Effect(steps=5, vectors=2, iterations=2),
    "stylize": Stylize(steps=4, batch=2, rank=2, epochs=1),
    "audit": Audit(steps=4, tau=(0.1, 0.2), iterations=2),
    "imagic": Imagic(steps=4, embedding_iterations=0, iterations=21, rank=2),
    "unitune": UniTune(steps=4, iterations=17, rank=2, batch=2),
    "reward": RewardTuning(steps=4, iterations=2, rank=2, batch=2),
    "asyrp-trained": AsyrpTrained(
        change="a red circle > a blue circle",
        through="chain",
        until=1.0,
        boost=0.0,
        steps=4,
        iterations=2,
        batch=2,
    ),
    "diffusion-clip": DiffusionCLIP(
        change="a red circle > a blue circle",
        inversion_steps=8,
        start=1.0,
        steps=4,
        iterations=2,
        rank=2,
        batch=2,
    ),
}


@pytest.mark.parametrize(
    "plan", [Plan(keep=3), pytest.param(Plan(), marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("kind", ITERATING)
def test_the_estimate_is_what_an_iteration_takes(kind: str, plan: Plan) -> None:
    """Of every method that iterates; the weights, which are counted and not estimated, are left out."""
    method = ITERATING[kind]
    asked = prepared(method).under(plan)
    said = measure(kind, method, asked).under()
    with torch.no_grad(), measure_memory(asked.model.device) as memory:
        states = method.run(asked)
        draws = method.split(asked).draws if isinstance(method, Hybrid) else 0
        for _ in range(1 + draws):  # the first iteration is after the search
            next(states)
        states.close()
    seen = max(memory.phases.values())
    assert said.plan == plan
    assert abs((said.peak - said.weights) / seen - 1) < 0.15


def test_every_method_that_iterates_is_estimated_so() -> None:
    assert set(ITERATING) == {kind for kind, method in METHODS.own.items() if iterates(method)}


def iterates(method: type[Method]) -> bool:
    """Towards a loss: a search of draws keeps no graphs."""
    return method.differentiates and method.count_iterations is not Method.count_iterations


def test_the_networks_that_judge_are_counted() -> None:
    own = count_bytes(load_once().networks)
    for kind in ("doodl", "audit", "stylize"):
        asked = prepared(ITERATING[kind])
        assert asked.judges
        assert count_resident(asked) == own + count_bytes(asked.judges)


def test_an_audit_is_measured_as_if_all_images_were_searched() -> None:
    """How many are, nobody knows before; and they are others in a chain of other steps."""
    method = ITERATING["audit"]
    asked = prepared(method)
    nobody = replace(asked, judge=replace(asked.classifier, labels=asked.classifier.labels[::-1]))
    assert (method.start(nobody).label < 0).any()
    assert (method.probe(2).start(nobody).label >= 0).all()


def test_it_grows_with_the_steps_by_a_latent_and_with_what_is_kept_by_a_graph(
    tmp_path: Path,
) -> None:
    method = DOODL(iterations=1, steps=20, mix=None, crops=2)
    measured = measure("doodl", method, task("scenes", tmp_path))
    longer = replace(measured, method=method.model_copy(update={"steps": 50}))
    latents = 2 * 4 * 16 * 16 * 4
    assert longer.under(0).peak - measured.under(0).peak == 30 * latents
    graph = measured.under(12).peak - measured.under(11).peak
    assert graph > 100 * latents
    assert measured.under(20).peak - measured.under(12).peak == 8 * graph


def test_counted_passes_are_those_of_a_whole_iteration() -> None:
    model, passes = count_passes(load_once(TINY))
    loss = Classifier(load_classifier(), "heart")
    asked = Task(model, model.denoiser("a red shape", guidance_scale=2.0), (0, 1), loss)
    for method, keep in (
        (DOODL(steps=5, mix=None, crops=0), 3),
        (DOODL(steps=4, mix=0.97, crops=0), 0),
        (DOODL(steps=7, mix=None, crops=0, last=3), 0),
        (DOODL(steps=7, mix=None, crops=0, last=3), 2),
        (DOODL(steps=7, mix=None, crops=0, last=1), 5),
        (DOODL(steps=4, mix=0.97, crops=0, last=3), 1),
        (DOODL(steps=4, mix=None, crops=0, last=9), 2),
    ):
        said = measure("doodl", method, asked).under(keep)
        before = passes.total
        method.advance(asked.under(said.plan), method.start(asked))
        assert said.passes == passes.total - before
    uncounted = measure("plain", Plain(steps=5), task_of(load_once(TINY))).under()
    assert uncounted.passes is None


def task_of(model: chainrule.Model) -> Task:
    return Task(model, model.denoiser("a red shape"), (0,))


# --- the plan that fits -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline, with a classifier beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    save_classifier(folder / "judge")
    return save_family(TINY, folder / "pipeline")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> chainrule.Model:
    return count_passes(chainrule.load(checkpoint))[0]


def spec(checkpoint: Path, **changes: object) -> RunSpec:
    loss = {"kind": "classifier", "target": "star", "classifier": str(checkpoint.parent / "judge")}
    values: dict[str, object] = {
        "checkpoint": {"model": str(checkpoint)},
        "inputs": {"prompt": "a red shape", "seed": "0,1"},
        "losses": [loss],
        "methods": [{"kind": "doodl", "iterations": 1, "steps": 5, "mix": None, "crops": 0}],
    }
    return parse_spec(values | changes)


@pytest.fixture(scope="module", autouse=True)
def measure_once() -> Iterator[None]:
    """What a spec's methods take under a plan is the same each time: it is measured once for all tests here."""
    known: dict[Any, Any] = {}
    name = "chainrule.runs.estimate"
    module = importlib.import_module(name)  # the package has a function of that name
    ask = module.measure_all

    def measure_all(asked: RunSpec, told: Task) -> Any:
        key = (asked.model_dump_json(exclude={"memory"}), str(told.plan))
        if key not in known:
            known[key] = ask(asked, told)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "measure_all", measure_all)
        yield


@pytest.mark.filterwarnings("ignore:the weights are in bfloat16")
def test_the_fastest_plan_that_fits_is_taken(checkpoint: Path, model: chainrule.Model) -> None:
    free = spec(checkpoint)
    asked = load_task(free, model)
    rungs = list(ladder(free, asked))
    peaks = [rung.peak for rung in rungs]
    assert peaks == sorted(peaks, reverse=True)
    assert len(peaks) > 6
    for rung in rungs:
        fastest = next(each for each in rungs if each.peak <= rung.peak)
        chosen = fit_plan(spec(checkpoint, memory=rung.peak), asked).plan
        assert chosen.model_copy(update={"keep": 0}) == fastest.plan.model_copy(update={"keep": 0})
        assert chosen.keep >= fastest.plan.keep
    assert fit_plan(free, asked) is asked


def test_what_is_missing_is_said_and_bfloat16_is_the_last_resort(
    checkpoint: Path, model: chainrule.Model
) -> None:
    free = spec(checkpoint)
    asked = load_task(free, model)
    *_, last = ladder(free, asked)
    assert last.plan.half
    missing = r"needs .* kB, 1\.0 kB more than the .* of memory: choose a smaller size"
    with pytest.raises(UserError, match=missing) as caught:
        fit_plan(spec(checkpoint, memory=last.peak - 1000), asked)
    assert caught.value.field == "memory"
    with pytest.warns(UserWarning, match="the weights are in bfloat16"):
        assert fit_plan(spec(checkpoint, memory=last.peak), asked).plan.half
    assert {weight.dtype for weight in model.network.weights} == {
        torch.float32
    }  # nothing is changed by the asking


def test_every_method_of_a_run_is_estimated(checkpoint: Path, model: chainrule.Model) -> None:
    kinds = ("plain", "one-step", "best-of", "doodl", "adjoint-dpm")
    doodl = {"kind": "doodl", "iterations": 1, "steps": 5, "mix": None, "crops": 0}
    every = spec(
        checkpoint, methods=[doodl if kind == "doodl" else {"kind": kind} for kind in kinds]
    )
    found = {each.label: each for each in estimate(every, load_task(every, model))}
    assert tuple(found) == kinds
    assert found["plain"].peak < found["one-step"].peak
    guided = 2 if model.guidance_scale > 1 else 1
    assert found["doodl"].passes == 2 * guided * 3 * 5
    assert found["adjoint-dpm"].passes == 2 * guided * 3 * 31


def ended(events: Iterator[Any]) -> Done:
    *_, last = events
    assert isinstance(last, Done)
    return last


def test_a_run_within_a_limit_makes_the_same(
    checkpoint: Path, model: chainrule.Model, tmp_path: Path
) -> None:
    free = spec(checkpoint)
    peaks = sorted(
        {rung.peak for rung in ladder(free, load_task(free, model)) if not rung.plan.half}
    )
    tight = free.model_copy(update={"memory": peaks[0]})
    found = []
    for name, asked in (("free", free), ("tight", tight)):
        ended(execute(asked, tmp_path / name, model))
        report = json.loads((tmp_path / name / "report.json").read_text())["methods"]["doodl"]
        found.append((torch.tensor(report["history"]), report["passes"]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-5)


def test_too_little_memory_is_known_soon_and_leaves_no_folder(
    checkpoint: Path, model: chainrule.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little for the weights: without a step. For the leanest plan: by the steps of that one."""
    module, tried = importlib.import_module("chainrule.runs.estimate"), []
    ask = module.measure_all

    def watched(asked: RunSpec, told: Task) -> Any:
        tried.append(told.plan)
        return ask(asked, told)

    monkeypatch.setattr(module, "measure_all", watched)
    with pytest.raises(UserError, match=r"the weights alone take .* more than 100\.0 kB of memory"):
        list(execute(spec(checkpoint, memory="100kB"), tmp_path / "run", model))
    assert not tried
    with pytest.raises(UserError, match=r"needs .* more than the 180\.0 kB of memory"):
        list(execute(spec(checkpoint, memory="180kB"), tmp_path / "run", model))
    assert len(tried) == 1
    assert not (tmp_path / "run").exists()
