"""A Google Cloud Storage of its own on a loopback port, strict where emulators are not.

It speaks the part of the JSON API that google-cloud-storage 3.17 uses and enforces generation and
metageneration preconditions, CRC32C, holds and retention. Faults are put into it one by one.
Sources: cloud.google.com/storage/docs/json_api/v1, /docs/performing-resumable-uploads.
"""

import base64
import email
import itertools
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

_OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)\Z")
_BUCKET = re.compile(r"(?:/download|/upload)?/storage/v1/b/([^/]+)/")
_LIST = re.compile(r"/storage/v1/b/([^/]+)/o\Z")
_UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o\Z")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)\Z")


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Stored:
    """One object; ``fields`` are those of its resource that a client sets."""

    data: bytes
    generation: int
    created: datetime
    fields: dict[str, Any]
    metageneration: int = 1
    crc32c: str = ""


@dataclass
class Fault:
    """What goes wrong with requests of ``method`` whose path contains ``path``.

    ``kind``: a status; "hang" (no answer until the server stops); "cut upload" (the connection ends
    in the middle of the request); "lose answer" (done, but nobody hears of it); "cut download" and
    "trickle" (half of the bytes, or one every ``pause``).
    """

    kind: int | str
    method: str = ""
    path: str = ""
    times: int = 1
    hit: int = 0
    pause: float = 0.1

    def meets(self, method: str, path: str) -> bool:
        return self.hit < self.times and self.method in ("", method) and self.path in path


@dataclass
class Session:
    """A resumable upload that is not finished, so nobody sees it; or its answer once it is."""

    query: dict[str, str]
    resource: dict[str, Any]
    data: bytearray = field(default_factory=bytearray)
    answer: dict[str, Any] | None = None


