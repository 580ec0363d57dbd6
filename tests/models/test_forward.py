"""The convolutional families, written again with plain functions that look weights up by name."""

import pytest
import torch
import torch.nn.functional as F

from coreface import FaceEncoder


class Naive:
    """Operations on a state_dict. BatchNorm by its formula; in training it takes the statistics of the batch."""

    def __init__(self, state, training):
        self.state, self.training = state, training

    def norm(self, x, name):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scale, shift, mean, variance = (
            self.state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        if self.training:
            axes = (0, *range(2, x.ndim))
            mean = x.mean(axes)
            variance = ((x - mean.view(shape)) ** 2).mean(axes)
        return (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt() * scale.view(shape) + shift.view(shape)

    def prelu(self, x, name):
        return torch.where(x > 0, x, x * self.state[f"{name}.weight"].view(1, -1, 1, 1))

    def convolve(self, x, name, stride=1, padding=0):
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, padding, groups=x.shape[1] // weight.shape[1])


def naive_iresnet(state, images, depths, training):
    net = Naive(state, training)
    x = net.prelu(net.norm(net.convolve(images, "conv1", padding=1), "bn1"), "prelu")
    for layer, depth in enumerate(depths, start=1):
        for block in range(depth):
            name, stride = f"layer{layer}.{block}", 2 if block == 0 else 1
            h = net.convolve(net.norm(x, f"{name}.bn1"), f"{name}.conv1", padding=1)
            h = net.prelu(net.norm(h, f"{name}.bn2"), f"{name}.prelu")
            h = net.norm(net.convolve(h, f"{name}.conv2", stride, padding=1), f"{name}.bn3")
            if block == 0:
                x = net.norm(net.convolve(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = h + x
    x = net.norm(x, "bn2").reshape(len(images), -1)
    return net.norm(x @ state["fc.weight"].T + state["fc.bias"], "features")


def naive_mobilefacenet(state, images, training, depths):
    net = Naive(state, training)

    def unit(x, name, stride=1, padding=0, activation=True):
        x = net.norm(net.convolve(x, f"{name}.layers.0", stride, padding), f"{name}.layers.1")
        return net.prelu(x, f"{name}.layers.2") if activation else x

    def bottleneck(x, name, stride=1):
        x = unit(unit(x, f"{name}.layers.0"), f"{name}.layers.1", stride, padding=1)
        return unit(x, f"{name}.layers.2", activation=False)

    x = unit(images, "layers.0", stride=2, padding=1)
    if depths[0] == 1:
        x = unit(x, "layers.1", padding=1)
    for stage, depth in zip((0, 2, 4, 6), depths, strict=True):
        if stage == 0 and depth == 1:
            continue
        if stage > 0:
            x = bottleneck(x, f"layers.{stage}", stride=2)
        for block in range(depth):
            x = x + bottleneck(x, f"layers.{stage + 1}.layers.{block}")
    x = unit(unit(x, "conv_sep"), "features.layers.0", activation=False)
    assert x.shape[2:] == (1, 1)
    return net.norm(x[:, :, 0, 0] @ state["features.layers.2.weight"].T, "features.layers.3")


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("iresnet18", (2, 2, 2, 2)),
        ("iresnet18_w25", (2, 2, 2, 2)),
        ("mobilefacenet", (1, 4, 6, 2)),
        ("mobilefacenet_large", (2, 8, 12, 4)),
    ],
)
def test_forward(name, depths, training, images, stir):
    encoder = stir(FaceEncoder(name, 24, 32, dropout=0).double()).train(training)
    state = {key: tensor.clone() for key, tensor in encoder.backbone.state_dict().items()}
    naive = naive_iresnet if name.startswith("iresnet") else naive_mobilefacenet
    expected = naive(state, images, depths=depths, training=training)
    got = encoder(images)
    assert got.shape == (3, 24)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
    assert expected.std() > 0.1  # not all zeros
    first = "bn1.running_mean" if name.startswith("iresnet") else "layers.0.layers.1.running_mean"
    unmoved = torch.equal(state[first], first_mean(encoder))
    assert unmoved is not training


def first_mean(encoder):
    return next(buffer for name, buffer in encoder.backbone.named_buffers() if name.endswith("running_mean"))


def test_a_deeper_iresnet(images, stir):
    """One more depth, so that the number of blocks in a layer is not taken for granted."""
    encoder = stir(FaceEncoder("iresnet34", 8, 16).double()).eval()
    images = images[:1, :, :16, :16]
    expected = naive_iresnet(encoder.backbone.state_dict(), images, (3, 4, 6, 3), training=False)
    torch.testing.assert_close(encoder(images), expected, rtol=1e-8, atol=1e-8)
