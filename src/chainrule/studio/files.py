"""The pictures and files of runs, served: looked up in a listing, never made a path of.

GET /runs/NAME/thumb            a thumbnail
GET /runs/NAME/look/PICTURE     a small picture of its way
GET /runs/NAME/file/FILE        a file of its folder; ?download=1 to keep it
GET /runs/NAME/zip              all of its folder
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from chainrule.errors import UserError
from chainrule.studio.listing import Listing, zip_run

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

SHOWN = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
"""What is shown in a page; anything else is only downloaded."""
SAFETY = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'"}
FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
ASK = {"cache-control": "private, no-cache"}


def make_routes(listing: Listing) -> list[Any]:
    """The addresses, as starlette's routes.

    Args:
        listing: The runs.
    """
    from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    def answer(find: Any) -> Any:
        def endpoint(request: Request) -> Response:
            try:
                return find(request, **request.path_params)
            except (UserError, OSError):
                return PlainTextResponse("There is no such file.", 404, headers=SAFETY)

        return endpoint

    def thumb(request: Request, name: str) -> Response:
        return FileResponse(listing.find_thumb(name), media_type="image/png", headers=SAFETY | ASK)

    def look(request: Request, name: str, picture: str) -> Response:
        path = listing.find_look(name, picture)
        return FileResponse(path, media_type="image/png", headers=SAFETY | FOREVER)

    def file(request: Request, name: str, file: str) -> Response:
        path = listing.find_file(name, file)
        kind = SHOWN.get(path.suffix.lower())
        kept = kind is None or "download" in request.query_params
        named = {"content-disposition": _attach(f"{name}-{path.name}")} if kept else {}
        kind = kind or "application/octet-stream"
        return FileResponse(path, media_type=kind, headers=SAFETY | ASK | named)

    def folder(request: Request, name: str) -> Response:
        path: Path = listing.desk.path(name)
        headers = SAFETY | ASK | {"content-disposition": _attach(f"{name}.zip")}
        return StreamingResponse(zip_run(path), media_type="application/zip", headers=headers)

    return [
        Route("/runs/{name}/thumb", answer(thumb)),
        Route("/runs/{name}/look/{picture}", answer(look)),
        Route("/runs/{name}/file/{file:path}", answer(file)),
        Route("/runs/{name}/zip", answer(folder)),
    ]


def _attach(name: str) -> str:
    """The header by which a browser keeps a file under a name."""
    return f"attachment; filename*=UTF-8''{quote(name)}"