class GcsServer(ThreadingHTTPServer):
    """One bucket, ``backups``. Use `serve`."""

    daemon_threads = True
    page = 1000

    def __init__(self, *, object_retention: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.objects: dict[str, Stored] = {}
        self.sessions: dict[str, Session] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.object_retention = object_retention
        self.guard = threading.RLock()
        self.stopping = threading.Event()
        self.numbers = itertools.count(1)

    def fail(self, kind: int | str, **where: Any) -> Fault:
        fault = Fault(kind, **where)
        self.faults.append(fault)
        return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    # --- the rules ---

    def find(self, name: str, query: dict[str, str]) -> Stored:
        found = self.objects.get(name)
        if found is None or query.get("generation", str(found.generation)) != str(found.generation):
            raise Refused(404, f"No such object: backups/{name}")
        self.check(found, query)
        return found

    def check(self, found: Stored | None, query: dict[str, str]) -> None:
        for key, actual in (
            ("ifGenerationMatch", found.generation if found else 0),
            ("ifMetagenerationMatch", found.metageneration if found else 0),
        ):
            if key in query and query[key] != str(actual):
                raise Refused(412, "At least one of the pre-conditions you specified did not hold.")

    def may_go(self, name: str, found: Stored) -> None:
        if found.fields.get("temporaryHold"):
            raise Refused(403, f"Object 'backups/{name}' is under active Temporary hold")
        until = found.fields.get("retention", {}).get("retainUntilTime")
        if until is not None and datetime.fromisoformat(until) > datetime.now(UTC):
            raise Refused(403, f"Object 'backups/{name}' is subject to object retention")

    def store(self, query: dict[str, str], resource: dict[str, Any], data: bytes) -> dict[str, Any]:
        if "ifGenerationMatch" not in query:
            raise AssertionError("a write without a precondition")
        with self.guard:
            name = resource.get("name") or query["name"]
            crc = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
            if resource.get("crc32c", crc) != crc:
                raise Refused(400, "Provided CRC32C does not match")
            before = self.objects.get(name)
            self.check(before, query)
            if before is not None:
                self.may_go(name, before)
            now = datetime.now(UTC)
            generation = int(now.timestamp() * 1e6) + next(self.numbers)
            fields = {key: resource[key] for key in ("metadata", "contentType") if key in resource}
            self.objects[name] = Stored(data, generation, now, fields, crc32c=crc)
            return self.resource(name, self.objects[name])

    def change(self, name: str, query: dict[str, str], patch: dict[str, Any]) -> dict[str, Any]:
        with self.guard:
            found = self.find(name, query)
            if "retention" in patch:
                if not self.object_retention:
                    raise Refused(400, "The bucket does not have object retention enabled")
                old = found.fields.get("retention", {}).get("retainUntilTime")
                new = patch["retention"]["retainUntilTime"]
                if old and datetime.fromisoformat(new) < datetime.fromisoformat(old):
                    raise Refused(403, "Retention cannot be reduced")
            found.fields.update(patch)
            found.metageneration += 1
            return self.resource(name, found)

    def remove(self, name: str, query: dict[str, str]) -> None:
        if "ifGenerationMatch" not in query:
            raise AssertionError("a deletion without a precondition")
        with self.guard:
            self.may_go(name, self.find(name, query))
            del self.objects[name]

    def listing(self, query: dict[str, str]) -> dict[str, Any]:
        with self.guard:
            prefix, after = query.get("prefix", ""), query.get("pageToken", "")
            names = sorted(n for n in self.objects if n.startswith(prefix) and n > after)
            size = min(self.page, int(query.get("maxResults", self.page)))
            shown = [self.resource(n, self.objects[n]) for n in names[:size]]
            more = {"nextPageToken": names[size - 1]} if len(names) > size else {}
            return {"kind": "storage#objects", "items": shown, **more}

    def resource(self, name: str, stored: Stored) -> dict[str, Any]:
        return {
            "kind": "storage#object",
            "bucket": "backups",
            "name": name,
            "generation": str(stored.generation),
            "metageneration": str(stored.metageneration),
            "size": str(len(stored.data)),
            "crc32c": stored.crc32c,
            "timeCreated": stored.created.isoformat().replace("+00:00", "Z"),
            **stored.fields,
        }


class Handler(BaseHTTPRequestHandler):
    """One request; the rules are the server's."""

    server: GcsServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.where = unquote(parts.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        fault = self._fault()
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.kind == "hang":
            self.server.stopping.wait()
            return self._hang_up()
        if fault and fault.kind == "cut upload":
            self.rfile.read(length // 2)
            return self._hang_up()
        body = self.rfile.read(length)
        if fault and isinstance(fault.kind, int):
            return self._answer(fault.kind, {"error": {"code": fault.kind, "message": "fault"}})
        try:
            status, headers, content = self._act(body)
        except Refused as refused:
            message = {"error": {"code": refused.status, "message": str(refused)}}
            status, headers, content = refused.status, {}, json.dumps(message).encode()
        if fault and fault.kind == "lose answer":
            return self._hang_up()
        return self._send(status, headers, content, fault)

    def _fault(self) -> Fault | None:
        with self.server.guard:
            where = f"{self.where}?{urlsplit(self.path).query}"
            self.server.requests.append((self.command, where))
            for fault in self.server.faults:
                if fault.meets(self.command, where):
                    fault.hit += 1
                    return fault
        return None

    def _act(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        bucket = _BUCKET.match(self.where)
        if bucket is None or bucket[1] != "backups":
            raise Refused(404, "The specified bucket does not exist.")
        if _UPLOAD.match(self.where):
            return self._upload(body)
        if _LIST.match(self.where):
            return self._json(self.server.listing(self.query))
        match = _OBJECT.match(self.where)
        if match is None:
            raise Refused(404, f"no such path: {self.where}")
        name = match[2]
        if self.command == "DELETE":
            self.server.remove(name, self.query)
            return 204, {}, b""
        if self.command == "PATCH":
            return self._json(self.server.change(name, self.query, json.loads(body)))
        with self.server.guard:
            found = self.server.find(name, self.query)
            if self.query.get("alt") != "media":
                return self._json(self.server.resource(name, found))
            return self._media(found)

    def _media(self, found: Stored) -> tuple[int, dict[str, str], bytes]:
        headers = {
            "X-Goog-Generation": str(found.generation),
            "X-Goog-Hash": f"crc32c={found.crc32c}",
            "X-Goog-Stored-Content-Length": str(len(found.data)),
        }
        wanted = _RANGE.match(self.headers.get("Range", ""))
        if wanted is None:
            return 200, headers, found.data
        start, end = int(wanted[1]), int(wanted[2] or len(found.data) - 1)
        if start >= len(found.data):
            raise Refused(416, "The requested range cannot be satisfied.")
        content = found.data[start : end + 1]
        headers["Content-Range"] = f"bytes {start}-{start + len(content) - 1}/{len(found.data)}"
        return 206, headers, content

    def _upload(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if "upload_id" in self.query:
            return self._continue(self.query["upload_id"], body)
        if self.query["uploadType"] == "multipart":
            kind = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            resource, _ = email.message_from_bytes(kind + body).get_payload()
            fields = json.loads(resource.get_payload())
            return self._json(self.server.store(self.query, fields, self._part(body)))
        with self.server.guard:
            number = str(next(self.server.numbers))
            self.server.sessions[number] = Session(self.query, json.loads(body))
            self.server.check(
                self.server.objects.get(self.server.sessions[number].resource["name"]), self.query
            )
        return 200, {"Location": f"{self.server.url}{self.where}?upload_id={number}"}, b"{}"

    def _part(self, body: bytes) -> bytes:
        """The second part's bytes as they came: the mail parser would touch its line ends."""
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
        assert boundary is not None
        mark = b"--" + boundary[1].encode()
        _, _, rest = body.partition(mark)[2].partition(mark)
        content = rest.partition(b"\r\n\r\n")[2]
        return content[: content.rindex(b"\r\n" + mark + b"--")]

    def _continue(self, number: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        session = self.server.sessions[number]
        wanted = _CONTENT_RANGE.match(self.headers["Content-Range"])
        assert wanted is not None
        with self.server.guard:
            if session.answer is not None:
                return self._json(session.answer)
            if wanted[1] is not None:
                start = int(wanted[1])
                if start > len(session.data):
                    raise Refused(503, "bytes are missing before these")
                session.data[start:] = body
            if wanted[3] != "*" and len(session.data) == int(wanted[3]):
                session.answer = self.server.store(
                    session.query, session.resource, bytes(session.data)
                )
                return self._json(session.answer)
            return 308, {"Range": f"bytes=0-{len(session.data) - 1}"}, b""

    def _json(self, content: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()

    def _answer(self, status: int, content: Any) -> None:
        self._send(status, {}, json.dumps(content).encode(), None)

    def _send(
        self, status: int, headers: dict[str, str], content: bytes, fault: Fault | None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault and fault.kind == "cut download":
            self.wfile.write(content[: len(content) // 2])
            return self._hang_up()
        if fault and fault.kind == "trickle":
            for each in content:
                self.wfile.write(bytes([each]))
                if self.server.stopping.wait(fault.pause):
                    return self._hang_up()
        self.wfile.write(b"" if fault and fault.kind == "trickle" else content)
        return None

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serve(**options: Any) -> Iterator[GcsServer]:
    """A server that runs until the block is left."""
    server = GcsServer(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
