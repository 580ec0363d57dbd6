"""Embeddings of photographs: the same whatever the batch, and nothing about the encoder changed behind its back."""

import numpy as np
import pytest
import torch

from coreface.errors import ImageError, InputError
from coreface.images.load import fit_square
from coreface.images.preprocessing import to_network_input


@pytest.fixture
def photographs():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def naive(encoder, image, flip=True):
    """One photograph, in float64: x / 127.5 - 1, itself plus its mirror image, then unit length."""
    encoder = encoder.double().eval()
    x = torch.from_numpy(image.astype(np.float64).transpose(2, 0, 1) / 127.5 - 1)[None]
    with torch.no_grad():
        h = encoder(x) + encoder(torch.from_numpy(x.numpy()[..., ::-1].copy())) if flip else encoder(x)
    encoder.float()
    h = h[0].numpy()
    return h / np.sqrt((h**2).sum())


@pytest.mark.parametrize("flip", [True, False])
def test_embeddings_derived_again_one_by_one(encoder, photographs, flip):
    got = encoder.embed(photographs, flip)
    assert (got.shape, got.dtype) == ((5, 8), np.float32)
    np.testing.assert_allclose(got, [naive(encoder, image, flip) for image in photographs], atol=2e-5)
    assert np.abs(got[0] - got[1]).max() > 1e-3  # the images differ, and so do their embeddings
    assert np.abs(got - encoder.embed(photographs, not flip)).max() > 1e-3


def test_flipping_is_the_default_and_makes_mirror_images_alike(encoder, photographs):
    mirrored = photographs[:, :, ::-1]
    np.testing.assert_allclose(encoder.embed(photographs), encoder.embed(mirrored), atol=1e-5)
    assert np.abs(encoder.embed(photographs, False) - encoder.embed(mirrored, False)).max() > 1e-3


def test_unit_length(encoder, photographs):
    np.testing.assert_allclose(np.linalg.norm(encoder.embed(photographs), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 6, 1000])
def test_the_batch_size_does_not_matter(encoder, photographs, batch_size):
    np.testing.assert_allclose(
        encoder.embed(photographs, batch_size=batch_size), encoder.embed(photographs), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_sizes_out_of_range(encoder, photographs, batch_size):
    with pytest.raises(InputError, match="batch_size"):
        encoder.embed(photographs, batch_size=batch_size)


def test_rows_come_in_the_order_of_the_images(encoder, photographs):
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(
        encoder.embed(photographs[order], batch_size=2), encoder.embed(photographs)[order], atol=1e-5
    )


def test_one_image(encoder, photographs):
    got = encoder.embed(photographs[2])
    assert got.shape == (1, 8)
    np.testing.assert_allclose(got[0], naive(encoder, photographs[2]), atol=2e-5)


def test_images_of_different_sizes(encoder):
    rng = np.random.default_rng(1)
    images = [
        rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((16, 16), (40, 20), (7, 9), (1, 1), (64, 64))
    ]
    got = encoder.embed(images, batch_size=2)
    np.testing.assert_allclose(got, [naive(encoder, fit_square(image, 16)) for image in images], atol=2e-5)
    np.testing.assert_array_equal(encoder.embed(tuple(images), batch_size=2), got)


@pytest.mark.parametrize(
    "turn", [torch.from_numpy, list, lambda a: [torch.from_numpy(i) for i in a], np.asfortranarray]
)
def test_whatever_holds_the_same_pixels(encoder, photographs, turn):
    given = turn(photographs)
    np.testing.assert_allclose(encoder.embed(given), encoder.embed(photographs), atol=1e-5)


def test_the_images_are_not_changed(encoder, photographs):
    before = photographs.copy()
    encoder.embed(photographs)
    encoder.embed(torch.from_numpy(photographs))
    np.testing.assert_array_equal(photographs, before)


@pytest.mark.parametrize("nothing", [[], (), np.empty((0, 16, 16, 3), np.uint8), torch.empty(0, 16, 16, 3).byte()])
def test_no_images_give_no_rows(encoder, nothing):
    """A gallery may be empty; whoever stacks results or takes `embed(...) @ other.T` must not need a special case."""
    got = encoder.embed(nothing)
    assert (got.shape, got.dtype) == ((0, 8), np.float32)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 16, 16, 3), np.float32),
        np.zeros((2, 16, 16, 3), np.int64),
        np.zeros((2, 16, 16, 3), bool),
        np.zeros((2, 3, 16, 16), np.uint8),
        np.zeros((2, 16, 16, 4), np.uint8),
        np.zeros((2, 16, 16, 1), np.uint8),
        np.zeros((16, 16), np.uint8),
        np.zeros((1, 2, 16, 16, 3), np.uint8),
        np.zeros((2, 0, 16, 3), np.uint8),
        torch.zeros(2, 3, 16, 16),
        torch.zeros(2, 16, 16, 3, dtype=torch.bfloat16),
        torch.zeros(2, 16, 16, 3, requires_grad=True),
        [np.zeros((16, 16), np.uint8)],
        [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.float64)],
        "photo.jpg",
        ["photo.jpg"],
    ],
)
def test_what_is_not_uint8_rgb(encoder, images):
    with pytest.raises(InputError, match="uint8"):
        encoder.embed(images)


def test_the_bad_image_of_a_list_is_named(encoder):
    with pytest.raises(InputError, match="image 1 is float64"):
        encoder.embed([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3))])


def mixed_modes(encoder):
    """Training mode, but for a frozen norm within; and eval mode, but for one part within."""
    encoder.train()
    encoder.backbone.conv_sep.eval()
    encoder.backbone.embedding_norm.eval()
    return {name: part.training for name, part in encoder.named_modules()}


def test_modes_and_statistics_are_left_as_they_were(encoder, photographs):
    evaluated = encoder.embed(photographs)
    modes = mixed_modes(encoder)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    torch.manual_seed(0)
    np.testing.assert_array_equal(encoder.embed(photographs), evaluated)
    assert {name: part.training for name, part in encoder.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert len(set(modes.values())) == 2


def test_modes_are_restored_when_it_fails_half_way(encoder, photographs):
    modes = mixed_modes(encoder)
    strip = np.zeros((1, 20000, 3), np.uint8)  # too long to be padded to a square: found out in the second batch
    with pytest.raises(ImageError, match="20000"):
        encoder.embed([*photographs, strip], batch_size=5)
    assert {name: part.training for name, part in encoder.named_modules()} == modes


def test_gradients_still_flow_after_it(encoder, photographs, batch):
    encoder.embed(photographs)
    encoder.train()
    encoder.views(batch, 2)[0].square().sum().backward()
    assert next(encoder.parameters()).grad is not None


def test_network_input_keeps_values_order_and_memory():
    images = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).view(2, 4, 5, 3) * 2
    before = images.clone()
    got = to_network_input(images)
    assert (got.shape, got.dtype) == ((2, 3, 4, 5), torch.float32)
    assert got.is_contiguous(memory_format=torch.channels_last)
    expected = images.numpy().astype(np.float64).transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=2**-24)
    assert torch.equal(images, before)


def test_rounded_products(encoder):
    """bf16 keeps 8 bits of each factor: near float32, and not it."""
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    exact, rounded = encoder.embed(images), encoder.embed(images, precision="bf16")
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-6)
    assert (exact * rounded).sum(axis=1).min() > 0.99
    assert not np.array_equal(exact, rounded)
    np.testing.assert_array_equal(encoder.embed(images, precision="float32"), exact)
    with pytest.raises(InputError, match="precision is 'float16', expected float32 or bf16"):
        encoder.embed(images, precision="float16")
