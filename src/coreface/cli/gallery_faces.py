"""The commands of `coreface gallery` that need an encoder, such as enrol and identify."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coreface.cli.pipeline_options import (
    add_detector_options,
    add_face_options,
    add_model_options,
    add_quality_option,
    open_pipeline,
)
from coreface.cli.terminal import add_command, print_no_face, show_progress
from coreface.errors import FaceError, InputError
from coreface.plurals import counted

if TYPE_CHECKING:
    from coreface.recognition.gallery import Gallery
    from coreface.recognition.gallery_answers import Answer
    from coreface.recognition.gallery_records import Enrolment
    from coreface.recognition.pipeline import FacePipeline

_KNOWN, _UNKNOWN, _UNDECIDED = 0, 3, 4


def add_to(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    create = add_command(actions, "create", _create, "make an empty gallery")
    enrol = add_command(actions, "enrol", _enrol, "enrol people from folders of photographs")
    text = "identify the people in photographs; exit with 0 if somebody is known, 3 if nobody is, 4 if undecidable"
    identify = add_command(actions, "identify", _identify, text)
    text = "decide whether a photograph shows a person; exit with 0 for a match, 3 for no match, 4 if undecided"
    verify = add_command(actions, "verify", _verify, text)
    evaluate = add_command(
        actions, "evaluate", _evaluate, "compare the error rates on other photographs with the promise"
    )
    bring = add_command(actions, "import", _import, "add the people of an exported file, all or none")
    migrate = add_command(actions, "migrate", _migrate, "move to another encoder, with crops that were kept")
    for parser in (create, enrol, identify, verify, evaluate, bring, migrate):
        add_place(parser)
    enrol.add_argument("people", metavar="PEOPLE", help="a folder <person>/<photograph>, or photographs <person>.jpg")
    enrol.add_argument(
        "--person", metavar="ID", help="PEOPLE is a photograph, or a folder of photographs, of this person"
    )
    enrol.add_argument("--keep-crops", action="store_true", help="store the aligned crops, which gallery migrate needs")
    enrol.add_argument("--allow-similar", action="store_true", help="enrol people who resemble another one")
    add_quality_option(enrol)
    for parser in (create, enrol):
        text = "compare with the mean of a person's templates, or with the best (new galleries; default: mean)"
        parser.add_argument("--pooling", choices=("mean", "best"), help=text)
        text = "how a new gallery in PostgreSQL is searched (default: exact)"
        parser.add_argument("--index", choices=("exact", "hnsw"), help=text)
    identify.add_argument("images", nargs="+", metavar="IMAGE", help="a photograph")
    identify.add_argument("--top", type=int, default=5, metavar="N", help="candidates for each face (default: 5)")
    identify.add_argument("--draw", metavar="FILE", help="write the photograph with names; of one IMAGE")
    verify.add_argument("person", metavar="PERSON", help="the id")
    verify.add_argument("image", metavar="IMAGE", help="a photograph")
    verify.add_argument(
        "--fmr", type=float, default=1e-3, metavar="X", help="requested false match rate (default: 1e-3)"
    )
    evaluate.add_argument("probes", metavar="PROBES", help="<person>/<photograph>; other names are unknown people")
    for parser in (enrol, identify, evaluate):
        text = "requested false positive identification rate (default: 0.01)"
        parser.add_argument("--fpir", type=float, default=0.01, metavar="X", help=text)
    for parser in (identify, verify):
        text = "decide at this cosine instead of a calibrated threshold"
        parser.add_argument("--threshold", type=float, metavar="T", help=text)
    bring.add_argument("file", metavar="FILE", help="a file that gallery export wrote")
    for parser in (create, enrol, identify, verify, evaluate, bring, migrate):
        parser.add_argument("--json", action="store_true", help="print JSON")
        text = "of this model and detector (default: next to the model)"
        parser.add_argument("--calibration", metavar="FILE", help=text)
        add_model_options(parser)
        add_face_options(parser, ("largest", "centre", "only"))
        add_detector_options(parser)


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add where the gallery is."""
    parser.add_argument("place", metavar="DB", help="a file, such as staff.db, or postgresql://...")
    text = "name of the gallery in it (default: default)"
    parser.add_argument("--gallery", default="default", metavar="NAME", help=text)


def _pipeline(options: argparse.Namespace) -> "FacePipeline":
    return open_pipeline(options, calibration=options.calibration, face=options.face, min_eyes=options.min_eyes)


