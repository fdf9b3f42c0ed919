"""A server on this machine that speaks as much of the hub's protocol as an upload needs."""

import base64
import hashlib
import json
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from helpers.local_server import LocalServer, serving

TOKEN = "hf_local"


class PushedHub(LocalServer):
    """`repositories`: name → {file: bytes}; `private`: name → bool; `stored`: SHA-256 → bytes of large files;
    `commits`: the files of each. `fails_after`: so many commits are taken, then none.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.stored: dict[str, bytes] = {}
        self.commits: list[list[str]] = []
        self.fails_after = 10**6


def pushed_hub() -> AbstractContextManager[PushedHub]:
    return serving(PushedHub())


def is_large(path: str) -> bool:
    return path.endswith((".tar", ".parquet"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PushedHub

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, found: object = None) -> None:
        data = json.dumps(found if found is not None else {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _knows(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._body()
        self._answer(401, {"error": "Invalid username or password."})
        return False

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if not self._knows():
            return
        name = path.removeprefix("/api/datasets/").partition("/tree/")[0]
        files = self.server.repositories.get(name, {})
        self._answer(200, [self._entry(path, data) for path, data in files.items()])

    def _entry(self, path: str, data: bytes) -> dict[str, object]:
        oid = hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()
        entry: dict[str, object] = {"type": "file", "path": path, "oid": oid, "size": len(data)}
        if is_large(path):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def do_PUT(self) -> None:
        data = self._body()
        wanted = self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() == wanted:
            self.server.stored[wanted] = data
        self._answer(200)

    def do_POST(self) -> None:
        if not self._knows():
            return
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if name in self.server.repositories:
                self._answer(
                    409,
                    {
                        "error": "You already created this dataset repo",
                        "url": f"{self.server.url}/datasets/{name}",
                    },
                )
                return
            self.server.repositories[name] = {}
            self.server.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
            self._answer(200, {"url": f"{self.server.url}/datasets/{name}", "id": name})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if is_large(one["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for one in files
            ]
            self._answer(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = []
            for one in json.loads(body)["objects"]:
                upload = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}", "header": {}}}
                objects.append({**one, **({} if one["oid"] in self.server.stored else {"actions": upload})})
            self._answer(200, {"objects": objects, "transfer": "basic"})
        elif path.endswith("/commit/main"):
            self._commit(path.removeprefix("/api/datasets/").removesuffix("/commit/main"), body)
        else:
            self._answer(200)  # validate-yaml

    def _commit(self, name: str, body: bytes) -> None:
        if len(self.server.commits) >= self.server.fails_after:
            self._answer(500, {"error": "away"})
            return
        files = self.server.repositories[name]
        added = []
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                continue
            added.append(value["path"])
        self.server.commits.append(added)
        oid = f"{len(self.server.commits):040x}"
        self._answer(
            200,
            {
                "commitUrl": f"{self.server.url}/datasets/{name}/commit/{oid}",
                "commitOid": oid,
                "success": True,
            },
        )
