"""RecordIO there and back with MXNet itself, where the variable names a Python that has it (mxnet 1.9.1)."""

import json
import os
import subprocess

import pytest

from coreface.data import RecordReader, RecordWriter
from support.recordio_by_hand import MAGIC
from support.toy_images import encode, noise

MXNET_PYTHON = os.environ.get("COREFACE_MXNET_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MXNET_PYTHON, reason="COREFACE_MXNET_PYTHON is not set"),
]

READ = """
import json, sys
import mxnet as mx
reader = mx.recordio.MXIndexedRecordIO(sys.argv[1] + ".idx", sys.argv[1] + ".rec", "r")
found = []
for key in reader.keys:
    header, image = mx.recordio.unpack(reader.read_idx(key))
    label = header.label.tolist() if header.flag else header.label
    found.append([key, header.flag, label, header.id, bytes(image).hex()])
plain = mx.recordio.MXRecordIO(sys.argv[1] + ".rec", "r")
count = 0
while plain.read() is not None:
    count += 1
print(json.dumps([found, count]))
"""
WRITE = """
import json, sys
import mxnet as mx
writer = mx.recordio.MXIndexedRecordIO(sys.argv[1] + ".idx", sys.argv[1] + ".rec", "w")
for key, flag, label, image in json.load(sys.stdin):
    header = mx.recordio.IRHeader(flag, label, key, 0)
    writer.write_idx(key, mx.recordio.pack(header, bytes.fromhex(image)))
writer.close()
"""


def images():
    jpeg = encode(noise("a", 32, 32), ".jpg")
    jpeg += bytes(-len(jpeg) % 4)  # so that the magic number stands where it splits a record
    return [jpeg, encode(noise("b"), ".png"), jpeg + MAGIC + jpeg + MAGIC + MAGIC, MAGIC, b"x" + MAGIC]


def mxnet(program, path, text=""):
    words = [MXNET_PYTHON, "-c", program, str(path.with_suffix(""))]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("identities", [False, True])
def test_mxnet_reads_what_we_write(tmp_path, identities):
    path = tmp_path / "train.rec"
    with RecordWriter(path, identities=identities) as writer:
        for number, image in enumerate(images()):
            writer.write(image, number // 2)
    found, count = json.loads(mxnet(READ, path))
    ours = list(RecordReader(path))
    assert count == len(found) == len(ours)
    for key, (record, (their_key, flag, label, number, image)) in enumerate(zip(ours, found, strict=True)):
        assert (their_key, number, flag) == (key, key, record.flag)
        assert record.labels == (tuple(label) if flag else (label,))
        assert record.image.hex() == image
    first = int(identities)
    assert [bytes.fromhex(row[4]) for row in found[first : first + 5]] == images()
    assert [row[2] for row in found[first : first + 5]] == [0, 0, 1, 1, 2]
    if identities:
        assert found[0][1:3] == [2, [6, 9]]
        assert [row[2] for row in found[6:]] == [[1, 3], [3, 5], [5, 6]]


def test_we_read_what_mxnet_writes(tmp_path):
    path = tmp_path / "train.rec"
    rows = [[key, 0, float(key % 3), image.hex()] for key, image in enumerate(images())]
    rows += [[5, 0, [4.0, 0.5, -2.0], images()[2].hex()], [6, 0, [1.0, 6.0], ""]]
    mxnet(WRITE, path, json.dumps(rows))
    for name in ("with its index", "by a scan"):
        reader = RecordReader(path)
        assert len(reader) == len(rows), name
        for record, (key, _, label, image) in zip(reader, rows, strict=True):
            assert record.id == key
            assert record.labels == (tuple(label) if isinstance(label, list) else (label,))
            assert record.image.hex() == image
        assert [record.is_index for record in reader] == [False] * 6 + [True]
        path.with_suffix(".idx").unlink(missing_ok=True)


def test_the_same_images_give_the_same_bytes(tmp_path):
    ours, theirs = tmp_path / "ours.rec", tmp_path / "theirs.rec"
    with RecordWriter(ours) as writer:
        for key, image in enumerate(images()):
            writer.write(image, key)
    mxnet(WRITE, theirs, json.dumps([[key, 0, float(key), image.hex()] for key, image in enumerate(images())]))
    assert ours.read_bytes() == theirs.read_bytes()
    assert ours.with_suffix(".idx").read_text() == theirs.with_suffix(".idx").read_text()
