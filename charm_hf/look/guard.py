"""What stands between the demo and strangers: who may ask, how much may be uploaded, what is never fetched."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..models.image_urls_charm import is_url
from .uploads import DemoLimits


# What a page of the demo may load: itself. Gradio's own page needs inline scripts and styles.
_CONTENT_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'; object-src 'none'"
)


class Guard:
    """ASGI middleware around the demo.

    A page of another site cannot use the visitor's browser to ask this server: the `Host` must be an address or a name
    of this machine (a name that somebody's DNS points here is refused), and an `Origin` must be the page itself.
    Uploads are refused that would not fit into what the server may hold. Pages may load from nowhere else.

    Args:
        app: the server.
        host: the name or address at which it listens.
        uploads: the folder of uploads.
        limits: how much it may hold.
    """

    def __init__(self, app: Any, host: str, uploads: str, limits: DemoLimits) -> None:
        self.app = app
        self.uploads = Path(uploads)
        self.room = limits.max_total_megabytes * 1_000_000
        self.names = {"localhost", host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        self._underway = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or refuse."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        asked = headers.get(b"host", "")
        origin = headers.get(b"origin")
        if not self._is_own_name(asked) or (origin is not None and urlsplit(origin).netloc.lower() != asked.lower()):
            await _refuse(scope, send, 403, "This server answers only its own page, by a name of its own machine.")
        elif scope.get("method") == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            await self._upload(scope, receive, send, headers.get(b"content-length", ""))
        else:
            await self.app(scope, receive, _with_policy(send))

    async def _upload(self, scope: Any, receive: Any, send: Any, length: str) -> None:
        size = int(length) if length.isascii() and length.isdigit() else self.room + 1
        if self._held() + self._underway + size > self.room:
            await _refuse(
                scope, send, 413, "There is no room for more uploads: try again later, or with fewer photos."
            )
            return
        self._underway += size
        try:
            await self.app(scope, receive, _with_policy(send))
        finally:
            self._underway -= size

    def _held(self) -> int:
        files = (Path(folder) / name for folder, _, names in os.walk(self.uploads) for name in names)
        return sum(file.stat().st_size for file in files if file.exists())

    def _is_own_name(self, host: str) -> bool:
        try:
            asked = urlsplit(f"//{host}")
            name = (asked.hostname or "").lower()
        except ValueError:
            return False
        return "@" not in host and asked.netloc == host and (name in self.names or _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return False


def _with_policy(send: Any) -> Any:
    async def send_with_policy(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [(b"content-security-policy", _CONTENT_POLICY.encode()), (b"referrer-policy", b"no-referrer")]
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await send(message)

    return send_with_policy


async def _refuse(scope: Any, send: Any, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


def keep_urls_unfetched(block: Any) -> None:
    """Make a component of Gradio refuse a URL in the place of an upload, which the server would fetch itself."""
    move = getattr(block, "async_move_resource_to_block_cache", None)
    if move is None:
        return

    async def move_own(path: Any) -> Any:
        if is_url(path):
            raise ValueError("A URL is not fetched here: upload the photo.")
        return await move(path)

    block.async_move_resource_to_block_cache = move_own


__all__ = ["Guard", "keep_urls_unfetched"]
