"""The losses once more, as plain loops over pairs, written from docs/method.md and from nothing else."""

import math

import torch


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def candidates_of(protocol: str, n: int) -> list[tuple[tuple[int, int], tuple[int, int], list[tuple[int, int]]]]:
    """List (anchor, positive, other candidates); a view is (image, 0) or (image, 1)."""
    rows = []
    if protocol in ("one_way", "two_way"):
        for i in range(n):
            rows.append(((i, 0), (i, 1), [(j, 1) for j in range(n) if j != i]))
    if protocol == "two_way":
        for i in range(n):
            rows.append(((i, 1), (i, 0), [(j, 0) for j in range(n) if j != i]))
    if protocol == "half":
        for i in range(n):
            rows.append(((i, 0), (i, 1), [(j, 1) for j in range(n) if j > i]))
    if protocol == "all":
        for v in (0, 1):
            for i in range(n):
                rows.append(((i, v), (i, 1 - v), [(j, w) for w in (0, 1) for j in range(n) if j != i]))
    return rows


def contrastive(view1, view2, identities, *, scale, margin_before, ema, mask, protocol, training=True, fixed=None):
    """Return (loss, margin, mean positive, mean hardest negative, masked entries) in the dtype of the views."""
    views = (view1, view2)
    n = len(view1)
    positives, hardest, gaps, anchors, masked = [], [], [], [], 0
    for (i, v), (p, w), others in candidates_of(protocol, n):
        positive = cosine(views[v][i], views[w][p])
        entries, values_in_max = [], []
        for j, u in others:
            if identities[j] == identities[i]:
                masked += 1
                if mask == "zero":
                    entries.append(torch.zeros((), dtype=view1.dtype))
                    values_in_max.append(0.0)
            else:
                entries.append(cosine(views[v][i], views[u][j]))
                values_in_max.append(entries[-1].item())
        anchors.append((positive, entries))
        positives.append(positive.item())
        if values_in_max:
            if mask == "zero":
                values_in_max.append(0.0)  # the place of the positive itself
            hardest.append(max(values_in_max))
            gaps.append(positive.item() - max(values_in_max))
    margin = margin_before
    if fixed is not None:
        margin = fixed
    elif training and gaps:
        margin = ema * sum(gaps) / len(gaps) + (1 - ema) * margin_before
    loss = 0.0
    for positive, entries in anchors:
        top = (scale * (positive - margin)).exp()
        loss = loss - (top / (top + sum((scale * c).exp() for c in entries))).log()
    mean_hardest = sum(hardest) / len(hardest) if hardest else math.nan
    return loss / len(anchors), margin, sum(positives) / len(positives), mean_hardest, masked


def margin_logits(embeddings, weight, identities, *, name, scale, margin):
    """Return (batch, identities) logits with arccos, one by one."""
    rows = []
    for x, y in zip(embeddings, identities, strict=True):
        row = []
        for k, w in enumerate(weight):
            c = cosine(x, w)
            if k == y and name == "cosface":
                c = c - margin
            elif k == y:
                theta = torch.arccos(c)
                c = torch.cos(theta + margin) if theta + margin <= math.pi else c - margin * math.sin(margin)
            row.append(scale * c)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def cross_entropy(logits, identities):
    terms = [-(row[y] - torch.logsumexp(row, 0)) for row, y in zip(logits, identities, strict=True)]
    return sum(terms) / len(terms)


def angular(c, m):
    """cos(theta + m) through arccos, with what goes on from it on both sides."""
    theta = torch.arccos(c)
    if theta + m > math.pi:
        return c - m * math.sin(m) if not isinstance(m, torch.Tensor) else c - m * m.sin()
    if theta + m < 0:
        return torch.ones_like(c)
    return torch.cos(theta + m)


def curricularface(embeddings, weight, identities, *, scale, margin, ema, t):
    """Return (loss, t after the batch)."""
    cosines = [[cosine(x, w) for w in weight] for x in embeddings]
    own = [row[y].item() for row, y in zip(cosines, identities, strict=True)]
    t = ema * sum(own) / len(own) + (1 - ema) * t
    rows = []
    for row, y in zip(cosines, identities, strict=True):
        target = angular(row[y], margin)
        rows.append(torch.stack([target if k == y else c * (t + c) if c > target else c for k, c in enumerate(row)]))
    return cross_entropy([scale * row for row in rows], identities), t


