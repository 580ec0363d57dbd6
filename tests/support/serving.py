"""What tests of the service share: images as JSON has them, and checks of errors and of the log."""

import base64
import json
import re

from coreface.serving.page import page
from coreface.serving.problems import CODES
from coreface.serving.routes_faces import embeddings, faces
from coreface.serving.routes_people import people
from coreface.serving.routes_state import state

UVICORN = {"Invalid HTTP request received.", "ASGI callable returned without completing response."}
ROUTES = {route.path for router in (state, faces, embeddings, people, page) for route in router.routes} | {"other"}


def as_json(**images):
    """Return images as base64."""
    return {name: base64.b64encode(data).decode() for name, data in images.items()}


def problem(response, code):
    """Check that an answer is this problem, and return it."""
    body = response.json()
    assert body["code"] == code, body
    assert response.status_code == body["status"] == CODES[code].status
    assert response.headers["content-type"] == "application/problem+json"
    assert body["type"] == f"urn:coreface:problem:{code}"
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["title"]
    assert body["detail"]
    return body


def check_log(lines):
    """Check that lines "LEVEL message" hold nothing of a request but its method, and an id if the client gave one."""
    for line in lines:
        level, _, message = line.strip().partition(" ")
        if message in UVICORN:
            continue
        if level != "INFO":  # a failure: its request, its type, and below it places in the code
            assert re.fullmatch(r"ERROR request [0-9a-f]{32} failed with \w+ at", line.partition("\n")[0].strip()), line
            continue
        entry = json.loads(message)
        assert list(entry) == ["request", "client_request", "method", "route", "status", "ms", "key"]
        assert re.fullmatch("[0-9a-f]{32}", entry["request"])
        assert entry["client_request"] is None or re.fullmatch("[A-Za-z0-9._-]{1,64}", entry["client_request"])
        assert entry["method"].isalpha()
        assert entry["route"] in ROUTES
        assert type(entry["status"]) in (int, type(None))
        assert type(entry["ms"]) is float
        assert entry["key"] is None or re.fullmatch("[0-9a-f]{12}", entry["key"])
