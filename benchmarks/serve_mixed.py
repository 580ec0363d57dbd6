"""Many requests of all kinds, right and wrong ones, to one service: what it answers, and how its memory grows.

python benchmarks/serve_mixed.py [--requests 10000] [--clients 4]

The requests compare, identify, find faces, enrol, change, list, export and delete people, and send photographs without
a face, files that are no image, unknown fields and addresses. Rows: after each tenth the memory of the process (RSS);
the answers by status. It ends with 1 if an answer has a status of 500 or more, except 503, which asks to try again.
"""

import argparse
import base64
import http.client
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from service_process import photograph, serve

from coreface.data.orl import OrlSource

PEOPLE, IMAGES, PARTS = 40, 10, 10

Request = tuple[str, str, dict[str, Any] | bytes | None]


def kinds(rng: np.random.Generator, photographs: list[str], no_face: str) -> list[tuple[float, Callable[[], Request]]]:
    """Return how often each kind of request is sent, and what makes one."""

    def person() -> int:
        return int(rng.integers(PEOPLE))

    def shown(who: int) -> str:
        return photographs[IMAGES * who + int(rng.integers(IMAGES))]

    def verify() -> Request:
        who = person()
        return "POST", "/v1/verify", {"a": shown(who), "b": shown(who if rng.random() < 0.5 else person())}

    def enrol() -> Request:
        who = person()
        return "POST", "/v1/people", {"id": f"p{who}", "images": [shown(who)], "allow_similar": True}

    def add() -> Request:
        who = person()
        return "POST", f"/v1/people/p{who}/images", {"images": [shown(who)], "allow_similar": True}

    return [
        (6, verify),
        (6, lambda: ("POST", "/v1/identify", {"image": shown(person())})),
        (2, lambda: ("POST", "/v1/detect", {"image": shown(person())})),
        (2, enrol),
        (1, add),
        (2, lambda: ("DELETE", f"/v1/people/p{person()}", None)),
        (1, lambda: ("PATCH", f"/v1/people/p{person()}", {"name": f"Name {person()}", "metadata": {"room": 7}})),
        (1, lambda: ("GET", "/v1/people?limit=20&search=p1", None)),
        (1, lambda: ("GET", f"/v1/people/p{person()}", None)),
        (1, lambda: ("GET", f"/v1/people/p{person()}/export", None)),
        (1, lambda: ("GET", "/metrics", None)),
        (1, lambda: ("GET", "/", None)),
        (1, lambda: ("POST", "/v1/identify", {"image": no_face})),
        (1, lambda: ("POST", "/v1/verify", {"a": shown(person()), "b": base64.b64encode(rng.bytes(5000)).decode()})),
        (1, lambda: ("POST", "/v1/people", {"id": "x", "images": [], "unknown": True})),
        (1, lambda: ("POST", "/v1/detect", rng.bytes(2000))),
        (1, lambda: ("GET", f"/{rng.integers(1 << 30)}", None)),
    ]


def send(url: str, number: int, seed: int, photographs: list[str], no_face: str, answers: Counter[Any]) -> None:
    """Send requests of all kinds one after another, and count the answers."""
    rng = np.random.default_rng(seed)
    weights, makers = zip(*kinds(rng, photographs, no_face), strict=True)
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)
    for kind in rng.choice(len(makers), number, p=np.array(weights) / sum(weights)):
        method, path, body = makers[kind]()
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method, path, content, {"X-Coreface": "1", "Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        route = re.sub(r"/p\d+|/\d+|\?.*", "/*", path)
        answers[method, route, answer.status] += 1
    connection.close()


def megabytes(pid: int) -> float:
    """Return the resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    source = OrlSource()
    photographs = [base64.b64encode(photograph(source[k][0])).decode() for k in range(PEOPLE * IMAGES)]
    no_face = base64.b64encode(photograph(None)).decode()
    process, url = serve()
    answers: Counter[Any] = Counter()
    memory = []
    try:
        for part in range(PARTS):
            number = options.requests // PARTS // options.clients
            threads = [
                threading.Thread(
                    target=send, args=(url, number, options.clients * part + k, photographs, no_face, answers)
                )
                for k in range(options.clients)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            memory.append(megabytes(process.pid))
            print(f"{sum(answers.values()):6} requests  {memory[-1]:7.1f} MiB", flush=True)
    finally:
        process.terminate()
        process.wait()
    for (method, route, status), count in sorted(answers.items()):
        print(f"{method:6} {route:24} {status} {count:6}")
    failed = sum(count for (_, _, status), count in answers.items() if status >= 500 and status != 503)
    growth = memory[-1] / memory[0]
    print(f"{failed} answers of 500 or more except 503; memory at the end {growth:.3f} of that after a tenth")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
