"""What docs/service.md, the Dockerfile and compose.yaml say is so: commands run, names exist."""

import re
import shlex
import shutil
import signal
import subprocess
import tomllib
import urllib.request
from pathlib import Path

import pytest
import yaml

from coreface.cli import main
from coreface.serving.messages import RequestMessage
from coreface.serving.settings import Limits

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "service.md"


def lines(page, language="bash"):
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(jpeg, tmp_path_factory):
    made = tmp_path_factory.mktemp("reader")
    (made / "passport.jpg").write_bytes(jpeg(4))
    (made / "selfie.jpg").write_bytes(jpeg(4, 3))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("page", [PAGE, ROOT / "README.md"], ids=lambda page: page.name)
def test_every_way_to_start_it_starts(page, folder, new_server, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    made = subprocess.run(
        shlex.split("openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out cert.pem"),
        capture_output=True,
        check=False,
    )
    started = 0
    for line in lines(page):
        words = shlex.split(line)
        if words[:3] == ["coreface", "serve", "keys"]:
            assert main(words[1:]) == 0
            assert capsys.readouterr().out
            if words[3] == "revoke":  # the commands that follow need a key
                assert main(["serve", "keys", "add", "another", "--role", "read", "--keys", "keys.json"]) == 0
        elif words[:2] == ["coreface", "serve"]:
            if "--tls-cert" in words and made.returncode:
                continue
            server = new_server(*words[2:])
            assert server.url, server.lines
            started += 1
            if server.url.startswith("http://"):
                url = f"http://127.0.0.1:{server.port}/readyz"
                assert urllib.request.urlopen(url, timeout=60).status == 200
            assert server.stop() in (0, 128 + signal.SIGTERM)
    assert started


def test_requests_of_the_page(folder, server, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    requests = [line for line in lines(PAGE) if line.startswith("curl ")]
    assert len(requests) == 4
    if shutil.which("curl"):
        for line in requests:
            words = shlex.split(line.replace("http://127.0.0.1:8300", server.url))
            answer = subprocess.run([*words, "--fail-with-body"], capture_output=True, text=True, check=False)
            assert answer.returncode == 0, answer.stdout
        assert '"person":"ann"' in answer.stdout
    exec("\n".join(lines(PAGE, "python")).replace("http://127.0.0.1:8300", server.url), {})
    assert capsys.readouterr().out.startswith("True ")


def test_the_tables_name_every_request_and_limit(client, tmp_path):
    from coreface.serving.settings import Settings

    text = PAGE.read_text(encoding="utf-8")
    app = client(Settings(gallery=str(tmp_path / "people.db"), allow_embeddings=True)).app
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}" in text, (method, path)
    for name in Limits.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}`" in text, name
    for message in RequestMessage.__subclasses__():
        for name in message.model_fields:
            if name != "allow_similar":
                assert f"`{name}`" in text, name


def test_the_container_is_built_of_what_exists():
    instructions = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    steps = [line.split(maxsplit=1) for line in instructions.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in steps} <= known
    order = [name for name, _ in steps]
    assert order[0] == "FROM"
    assert order.index("USER") > max(number for number, name in enumerate(order) if name == "RUN")
    assert dict(steps)["USER"] not in ("root", "0")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name, words in steps:
        if name == "COPY":
            for source in words.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"\.\[([a-z,]+)\]", instructions)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_compose_closes_what_it_opens(capsys):
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    service = services["services"]["coreface"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(str(port).startswith("127.0.0.1:") for port in service["ports"])
    assert "ports" not in services["services"]["database"]
    volumes = {volume.split(":")[0] for one in services["services"].values() for volume in one["volumes"]}
    assert volumes == set(services["volumes"])
    assert "COREFACE_DB_PASSWORD:?" in service["environment"]["PGPASSWORD"]
    with pytest.raises(SystemExit) as end:  # every option of the command exists
        main([*service["command"], "--help"])
    assert end.value.code == 0
    # Without the file of keys, which is the only thing missing here, it does not start.
    command = [word.replace("/keys/keys.json", "/nowhere/keys.json") for word in service["command"]]
    assert main(command) == 2
    assert "/nowhere/keys.json is not a readable file of keys" in capsys.readouterr().err
