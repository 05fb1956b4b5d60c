"""Images by URL: fetched with a bound on their bytes and on the time, and never led to a private address."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies


MAX_BYTES = 64 * 2**20
MAX_SECONDS = 30.0
MAX_REDIRECTS = 5
_PREFIXES = ("http://", "https://", "hf://")


def is_url(source: Any) -> bool:
    """Whether an image is named by a URL that can be fetched, upper or lower case."""
    return isinstance(source, str) and source.lower().startswith(_PREFIXES)


def fetch_url(url: str, stopping: Callable[[], bool] = lambda: False) -> bytes:
    """Fetch what a URL names.

    A URL may name any address, since whoever gave it may mean a server of their own. Where that server redirects to
    must be public, by its name and by the address that is then connected to: else a stranger's link could ask, in our
    name, what only this machine may ask.

    Args:
        url: `http`, `https`, or `hf` for a file on the Hub.
        stopping: asked while waiting, whether to give up.

    Raises:
        ValueError: if it is not answered with status 200, in time, and with so many bytes at most; it names the URL.
    """
    # In a thread, since a server may let each byte of its answer take as long as a single read may.
    answer: list[bytes | Exception] = []
    thread = Thread(target=lambda: answer.append(_attempt(url)), daemon=True)
    thread.start()
    deadline = time.monotonic() + MAX_SECONDS
    while thread.is_alive() and time.monotonic() < deadline and not stopping():
        thread.join(0.1)
    if not answer:
        why = "the run was stopped" if stopping() else f"it took more than {MAX_SECONDS:g} seconds"
        raise ValueError(f"{url!r} was given up: {why}.")
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def _attempt(url: str) -> bytes | Exception:
    try:
        return _follow(url)
    except ValueError as error:
        return error
    except Exception as error:  # of the network, the client and their many kinds
        return ValueError(f"{url!r} cannot be fetched: {error or type(error).__name__}")


def _follow(url: str) -> bytes:
    from huggingface_hub import HfFileSystem, get_session

    if url.lower().startswith("hf:"):
        with HfFileSystem().open(url) as file:
            return _bounded(iter(lambda: file.read(2**20), b""), url)
    place = url
    for redirects in range(MAX_REDIRECTS + 1):
        if redirects and not (is_url(place) and _is_public(urlsplit(place).hostname)):
            raise ValueError(f"{url!r} leads to {place!r}, which is no public address.")
        headers = {"accept-encoding": "identity"}  # nothing to unpack
        with get_session().stream(
            "GET", place, headers=headers, timeout=MAX_SECONDS, follow_redirects=False
        ) as response:
            if redirects and not _connected_publicly(response):
                raise ValueError(f"{url!r} leads to {place!r}, which is no public address.")
            if response.is_redirect:
                place = urljoin(place, response.headers.get("location", ""))
                continue
            if response.status_code != 200:
                raise ValueError(f"{url!r} answered with status {response.status_code}, expected 200.")
            return _bounded(response.iter_raw(), url)
    raise ValueError(f"{url!r} is redirected more than {MAX_REDIRECTS} times.")


def _bounded(blocks: Iterator[bytes], url: str) -> bytes:
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > MAX_BYTES:
            raise ValueError(f"{url!r} has more than the {MAX_BYTES:,} bytes that are fetched.")
    return bytes(content)


def _is_public(host: str | None) -> bool:
    """Whether all addresses of a host are public; a name that only a proxy knows is the proxy's to judge."""
    try:
        found = socket.getaddrinfo(host or "", None)
    except (OSError, UnicodeError):
        return bool(getproxies())
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global for *_, address in found)


def _connected_publicly(response: Any) -> bool:
    """Whether the address that answered is public: a name may be looked up differently a second time."""
    if getproxies():
        return True
    stream = response.extensions.get("network_stream")
    address = stream.get_extra_info("server_addr") if stream is not None else None
    return address is None or ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global


__all__ = ["fetch_url", "is_url"]
