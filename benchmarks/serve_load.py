"""Load on the face service, beside a naive one: the same pipeline behind FastAPI with an ordinary `def` handler.

Both verify pairs of 640 x 480 photographs (ORL faces in larger pictures) over loopback, one process each, the same
models, in turns. It prints requests/s, the percentiles of the times, and the memory of the process at the end of each
turn; then the largest difference of scores to those of one request at a time, and how many decisions differ.

    python benchmarks/serve_load.py --seconds 20 --clients 1 8 64
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from coreface.data.orl import OrlSource

NAIVE = """
import sys
import uvicorn
from fastapi import FastAPI, UploadFile
from coreface.recognition.pipeline import FacePipeline

pipeline = FacePipeline.from_pretrained("sface")
app = FastAPI()


@app.post("/v1/verify")
def verify(a: UploadFile, b: UploadFile):
    decision = pipeline.verify(a.file.read(), b.file.read())
    return {"match": decision.match, "score": decision.score}


uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""


def photographs(count):
    """Return JPEGs of people."""
    source = OrlSource()
    found = []
    for number in range(count):
        picture = np.full((480, 640, 3), 110, np.uint8)
        left, top = 40 + 31 * (number % 8), 30 + 17 * (number % 5)
        face = source[10 * (number // 2 % 40) + number % 2][0]
        picture[top : top + 240, left : left + 240] = cv2.resize(face, (240, 240), interpolation=cv2.INTER_LINEAR)
        found.append(cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes())
    return found


def body(a, b):
    parts = [
        f'--frame\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode() + data
        for name, data in (("a", a), ("b", b))
    ]
    return b"\r\n".join([*parts, b"--frame--\r\n"])


class Service:
    """A service in a process of its own."""

    def __init__(self, name, command):
        self.name, self.process = name, subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def ask(self, connection, content):
        headers = {"Content-Type": "multipart/form-data; boundary=frame", "X-Coreface": "1"}
        connection.request("POST", "/v1/verify", content, headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text)

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    def megabytes(self):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def wait(self, content):
        until = time.monotonic() + 120
        while True:
            try:
                if self.ask(self.connection(), content)[0] == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > until:
                raise SystemExit(f"{self.name} did not start")
            time.sleep(0.5)


def load(service, bodies, clients, seconds):
    """Return the times of all requests, the answers by body, and the number of refusals."""
    times, answers, refused = [], [], [0]
    begin, end = time.monotonic(), time.monotonic() + seconds

    def ask(number):
        connection, k = service.connection(), number
        while time.monotonic() < end:
            started = time.monotonic()
            status, answer = service.ask(connection, bodies[k % len(bodies)])
            if status == 200:
                times.append(time.monotonic() - started)
                answers.append((k % len(bodies), answer))
            else:
                refused[0] += 1
            k += clients
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.array(times), answers, refused[0], time.monotonic() - begin


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each turn")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    pictures = photographs(32)
    bodies = [body(pictures[k], pictures[(k + step) % 32]) for k in range(0, 32, 2) for step in (1, 2)]
    services = []
    for name, command in (("naive", ["-c", NAIVE]), ("coreface serve", ["-m", "coreface", "serve", "--port"])):
        port = free_port()
        service = Service(name, [sys.executable, *command, str(port)])
        service.port = port
        services.append(service)
    try:
        serial = {}
        for service in services:
            service.wait(bodies[0])
            connection = service.connection()
            serial[service.name] = [service.ask(connection, content)[1] for content in bodies]
            connection.close()
        print(f"{os.cpu_count()} cores, {options.seconds:g} s a turn, pairs of 640 x 480 photographs")
        for clients in options.clients:
            for service in services:
                times, answers, refused, seconds = load(service, bodies, clients, options.seconds)
                p50, p95, p99 = np.percentile(times, [50, 95, 99]) * 1000
                print(
                    f"{clients:3d} clients  {service.name:15s} {len(times) / seconds:7.1f} requests/s"
                    f"  p50 {p50:.0f} ms  p95 {p95:.0f} ms  p99 {p99:.0f} ms  {service.megabytes():.0f} MB"
                    f"  refused {refused}",
                    flush=True,
                )
                expected = serial[service.name]
                largest = max(abs(answer["score"] - expected[k]["score"]) for k, answer in answers)
                other = sum(answer["match"] != expected[k]["match"] for k, answer in answers)
                print(f"             scores differ by {largest:.1e} at most from one at a time, decisions by {other}")
    finally:
        for service in services:
            service.process.terminate()
            service.process.wait()


if __name__ == "__main__":
    main()
