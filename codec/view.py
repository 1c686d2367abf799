"""A local page to look at pictures and what the codec makes of them: ``codec view``, by http.server.

    GET /TOKEN/                               the page
    GET /TOKEN/0/original                     the first picture's pixels, without loss
    GET /TOKEN/0/coded?quality=40             the same after compression; its figures in the header Codec-Figures
    GET /TOKEN/0/file?quality=40              the compressed file, to be saved

It listens on the loopback interface alone. Others on the machine, and pages of other sites in the same browser, do not
know the token, which is new each time; a name of another host that leads here (DNS rebinding) is refused by its Host
header. Pictures are asked for by their number, so that a request cannot name a file.
"""

from __future__ import annotations

import functools
import json
import math
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl

import numpy as np

from . import bitstream, image_io
from .errors import CodecError
from .evaluation import pages
from .evaluation.metrics import psnr_db
from .files import StrPath

if TYPE_CHECKING:
    from .api import Codec


CodedView: TypeAlias = tuple[bytes, dict[str, Any], bytes, str]  # see Pictures.coded

ADDRESS = "127.0.0.1"
KEPT = 8  # results that are held for a slider that goes back
TIMEOUT = 30  # seconds for a request to arrive
_ROUTE = re.compile(r"/(?P<token>[\w-]+)/(?:(?P<index>\d{1,6})/(?P<what>original|coded|file))?", re.ASCII)


class Overtaken(CodecError):
    """A later request has taken the place of this one."""


class Pictures:
    """The pictures of a page, compressed on request, one at a time; safe for threads.

    Args:
        paths: of pictures and of this codec's files; each is read once at the start.
        coder: :class:`codec.Codec`.
        step: called without arguments after each of them, for a progress display.
        failed: called as ``failed(path, error)`` for one that cannot be read or decoded, which is then left out.
            Without it the error is raised.

    Raises:
        CodecError: such an error, or none is left. OSError: a file cannot be read.
    """

    def __init__(
        self,
        paths: Iterable[StrPath],
        coder: Codec,
        step: Callable[[], object] | None = None,
        failed: Callable[[Path, Exception], object] | None = None,
    ) -> None:
        self.paths: list[Path] = []
        self.coder = coder
        self.described: list[dict[str, Any]] = []
        self._busy = threading.Lock()
        self._tickets: dict[int, int] = {}
        self._results: OrderedDict[tuple[int, float], CodedView] = OrderedDict()
        for path in map(Path, paths):
            self.paths.append(path)
            try:
                self.described.append(self._describe(len(self.paths) - 1))
            except (CodecError, OSError) as error:
                if failed is None:
                    raise
                self.paths.pop()
                failed(path, error)
            if step is not None:
                step()
        if not self.paths:
            raise CodecError("none of the files can be shown")

    def _describe(self, index: int) -> dict[str, Any]:
        """What the page says of a picture before anything is compressed."""
        height, width = self._read(index).shape[:2]
        size = self.paths[index].stat().st_size
        return {
            "name": self.paths[index].name, "width": width, "height": height, "bytes": size,
            "bpp": 8 * size / (width * height), "compressed": self._is_ours(index),
        }  # fmt: skip

    def _is_ours(self, index: int) -> bool:
        with open(self.paths[index], "rb") as file:
            return file.read(len(bitstream.MAGIC)) == bitstream.MAGIC

    @functools.lru_cache(maxsize=2)  # noqa: B019  lives as long as the page
    def pixels(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) of the original, or of one of our files."""
        return self._read(index)

    def _read(self, index: int) -> np.ndarray:
        path = self.paths[index]
        if self._is_ours(index):
            return np.asarray(self.coder.decompress(path).convert("RGB"))
        return image_io.read_picture(path).pixels

    @functools.lru_cache(maxsize=2)  # noqa: B019  lives as long as the page
    def original(self, index: int) -> tuple[bytes, str]:
        """Its pixels as a picture file without loss: (bytes, MIME type)."""
        return pages.lossless(self.pixels(index))

    def coded(self, index: int, quality: float) -> CodedView:
        """The picture at a quality: (compressed file, figures, picture file without loss, its MIME type).

        Raises:
            Overtaken: meanwhile somebody asked for the same picture at another quality; only the last one is made.
            CodecError: it cannot be compressed.
        """
        ticket = self._tickets[index] = self._tickets.get(index, 0) + 1
        with self._busy:
            key = (index, quality)
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
            if self._tickets[index] != ticket:
                raise Overtaken("a later request has taken its place")
            self._results[key] = self._coded(index, quality)
            while len(self._results) > KEPT:
                self._results.popitem(last=False)
            return self._results[key]

    def _coded(self, index: int, quality: float) -> CodedView:
        started = time.perf_counter()
        data = self.coder.compress(self.paths[index], quality)
        compressed = time.perf_counter()
        decoded = np.asarray(self.coder.decompress(data).convert("RGB"))
        finished = time.perf_counter()
        height, width = decoded.shape[:2]
        figures = {
            "quality": quality, "bytes": len(data), "bpp": 8 * len(data) / (width * height),
            "psnr_db": psnr_db(self.pixels(index), decoded),
            "encode_s": compressed - started, "decode_s": finished - compressed,
            "stored": bitstream.read_header(data).stored,
        }  # fmt: skip
        return (data, figures, *pages.lossless(decoded))

    def page(self, quality: float) -> str:
        """The text of the page."""
        viewer = []
        for index, found in enumerate(self.described):
            versions = [{"title": "codec", "url": f"{index}/coded"}]
            if found["compressed"]:
                versions = []
            viewer.append({**found, "url": f"{index}/original", "levels": [{"label": "", "views": versions}]})
        metrics = pages.metrics_of([{"psnr_db": 0.0}])
        data = {"metrics": metrics, "viewer": viewer, "quality": quality}
        return pages.page("Pictures and what is left of them", "view", data, ("viewer", "view"), connect="'self'")


class Server(ThreadingHTTPServer):
    """Serves a page of :class:`Pictures` until it is shut down; ``url`` is where.

    Args:
        pictures: :class:`Pictures`.
        quality: that the page begins with.
        port: 0 for any that is free.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = False  # another program's port stays its own

    def __init__(self, pictures: Pictures, quality: float = 50, port: int = 0) -> None:
        self.pictures, self.quality = pictures, quality
        self.token = secrets.token_urlsafe(16)
        super().__init__((ADDRESS, port), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}
        self.url = f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a browser that hangs up is no news


