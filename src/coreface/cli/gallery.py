"""`coreface gallery`: people enrolled, found and forgotten. The commands that need no encoder are here."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coreface.cli import gallery_faces
from coreface.cli.terminal import add_command
from coreface.errors import InputError
from coreface.plurals import counted

if TYPE_CHECKING:
    from coreface.recognition.gallery import Gallery
    from coreface.recognition.gallery_records import Deletion

_DAMAGED = 1


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    text = "enrol people in a gallery, identify and verify them, list, delete and export them"
    gallery = commands.add_parser("gallery", help=text, description=text)
    actions = gallery.add_subparsers(title="commands", required=True, metavar="COMMAND")
    gallery_faces.add_to(actions)

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        added = add_command(actions, name, run, text)
        gallery_faces.add_place(added)
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    add("list", _list, "list the people")
    add("show", _show, "show a person and the templates").add_argument("person", metavar="PERSON", help="the id")
    delete = add("delete", _delete, "delete a person, or one template")
    delete.add_argument("person", nargs="?", metavar="PERSON", help="the id")
    delete.add_argument("--template", metavar="ID", help="a template, as gallery show lists them; the person stays")
    export = add("export", _export, "write people with embeddings and kept crops to a file")
    export.add_argument("file", metavar="FILE", help="the file, JSON Lines")
    export.add_argument("--person", metavar="ID", help="one person (default: all)")
    add("info", _info, "describe the gallery")
    add("check", _check, "look for damage; exit with 1 if there is any")
    audit = add("audit", _audit, "list the last changes, by opaque ids")
    audit.add_argument("--limit", type=int, default=100, metavar="N", help="lines (default: 100)")
    purge = add("purge", _purge, "delete people whose retention has ended; erase what is left of deletions")
    purge.add_argument("--older-than", type=float, metavar="DAYS", help="also people not updated for this many days")


def _open(options: argparse.Namespace) -> "Gallery":
    from coreface.recognition.gallery import Gallery

    return Gallery.open(options.place, name=options.gallery)


def _list(options: argparse.Namespace) -> None:
    from coreface.reports.terminal_table import Column, print_table

    with _open(options) as gallery:
        people = gallery.people()
    if options.json:
        _print_json([person.to_dict() for person in people])
        return
    columns = Column("id", left=True), Column("name", left=True), "templates", "updated", "retain until"
    rows = [
        [
            person.id,
            person.name,
            str(person.templates),
            f"{person.updated:%Y-%m-%d}",
            "-" if person.retain_until is None else f"{person.retain_until:%Y-%m-%d}",
        ]
        for person in people
    ]
    print_table(columns, rows, notes=[counted(len(people), "person")])


def _show(options: argparse.Namespace) -> None:
    with _open(options) as gallery:
        person, templates = gallery.person(options.person), gallery.templates(options.person)
    plain = {**person.to_dict(), "templates": [template.to_dict() for template in templates]}
    if options.json:
        _print_json(plain)
        return
    for name in ("id", "name", "opaque_id", "created", "updated", "retain_until"):
        print(f"{name}: {plain[name]}")
    print(f"metadata: {json.dumps(person.metadata)}")
    for template in templates:
        flag = ", flagged: does not resemble the others" if template.flagged else ""
        print(f"template {template.id}, {template.created:%Y-%m-%d}{', crop' if template.has_crop else ''}{flag}")


def _delete(options: argparse.Namespace) -> None:
    if (options.person is None) == (options.template is None):
        raise InputError("give either a PERSON or --template ID")
    with _open(options) as gallery:
        deletion = gallery.delete(options.person) if options.person else gallery.delete_template(options.template)
    _print_deletion(deletion, options)


def _print_deletion(deletion: "Deletion", options: argparse.Namespace) -> None:
    if options.json:
        _print_json(deletion.to_dict())
        return
    print(f"deleted {counted(deletion.people, 'person')}, {counted(deletion.templates, 'template')}")
    if not deletion.erased:
        print("their bytes are still in the store: coreface gallery purge erases them, once no other process reads it")


def _export(options: argparse.Namespace) -> None:
    with _open(options) as gallery:
        written = gallery.export(options.file, options.person)
    if options.json:
        _print_json(vars(written))
        return
    print(f"{options.file}: {counted(written.people, 'person')}, {counted(written.templates, 'template')}")


def _info(options: argparse.Namespace) -> None:
    with _open(options) as gallery:
        info = gallery.info()
    if options.json:
        _print_json(info.to_dict())
        return
    print(f"{info.place}: gallery {info.name!r}, made {info.created:%Y-%m-%d}, pooling by {info.pooling}")
    print(
        f"{counted(info.people, 'person')}, {counted(info.templates, 'template')}, {counted(info.crops, 'crop')} kept"
    )
    detector = info.contract.get("detector")
    name = detector.get("name") if isinstance(detector, dict) else "unknown"
    print(f"encoder {str(info.contract.get('encoder'))[:12]}, detector {name}, {info.embedding_size} numbers")
    print("all that was deleted is erased" if info.erased else "bytes of deleted people are left: gallery purge")


def _check(options: argparse.Namespace) -> int:
    with _open(options) as gallery:
        wrong = gallery.check()
    if options.json:
        _print_json(wrong)
    elif wrong:
        print("\n".join(wrong))
        print("restore a backup, or export what can be read into a new gallery")
    else:
        print(f"{Path(options.place).name}: nothing is wrong")
    return _DAMAGED if wrong else 0


def _audit(options: argparse.Namespace) -> None:
    with _open(options) as gallery:
        entries = gallery.audit(options.limit)
    if options.json:
        _print_json([entry.to_dict() for entry in entries])
        return
    for entry in entries:
        detail = ", ".join(f"{name} {number}" for name, number in entry.detail.items())
        print(f"{entry.time:%Y-%m-%d %H:%M:%S} {entry.action:15} {entry.opaque_id or '-':32} {detail}".rstrip())


def _purge(options: argparse.Namespace) -> None:
    from datetime import timedelta

    older_than = None
    if options.older_than is not None:
        if not 0 <= options.older_than <= 36_500:
            raise InputError(f"--older-than is {options.older_than}, expected 0 to 36 500 days")
        older_than = timedelta(days=options.older_than)
    with _open(options) as gallery:
        deletion = gallery.purge(older_than)
    _print_deletion(deletion, options)


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, allow_nan=False))
