"""The raters' pages: each rater has a link with a token, and nobody needs a script or an account.

    GET  /r/TOKEN             the next question, or the end; ?at=N an earlier one
    POST /r/TOKEN             keeps an answer, and leads to the next question
    GET  /r/TOKEN/NAME.png    a picture of a question that this rater has reached

What comes from outside is looked up, never made a path of: tokens in the database, names in the
study. Requests for hosts that are not known are refused, so that no page elsewhere can reach a
study on this machine under a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from chainrule.errors import UserError
from chainrule.study.assignment import Shown, assign
from chainrule.study.folder import StudyFolder
from chainrule.study.pages import STYLE_DIGEST, make_message, make_question

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
"""The names of this machine for itself."""
MOST_BYTES = 4096
"""How long an answer may be, as a form sends it."""
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        f"default-src 'none'; img-src 'self'; style-src 'sha256-{STYLE_DIGEST}'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",  # an address has the token
    "x-content-type-options": "nosniff",
}
UNKNOWN = "This link leads to no study: ask whoever sent it for another."
THANKS = "All questions are answered. Thank you: you can close this page."


def make_app(folder: StudyFolder, hosts: Sequence[str] = ()) -> Starlette:
    """The study's pages as an ASGI application, which can be mounted in another.

    Args:
        folder: The study.
        hosts: The names under which it may be reached besides those of this machine for itself.

    Raises:
        UserError: The package `starlette` is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.routing import Route
    except ModuleNotFoundError:
        raise UserError(
            "serving a study needs starlette and uvicorn", 'pip install "chainrule[study]"'
        ) from None
    check_hosts(hosts)
    pages = _Pages(folder)
    trusted = Middleware(
        TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, *hosts], www_redirect=False
    )
    routes = [
        Route("/r/{token}", pages.show, methods=["GET"]),
        Route("/r/{token}", pages.keep, methods=["POST"]),
        Route("/r/{token}/{name}.png", pages.send_picture, methods=["GET"]),
    ]
    missing: Callable[[Request, Exception], Response] = lambda _, __: _say_unknown()  # noqa: E731
    return Starlette(routes=routes, middleware=[trusted], exception_handlers={404: missing})


def check_hosts(hosts: Sequence[str]) -> None:
    """Raise UserError for what is no name of a host: a pattern would let others in."""
    for name in hosts:
        if not name or any(not (c.isalnum() or c in "-._:[]") for c in name):
            raise UserError(
                f"{name!r} is not the name of a host", "write it as in study.example.org", "allow"
            )


class _Pages:
    """What is answered to each request.

    Args:
        folder: The study.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.assigned: dict[int, tuple[Shown, ...]] = {}

    def show(self, request: Request) -> Response:
        """The page of the next question, or of an earlier one."""
        rater = self._find_rater(request)
        if rater is None:
            return _say_unknown()
        shown, given = self._list_questions(rater), self._read_choices(rater)
        place = _find_next(shown, given)
        wanted = request.query_params.get("at", "")
        if wanted.isascii() and wanted.isdecimal() and 1 <= int(wanted[:9]) <= place:
            place = int(wanted[:9]) - 1
        if place == len(shown):
            return _respond(make_message("Thank you", THANKS))
        name, base = shown[place].question.name, request.path_params["token"]
        return _respond(
            make_question(
                self.folder.study, shown[place], place + 1, len(shown), base, given.get(name)
            )
        )

    async def keep(self, request: Request) -> Response:
        """Keep an answer."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import RedirectResponse

        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return _respond(make_message("Too long", "This is no answer."), 413)
        refusal = await run_in_threadpool(self._keep, request, body)
        if refusal is not None:
            return refusal
        # another address than that of the form, so that to load the page again answers nothing
        return RedirectResponse(request.path_params["token"], 303, headers=HEADERS)

    def _keep(self, request: Request, body: bytes) -> Response | None:
        """Keep an answer; what is said if it is none."""
        rater = self._find_rater(request)
        if rater is None:
            return _say_unknown()
        fields = parse_qs(body.decode("utf-8", errors="replace"))
        name, choice = (fields.get(key, [""])[0] for key in ("question", "choice"))
        known = [each.value for each in self.folder.study.protocol.choices]
        reached = {each.question.name: each for each in self._list_reached(rater)}
        if name not in reached or choice not in known:
            return _respond(make_message("No answer", "Go back, and choose an answer."), 400)
        self.folder.answers.add(rater, name, choice, reached[name].pictures)
        return None

    def send_picture(self, request: Request) -> Response:
        """A picture of a question that the rater has reached."""
        from starlette.responses import Response

        rater = self._find_rater(request)
        if rater is None:
            return _say_unknown()
        names = set()
        for each in self._list_reached(rater):
            names |= {*each.pictures, each.question.beside}
        known = [picture.name for picture in self.folder.study.pictures if picture.name in names]
        for name in known:
            if name == request.path_params["name"]:  # the path is made of our own, not of theirs
                content = self.folder.find_picture(name).read_bytes()
                return Response(content, media_type="image/png", headers=HEADERS)
        return _say_unknown()

    def _find_rater(self, request: Request) -> int | None:
        return self.folder.answers.find_rater(request.path_params["token"])

    def _list_questions(self, rater: int) -> tuple[Shown, ...]:
        if rater not in self.assigned:
            self.assigned[rater] = assign(self.folder.study, rater)
        return self.assigned[rater]

    def _read_choices(self, rater: int) -> dict[str, str]:
        """What a rater has answered, by question."""
        return {each.question: each.choice for each in self.folder.answers.read_last(rater)}

    def _list_reached(self, rater: int) -> tuple[Shown, ...]:
        """The questions that a rater has answered, and the next."""
        shown = self._list_questions(rater)
        return shown[: _find_next(shown, self._read_choices(rater)) + 1]


def _find_next(shown: Sequence[Shown], given: dict[str, Any]) -> int:
    """The place of the first question without an answer."""
    return next(
        (place for place, each in enumerate(shown) if each.question.name not in given), len(shown)
    )


def _respond(page: str, status: int = 200) -> Response:
    from starlette.responses import HTMLResponse

    return HTMLResponse(page, status, headers=HEADERS)


def _say_unknown() -> Response:
    return _respond(make_message("Not found", UNKNOWN), 404)
