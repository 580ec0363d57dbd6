"""RecordIO written and read a second time, with plain loops, from the description of the format alone."""

import struct

MAGIC = b"\x0a\x23\xd7\xce"


def header(label=0.0, flag=0, key=0, labels=()):
    return struct.pack("<IfQQ", flag, label, key, 0) + b"".join(struct.pack("<f", value) for value in labels)


def frames(payload):
    """Cut where the magic number stands at a multiple of four; it is left out."""
    parts, part, at = [], b"", 0
    while at < len(payload):
        if at % 4 == 0 and payload[at : at + 4] == MAGIC:
            parts.append(part)
            part = b""
            at += 4
        else:
            part += payload[at : at + 1]
            at += 1
    parts.append(part)
    out = b""
    for number, part in enumerate(parts):
        flag = 0 if len(parts) == 1 else 1 if number == 0 else 3 if number == len(parts) - 1 else 2
        out += MAGIC + struct.pack("<I", (flag << 29) + len(part)) + part
        while len(out) % 4:
            out += b"\0"
    return out


def file_of(payloads):
    """Return (the bytes of a .rec, the offset of each record)."""
    data, offsets = b"", []
    for payload in payloads:
        offsets.append(len(data))
        data += frames(payload)
    return data, offsets


def write(folder, payloads, keys=None, name="train"):
    folder.mkdir(parents=True, exist_ok=True)
    data, offsets = file_of(payloads)
    keys = range(len(payloads)) if keys is None else keys
    (folder / f"{name}.rec").write_bytes(data)
    (folder / f"{name}.idx").write_text("".join(f"{k}\t{o}\n" for k, o in zip(keys, offsets, strict=True)))
    return folder / f"{name}.rec"
