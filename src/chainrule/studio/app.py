"""The pages as one application: who may reach it, and what is served. Needs Gradio 6.

    Desk + Listing -> make_app -> an ASGI application

Requests for hosts that are not known, and those of other pages, are refused, so that no page
elsewhere can reach a studio on this machine. Nothing is loaded from anywhere else.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from chainrule.errors import UserError
from chainrule.studio.desk import SIDE, UPLOADS, Desk
from chainrule.studio.files import make_routes
from chainrule.studio.listing import Listing
from chainrule.studio.style import STYLE
from chainrule.study import StudyFolder
from chainrule.study.serve import LOOPBACK, check_hosts
from chainrule.study.serve import make_app as make_study_app

if TYPE_CHECKING:
    from starlette.requests import Request

MOST_BYTES = 100 * 2**20
"""How large an uploaded file may be."""
SECRET = "secret"
"""The file with the key of what browsers keep, so that they know it after a new start as well."""
ASKED = """
A blind study is asked on this server. Each rater has a link of their own, which was printed when
the study was made: `chainrule study serve STUDY --new-links` prints others.
`chainrule study results STUDY` counts the answers.
"""
NOT_ASKED = """
Which pictures are better is best asked blind. In a terminal:

1. `chainrule study new RUN RUN ...` makes a study of runs of this folder;
2. `chainrule studio --study STUDY` asks it at `/study` of this page's address, and
   `chainrule study serve STUDY` on its own;
3. `chainrule study results STUDY` counts the answers, with intervals.
"""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-ancestors 'none'; "
    "base-uri 'self'; form-action 'self'"
)


def make_app(
    desk: Desk,
    hosts: Sequence[str] = (),
    study: StudyFolder | None = None,
    models: Sequence[str] = (),
    most_bytes: int = MOST_BYTES,
) -> Any:
    """The studio as an ASGI application. The desk's work begins and ends with it.

    Args:
        desk: The runs.
        hosts: The names under which it may be reached besides those of this machine for itself.
        study: A blind study that is asked at /study.
        models: The checkpoints to choose from; empty: those that are here.
        most_bytes: How large an uploaded file may be.

    Raises:
        UserError: Gradio is not installed, or a host's name is none.
    """
    check_hosts(hosts)
    os.environ["GRADIO_TEMP_DIR"] = str(desk.side(UPLOADS).absolute())
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
        from fastapi import FastAPI
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ModuleNotFoundError:
        raise UserError("the studio needs Gradio 6", 'pip install "chainrule[studio]"') from None
    desk.side(UPLOADS).mkdir(parents=True, exist_ok=True)
    listing = Listing(desk)

    @asynccontextmanager
    async def work(_: Any) -> AsyncIterator[None]:
        desk.start()
        yield
        desk.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=work)
    app.router.routes.extend(make_routes(listing))
    if study is not None:
        app.mount("/study", make_study_app(study, hosts))
    pages = make_pages(desk, listing, study is not None, models)
    gr.mount_gradio_app(
        app, pages, path="", footer_links=[], run_history=False, max_file_size=most_bytes,
        css=STYLE, theme=make_theme(), ssr_mode=False, show_error=False, mcp_server=False,
        head='<meta name="robots" content="noindex">', enable_monitoring=False,
    )  # fmt: skip
    app.middleware("http")(_guard([*LOOPBACK, *hosts]))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, *hosts], www_redirect=False)
    return app


def _guard(hosts: Sequence[str]) -> Callable[..., Any]:
    """Refuses what pages of other hosts ask for, and says that nothing comes from elsewhere."""
    from starlette.responses import PlainTextResponse

    async def guard(request: Request, call: Callable[..., Any]) -> Any:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).hostname not in [h.strip("[]") for h in hosts]:
            return PlainTextResponse("This page may not ask here.", 403)
        response = await call(request)
        response.headers.setdefault("content-security-policy", POLICY)
        response.headers.setdefault("x-content-type-options", "nosniff")
        response.headers.setdefault("referrer-policy", "same-origin")
        return response

    return guard


def make_theme() -> Any:
    """Plain, with the fonts that every machine has, of enough contrast."""
    import gradio as gr

    colour = "#1f5fa8"
    return gr.themes.Base(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(
        button_primary_background_fill=colour,
        button_primary_background_fill_hover="#174a84",
        button_primary_text_color="#ffffff",
        button_primary_background_fill_dark=colour,
        button_primary_text_color_dark="#ffffff",
        block_info_text_color="#4a4a52",
        block_info_text_color_dark="#c9c9d2",
        block_label_text_color="#333339",
        block_label_text_color_dark="#dcdce2",
        body_text_color_subdued="#55555f",
        body_text_color_subdued_dark="#c0c0c8",
        input_placeholder_color="#62626c",
    )


def make_pages(desk: Desk, listing: Listing, study: bool, models: Sequence[str] = ()) -> Any:
    """All pages, as Gradio's Blocks.

    Args:
        desk: The runs.
        listing: They and those of the terminal.
        study: Whether a study is asked here.
        models: The checkpoints to choose from; empty: those that are here.
    """
    import gradio as gr

    from chainrule.models import installed
    from chainrule.studio.parts import Session
    from chainrule.studio.watch import find_first, make_watch

    with gr.Blocks(title="chainrule studio", analytics_enabled=False,
                   delete_cache=(3600, 7 * 86400)) as pages:  # fmt: skip
        tokens = gr.BrowserState({}, storage_key="chainrule-studio", secret=read_secret(desk))
        session = Session(desk, tokens, gr.State(None), gr.State(()), models or installed())
        gr.HTML("<h1>chainrule studio</h1>", js_on_load=None)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                _make_tabs(session, listing, study)
            with gr.Column(scale=2, min_width=320):
                make_watch(session)
        pages.load(
            lambda kept: find_first(desk, kept), [tokens], [session.chosen],
            show_progress="hidden", api_visibility="private",
        )  # fmt: skip
    return pages.queue(default_concurrency_limit=4, max_size=200, api_open=False)


def _make_tabs(session: Any, listing: Listing, study: bool) -> None:
    """The pages, each in its tab."""
    import gradio as gr

    from chainrule.studio.create import make_create
    from chainrule.studio.edit import make_edit
    from chainrule.studio.learnt import find_learnt
    from chainrule.studio.parts import Form, offer_learnt
    from chainrule.studio.runs import QUIET, make_runs
    from chainrule.studio.tune import make_tune

    makers = {"create": make_create, "edit": make_edit, "tune": make_tune}
    forms: dict[str, Form] = {}
    with gr.Tabs(elem_id="pages", overflow_behavior="wrap") as tabs:
        for page, make in makers.items():
            with gr.Tab(page.capitalize(), id=page):
                forms[page] = make(session)
        with gr.Tab("Runs", id="runs") as runs:
            fill, given, filled = make_runs(session, listing, forms, tabs)
            gr.on([runs.select, session.states.change], fill, given, filled, **QUIET)
        with gr.Tab("Study", id="study"):
            gr.Markdown(ASKED if study else NOT_ASKED)
    session.states.change(
        lambda: offer_learnt(list(forms.values()), session.models, find_learnt(listing)),
        None, [each for form in forms.values() for each in form.learners], **QUIET,
    )  # fmt: skip


def read_secret(desk: Desk) -> str:
    """The key of what browsers keep, made at the first start."""
    path = desk.folder / SIDE / SECRET
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
    except FileExistsError:
        pass
    return path.read_text()
