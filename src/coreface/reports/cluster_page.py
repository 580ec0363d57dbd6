"""The page of `coreface cluster`: the groups, with faces that are typical of each and those that are least so."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreface.reports.page import write_sections
from coreface.reports.sections import picture_url

_MEANING = (
    "The number of a face is its cosine with the centre of its group. In large groups, the faces nearest to the centre "
    "and those furthest from it are shown: somebody else in the group is most likely among the last."
)


@dataclass(frozen=True, eq=False)
class ShownFace:
    """A face on the page.

    Attributes:
        picture: uint8 RGB (H, W, 3); None if the photograph cannot be read.
        name: of the photograph.
        cosine: with the centre of the group.
    """

    picture: NDArray[np.uint8] | None
    name: str
    cosine: float


@dataclass(frozen=True, eq=False)
class ShownGroup:
    """A group on the page.

    Attributes:
        heading: its number and name.
        faces: those that are shown, the most typical first.
        size: number of faces in the group.
    """

    heading: str
    faces: tuple[ShownFace, ...]
    size: int


def write_cluster_page(groups: Sequence[ShownGroup], title: str, summary: Iterable[str], path: Path) -> None:
    """Write the page as one self-contained HTML file, replacing one that is there.

    Args:
        groups: in the order of the page.
        title: plain text.
        summary: paragraphs at the top, plain text.
        path: the file.
    """
    write_sections(title, summary, [("Groups", _groups(groups))], path)


def _groups(groups: Sequence[ShownGroup]) -> Iterator[str]:
    if not groups:
        yield "<p>There are no groups: no two faces are alike enough.</p>"
        return
    yield f'<p class="quiet">{_MEANING}</p>'
    yield '<ol class="findings faces">'
    number = 0
    for group in groups:
        size = f"{group.size} faces" if group.size != 1 else "1 face"
        shown = "" if len(group.faces) == group.size else f", {len(group.faces)} of them shown"
        yield f"<li><p><b>{escape(group.heading)}</b> {size}{shown}</p><div>"
        for face in group.faces:
            cosine = f"{face.cosine:.2f}".replace("-", "−")
            name = escape(face.name)
            picture = f"<span>{name}</span>"
            if face.picture is not None:
                picture = f'<img src="{picture_url(face.picture, number)}" alt="{name}" title="{name}">'
            yield f"<figure>{picture}<figcaption>{cosine}</figcaption></figure>"
            number += 1
        yield "</div></li>"
    yield "</ol>"
