"""The asyncio client: the same calls as halutd.Client, awaited. Its HTTP/1.1 is the part that is needed."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Type

from . import _protocol as p
from ._waiting import Attempts, JobWatch

_Connection = Tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _read_headers(reader: asyncio.StreamReader) -> Tuple[int, Dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    parts = head[0].split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise p.ConnectionFailed(f"not an HTTP answer: {head[0][:60]!r}")
    headers = {}
    for line in head[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return int(parts[1]), headers


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    out = []
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        out.append(await reader.readexactly(size))
        end = await reader.readuntil(b"\r\n")
        if size == 0:
            while end != b"\r\n":  # trailers
                end = await reader.readuntil(b"\r\n")
            return b"".join(out)


async def _read_reply(reader: asyncio.StreamReader) -> Tuple[p.Reply, bool]:
    """The reply, and whether the connection can be used again."""
    status, headers = await _read_headers(reader)
    while 100 <= status < 200:
        status, headers = await _read_headers(reader)
    keep = headers.get("connection", "").lower() != "close"
    if status in (204, 304):
        body = b""
    elif headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body, keep = await reader.read(), False
    return p.Reply(status, headers, body), keep


class AsyncClient:
    """A client of one server for asyncio; see halutd.Client. Tasks of one loop may share it."""

    def __init__(self, url: str = "http://127.0.0.1:8080", *, timeout: float = 30.0,
                 retry: p.Retry = p.Retry(), headers: Optional[Mapping[str, str]] = None,
                 ssl_context: Optional[ssl.SSLContext] = None) -> None:
        self._address = p.Address.parse(url)
        self._timeout = timeout
        self._retry = retry
        self._headers = dict(headers or {})
        self._ssl = ssl_context
        self._idle: List[_Connection] = []
        self._closed = False

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Any) -> None:
        await self.close()

    async def close(self) -> None:
        self._closed = True
        idle, self._idle = self._idle, []
        for _, writer in idle:
            await _close(writer)

    async def classify(self, image: Any, *, model: Optional[str] = None, top: int = 5,
                       fit: Optional[str] = None,
                       backend: Optional[str] = None) -> p.Classification:
        return p.classify_result(
            await self._call(p.classify_request(image, model, top, fit, backend)))

    async def matmul(self, a: Any, *, model: str, backend: Optional[str] = None) -> p.Product:
        return p.matmul_result(await self._call(p.matmul_request(a, model, backend)), a)

    async def infer(self, model: str, inputs: Mapping[str, p.TensorLike], *,
                    outputs: Optional[Sequence[str]] = None, version: Optional[str] = None,
                    id: Optional[str] = None, parameters: Optional[Mapping[str, Any]] = None,
                    binary: bool = True) -> p.InferResult:
        return p.infer_result(await self._call(
            p.infer_request(model, inputs, outputs, version, id, parameters, binary)))

    async def start_learning(self, a: Any, b: Any, *, name: str, codebooks: Optional[int] = None,
                             prototypes: Optional[int] = None,
                             ridge: Optional[float] = None, heldout: Optional[float] = None,
                             seed: Optional[int] = None, candidates: Optional[int] = None,
                             tree_rows: Optional[int] = None, by: Optional[str] = None) -> p.Job:
        fields = {"name": name, "codebooks": codebooks, "prototypes": prototypes, "ridge": ridge,
                  "heldout": heldout, "seed": seed, "candidates": candidates, "tree_rows": tree_rows, "by": by}
        started = (await self._call(p.learn_request(a, b, fields))).json()
        return await self.job(started["id"])

    async def learn(self, a: Any, b: Any, *, name: str, progress: Optional[Callable[[p.Job], Any]] = None,
                    wait: Optional[float] = None, **options: Any) -> p.Job:
        watch, job = JobWatch(progress, wait), await self.start_learning(a, b, name=name, **options)
        while (pause := watch.pause_after(job)) is not None:
            await asyncio.sleep(pause)
            job = await self.job(job.id)
        return job

    async def job(self, id: str) -> p.Job:
        return p.job_result((await self._call(p.Request("GET", p.job_path(id)))).json())

    async def jobs(self) -> List[p.Job]:
        return [p.job_result(raw) for raw in (await self._call(p.Request("GET", "/v1/jobs"))).json()["jobs"]]

    async def cancel(self, id: str) -> p.Job:
        return p.job_result((await self._call(p.Request("DELETE", p.job_path(id)))).json())

    async def healthy(self) -> bool:
        try:
            reply = await self._once(p.Request("GET", "/healthz"), self._timeout)
            return reply.status == 200
        except (p.ConnectionFailed, p.TimedOut):
            return False

    async def wait_healthy(self, timeout: float = 30.0) -> None:
        end = time.monotonic() + timeout
        while not await self.healthy():
            if time.monotonic() >= end:
                raise p.TimedOut(f"not healthy within {timeout:g} s")
            await asyncio.sleep(0.05)

    async def models(self) -> Any:
        return (await self._call(p.Request("GET", "/v1/models"))).json()

    async def metadata(self, model: Optional[str] = None) -> Dict[str, Any]:
        result: Dict[str, Any] = (await self._call(p.metadata_request(model))).json()
        return result

    async def metrics(self) -> str:
        return (await self._call(p.Request("GET", "/metrics"))).body.decode()

    async def _call(self, request: p.Request) -> p.Reply:
        attempts = Attempts(self._retry, self._timeout)
        while True:
            try:
                return p.check(await self._once(request, attempts.seconds_left()))
            except p.Error as error:
                pause = attempts.pause_after(error, request)
            await asyncio.sleep(pause)

    async def _once(self, request: p.Request, timeout: float) -> p.Reply:
        try:
            return await asyncio.wait_for(self._send(request), timeout)
        except asyncio.TimeoutError:
            raise p.TimedOut(f"no answer within {timeout:.3g} s") from None

    async def _connect(self) -> _Connection:
        address = self._address
        if address.scheme == "unix":
            return await asyncio.open_unix_connection(address.unix_path)
        context = (self._ssl or ssl.create_default_context()) if address.scheme == "https" else None
        return await asyncio.open_connection(address.host, address.port, ssl=context)

    async def _send(self, request: p.Request) -> p.Reply:
        while True:
            if self._closed:
                raise p.Error("the client is closed")
            idle = self._idle.pop() if self._idle and request.repeatable else None
            writer = None
            try:
                reader, writer = idle if idle is not None else await self._connect()
                writer.write(self._head(request) + request.body)
                await writer.drain()
                reply, keep = await _read_reply(reader)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                if writer is not None:
                    await _close(writer)
                if idle is None:
                    raise p.ConnectionFailed(f"{self._address.host_header}: {error}") from error
                continue
            except BaseException:
                if writer is not None:
                    writer.close()
                raise
            if keep and not self._closed:
                self._idle.append((reader, writer))
            else:
                await _close(writer)
            return reply

    def _head(self, request: p.Request) -> bytes:
        headers = {"Host": self._address.host_header, **self._headers, **request.headers}
        if request.method != "GET":
            headers["Content-Length"] = str(len(request.body))
        lines = [f"{request.method} {self._address.prefix}{request.path} HTTP/1.1"]
        for name, value in headers.items():
            if "\r" in value or "\n" in value:
                raise p.Error(f"header {name}: a line end in its value")
            lines.append(f"{name}: {value}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass
