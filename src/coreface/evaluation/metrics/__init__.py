"""Error rates on scores and labels, in NumPy alone: verification, cross-validated accuracy, identification.

Scores are cosines: higher is more alike, and a pair matches iff its score >= T. After ISO/IEC 19795-1, and here per
comparison without failures to acquire, FMR(T) is the share of impostor scores >= T and FNMR(T) the share of genuine
scores < T; TAR = 1 - FNMR, FAR = FMR. Nothing is pooled, dropped, interpolated or smoothed.

The modules of this package contain one idea each; the names below are re-exported here.
"""

from coreface.evaluation.metrics.curves import Roc, auc, roc
from coreface.evaluation.metrics.error_rates import Eer, TarAtFar, eer, equal_error, tar_at_far
from coreface.evaluation.metrics.folds import KfoldAccuracy, kfold_accuracy
from coreface.evaluation.metrics.scores import Floats, allowed_false_matches, checked_floats
from coreface.evaluation.metrics.searches import (
    Cmc,
    FnirCurve,
    OpenSet,
    Searches,
    cmc,
    open_set_identification,
    search_scores,
)
from coreface.numerics.even_folds import even_folds

__all__ = [
    "Cmc",
    "Eer",
    "Floats",
    "FnirCurve",
    "KfoldAccuracy",
    "OpenSet",
    "Roc",
    "Searches",
    "TarAtFar",
    "allowed_false_matches",
    "auc",
    "checked_floats",
    "cmc",
    "eer",
    "equal_error",
    "even_folds",
    "kfold_accuracy",
    "open_set_identification",
    "roc",
    "search_scores",
    "tar_at_far",
]
