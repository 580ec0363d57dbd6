"""What tests of the service share: images as JSON has them, and checks of errors."""

import base64

from coreface.serving.problems import CODES


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
