"""The scripts, styles and images of the console, loaded once and cached by browsers until they change."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}


class StaticFiles:
    """The files of the folder ``static``; there are no others."""

    def __init__(self) -> None:
        self._files = {file.name: file.read_bytes() for file in _FOLDER.iterdir() if file.suffix in _TYPES}
        self._digests = {name: hashlib.sha256(data).hexdigest()[:16] for name, data in self._files.items()}

    def link(self, name: str) -> str:
        """Return the link to a file, which changes with its content.

        Args:
            name: the file's.
        """
        return f"/static/{name}?v={self._digests[name]}"

    async def serve(self, request: Request) -> Response:
        """Answer a request for a file."""
        name = request.path_params["file"]
        if name not in self._files:
            return Response("There is no such file.", 404, media_type="text/plain")
        is_versioned = request.query_params.get("v") == self._digests[name]
        headers = {
            "cache-control": "public, max-age=31536000, immutable" if is_versioned else "no-cache",
            "x-content-type-options": "nosniff",
        }
        return Response(self._files[name], 200, headers, _TYPES[Path(name).suffix])
