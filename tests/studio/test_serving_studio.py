"""Who may reach the studio, and what it gives away: nothing but runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chainrule import UserError
from chainrule.runs import execute, parse_spec
from chainrule.studio.desk import Desk
from command import call

pytest.importorskip("gradio", reason='the studio needs Gradio: pip install "chainrule[studio]"')
MOST = 100_000
SECRET = "nobody should read this"
ADDRESSES = [
    "/runs/run/file/spec.json",
    "/runs/run/zip",
    "/gradio_api/file=queue.sqlite",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    spec = {"inputs": {"prompt": "a red circle"}, "methods": [{"kind": "plain", "steps": 1}]}
    for _ in execute(parse_spec(spec), folder / "runs" / "run"):
        pass
    (folder / "secret.txt").write_text(SECRET)
    (folder / "runs" / "secret.txt").write_text(SECRET)
    (folder / "runs" / "run" / ".secret.txt").write_text(SECRET)
    (folder / "runs" / "run" / "images" / "link.txt").symlink_to(folder / "secret.txt")
    (folder / "runs" / "alias").symlink_to(folder)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Any]:
    from starlette.testclient import TestClient

    from chainrule.studio.app import make_app

    app = make_app(Desk(folder / "runs"), ["studio.example.org"], most_bytes=MOST)
    with TestClient(app, base_url="http://127.0.0.1:7860") as opened:
        yield opened


def test_pages_are_served_and_load_nothing_from_elsewhere(client: Any) -> None:
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy


def test_a_run_s_pictures_and_its_zip_are_served(client: Any, folder: Path) -> None:
    kept = (folder / "runs" / "run" / "images" / "plain-0000.png").read_bytes()
    got = client.get("/runs/run/file/images/plain-0000.png")
    assert (got.content, got.headers["content-type"]) == (kept, "image/png")
    assert "content-disposition" not in got.headers
    asked = client.get("/runs/run/file/images/plain-0000.png?download=1")
    assert "run-plain-0000.png" in asked.headers["content-disposition"]
    assert client.get("/runs/run/thumb").headers["content-type"] == "image/png"
    assert client.get("/runs/run/zip").content[:2] == b"PK"
    spec = client.get("/runs/run/file/spec.json")  # nothing but pictures is shown in a page
    assert "attachment" in spec.headers["content-disposition"]
    assert spec.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/runs/run/file/../secret.txt",
        "/runs/run/file/..%2f..%2fsecret.txt",
        "/runs/run/file/%2e%2e/secret.txt",
        "/runs/run/file/.secret.txt",
        "/runs/run/file/images/link.txt",
        "/runs/run/file//etc/passwd",
        "/runs/..%2f/file/secret.txt",
        "/runs/../secret.txt",
        "/runs/alias/file/secret.txt",
        "/runs/alias/zip",
        "/runs/.studio/file/secret",
        "/runs/run/look/..%2f..%2fsecret.txt",
        "/runs/none/thumb",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file={folder}/secret.txt",
        "/gradio_api/file={folder}/runs/secret.txt",
        "/gradio_api/file={folder}/runs/queue.sqlite",
        "/gradio_api/file={folder}/runs/.studio/secret",
        "/gradio_api/file={folder}/runs/.studio/uploads/../secret",
        "/gradio_api/file=../secret.txt",
    ],
)
def test_nothing_else_is(client: Any, folder: Path, path: str) -> None:
    got = client.get(path.format(folder=folder))
    assert got.status_code in (400, 403, 404), got.status_code
    assert SECRET not in got.text


@pytest.mark.parametrize("path", ["/", "/config", "/runs/run/zip", "/gradio_api/queue/join"])
@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.example.org", "*"])
def test_other_hosts_are_refused(client: Any, path: str, host: str) -> None:
    assert client.get(path, headers={"host": host}).status_code == 400
    assert client.post(path, headers={"host": host}, json={}).status_code == 400


def test_the_hosts_that_are_allowed_are_served(client: Any) -> None:
    for host in ("127.0.0.1", "localhost:7860", "studio.example.org"):
        assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example.org", "null", "https://localhost.evil.org"]
)
def test_pages_of_others_may_not_ask(client: Any, origin: str) -> None:
    asked = client.post("/gradio_api/queue/join", headers={"origin": origin}, json={})
    assert asked.status_code == 403
    own = {"origin": "http://127.0.0.1:7860"}
    assert client.get("/", headers=own).status_code == 200


def test_a_huge_upload_is_refused_and_not_kept(client: Any, folder: Path) -> None:
    small = client.post("/gradio_api/upload", files={"files": ("a.png", b"x" * 1000)})
    assert small.status_code == 200
    huge = client.post("/gradio_api/upload", files={"files": ("b.png", b"x" * (MOST + 1))})
    assert huge.status_code == 413
    kept = [each.name for each in (folder / "runs" / ".studio" / "uploads").rglob("*.png")]
    assert kept == ["a.png"]


def test_the_key_is_kept_from_others_and_from_start_to_start(folder: Path) -> None:
    from chainrule.studio.app import read_secret

    desk = Desk(folder / "runs")
    key = read_secret(desk)
    assert len(key) >= 24
    assert read_secret(Desk(folder / "runs")) == key
    if os.name == "posix":
        path = folder / "runs" / ".studio" / "secret"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("host", ["*", "*.example.org", "", "a b"])
def test_a_pattern_is_no_host(tmp_path: Path, host: str) -> None:
    from chainrule.studio.app import make_app

    with pytest.raises(UserError, match="not the name of a host"):
        make_app(Desk(tmp_path), [host])


def test_a_study_is_asked_beside_it(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from chainrule.studio.app import make_app
    from chainrule.study import Asked, StudyFolder, create_study
    from chainrule.study.protocols import PROTOCOLS
    from studies import write_run

    runs = [write_run(tmp_path / "one")]
    create_study(tmp_path / "study", runs, Asked(protocol=PROTOCOLS["pairwise"](), seed=0))
    study = StudyFolder.open(tmp_path / "study")
    (token, *_) = study.answers.make_tokens(study.study.raters)
    app = make_app(Desk(tmp_path / "runs"), study=study)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        page = client.get(f"/study/r/{token}")
        assert "Question 1 of" in page.text
        assert client.get("/study/r/none").status_code == 404
        (picture, *_) = [part.split('"')[0] for part in page.text.split('src="')[1:]]
        assert client.get(f"/study/r/{picture}").headers["content-type"] == "image/png"


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    code, said = call("studio", "--folder", tmp_path, "--host", "0.0.0.0", "--no-browser")
    assert code == 2
    assert "nobody said by which name" in said
    code, said = call("studio", "--folder", tmp_path, "--study", tmp_path / "none", "--no-browser")
    assert code == 2


def test_twenty_runs_wait_in_their_order(tmp_path: Path) -> None:
    from chainrule.studio.views import show_queue
    from chainrule.studio.watch import find_first, refresh

    desk = Desk(tmp_path)
    spec = parse_spec({"inputs": {"prompt": "a"}, "methods": [{"kind": "plain", "steps": 1}]})
    names = [desk.add(spec, "many")[0] for _ in range(20)]
    assert [entry.name for entry in desk.entries()] == names
    assert show_queue(desk.entries()).count("<li>") == 20
    assert find_first(desk, {}) == names[-1]
    assert find_first(desk, {names[3]: "x"}) == names[3]
    first = refresh(desk, names[0], {})
    *_, seen, states = first
    assert seen["status"] == "waiting"
    assert states == tuple((name, "waiting") for name in names)
    assert all(isinstance(each, dict) for each in refresh(desk, names[0], seen))  # skipped


def test_a_mask_is_where_it_was_painted_at_the_photo_s_size(tmp_path: Path) -> None:
    from chainrule.studio.edit import paint_mask

    photo = tmp_path / "photo.png"
    Image.new("RGB", (400, 200)).save(photo)
    layer = Image.new("RGBA", (200, 100))
    assert paint_mask({"layers": [layer]}, photo) is None
    assert paint_mask({"layers": []}, photo) is None
    assert paint_mask(None, photo) is None
    layer.paste((255, 0, 0, 255), (0, 0, 50, 100))
    mask = paint_mask({"layers": [layer]}, photo)
    assert mask is not None
    assert mask.size == (400, 200)
    assert mask.getbbox() == (0, 0, 100, 200)
