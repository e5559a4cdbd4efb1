"""Chromium, and the commands that serve pages to it, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
NEEDED = ("gradio", "playwright", "axe_playwright_python")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = int(os.environ.get("PATIENCE", 60_000))
"""For how long something may take on a busy machine, in milliseconds."""
SHOTS = os.environ.get("CHAINRULE_SCREENSHOTS")
"""Where pictures of the pages are written, if they are asked for."""

in_a_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not here: {', '.join(MISSING)}"),
]


class Server:
    """A command that serves pages, until it is stopped or killed; it can be started again.

    Args:
        command: As it is typed, without its port.
    """

    def __init__(self, *command: str) -> None:
        self.command = command
        self.process: subprocess.Popen[str] | None = None
        self.port, self.said = "0", list[str]()
        self.start()

    def start(self) -> None:
        code = "import sys; from chainrule.cli import main; sys.argv[0] = 'chainrule'; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", code, *self.command, "--port", self.port],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        self.said = [self.read_line()]
        found = re.search(r"http://127.0.0.1:(\d+)", self.said[0])
        assert found is not None, self.said
        self.port = found[1]

    def read_line(self) -> str:
        """The next line that it prints."""
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait()


@contextmanager
def start_browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


def open_context(browser: Any, width: int = 1280) -> Any:
    """Somebody's own browser."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.set_default_timeout(PATIENCE)
    return context


def find_barriers(page: Any) -> list[Any]:
    """What is in somebody's way on a page, by axe-core's rules."""
    import axe_playwright_python

    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (each["id"], [node["html"][:160] for node in each["nodes"]][:5])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


def shoot(page: Any, name: str) -> None:
    """A picture of a page, if they are asked for."""
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)
