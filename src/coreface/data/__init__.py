"""Where faces come from."""

from coreface.data.folder import FolderSource
from coreface.data.loader import FaceLoader
from coreface.data.opening import open_faces, open_pairs
from coreface.data.orl import CREDIT, OrlSource
from coreface.data.pairs import PairSet
from coreface.data.record_writer import RecordWriter
from coreface.data.recordio import RecordReader
from coreface.data.records import RecordSource
from coreface.data.shards import ShardSource
from coreface.data.source import FaceSource, Notice, require_identities
from coreface.data.split import split_by_identity

__all__ = [
    "CREDIT",
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
    "open_faces",
    "open_pairs",
    "require_identities",
    "split_by_identity",
]