def _open(options: argparse.Namespace, create: bool = False) -> "Gallery":
    from coreface.recognition.gallery import Gallery

    new = {"pooling": options.pooling, "index": options.index} if "pooling" in options else {}
    return Gallery.open(options.place, _pipeline(options), options.gallery, create=create, **new)


def _create(options: argparse.Namespace) -> None:
    with _open(options, create=True) as gallery:
        info = gallery.info()
    if options.json:
        print(json.dumps(info.to_dict(), indent=2))
    else:
        print(f"{info.place}: gallery {info.name!r} with {counted(info.people, 'person')}, pooling by {info.pooling}")


def _enrol(options: argparse.Namespace) -> int:
    people, outside = _photographs(options)
    enrolments: list[tuple[list[Path], Enrolment]] = []
    done = 0
    with _open(options, create=True) as gallery, show_progress("enrolling", sum(map(len, people.values()))) as progress:
        for person, paths in people.items():
            enrolment = gallery.enrol(
                person,
                paths,
                keep_crops=options.keep_crops,
                allow_similar=options.allow_similar,
                fpir=options.fpir,
                quality=options.quality,
            )
            enrolments.append((paths, enrolment))
            done += len(paths)
            progress(done)
        size = gallery.info().people
    for path in outside:
        print(f"coreface: left out: {path} leads out of the folder", file=sys.stderr)
    if options.json:
        print(json.dumps([enrolment.to_dict() for _, enrolment in enrolments], indent=2))
    else:
        _print_enrolments(enrolments, size)
    return _KNOWN if any(enrolment.templates or enrolment.known for _, enrolment in enrolments) else _UNDECIDED


def _photographs(options: argparse.Namespace) -> tuple[dict[str, list[Path]], list[Path]]:
    from coreface.recognition.gallery_folder import list_people

    place = Path(options.people)
    if options.person is None:
        found = list_people(place)
        return found.people, found.outside
    if not place.is_dir():
        return {options.person: [place]}, []
    found = list_people(place)
    return {options.person: [path for paths in found.people.values() for path in paths]}, found.outside


def _print_enrolments(enrolments: "list[tuple[list[Path], Enrolment]]", size: int) -> None:
    from coreface.reports.terminal_table import Column, print_table

    templates = sum(len(enrolment.templates) for _, enrolment in enrolments)
    known = sum(len(enrolment.known) for _, enrolment in enrolments)
    people = sum(bool(enrolment.templates) for _, enrolment in enrolments)
    print(f"enrolled {counted(templates, 'image')} of {counted(people, 'person')}, {known} were enrolled before")
    print(f"the gallery has {counted(size, 'person')}")
    refused = [
        [enrolment.person, str(paths[refusal.index]), refusal.reason, refusal.message]
        for paths, enrolment in enrolments
        for refusal in enrolment.refused
    ]
    if refused:
        columns = [Column(text, left=True) for text in ("person", "refused", "reason")]
        print_table([*columns, Column("message", left=True, detail=True)], refused)
    flagged = [[enrolment.person, str(paths[index])] for paths, enrolment in enrolments for index in enrolment.flagged]
    if flagged:
        print_table([Column("person", left=True), Column("enrolled, but unlike the others", left=True)], flagged)
    if not all(enrolment.checked for _, enrolment in enrolments if enrolment.templates):
        print("note: resemblance to others was not checked: the calibration does not resolve the requested rate")


def _identify(options: argparse.Namespace) -> int:
    if options.draw and len(options.images) > 1:
        raise InputError(f"--draw {options.draw} goes with one IMAGE, got {len(options.images)}")
    with _open(options) as gallery:
        answers = gallery.identify_many(options.images, options.top, options.fpir, threshold=options.threshold)
    for answer in answers:
        if answer.failure is not None:
            print(f"coreface: {answer.failure}", file=sys.stderr)
            if not isinstance(answer.failure, FaceError):
                return 2
    if options.json:
        plain = [{"image": path, **answer.to_dict()} for path, answer in zip(options.images, answers, strict=True)]
        print(json.dumps(plain, indent=2, allow_nan=False))
    else:
        for path, answer in zip(options.images, answers, strict=True):
            _print_answer(path, answer)
    if options.draw and answers[0].faces:
        _draw(options, answers[0])
    decisions = {face.decision for answer in answers for face in answer.faces}
    return _KNOWN if "person" in decisions else _UNKNOWN if "unknown" in decisions else _UNDECIDED


