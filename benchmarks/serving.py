"""Ask `edgepose serve` by several clients, and at twice its capacity: ``python benchmarks/serving.py``.

The server runs in a process of its own with the packaged model; each request posts the packaged photo. In
each round the bare loop (decode and `Estimator` call, in this process, while the server is idle) and each
number of clients have their turn. The open loop at the end sends each request on a connection of its own at
its time, and counts answers: each request must get exactly one, and the server must count as many.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import describe, table

from edgepose import Estimator
from edgepose.samples import PERSON
from edgepose.sources import decode_image

CLIENTS = (1, 4, 16)
PATIENCE = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="another model (default: the packaged one)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default: 5)")
    parser.add_argument("--seconds", type=float, default=4, help="length of a turn (default: 4)")
    parser.add_argument("--overload", type=float, default=30, help="seconds of overload (default: 30)")
    arguments = parser.parse_args()
    photo = PERSON.read_bytes()
    with Estimator(arguments.model) as estimator, serving(arguments.model) as server:
        estimator.warmup()
        print(
            f"{describe()} {arguments.rounds} turns of {arguments.seconds:g} s each; "
            f"{estimator.info.spec.name} on {estimator.info.backend['name']} "
            f"{estimator.info.backend['device']}, photo of {len(photo) // 1000} kB.\n"
        )
        times: dict[str, list[list[float]]] = collections.defaultdict(list)
        for _ in range(arguments.rounds):
            times["bare loop"].append(bare_loop(estimator, photo, arguments.seconds))
            for clients in CLIENTS:
                turn = asyncio.run(closed_loop(server.port, photo, clients, arguments.seconds))
                times[f"{clients} client{'s' if clients > 1 else ''}"].append(turn)
        rates = {
            name: statistics.median(len(turn) / arguments.seconds for turn in turns)
            for name, turns in times.items()
        }
        rows = []
        for name, turns in times.items():
            everything = np.concatenate(turns) * 1e3
            p50, p99 = np.percentile(everything, [50, 99])
            share = rates[name] / rates["bare loop"]
            rows.append(
                [name, f"{rates[name]:.1f}", f"{share:.0%}", f"{p50:.1f}", f"{p99:.1f}", str(len(everything))]
            )
        print(table(["", "pictures/s", "of the bare loop", "p50 ms", "p99 ms", "pictures"], rows))
    capacity = max(rate for name, rate in rates.items() if name != "bare loop")
    with serving(arguments.model) as server:
        asyncio.run(closed_loop(server.port, photo, 16, arguments.seconds))
        report_overload(server, photo, 2 * capacity, arguments.overload)


def report_overload(server: Server, photo: bytes, rate: float, seconds: float) -> None:
    """Print what becomes of requests that come too fast."""
    before, counted = server.memory(), server.counted()
    outcomes, peak = asyncio.run(open_loop(server, photo, rate, seconds))
    after = server.memory()
    counts = collections.Counter(status for status, _ in outcomes)
    good = np.array([took for status, took in outcomes if status == 200]) * 1e3
    refused = np.array([took for status, took in outcomes if status == 503]) * 1e3
    told = {status: number - counted.get(status, 0) for status, number in server.counted().items()}
    told = {status: number for status, number in told.items() if number}
    if {status: number for status, number in counts.items() if status > 0} != told:
        raise SystemExit(f"the answers do not agree; clients saw {dict(counts)}, the server counted {told}")
    total = len(outcomes)
    rows = [
        ["requests offered", f"{total} at {rate:.1f}/s"],
        ["answered 200", f"{counts[200]} ({counts[200] / total:.1%}), {counts[200] / seconds:.1f}/s"],
        ["answered 503", f"{counts[503]} ({counts[503] / total:.1%})"],
        ["answered otherwise", str(total - counts[200] - counts[503] - counts[0])],
        ["without an answer", str(counts[0])],
        [
            "p50, p99 of those answered 200, ms",
            f"{np.percentile(good, 50):.0f}, {np.percentile(good, 99):.0f}",
        ],
        ["p99 of those answered 503, ms", f"{np.percentile(refused, 99):.0f}" if len(refused) else "-"],
        ["memory before, highest, after, MB", f"{before:.0f}, {peak:.0f}, {after:.0f}"],
    ]
    print()
    print(table(["at twice the capacity", f"{seconds:g} s"], rows))


class Server(NamedTuple):
    """A running server."""

    process: subprocess.Popen[str]
    port: int

    def memory(self) -> float:
        """Its resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1e3

    def counted(self) -> dict[int, int]:
        """Its own count of answers to pictures, by status."""
        _, body = asyncio.run(_once(self.port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        found = re.findall(r'requests_total\{path="/v1/predict",status="(\d+)"\} (\S+)', body.decode())
        return {int(status): int(float(number)) for status, number in found}


@contextlib.contextmanager
def serving(model: str | None) -> Iterator[Server]:
    """A server in a process of its own."""
    command = [sys.executable, "-m", "edgepose", "serve", *([model] if model else []), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r":(\d+)/$", line.strip())
        if found is None:
            raise SystemExit(f"the server did not start; it said {line!r}")
        server = Server(process, int(found[1]))
        ready = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        while asyncio.run(_once(server.port, ready))[0] != 200:
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(PATIENCE)


def bare_loop(estimator: Estimator, photo: bytes, seconds: float) -> list[float]:
    """Times of decoding and estimating, one after the other."""
    times = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        estimator(decode_image(photo, "the photo"))
        times.append(time.perf_counter() - started)
    return times


async def closed_loop(port: int, photo: bytes, clients: int, seconds: float) -> list[float]:
    """Times of requests by clients that each wait for their answer."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < end:
            writer.write(_post(photo))
            status, _ = await _answer(reader)
            if status != 200:
                raise SystemExit(f"a request of a client was answered {status}")
            times.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return times


async def open_loop(
    server: Server, photo: bytes, rate: float, seconds: float
) -> tuple[list[tuple[int, float]], float]:
    """Status (0: no answer) and seconds of each request, sent at a rate; and the highest memory in MB."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    peak = server.memory()

    async def request() -> tuple[int, float]:
        sent = loop.time()
        try:
            status, _ = await asyncio.wait_for(_once(server.port, _post(photo)), PATIENCE)
        except (OSError, EOFError, asyncio.TimeoutError):
            status = 0
        return status, loop.time() - sent

    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(started + number / rate - loop.time(), 0))
        tasks.append(asyncio.ensure_future(request()))
        if number % 10 == 0:
            peak = max(peak, server.memory())
    return list(await asyncio.gather(*tasks)), max(peak, server.memory())


def _post(photo: bytes) -> bytes:
    lines = ["POST /v1/predict HTTP/1.1", "Host: localhost", "Content-Type: image/jpeg"]
    lines += [f"Content-Length: {len(photo)}", "", ""]
    return "\r\n".join(lines).encode() + photo


async def _once(port: int, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await _answer(reader)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    return int(head.split()[1]), await reader.readexactly(int(length[1]))


if __name__ == "__main__":
    main()
