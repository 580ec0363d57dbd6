"""The list of corrections that the findings about labels suggest."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from coreface.data.corrections import NEW, Action, Correction
from coreface.evaluation.cleaning import Finding, Kind, LabelReport

_SUGGESTED: dict[Kind, Action] = {
    "wrong image": "drop",
    "unlike pair": "keep",
    "two people": "move",
    "duplicate": "drop",
    "near duplicate": "drop",
}
_STRENGTH: dict[Action, int] = {"keep": 0, "move": 1, "drop": 2}


def suggest_corrections(report: LabelReport) -> list[Correction]:
    """Return the list to look through, in the order of the findings.

    A wrong image is dropped, the smaller side of two people becomes an identity of its own, the smaller of two
    identities of one person is merged into the other, and of duplicates the image that is less like its identity is
    dropped; the line of the other one keeps it. Of an unlike pair nobody can say which image is wrong: both are kept.
    All lines of an image say the strongest of its actions. A merge that would lead in a circle, or a second one of the
    same identity, is kept.
    """
    taken = set(report.source.identity_names)
    lines = [line for finding in report.findings for line in _lines(report, finding, taken)]
    strongest: dict[int, Correction] = {}
    for line in lines:
        if line.index is not None:
            before = strongest.setdefault(line.index, line)
            if _STRENGTH[line.action] > _STRENGTH[before.action]:
                strongest[line.index] = line
    merged: dict[str, str] = {}
    return [
        _without_circles(line, merged)
        if line.index is None
        else replace(line, action=strongest[line.index].action, to=strongest[line.index].to)
        for line in lines
    ]


def _lines(report: LabelReport, finding: Finding, taken: set[str]) -> Iterator[Correction]:
    source, names = report.source, report.source.identity_names
    other = "" if finding.other is None else names[finding.other]
    if finding.kind == "one person":
        counts = np.bincount(source.identities, minlength=source.num_identities)
        pair = [finding.identity, finding.identity if finding.other is None else finding.other]
        small, large = sorted(pair, key=lambda identity: (counts[identity], identity))
        yield Correction("merge", names[large], finding.kind, None, "", names[small], finding.score, names[large])
        return
    to = other
    if finding.kind == "two people":
        to = NEW + _new_name(names[finding.identity], taken)
    duplicate = finding.kind in ("duplicate", "near duplicate")
    line = Correction(
        _SUGGESTED[finding.kind], to, finding.kind, None, "", names[finding.identity], finding.score, other
    )
    line = replace(line, other_score=finding.other_score)
    for index in finding.images:
        beside = source.relative_path(finding.beside[0]) if duplicate else ""
        yield replace(line, index=index, image=source.relative_path(index), other_image=beside)
    if duplicate:
        yield replace(
            line,
            action="keep",
            to=line.identity,
            index=finding.beside[0],
            image=source.relative_path(finding.beside[0]),
            identity=other,
            other=line.identity,
            other_image=source.relative_path(finding.images[0]),
        )


def _without_circles(line: Correction, merged: dict[str, str]) -> Correction:
    end = line.to
    while end in merged:
        end = merged[end]
    if line.identity in merged or end == line.identity:
        return replace(line, action="keep")
    merged[line.identity] = line.to
    return line


def _new_name(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    taken.add(f"{name}_{number}")
    return f"{name}_{number}"
