"""A backstitch-server in a process of its own, and requests to it, with Python's standard library alone."""

import asyncio
import dataclasses
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

# Longer than loading a model and emptying a queue take on a busy machine.
PATIENCE = 300


class Service:
    """A process that is ready, until the `with` block ends."""

    def __init__(self, program, options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen([program, *options, "--port", str(self.port), "--log", "error"])

    def __enter__(self):
        end = time.monotonic() + PATIENCE
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise SystemExit("the service does not start")
            time.sleep(0.1)
        return self

    def __exit__(self, kind, *_):
        self.process.terminate()
        code = self.process.wait(PATIENCE)
        if kind is None and code != 0:
            raise SystemExit(f"the service ended with {code}")

    def _is_ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/health/ready").status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def resident(self):
        """Bytes of memory that the process has now."""
        with open(f"/proc/{self.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def processor_seconds(self):
        """Seconds that processors have worked for the process."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def connect(self):
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port))

    async def request(self, method, path, body=b""):
        """One request on a connection of its own."""
        connection = await self.connect()
        try:
            return await connection.request(method, path, body)
        finally:
            connection.close()

    async def metric(self, name):
        """A metric's value, summed over its labels."""
        text = (await self.request("GET", "/metrics")).body.decode()
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return sum(float(value) for series, value in lines if series.split("{")[0] == name)


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict
    body: bytes


class Connection:
    """A connection, on which requests follow each other."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, method, path, body=b""):
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)

    async def request(self, method, path, body=b""):
        self.send(method, path, body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(head[0].split(" ")[1]), headers, body)

    def close(self):
        self.writer.close()
