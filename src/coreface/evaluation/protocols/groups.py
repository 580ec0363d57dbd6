"""Error rates by group of people, as an option of the protocols that know who is on an image."""

import csv
import io
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from coreface.data.path_names import match_names
from coreface.errors import DataError, EvaluationError, InputError
from coreface.evaluation.metrics.groups import GroupRates, group_rates
from coreface.evaluation.verification import Verification

_FAR = 1e-2  # the groups are compared at the threshold of this FMR, or of the next that can be resolved


def open_labels(
    groups: Mapping[str, str] | str | PathLike[str] | None, column: str | None = None
) -> Mapping[str, str] | None:
    """Return identity -> label, from a file where ``groups`` is the path of one (`read_labels`).

    Raises:
        DataError: the file is missing or no such table.
        InputError: there is a column and no file.
    """
    if isinstance(groups, str | PathLike):
        return read_labels(Path(groups), column)
    if column is not None:
        raise InputError("--group-column goes with --groups CSV, which holds the column")
    return groups


def read_labels(path: Path, column: str | None = None) -> dict[str, str]:
    """Read a label for each identity from a CSV file with a head line: the identity first, then one column or more.

    Args:
        path: the file, UTF-8.
        column: which label; None takes the second column.

    Returns:
        identity -> label; empty labels are left out.

    Raises:
        DataError: the file is missing or no such table; the message has the line.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected a CSV file: identity,label") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}), expected a CSV file in UTF-8: identity,label") from error
    if len(rows) < 2 or len(rows[0]) < 2:
        raise DataError(f"{path} holds no table, expected a head line such as identity,label and a line an identity")
    head = [name.strip() for name in rows[0]]
    if column is not None and column not in head[1:]:
        raise DataError(f"{path} has the columns {', '.join(head[1:])}, expected {column} among them")
    index = 1 if column is None else head.index(column, 1)
    labels: dict[str, str] = {}
    for line, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(head):
            raise DataError(f"{path}, line {line}: {len(row)} fields, expected {len(head)} as in the head line")
        identity, label = row[0].strip(), row[index].strip()
        if labels.get(identity, label) != label:
            raise DataError(f"{path}, line {line}: {identity} is {label} here and {labels[identity]} before; keep one")
        if label:
            labels[identity] = label
    return labels


def rates_by_group(
    verification: Verification, names: Sequence[str] | None, labels: Mapping[str, str] | None
) -> GroupRates | None:
    """Return error rates by group at the threshold of FMR 1 %, or of the next that can be resolved.

    Args:
        verification: the error rates, with their scores.
        names: of the identities, in their order; None where they are not known.
        labels: identity -> label; None for no groups.

    Raises:
        EvaluationError: the names are not known, or there is no threshold.
    """
    if labels is None:
        return None
    if names is None or verification.pairs is None:
        raise EvaluationError(
            "groups need the names of the people, which this set does not have; use a folder or a list"
        )
    thresholds = [rate.threshold for rate in verification.tar if rate.far >= _FAR and rate.threshold is not None]
    if not thresholds:
        raise EvaluationError(f"groups need a threshold, and {verification.impostor} impostor pairs resolve none")
    return group_rates(verification.pairs, labels_of(names, labels), max(thresholds))


def labels_of(identity_names: Sequence[str], labels: Mapping[str, str]) -> list[str | None]:
    """Return the label of each identity by its name, None where there is none.

    A name is the path of a folder. The labels may have less of it, or more, as far as it stays clear who is meant.

    Raises:
        DataError: a name in the labels may be several people.
    """
    known = list(labels)
    found = match_names(known, identity_names, identity_names, "groups")
    return [None if number is None else labels[known[number]] for number in found]