def magface(embeddings, weight, identities, *, scale, margins, lengths, regularisation):
    rows, penalties = [], []
    for x, y in zip(embeddings, identities, strict=True):
        a = (x * x).sum().sqrt()
        share = (min(max(a, lengths[0]), lengths[1]) - lengths[0]) / (lengths[1] - lengths[0])
        m = margins[0] + (margins[1] - margins[0]) * share
        row = [cosine(x, w) for w in weight]
        rows.append(scale * torch.stack([angular(c, m) if k == y else c for k, c in enumerate(row)]))
        penalties.append(1 / a + a / lengths[1] ** 2)
    return cross_entropy(rows, identities) + regularisation * sum(penalties) / len(penalties)


def adaface(embeddings, weight, identities, *, scale, margin, concentration, ema, mean, deviation):
    """Return (loss, mean and deviation after the batch)."""
    lengths = [math.sqrt(sum(v * v for v in x.tolist())) for x in embeddings]
    middle = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((a - middle) ** 2 for a in lengths) / (len(lengths) - 1))
    mean, deviation = ema * middle + (1 - ema) * mean, ema * spread + (1 - ema) * deviation
    rows = []
    for x, y, a in zip(embeddings, identities, lengths, strict=True):
        z = max(-1.0, min(1.0, (a - mean) / (deviation / concentration)))
        row = [cosine(x, w) for w in weight]
        rows.append(
            scale
            * torch.stack([angular(c, -margin * z) - (margin * z + margin) if k == y else c for k, c in enumerate(row)])
        )
    return cross_entropy(rows, identities), mean, deviation


def sphereface(embeddings, weight, identities, *, margin, annealed, scale=None):
    """A-Softmax; ``annealed`` is the weight of the plain cosine, 0 for none; scale None is the embedding's length."""
    rows = []
    for x, y in zip(embeddings, identities, strict=True):
        row = [cosine(x, w) for w in weight]
        theta = torch.arccos(row[y])
        k = min(margin - 1, math.floor(theta.item() * margin / math.pi))
        psi = (-1) ** k * torch.cos(margin * theta) - 2 * k
        target = (annealed * row[y] + psi) / (1 + annealed)
        s = (x * x).sum().sqrt() if scale is None else scale
        rows.append(s * torch.stack([target if k == y else c for k, c in enumerate(row)]))
    return cross_entropy(rows, identities)


def sphereface_r(embeddings, weight, identities, *, scale, margin):
    rows = []
    for x, y in zip(embeddings, identities, strict=True):
        row = [cosine(x, w) for w in weight]
        angle = margin * torch.arccos(row[y])
        target = torch.cos(angle) if angle < math.pi else torch.full_like(angle, -1.0)
        rows.append(scale * torch.stack([target if k == y else c for k, c in enumerate(row)]))
    return cross_entropy(rows, identities)


def normal(bits):
    """A normal number from 64 bits, by Box and Muller."""
    word = bits & ((1 << 64) - 1)
    one, other = ((word >> 40) + 1) / 2**24, ((word >> 16) & 0xFFFFFF) / 2**24
    return math.sqrt(-2 * math.log(one)) * math.cos(2 * math.pi * other)


def elasticface(embeddings, weight, identities, *, scale, margin, deviation, kind, plus, bits):
    cosines = [[cosine(x, w) for w in weight] for x in embeddings]
    margins = [margin + deviation * normal(word) for word in bits]
    if plus:  # the nearer to its centre, the smaller the margin
        own = [row[y].item() for row, y in zip(cosines, identities, strict=True)]
        rank = [sum(other > c for other in own) for c in own]
        margins = [sorted(margins)[place] for place in rank]
    rows = []
    for row, y, m in zip(cosines, identities, margins, strict=True):
        target = row[y] - m if kind == "cos" else angular(row[y], m)
        rows.append(scale * torch.stack([target if k == y else c for k, c in enumerate(row)]))
    return cross_entropy(rows, identities)


def dynamic_margin(embeddings, weight, identities, *, scale, a, b, c, sizes):
    rows = []
    for x, y in zip(embeddings, identities, strict=True):
        m = a * sizes[y] ** -b + c
        rows.append(
            scale * torch.stack([angular(cosine(x, w), m) if k == y else cosine(x, w) for k, w in enumerate(weight)])
        )
    return cross_entropy(rows, identities)
