#!/usr/bin/env python3
# test: requests that two servers could delimit differently are refused and their connection is closed
# timeout: 120
"""Each case is followed by a second request on the same connection: it must never be answered."""
import re
import unittest

from daemon import Daemon

START = b"POST /v1/classify HTTP/1.1\r\nHost: t\r\n"
SECOND = b"GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
CASES = {
    "length and chunks": START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": START + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": START + b"Content-Length: 5\r\nContent-Length: 3\r\n\r\nhello",
    "the same length twice": START + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": START + b"Content-Length: 5, 5\r\n\r\nhello",
    "an empty length": START + b"Content-Length:\r\n\r\n",
    "a signed length": START + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": START + b"Content-Length: -5\r\n\r\nhello",
    "a hexadecimal length": START + b"Content-Length: 0x5\r\n\r\nhello",
    "a length with a point": START + b"Content-Length: 5.0\r\n\r\nhello",
    "a length past 64 bits": START + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "a blank before the colon": START + b"Content-Length : 5\r\n\r\nhello",
    "a tab before the colon": START + b"Content-Length\t: 5\r\n\r\nhello",
    "a blank before the colon of chunks": START + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded length": START + b"Content-Length: 1\r\n 5\r\n\r\nhello",
    "a folded coding": START + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a folded line before the length": START + b"X: a\r\n b\r\nContent-Length : 5\r\n\r\nhello",
    "a folded line": START + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "a folded length of the head":
        START + b"Inference-Header-Content-Length: 0\r\n 5\r\nContent-Length: 5\r\n\r\nhello",
    "a folded line that is blank": START + b"X: a\r\n \r\nContent-Length: 5\r\n\r\nhello",
    "a line without a name": START + b": x\r\n",
    "a line that is a colon": START + b":\r\n",
    "a NUL in a value": START + b"X: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "two codings": START + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no coding": START + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a coding that is nearly chunked": START + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding with a vertical tab": START + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /v1/classify HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare CR in a value": START + b"X: a\rContent-Length: 5\r\n\r\nhello",
    "a header without a colon": START + b"Content-Length 5\r\n\r\nhello",
    "no host": b"POST /v1/classify HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "two hosts": START + b"Host: u\r\nContent-Length: 5\r\n\r\nhello",
    "another version": b"POST /v1/classify HTTP/1.2\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello",
    "a version in small letters": b"POST /v1/classify http/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello",
    "a chunk size that is no number": CHUNKED + b"x\r\nhello\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "a signed chunk": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "a chunk with 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk size past 64 bits": CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"3\r\nhello\r\n0\r\n\r\n",
}


class Smuggling(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon("--request-timeout-ms", "1500", "--connections-per-address-max", "0")

    @classmethod
    def tearDownClass(cls):
        assert cls.daemon.stop() == 0

    def everything(self, raw):
        """All that comes back until the daemon closes."""
        data = b""
        with self.daemon.connect(timeout=5) as connection:
            try:
                connection.sendall(raw)
                while more := connection.recv(65536):
                    data += more
            except (BrokenPipeError, ConnectionResetError):
                pass
            except TimeoutError:
                data += b' (still open)'
        return data

    def test_ambiguous_requests_end_their_connection(self):
        for name, raw in CASES.items():
            with self.subTest(name):
                data = self.everything(raw + SECOND)  # in one piece, as it would arrive behind a proxy
                self.assertNotIn(b"HTTP/1.1 200", data)
                self.assertNotIn(b'"status"', data, "the second request was answered")
                self.assertNotIn(b"(still open)", data)
                # libmicrohttpd writes the head of some of its own refusals twice before it closes.
                statuses = set(re.findall(rb"HTTP/1\.1 (\d+)", data))
                self.assertTrue(statuses <= {b"400", b"413", b"501", b"505"}, data)

    def test_plain_requests_keep_theirs(self):
        body = b"5;name=value\r\nhello\r\n0\r\nTrailer: x\r\n\r\n"
        for raw in (START + b"Content-Length: 5\r\n\r\nhello", CHUNKED + body,
                    START + b"content-length:5\r\n\r\nhello", START + b"Transfer-Encoding: CHUNKED\r\n\r\n" + body):
            data = self.everything(raw + SECOND.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            self.assertEqual([int(part.split()[0]) for part in data.split(b"HTTP/1.1 ")[1:]], [400, 200], data)


if __name__ == "__main__":
    unittest.main()
