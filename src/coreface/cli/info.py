"""`coreface info`: what a model says of itself."""

import argparse
import json
from typing import Any

from coreface.cli.terminal import add_command

_DEEP = ("preprocessing", "source", "check", "calibration")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    text = "describe a model: its input, digest, preprocessing, and the result of its export's check; nothing is run"
    info = add_command(commands, "info", _info, text)
    info.add_argument("model", metavar="MODEL", help="a run, a saved encoder, an .onnx file, or sface")
    info.add_argument("--json", action="store_true", help="print all as JSON")


def _info(options: argparse.Namespace) -> None:
    from coreface.models.describe import describe_model

    found = describe_model(options.model)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        if name not in _DEEP and value not in (None, [], ""):
            print(f"{name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}")
    preprocessing = found["preprocessing"]
    if preprocessing:
        size, alignment = preprocessing["image_size"], preprocessing["alignment"]["template"]
        print(
            f"preprocessing: {size} x {size} pixels, {preprocessing['colour_order']}, mean {preprocessing['mean']}, "
            f"scale {preprocessing['scale']}, alignment {alignment}"
        )
    if "source" in found:
        print("source: " + ", ".join(f"{key} {value}" for key, value in found["source"].items()))
    if "check" in found:
        print("check: " + "; ".join(_check_lines(found["check"])))
    if "calibration" in found:
        for at in found["calibration"].get("thresholds", []):
            if at.get("threshold") is not None:
                print(f"threshold for a false match rate of {at['target']:g}: cosine {at['threshold']:.4f}")


def _check_lines(check: dict[str, Any]) -> list[str]:
    lines = [
        f"{check['images']} images of {check['identities']} people ({check['faces']})",
        f"largest difference to torch {check['largest_difference']:.1e}",
        f"smallest cosine {check['smallest_cosine']:.5f}, median {check['median_cosine']:.5f}",
    ]
    tar = check.get("tar")
    if tar is not None:
        ends = "" if tar["low"] is None else f" (95 % interval {100 * tar['low']:+.2f} to {100 * tar['high']:+.2f})"
        change = f"change in points {100 * tar['difference']:+.2f}{ends}"
        lines.append(f"TAR at FAR 1e-2 {100 * tar['export']:.2f} %, torch {100 * tar['source']:.2f} %, {change}")
    return lines