class _Refused(Exception):
    """An answer other than 200: status and a line."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        super().__init__(line)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = TIMEOUT
    server_version, sys_version = "codec", ""

    def do_GET(self) -> None:
        try:
            kind, body, headers = self._answer()
            status = HTTPStatus.OK
        except _Refused as refusal:
            status, kind, headers = refusal.status, "text/plain; charset=utf-8", {}
            body = f"{refusal}\n".encode()
        except Overtaken as error:
            status, kind, body, headers = HTTPStatus.CONFLICT, "text/plain; charset=utf-8", f"{error}\n".encode(), {}
        except (CodecError, OSError, MemoryError) as error:
            status, kind, headers = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", {}
            body = f"{error or 'not enough memory'}\n".encode(errors="replace")
        self.send_response(status)
        for name, value in {
            "Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
            "Content-Security-Policy": "frame-ancestors 'none'", **headers,
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> tuple[str, bytes, dict[str, str]]:
        """(MIME type, body, further headers) of what is asked for."""
        if self.headers.get("Host") not in self.server.hosts:
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, "this page is of another host")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise _Refused(HTTPStatus.FORBIDDEN, "asked for by a page of another site")
        path, _, query = self.path.partition("?")
        found = _ROUTE.fullmatch(path)
        if not found or not secrets.compare_digest(found["token"], self.server.token):
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        pictures = self.server.pictures
        if found["index"] is None:
            return "text/html; charset=utf-8", pictures.page(self.server.quality).encode("utf-8"), {}
        index, what = int(found["index"]), found["what"]
        if index >= len(pictures.paths) or (what != "original" and pictures.described[index]["compressed"]):
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such picture")
        if what == "original":
            body, kind = pictures.original(index)
            return kind, body, {}
        data, figures, body, kind = pictures.coded(index, _quality(query))
        if what == "file":
            name = f"picture-q{figures['quality']:g}.lqc"
            return bitstream.MIME_TYPE, data, {"Content-Disposition": f'attachment; filename="{name}"'}
        return kind, body, {"Codec-Figures": json.dumps(figures)}

    def log_message(self, *_: object) -> None:
        pass


def _quality(query: str) -> float:
    """The quality that a query string names, in the hundredths that a file can hold."""
    try:
        ((name, text),) = parse_qsl(query, strict_parsing=True, max_num_fields=1)
        quality = float(text)
    except ValueError:
        raise _Refused(HTTPStatus.BAD_REQUEST, "needed quality=NUMBER") from None
    if name != "quality" or not math.isfinite(quality) or not 0 <= quality <= 100:
        raise _Refused(HTTPStatus.BAD_REQUEST, "the quality is a number from 0 to 100")
    return round(quality, 2)
