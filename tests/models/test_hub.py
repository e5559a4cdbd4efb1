"""Names on the hub: the cache first, one question, one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

import chainrule
from chainrule import UserError
from tiny import SCHEDULERS, pipeline

RESPONSE = SimpleNamespace(headers={}, request=None)
ANSWERS = [
    (
        ConnectionError("Name or service not known"),
        r"cannot be asked \(Name or serv.*connection",
    ),
    (TimeoutError("timed out"), r"cannot be asked \(timed out\)"),
    (OfflineModeIsEnabled("offline mode is enabled"), r"cannot be asked \(offline mode is enabled"),
    (RepositoryNotFoundError("no", response=RESPONSE), "does not give a model of that name: check"),
    (GatedRepoError("no", response=RESPONSE), "asks to be agreed to on the hub: agree"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nobody who waits."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    return tmp_path / "hub"


def answer(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    asked: list[str] = []

    def model_info(self: HfApi, name: str, **_: object) -> None:
        asked.append(name)
        raise error

    monkeypatch.setattr(HfApi, "model_info", model_info)
    return asked


@pytest.mark.parametrize(("error", "message"), ANSWERS, ids=lambda value: type(value).__name__)
def test_the_hub_is_asked_once(monkeypatch, capfd, error: Exception, message: str) -> None:
    asked = answer(monkeypatch, error)
    with pytest.raises(UserError, match=message) as raised:
        chainrule.load("nobody/nothing")
    assert asked == ["nobody/nothing"]
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_name_is_not_asked_for(monkeypatch) -> None:
    asked = answer(monkeypatch, ConnectionError("no"))
    with pytest.raises(UserError, match="is not a name on the hub: write owner/name"):
        chainrule.load("no body/no thing?")
    assert asked == []


def put_in_cache(cache: Path, name: str) -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder = repository / "snapshots" / ("0" * 40)
    pipeline(SCHEDULERS["sd1"]).save_pretrained(folder)
    return folder


def test_what_is_in_the_cache_is_not_asked_for(cache: Path, monkeypatch) -> None:
    asked = answer(monkeypatch, ConnectionError("no"))
    put_in_cache(cache, "some/one")
    assert chainrule.load("some/one").name == "some/one"
    assert asked == []


def test_what_is_in_the_cache_in_part_is_said(cache: Path, monkeypatch) -> None:
    asked = answer(monkeypatch, ConnectionError("no"))
    shutil.rmtree(put_in_cache(cache, "some/one") / "unet")
    with pytest.raises(
        UserError, match="without its unet in the hub's cache and the hub cannot be"
    ):
        chainrule.load("some/one")
    assert asked == ["some/one"]
