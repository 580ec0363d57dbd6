"""InsightFace's RecordIO: frames, index, reading and writing."""
