"""What schemathesis makes of the OpenAPI document: no failure, nothing that is not documented."""

import subprocess
import sys

import pytest

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    *("unsupported_method", "response_headers_conformance"),
)


@pytest.mark.slow
def test_requests_made_from_the_document(new_server):
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    server = new_server("--allow-embeddings")
    program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    words = ["run", f"{server.url}/openapi.json", "--header", "X-Coreface: 1", "--checks", ",".join(CHECKS)]
    more = ["--max-examples", "10", "--request-timeout", "60", "--no-color", "--seed", "1"]
    done = subprocess.run([sys.executable, "-c", program, *words, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
