"""Where faces come from."""

from coreface.data.convert import Storage, convert_faces
from coreface.data.draw_pairs import draw_pairs
from coreface.data.folder import FolderSource
from coreface.data.loader import FaceLoader
from coreface.data.opening import open_faces, open_pairs
from coreface.data.orl import CREDIT, OrlSource
from coreface.data.pair_bin import write_bin
from coreface.data.pairs import PairSet
from coreface.data.record_writer import RecordWriter
from coreface.data.recordio import RecordReader
from coreface.data.records import RecordSource
from coreface.data.shards import ShardSource
from coreface.data.source import FaceSource, Notice, require_identities
from coreface.data.split import split_by_identity
from coreface.data.survey import Check, Survey, check_faces, sample_sheet, survey_faces

__all__ = [
    "CREDIT",
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
    "require_identities",
    "sample_sheet",
    "split_by_identity",
    "survey_faces",
    "write_bin",
]
