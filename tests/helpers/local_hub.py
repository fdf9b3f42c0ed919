"""A server on this machine that speaks as much of the hub's protocol as a download needs."""

import hashlib
import json
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from helpers.local_server import LocalServer, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub(LocalServer):
    """`repositories`: name → {file: bytes}. `files`: path → bytes, outside all repositories. `cut`: paths
    whose next answer ends after so many bytes. `lies`: paths that give other bytes than are published.
    `asked`: (path, Range header) of every GET of a file."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.lies: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []


def local_hub() -> AbstractContextManager[LocalHub]:
    return serving(LocalHub())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self._file(head=True)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        else:
            self._file(head=False)

    def _api(self, path: str) -> None:
        name, _, rest = path.partition("/revision/")
        if rest:
            kind = "revision"
        else:
            name, _, rest = path.partition("/tree/")
            kind = "tree"
        files = self.server.repositories.get(name)
        if files is None or rest.split("/")[0] not in ("main", COMMIT):
            self._answer(
                404, b"{}", {"X-Error-Code": "RepoNotFound" if files is None else "RevisionNotFound"}
            )
            return
        if kind == "tree":
            found: object = [_entry(path, data) for path, data in files.items()]
        else:
            siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
            found = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
        self._answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _file(self, head: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        name, _, rest = path.lstrip("/").partition("/resolve/")
        in_repository = self.server.repositories.get(name, {}).get(rest.partition("/")[2])
        published = in_repository if rest else self.server.files.get(path)
        if published is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data, asked = self.server.lies.get(path, published), self.headers.get("Range")
        headers = {"ETag": f'"{_etag(published)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if head:
            self._answer(200, data, headers, head=True)
            return
        self.server.asked.append((path, asked))
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.server.cut.pop(path, None)
        self._answer(206 if asked else 200, data[start:], headers, sent=cut)

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str], head: bool = False, sent: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(data[:sent])
        if sent is not None:
            self.close_connection = True


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "oid": _git_hash(data), "size": len(data)}
    if _is_large(path):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
