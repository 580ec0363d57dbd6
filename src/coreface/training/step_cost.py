"""The cost of a training step per process, in memory, communication and operations, by a formula.

The formula follows the code: `coreface.losses.margin_softmax` (one matrix of cosines, chunks),
`coreface.distributed.collectives` (what is gathered and what is summed), `coreface.losses.sampling`. All
processes have batches of the same size, and the process with most rows counts. Not included are the activations of the
trunk, the exchange of its BatchNorm, and the buffers of DDP and of the allocator: none of them depends on the number of
identities.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

Optimizer = Literal["sgd", "adamw"]
_STATES = {"sgd": 1, "adamw": 2}  # matrices of the size of the weights; SGD with momentum
_WIDE = 4  # bytes of float32
_INDEX = 8  # of int64
# (gathered embeddings, D): unit vectors, their centres, the gradient, and the two that are scaled for it
_EMBEDDING_MATRICES = 5


@dataclass(frozen=True)
class Trunk:
    """The contribution of the trunk and its embedding layer.

    Attributes:
        parameters: number of trainable parameters, replicated in every process.
        flops_per_image: of forward and backward with all views.
    """

    parameters: int = 0
    flops_per_image: int = 0


@dataclass(frozen=True)
class Setting:
    """A training step.

    Attributes:
        identities: C.
        processes: P; above 1 the centres are sharded.
        batch: images per process.
        views: of each image.
        embedding_size: D.
        sample_rate: of the classifier.
        subcentres: K, centres per identity.
        optimizer: sgd (with momentum) or adamw.
        half: bf16 or float16 autocast: 2 bytes per cosine.
        gather: the contrastive term compares with the images of all processes.
        contrastive: there is a contrastive term (protocol ``one_way``).
        trunk: the rest of the network.
        chunk: entries of a chunk of cosines, `coreface.losses.cosine_chunks.CHUNK` of the device.
    """

    identities: int
    processes: int = 1
    batch: int = 128
    views: int = 2
    embedding_size: int = 512
    sample_rate: float = 1.0
    subcentres: int = 1
    optimizer: Optimizer = "sgd"
    half: bool = False
    gather: bool = False
    contrastive: bool = True
    trunk: Trunk = field(default_factory=Trunk)
    chunk: int = 2**26

    @property
    def rows(self) -> int:
        """Largest number of identities of a process."""
        return -(-self.identities // self.processes)

    @property
    def embeddings(self) -> int:
        """Number of embeddings that every process compares with its centres: of all processes and views."""
        return self.processes * self.batch * self.views

    @property
    def compared(self) -> float:
        """Identities of a process that a step uses, on average, if all identities have equally many images."""
        absent = math.exp(self.processes * self.batch * math.log1p(-1 / self.identities)) if self.identities > 1 else 0
        return self.rows * (self.sample_rate + (1 - self.sample_rate) * (1 - absent))


@dataclass(frozen=True)
class Memory:
    """Memory of one process in bytes.

    Attributes:
        weights: centres and trunk.
        gradients: of both. A sampled classifier's is as large as its centres.
        states: the optimizer's.
        cosines: the matrix kept from forward to backward.
        sample: copies of the sampled centres and their gradient; 0 without sampling.
        chunk: temporary matrices for one chunk of identities.
        embeddings: matrices of (all embeddings, D).
        step: what the classifier adds at its peak: without sampling the sum of the last four. A sampled gradient is
            expanded to all centres only after the cosines have been freed, so of these only what exceeds it counts.
    """

    weights: float
    gradients: float
    states: float
    cosines: float
    sample: float
    chunk: float
    embeddings: float
    step: float

    @property
    def held(self) -> float:
        """Bytes held between two steps, once there are gradients."""
        return self.weights + self.gradients + self.states

    @property
    def total(self) -> float:
        return self.held + self.step


def memory(setting: Setting) -> Memory:
    """Return the memory of a process at the peak of the classifier's step."""
    size, sampled = setting.embedding_size * setting.subcentres, setting.sample_rate < 1  # numbers per identity
    weights = setting.rows * size + setting.trunk.parameters
    wide = setting.embeddings * setting.subcentres
    chunk_rows = min(max(1, setting.chunk // wide), setting.compared)
    chunk = 2.0 * chunk_rows * setting.embeddings * _WIDE
    if setting.half:  # cosines as float32, and centres, derivatives and products in half precision
        chunk += chunk_rows * (wide * (_WIDE + 2) + 2 * size * 2)
    cosines = setting.compared * setting.embeddings * (2 if setting.half else _WIDE)
    if setting.subcentres > 1:
        cosines += setting.compared * setting.embeddings  # one byte for the index of the nearest centre
        # The backward pass: two matrices of all centres of the chunk, and int64 places in them.
        chunk += chunk_rows * (2 * wide * _WIDE + setting.embeddings * _INDEX)
    sample = 2 * setting.compared * size * _WIDE if sampled else 0.0
    embeddings = _EMBEDDING_MATRICES * setting.embeddings * setting.embedding_size * _WIDE
    beside = sample + chunk + embeddings
    return Memory(
        weights=weights * _WIDE,
        gradients=weights * _WIDE,
        states=weights * _WIDE * _STATES[setting.optimizer],
        cosines=cosines,
        sample=sample,
        chunk=chunk,
        embeddings=embeddings,
        step=beside + (max(0.0, cosines - setting.rows * size * _WIDE) if sampled else cosines),
    )


@dataclass(frozen=True)
class Cost:
    """The cost of a step for one process, in bytes or in operations, by purpose."""

    classifier: float
    contrast: float
    trunk: float

    @property
    def total(self) -> float:
        return self.classifier + self.contrast + self.trunk


def bytes_sent(setting: Setting) -> Cost:
    """Return the bytes a process sends in a step over rings: (P - 1) / P M to gather M bytes, twice that to sum them.

    For a margin that does not change the other cosines, such as ArcFace.
    """
    processes, embeddings, size = setting.processes, setting.embeddings, setting.embedding_size
    images = processes * setting.batch
    counts = processes * _INDEX
    gathered = embeddings * (size * _WIDE + _WIDE + _INDEX)  # unit vectors, lengths, identities
    reduced = counts + embeddings * (3 * _WIDE + size * _WIDE)  # target cosines, maxima, sums; the gradient
    classifier = _ring(processes, gathered, reduced)
    contrast = 0.0
    if setting.contrastive and setting.gather:
        gathered = images * (size * _WIDE + _INDEX)
        reduced = counts + images * size * _WIDE + 6 * _WIDE + _INDEX  # the gradient of the candidates; five sums, loss
        contrast = _ring(processes, gathered, reduced)
    return Cost(classifier, contrast, _ring(processes, 0, setting.trunk.parameters * _WIDE))


def _ring(processes: int, gathered: int, reduced: int) -> float:
    return (processes - 1) / processes * (gathered + 2 * reduced)


def flops(setting: Setting) -> Cost:
    """Return the floating-point operations of a process in a step; a multiply-add counts as two.

    Only matrix products and convolutions are counted.
    """
    size = setting.embedding_size
    candidates = setting.batch * (setting.processes if setting.gather else 1)
    return Cost(
        classifier=3
        * 2
        * setting.compared
        * setting.subcentres
        * setting.embeddings
        * size,  # the cosines, and a gradient for each factor
        contrast=3.0 * 2 * setting.batch * candidates * size if setting.contrastive else 0.0,
        trunk=float(setting.trunk.flops_per_image * setting.batch),
    )


def measured_trunk(backbone: str, views: int = 2, embedding_size: int = 512, image_size: int = 112) -> Trunk:
    """Count a backbone's parameters, and its operations with torch.utils.flop_counter.

    The network is built on torch's meta device, so nothing is computed.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from coreface.models.encoder import FaceEncoder

    with torch.device("meta"):
        encoder = FaceEncoder(backbone, embedding_size, image_size=image_size)
    images = torch.empty(2, 3, image_size, image_size, device="meta")
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(torch.stack(encoder.views(images, views)).sum())
    parameters = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    return Trunk(parameters, counter.get_total_flops() // len(images))