def _print_answer(path: str, answer: "Answer") -> None:
    for number, face in enumerate(answer.faces, 1):
        which = f"{path}, face {number}" if len(answer.faces) > 1 else path
        print(f"{which}: {face.person if face.decision == 'person' else face.decision}")
        for candidate in face.candidates:
            rate = "" if candidate.fpir is None else f", FPIR at this score {candidate.fpir:.2g}"
            name = "" if candidate.name == candidate.person else f" ({candidate.name})"
            print(f"  {candidate.person}{name}: cosine {candidate.score:.4f}{rate}")
    if answer.faces and answer.threshold is not None:
        print(f"  threshold {answer.threshold:.4f} ({answer.derived}) for a gallery of {answer.gallery_size}")


def _draw(options: argparse.Namespace, answer: "Answer") -> None:
    from coreface.images.load import load_image
    from coreface.recognition.drawing import write_drawing

    marked = [(face.face, face.person or face.decision) for face in answer.faces if face.face is not None]
    faces, labels = [face for face, _ in marked], [label for _, label in marked]
    write_drawing(load_image(options.images[0]), faces, Path(options.draw), labels)


def _verify(options: argparse.Namespace) -> int:
    with _open(options) as gallery:
        try:
            decision = gallery.verify(options.person, options.image, options.fmr, threshold=options.threshold)
        except FaceError as error:
            print_no_face(error, options.json)
            return _UNDECIDED
    if options.json:
        print(json.dumps(decision.to_dict(), indent=2, allow_nan=False))
    else:
        print("undecidable" if decision.match is None else "match" if decision.match else "no match")
        print(f"cosine {decision.score:.4f}" + (f", threshold {decision.threshold:.4f}" if decision.threshold else ""))
    return _UNDECIDED if decision.match is None else _KNOWN if decision.match else _UNKNOWN


def _evaluate(options: argparse.Namespace) -> None:
    from coreface.recognition.gallery_evaluation import evaluate_gallery
    from coreface.recognition.gallery_folder import list_people

    total = list_people(Path(options.probes)).photographs
    with _open(options) as gallery, show_progress("searching", total) as progress:
        found = evaluate_gallery(gallery, Path(options.probes), options.fpir, progress)
    plain = found.to_dict()
    if options.json:
        print(json.dumps(plain, indent=2, allow_nan=False))
        return
    threshold = "none" if found.threshold is None else f"{found.threshold:.4f}"
    print(f"FPIR requested {found.fpir:g}, threshold {threshold} for a gallery of {found.gallery_size}")
    interval = None if found.promised_low is None else (found.promised_low, found.promised_high)
    print(f"promised:  FPIR {_rate(found.promised, interval)} for {counted(found.non_mated, 'search')}")
    of = f"{found.false_positives} of {counted(found.non_mated, 'search')} of unknown people"
    print(f"achieved:  FPIR {_rate(found.achieved_fpir, plain['achieved_fpir_interval'])}, {of}")
    of = f"{found.false_negatives} of {counted(found.mated, 'search')} of enrolled people"
    print(f"           FNIR {_rate(found.achieved_fnir, plain['achieved_fnir_interval'])}, {of}")
    if found.without_face:
        print(f"{counted(found.without_face, 'photograph')} without a face that can be used")


def _rate(rate: float | None, interval: Any) -> str:
    if rate is None:
        return "not known"
    return f"{rate:.3g}" + ("" if interval is None else f" (95 % interval {interval[0]:.3g} to {interval[1]:.3g})")


def _import(options: argparse.Namespace) -> None:
    with _open(options, create=True) as gallery:
        added = gallery.import_(options.file)
    if options.json:
        print(json.dumps(vars(added), indent=2))
    else:
        print(f"added {counted(added.people, 'person')} and {counted(added.templates, 'template')}")
    if added.templates and not added.compared:
        print(
            "coreface: the file has no crops, so no embedding could be checked: that they are of the encoder of this "
            "gallery is only what the file says",
            file=sys.stderr,
        )


def _migrate(options: argparse.Namespace) -> None:
    from coreface.recognition.gallery import Gallery

    with (
        Gallery.open(options.place, name=options.gallery) as gallery,
        show_progress("embedding", gallery.info().templates) as progress,
    ):
        count = gallery.migrate(_pipeline(options), progress)
    if options.json:
        print(json.dumps({"templates": count}))
    else:
        print(f"{counted(count, 'template')} embedded with {options.model}")
