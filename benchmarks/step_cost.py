"""What a training step costs with many identities on many processes: the tables of docs/scaling.md.

Nothing is measured: `coreface.training.step_cost` computes every row. Run: python benchmarks/step_cost.py
"""

from coreface.training.step_cost import Setting, Trunk, bytes_sent, flops, memory

IDENTITIES = {"85 742": 85_742, "1 M": 10**6, "10 M": 10**7, "100 M": 10**8}
PROCESSES = (1, 8, 64, 512)
TRUNK = Trunk(parameters=65_155_648, flops_per_image=72_571_355_136)  # iresnet100, as measured_trunk counts it


def tables() -> str:
    """Return the tables for all and for a tenth of the identities, in Markdown."""
    return "\n\n".join(table(rate) for rate in (1.0, 0.1))


def table(rate: float) -> str:
    """Return the table for a sample rate."""
    lines = [
        f"### sample_rate {rate:g}",
        "",
        "| identities | processes | held GiB | step GiB | of it cosines | total GiB | sent MiB | classifier TFLOP "
        "| trunk TFLOP |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, identities in IDENTITIES.items():
        for processes in PROCESSES:
            setting = Setting(identities, processes, sample_rate=rate, gather=True, trunk=TRUNK)
            used, computed = memory(setting), flops(setting)
            gib = [used.held, used.step, used.cosines, used.total]
            cells = [name, str(processes), *(digits(number / 2**30) for number in gib)]
            cells += [digits(bytes_sent(setting).total / 2**20)]
            cells += [digits(number / 1e12) for number in (computed.classifier, computed.trunk)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def digits(number: float) -> str:
    """Return a number with three digits and no exponent."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


if __name__ == "__main__":
    print(tables())
