"""The incident that Weir is for, in containers: replicas that leak memory and die, and the clients that suffer from it.

    python incident.py replica              serves HTTP on port 8080, crash-looping
    python incident.py clients HOST:PORT    sends requests there, and says how they ended

Only Python's standard library. envoy/docker-compose.yaml runs it, and the guides for Istio and Envoy Gateway.
"""

import asyncio
import itertools
import os
import random
import signal
import sys
import time

# ---- a replica ----

LEAK = 64 * 1024  # bytes that each request leaves behind
LIMIT = (16 * 1024 * 1024, 48 * 1024 * 1024)  # what a life may leak before it is killed
RESTART = (1.0, 3.0)  # seconds that the process takes to come back


def replica():
    """As a container that Kubernetes restarts in its pod: the address stays, and refuses while nobody listens."""
    for life in itertools.count(1):
        process = os.fork()
        if process == 0:
            asyncio.run(serve(life))
        status = os.waitpid(process, 0)[1]
        pause = random.uniform(*RESTART)
        print(f"life {life} ended with signal {os.WTERMSIG(status)}; back in {pause:.1f} s", flush=True)
        time.sleep(pause)


async def serve(life):
    leaked, limit = [], random.randint(*LIMIT)

    async def answer(reader, writer):
        try:
            while head := await read_head(reader):
                await reader.readexactly(int(head.get("content-length", 0)))
                leaked.append(bytearray(LEAK))
                await asyncio.sleep(random.uniform(0.005, 0.030))
                if len(leaked) * LEAK > limit:
                    # What the kernel does to a process that is out of memory. Whoever waits for an answer gets a reset.
                    os.kill(os.getpid(), signal.SIGKILL)
                body = f"life {life}\n".encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", 8080)
    print(f"life {life} begins", flush=True)
    await server.serve_forever()


async def read_head(reader):
    """The headers of a request or response; empty at the end of the connection."""
    head = {}
    line = await reader.readline()
    if line:
        head[":first"] = line.decode()
    while line.strip():
        line = await reader.readline()
        name, _, value = line.decode().partition(":")
        if value:
            head[name.lower()] = value.strip()
    return head


# ---- the clients ----

RATE = 100  # requests per second, whatever became of those before
GETS = 0.7  # the rest are POSTs
PATIENCE = 10  # seconds

counts = {(method, result): 0 for method in ("GET", "POST") for result in ("answered", "failed")}


async def clients(host, port):
    await asyncio.start_server(metrics, "0.0.0.0", 9100)
    asyncio.create_task(report())
    # The service may start later than its clients; that is another story.
    while await attempt(host, port, "GET", 0) != "answered":
        await asyncio.sleep(0.2)
    running = set()
    start = time.monotonic()
    for number in itertools.count():
        await asyncio.sleep(start + number / RATE - time.monotonic())
        task = asyncio.create_task(request(host, port, "GET" if random.random() < GETS else "POST", number))
        running.add(task)
        task.add_done_callback(running.discard)


async def request(host, port, method, number):
    counts[method, await attempt(host, port, method, number)] += 1


async def attempt(host, port, method, number):
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            body = b"one more\n" if method == "POST" else b""
            writer.write(
                f"{method} /orders/{number} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
                f"content-length: {len(body)}\r\n\r\n".encode() + body
            )
            answer = await reader.read()
            writer.close()
            return "answered" if answer.startswith(b"HTTP/1.1 200 ") else "failed"
    except (OSError, TimeoutError):
        return "failed"


async def report():
    while True:
        await asyncio.sleep(5)
        words = []
        for method in ("GET", "POST"):
            failed = counts[method, "failed"]
            total = failed + counts[method, "answered"]
            words.append(f"{total} {method}s, {failed} failed ({100 * failed / max(total, 1):.2f} %)")
        print("; ".join(words), flush=True)


async def metrics(reader, writer):
    """For Prometheus."""
    await read_head(reader)
    lines = ["# TYPE clients_requests_total counter"]
    for (method, result), count in counts.items():
        lines.append(f'clients_requests_total{{method="{method}",result="{result}"}} {count}')
    body = ("\n".join(lines) + "\n").encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: %d\r\n\r\n" % len(body))
    writer.write(body)
    await writer.drain()
    writer.close()


if __name__ == "__main__":
    # The first process of a container gets no signal that it does not ask for.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    match sys.argv[1:]:
        case ["replica"]:
            replica()
        case ["clients", target]:
            host, _, port = target.partition(":")
            asyncio.run(clients(host, int(port)))
        case _:
            sys.exit(__doc__)
