"""The rooms of the package: each imports only those above it, nothing imports in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import coreface

PACKAGE = Path(coreface.__file__).parent
#: From the ground up. What stands on one line may not import each other either.
ROOMS = (
    ("errors", "files", "_version", "plurals", "registry", "_deprecated"),
    ("numerics",),
    ("images",),
    ("distributed",),
    ("losses",),
    ("models",),
    ("data",),
    ("training", "evaluation"),  # strangers: they meet in runs
    ("reports",),
    ("recognition",),
    ("serving",),
    ("runs",),
    ("studies",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def modules(package: Path) -> dict[str, Path]:
    """Return dotted name -> file; the package itself is ''."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Yield what a file imports of the package, with the line; inside functions and under TYPE_CHECKING as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: a relative import, which this test does not follow"
            if (node.module or "").split(".")[0] == "coreface":
                base = (node.module or "").removeprefix("coreface").removeprefix(".")
                for alias in node.names:
                    full = f"{base}.{alias.name}".strip(".")
                    yield (full if full in known else base), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "coreface":
                    yield alias.name.removeprefix("coreface").removeprefix("."), node.lineno


def violations(package: Path) -> list[str]:
    """Return what breaks the order of the rooms, a line each."""
    known = modules(package)
    found = []
    graph: dict[str, set[str]] = {}
    for name, path in sorted(known.items()):
        graph[name] = set()
        if name in ("", "__main__"):
            continue
        room = name.split(".")[0]
        if room not in LEVEL:
            found.append(f"{name}: no room of this name")
            continue
        for target, line in imports(path, known):
            graph[name].add(target)
            other = target.split(".")[0]
            if target == "":
                found.append(f"{name}, line {line}: imports the package's __init__")
            elif other != room and LEVEL.get(other, -1) >= LEVEL[room] and LEVEL[room] > 0:
                found.append(f"{name}, line {line}: imports {target}, which is not above it")
            elif LEVEL[room] == 0 and LEVEL.get(other, 1) > 0:
                found.append(f"{name}, line {line}: the ground imports {target}")
    return found + [f"a circle: {' -> '.join(circle)}" for circle in circles(graph)]


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Yield one circle of imports, if there is any: take away whoever imports nobody that is left, until none goes."""
    left = {name: {target for target in targets if target in graph} for name, targets in graph.items()}
    while leaves := [name for name, targets in left.items() if not targets]:
        for name in leaves:
            del left[name]
        for targets in left.values():
            targets.difference_update(leaves)
    if left:
        path = [min(left)]
        while (following := min(left[path[-1]])) not in path:
            path.append(following)
        yield [*path[path.index(following) :], following]


def test_every_room_imports_only_those_above_it():
    assert violations(PACKAGE) == []


def test_every_folder_and_file_of_the_ground_is_a_room():
    names = {name.split(".")[0] for name in modules(PACKAGE)} - {"", "__main__"}
    assert names <= set(LEVEL)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_test_sees_what_it_should(tmp_path):
    """Upward imports, in a function and for types only; strangers; circles of three; the package itself."""
    package = write(
        tmp_path,
        {
            "__init__.py": "",
            "numerics/__init__.py": "def f():\n    from coreface.losses import margins\n",
            "losses/__init__.py": "",
            "losses/margins.py": (
                "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n    from coreface.models.encoder import FaceEncoder\n"
            ),
            "models/encoder.py": "from coreface import __version__\n",
            "training/trainer.py": "import coreface.evaluation.results\n",
            "evaluation/results.py": "",
            "data/one.py": "from coreface.data.two import x\n",
            "data/two.py": "def late():\n    import coreface.data.three\n",
            "data/three.py": "from coreface.data import one\n",
            "errors.py": "from coreface.files import write\n",
            "files.py": "from coreface.data.one import x\n",
            "attic/old.py": "",
        },
    )
    found = violations(package)
    for expected in (
        "numerics, line 2: imports losses.margins",
        "losses.margins, line 3: imports models.encoder",
        "models.encoder, line 1: imports the package's __init__",
        "training.trainer, line 1: imports evaluation.results",
        "files, line 1: the ground imports data.one",
        "attic.old: no room",
        "a circle: data.one -> data.two -> data.three -> data.one",
    ):
        assert any(line.startswith(expected) for line in found), (expected, found)
    assert len(found) == 7


def test_only_the_service_writes_a_log():
    """What it writes is checked in each of its tests; onnx_export and embed_ray silence loggers of torch and Ray."""
    writers = {path.name for path in PACKAGE.rglob("*.py") if "getLogger(" in path.read_text(encoding="utf-8")}
    assert writers == {"envelope.py", "onnx_export.py", "embed_ray.py"}
