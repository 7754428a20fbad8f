"""The blocking client."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Type, cast

from . import _protocol as p
from ._waiting import Attempts, JobWatch


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _TimedSocket:
    """What http.client uses of a socket, until `end`: a socket's own timeout begins anew with every piece."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.end = 0.0

    def limit(self) -> None:
        self._sock.settimeout(_left(self.end))

    def sendall(self, data: Any) -> None:
        self.limit()
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self, self._sock.makefile("rb", buffering=0)))

    def close(self) -> None:
        self._sock.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, timed: _TimedSocket, raw: io.RawIOBase) -> None:
        self._timed, self._raw = timed, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        self._timed.limit()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise socket.timeout
    return left


class Client:
    """A client of one server. Threads may share it: each request takes an idle connection or makes one.

    `url` is http://HOST:PORT, https://HOST:PORT or unix:PATH. `timeout` is in seconds, for a whole call with
    its retries. `headers` go with every request (an API key, say).
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", *, timeout: float = 30.0,
                 retry: p.Retry = p.Retry(), headers: Optional[Mapping[str, str]] = None,
                 ssl_context: Optional[ssl.SSLContext] = None) -> None:
        self._address = p.Address.parse(url)
        self._timeout = timeout
        self._retry = retry
        self._headers = dict(headers or {})
        self._ssl = ssl_context
        self._lock = threading.Lock()
        self._idle: List[http.client.HTTPConnection] = []
        self._closed = False

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes idle connections; requests under way in other threads end as they will."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for connection in idle:
            connection.close()

    # ---- What it is for ----

    def classify(self, image: Any, *, model: Optional[str] = None, top: int = 5,
                 fit: Optional[str] = None, backend: Optional[str] = None) -> p.Classification:
        """The likeliest labels of a picture: a path, bytes (PNG, JPEG, raw), a file, a uint8 array or a PIL
        image. `fit` is "crop" (the default) or "squash"."""
        return p.classify_result(self._call(p.classify_request(image, model, top, fit, backend)))

    def matmul(self, a: Any, *, model: str, backend: Optional[str] = None) -> p.Product:
        """a times the matrix that `model` has learned, approximately; a is an array or rows of numbers."""
        return p.matmul_result(self._call(p.matmul_request(a, model, backend)), a)

    def infer(self, model: str, inputs: Mapping[str, p.TensorLike], *,
              outputs: Optional[Sequence[str]] = None, version: Optional[str] = None,
              id: Optional[str] = None, parameters: Optional[Mapping[str, Any]] = None,
              binary: bool = True) -> p.InferResult:
        """An inference by the Open Inference Protocol v2, tensors as binary data or as JSON."""
        return p.infer_result(self._call(
            p.infer_request(model, inputs, outputs, version, id, parameters, binary)))

    # ---- Learning ----

    def start_learning(self, a: Any, b: Any, *, name: str, codebooks: Optional[int] = None,
                       prototypes: Optional[int] = None,
                       ridge: Optional[float] = None, heldout: Optional[float] = None,
                       seed: Optional[int] = None, candidates: Optional[int] = None,
                       tree_rows: Optional[int] = None, by: Optional[str] = None) -> p.Job:
        """Queues the learning of a product from samples of a and from b. What is left out is the server's to
        choose. A broken connection is not tried again: the job may have been queued."""
        fields = {"name": name, "codebooks": codebooks, "prototypes": prototypes, "ridge": ridge,
                  "heldout": heldout, "seed": seed, "candidates": candidates, "tree_rows": tree_rows, "by": by}
        return self.job(self._call(p.learn_request(a, b, fields)).json()["id"])

    def learn(self, a: Any, b: Any, *, name: str, progress: Optional[Callable[[p.Job], Any]] = None,
              wait: Optional[float] = None, **options: Any) -> p.Job:
        """start_learning, then waits for the end, `wait` seconds or for ever, telling `progress` of every look.
        Raises LearningFailed, or TimedOut while the job goes on."""
        watch, job = JobWatch(progress, wait), self.start_learning(a, b, name=name, **options)
        while (pause := watch.pause_after(job)) is not None:
            time.sleep(pause)
            job = self.job(job.id)
        return job

    def job(self, id: str) -> p.Job:
        return p.job_result(self._call(p.Request("GET", p.job_path(id))).json())

    def jobs(self) -> List[p.Job]:
        """The jobs that the server remembers, the oldest first."""
        return [p.job_result(raw) for raw in self._call(p.Request("GET", "/v1/jobs")).json()["jobs"]]

    def cancel(self, id: str) -> p.Job:
        """Cancels a job that waits or runs; one that has ended stays what it is."""
        return p.job_result(self._call(p.Request("DELETE", p.job_path(id))).json())

    # ---- How it is ----

    def healthy(self) -> bool:
        """True if the server is there, has its models and takes requests. Never raises for a server that
        does not."""
        try:
            return self._once(p.Request("GET", "/healthz"), self._timeout).status == 200
        except (p.ConnectionFailed, p.TimedOut):
            return False

    def wait_healthy(self, timeout: float = 30.0) -> None:
        """Returns once healthy(); raises TimedOut if it is not within `timeout` seconds."""
        end = time.monotonic() + timeout
        while not self.healthy():
            if time.monotonic() >= end:
                raise p.TimedOut(f"not healthy within {timeout:g} s")
            time.sleep(0.05)

    def models(self) -> Any:
        """What /v1/models says of the models served."""
        return self._call(p.Request("GET", "/v1/models")).json()

    def metadata(self, model: Optional[str] = None) -> Dict[str, Any]:
        """The protocol's metadata of the server, or of a model."""
        result: Dict[str, Any] = self._call(p.metadata_request(model)).json()
        return result

    def metrics(self) -> str:
        """The metrics in Prometheus' text format."""
        return self._call(p.Request("GET", "/metrics")).body.decode()

    # ---- Sending ----

    def _call(self, request: p.Request) -> p.Reply:
        attempts = Attempts(self._retry, self._timeout)
        while True:
            try:
                return p.check(self._once(request, attempts.seconds_left()))
            except p.Error as error:
                pause = attempts.pause_after(error, request)
            time.sleep(pause)

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        address = self._address
        if address.scheme == "unix":
            return _UnixConnection(address.unix_path, timeout)
        if address.scheme == "https":
            return http.client.HTTPSConnection(address.host, address.port, timeout=timeout,
                                               context=self._ssl)
        return http.client.HTTPConnection(address.host, address.port, timeout=timeout)

    def _once(self, request: p.Request, timeout: float) -> p.Reply:
        """Sends it once. An idle connection that the server closed meanwhile is replaced."""
        end = time.monotonic() + timeout
        while True:
            with self._lock:
                if self._closed:
                    raise p.Error("the client is closed")
                idle = self._idle.pop() if self._idle and request.repeatable else None
            connection = idle if idle is not None else self._connect(timeout)
            try:
                return self._exchange(connection, request, end)
            except socket.timeout:
                connection.close()
                raise p.TimedOut(f"no answer within {timeout:.3g} s") from None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if idle is None:
                    raise p.ConnectionFailed(f"{self._address.host_header}: {error}") from error

    def _open(self, connection: http.client.HTTPConnection, timeout: float) -> None:
        connection.timeout = timeout
        connection.connect()
        sock: socket.socket = connection.sock
        if self._address.scheme != "unix":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = cast(socket.socket, _TimedSocket(sock))

    def _exchange(self, connection: http.client.HTTPConnection, request: p.Request,
                  end: float) -> p.Reply:
        if connection.sock is None:
            self._open(connection, _left(end))
        cast(_TimedSocket, connection.sock).end = end
        headers = {"Host": self._address.host_header, **self._headers, **request.headers}
        connection.request(request.method, self._address.prefix + request.path,
                           body=request.body if request.method != "GET" else None, headers=headers)
        response = connection.getresponse()
        reply = p.Reply(response.status, {k.lower(): v for k, v in response.getheaders()},
                        response.read())
        keep = not response.will_close
        with self._lock:
            keep = keep and not self._closed
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()
        return reply
