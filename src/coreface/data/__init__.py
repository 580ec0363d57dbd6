"""Sources of faces and of verification pairs."""

from coreface.data.augmentation import Augmentation
from coreface.data.convert import Storage, convert_faces
from coreface.data.folder import FolderSource
from coreface.data.loader import FaceLoader
from coreface.data.open import open_faces, open_pairs, register_faces
from coreface.data.orl import CREDIT, OrlSource
from coreface.data.pairs.bin import write_bin
from coreface.data.pairs.draw import draw_pairs
from coreface.data.pairs.pair_set import PairSet
from coreface.data.recordio.reader import RecordReader
from coreface.data.recordio.source import RecordSource
from coreface.data.recordio.writer import RecordWriter
from coreface.data.source import FaceSource, Notice, require_identities
from coreface.data.split import split_by_identity
from coreface.data.survey import Check, Survey, check_faces, sample_sheet, survey_faces
from coreface.data.tar_shards import ShardSource

__all__ = [
    "CREDIT",
    "Augmentation",
    "Check",
    "FaceLoader",
    "FaceSource",
    "FolderSource",
    "Notice",
    "OrlSource",
    "PairSet",
    "RecordReader",
    "RecordSource",
    "RecordWriter",
    "ShardSource",
    "Storage",
    "Survey",
    "check_faces",
    "convert_faces",
    "draw_pairs",
    "open_faces",
    "open_pairs",
    "register_faces",
    "require_identities",
    "sample_sheet",
    "split_by_identity",
    "survey_faces",
    "write_bin",
]
