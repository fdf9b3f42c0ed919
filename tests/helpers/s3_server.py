"""An S3 server in a process of its own, behind a line that can be cut."""

import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUCKET = "maskgen-test"


@dataclass
class S3Server:
    """`environment`: what a process needs to reach it; `line`: what it is reached by.

    What the methods do goes past the line.
    """

    environment: dict[str, str]
    line: "Line"
    client: Any

    def names(self, prefix: str) -> list[str]:
        """Of the objects below."""
        told = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [each["Key"] for each in told.get("Contents", [])]

    def put(self, folder: Path, prefix: str) -> None:
        """Upload a folder's files."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = f"{prefix}/{path.relative_to(folder).as_posix()}"
                self.client.upload_file(str(path), BUCKET, name)

    def fetch(self, prefix: str, folder: Path) -> Path:
        """Download what lies below, without further folders."""
        folder.mkdir()
        for name in self.names(f"{prefix}/"):
            if "/" not in (rest := name.removeprefix(f"{prefix}/")):
                self.client.download_file(BUCKET, name, str(folder / rest))
        return folder

    def buckets(self) -> list[str]:
        return [each["Name"] for each in self.client.list_buckets()["Buckets"]]


class Line:
    """Passes bytes between a port of its own and the server's; `cut` closes it, `mend` opens it again."""

    def __init__(self, to: int):
        self._to = to
        self._listener = _listening(0)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self.mend()

    def cut(self) -> None:
        """Nothing answers any more, and what was under way is broken off."""
        for each in [self._listener, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # or the thread that accepts would keep it open
            each.close()
        self._open.clear()

    def mend(self) -> None:
        """Everything as before."""
        if self._listener.fileno() < 0:
            self._listener = _listening(self.port)
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._open += [client, server]
                threading.Thread(target=_pass, args=[client, server], daemon=True).start()


def _listening(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=64)


def _pass(client: socket.socket, server: socket.socket) -> None:
    other = {client: server, server: client}
    with selectors.DefaultSelector() as ready, suppress(OSError, ValueError):
        for each in other:
            ready.register(each, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                if not data:
                    raise OSError
                other[key.fileobj].sendall(data)  # type: ignore[index]
    for each in other:
        each.close()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """One with a bucket, that knows one pair of keys and refuses all others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = "import sys; from moto.server import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        keys, client = _keys(f"http://127.0.0.1:{port}")
        line = Line(port)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            **keys,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.port}",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        yield S3Server(environment, line, client)
    finally:
        process.kill()
        process.wait()


def _keys(endpoint: str) -> tuple[dict[str, str], Any]:
    """What a process needs in its environment, and a client with it."""
    import boto3
    import requests

    told = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    boto3.client("s3", **told, **keys).create_bucket(Bucket=BUCKET)
    iam = boto3.client("iam", **told, **keys)
    iam.create_user(UserName="maskgen")
    policy = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
    )
    iam.put_user_policy(UserName="maskgen", PolicyName="s3", PolicyDocument=policy)
    made = iam.create_access_key(UserName="maskgen")["AccessKey"]
    requests.post(f"{endpoint}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()
    keys = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
    return {name.upper(): value for name, value in keys.items()}, boto3.client("s3", **told, **keys)
