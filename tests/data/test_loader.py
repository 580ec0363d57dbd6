"""What a batch holds depends on (seed, epoch) alone, and every pixel of it is accounted for."""

import gc
import multiprocessing
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from coreface.data import FaceLoader, FolderSource
from coreface.errors import DataError, InputError
from coreface.images.load import fit_square


def batches(iterator):
    return list(iterator)


def assert_same(one, other):
    assert len(one) == len(other)
    for (images, identities), (other_images, other_identities) in zip(one, other, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(identities, other_identities)


def same(one, other):
    return all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def naive(source, loader, epoch, batch_size, image_size=16):
    """The batches of an epoch from `draws`, with plain loops."""
    order, flips = loader.draws(epoch)
    out = []
    for at in range(0, len(source) - batch_size + 1, batch_size):
        images = np.stack([fit_square(source[i][0], image_size) for i in order[at : at + batch_size]])
        for image, flip in zip(images, flips[at : at + batch_size], strict=True):
            if flip:
                image[:] = image[:, ::-1].copy()
        scaled = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
        out.append((torch.from_numpy(scaled), torch.from_numpy(source.identities[order[at : at + batch_size]])))
    return out


@pytest.fixture
def spoilt(tmp_path, write_faces):
    """Twelve images; which of them are spoilt is up to the test."""
    source = FolderSource(write_faces(tmp_path, [f"{person}/{i}.png" for person in "abc" for i in range(4)]))

    def spoil(indices):
        for index in indices:
            (tmp_path / source.locate(int(index))).write_bytes(b"junk")
        return source

    return spoil


def test_every_pixel_and_identity_of_an_epoch(faces):
    loader = FaceLoader(faces, 5, image_size=16, seed=3)
    got = batches(loader.epoch(2))
    assert len(got) == len(loader) == 4  # 23 images: the last three are dropped
    assert_same(got, naive(faces, loader, 2, 5))


def test_types_and_memory(faces):
    images, identities = next(iter(FaceLoader(faces, 4, image_size=16)))
    assert (images.shape, images.dtype) == ((4, 3, 16, 16), torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (identities.shape, identities.dtype) == ((4,), torch.int64)


def test_pixels_become_x_over_127_5_minus_1(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for person in "ab":
        (tmp_path / person).mkdir()
        (tmp_path / person / "1.pgm").write_bytes(b"P5 16 16 255 " + ramp.tobytes())
    images, _ = next(iter(FaceLoader(FolderSource(tmp_path), 2, image_size=16, flip=False)))
    expected = (np.arange(256) / 127.5 - 1).astype(np.float32)
    np.testing.assert_allclose(images[1, 2].flatten().numpy(), expected, rtol=0, atol=2**-24)
    assert (images.min().item(), images.max().item()) == (-1, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(faces, workers):
    alone, helped = (FaceLoader(faces, 4, image_size=16, seed=1, workers=n) for n in (0, workers))
    for epoch in (1, 5, 2):
        assert_same(batches(alone.epoch(epoch)), batches(helped.epoch(epoch)))


def test_the_order_depends_on_seed_and_epoch_only(faces):
    loader = FaceLoader(faces, 4, image_size=16, seed=1)
    first = batches(loader.epoch(1))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 (the global state must not matter)
    batches(loader.epoch(2))
    assert_same(first, batches(loader.epoch(1)))
    assert_same(first, batches(FaceLoader(faces, 4, image_size=16, seed=1).epoch(1)))
    assert not same(first, batches(loader.epoch(2)))
    assert not same(first, batches(FaceLoader(faces, 4, image_size=16, seed=2).epoch(1)))
    # (seed 1, epoch 2) and (seed 2, epoch 1) must not be one and the same stream either
    assert not same(batches(loader.epoch(2)), batches(FaceLoader(faces, 4, image_size=16, seed=2).epoch(1)))


def test_the_global_random_state_is_left_alone(faces):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches(FaceLoader(faces, 4, image_size=16, seed=1))
    assert torch.equal(torch.rand(3), expected)


def test_each_image_comes_at_most_once_an_epoch(faces):
    order, flips = FaceLoader(faces, 4).draws(1)
    assert sorted(order) == list(range(23))
    assert order.tolist() != list(range(23))
    assert (order.shape, flips.shape, flips.dtype) == ((23,), (23,), bool)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_entered_at_any_batch(faces, workers):
    loader = FaceLoader(faces, 4, image_size=16, seed=1, workers=workers)
    whole = batches(loader.epoch(3))
    assert len(whole) == 5
    for start in range(7):
        assert_same(batches(loader.epoch(3, start)), whole[start:])


def test_about_half_are_mirrored(faces):
    loader = FaceLoader(faces, 4)
    flips = np.concatenate([loader.draws(epoch)[1] for epoch in range(1, 101)])
    assert 0.45 < flips.mean() < 0.55  # 2300 draws: five standard deviations
    assert len({flips[23 * k : 23 * k + 23].tobytes() for k in range(100)}) == 100


def test_a_flip_swaps_left_and_right_and_nothing_else(faces):
    """Against the same loader without flips: the order must be the same with and without."""
    with_flips, without = (FaceLoader(faces, 23, image_size=16, seed=4, flip=flip) for flip in (True, False))
    (flipped, identities), (plain, plain_identities) = next(with_flips.epoch(1)), next(without.epoch(1))
    assert torch.equal(identities, plain_identities)
    mirrored = [i for i in range(23) if not torch.equal(flipped[i], plain[i])]
    assert 4 < len(mirrored) < 19
    assert mirrored == np.flatnonzero(with_flips.draws(1)[1]).tolist()
    assert not without.draws(1)[1].any()
    for i in mirrored:
        assert torch.equal(flipped[i], plain[i].flip(2))


@pytest.mark.parametrize(("count", "batch_size", "expected"), [(12, 4, 3), (12, 5, 2), (12, 12, 1), (12, 7, 1)])
def test_the_incomplete_last_batch_is_dropped(spoilt, count, batch_size, expected):
    loader = FaceLoader(spoilt([]), batch_size, image_size=16)
    assert [len(identities) for _, identities in loader] == [batch_size] * expected
    assert len(loader) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_and_listed(spoilt, workers):
    source = spoilt([2, 9])
    loader = FaceLoader(source, 4, image_size=16, seed=1, workers=workers)
    clean = naive_without(source, loader, 1, 4, {2, 9})
    assert loader.unreadable == {}
    assert_same(batches(loader.epoch(1)), clean)
    assert loader.unreadable.keys() == {2, 9}
    assert all(source.locate(index) in message for index, message in loader.unreadable.items())
    assert sum(len(identities) for _, identities in clean) == 10


def naive_without(source, loader, epoch, batch_size, bad):
    order, flips = loader.draws(epoch)
    out = []
    for at in range(0, len(source) - batch_size + 1, batch_size):
        kept = [k for k in range(at, at + batch_size) if order[k] not in bad]
        if len(kept) < 2:
            continue
        images = [source[order[k]][0][:, :: -1 if flips[k] else 1] for k in kept]
        scaled = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
        out.append((torch.from_numpy(scaled), torch.from_numpy(source.identities[order[kept]])))
    return out


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_fewer_than_two_are_passed_over(spoilt, workers):
    order = FaceLoader(spoilt([]), 3, seed=1).draws(1)[0]
    bad = {*order[0:2].tolist(), *order[3:6].tolist(), int(order[8])}  # batches of 1, 0, 2 and 3 images remain
    source = spoilt(bad)
    loader = FaceLoader(source, 3, image_size=16, seed=1, workers=workers)
    got = batches(loader.epoch(1))
    assert [len(identities) for _, identities in got] == [2, 3]
    assert_same(got, naive_without(source, loader, 1, 3, bad))
    assert loader.unreadable.keys() == bad
    assert len(loader) == 4


def test_too_much_that_cannot_be_read_ends_the_epoch(spoilt):
    source = spoilt([1, 5, 7])
    for share, ends in ((0.25, False), (0.24, True), (0.0, True)):
        loader = FaceLoader(source, 4, image_size=16, max_unreadable=share)
        if not ends:
            assert len(batches(loader.epoch(1))) == 3
            batches(loader.epoch(2))  # each image counts once, however often it is met
            continue
        with pytest.raises(DataError, match=r"of 12 images cannot be read.*max_unreadable.*\.png"):
            batches(loader.epoch(1))
        assert loader.unreadable


@pytest.mark.parametrize("workers", [0, 1])
def test_among_several_processes_every_batch_is_full(spoilt, workers):
    order = FaceLoader(spoilt([]), 3, seed=1, rank=1, world_size=2).draws(1)[0]
    source = spoilt(order[1:3])
    alone = [FaceLoader(source, 3, image_size=16, seed=1, rank=r, world_size=2, workers=workers) for r in (0, 1)]
    got = [batches(loader.epoch(1)) for loader in alone]
    assert [[len(identities) for _, identities in rank] for rank in got] == [[3, 3], [3, 3]]
    images, identities = got[1][0]
    assert torch.equal(images, images[:1].expand(3, -1, -1, -1))  # the one that could be read
    assert identities.tolist() == [source.identities[order[0]]] * 3
    assert alone[1].unreadable.keys() == {*order[1:3].tolist()}
    with pytest.raises(DataError, match="a whole batch cannot be read"):
        batches(FaceLoader(spoilt(order[:3]), 3, image_size=16, seed=1, rank=1, world_size=2).epoch(1))


def test_a_strip_that_no_square_can_hold_does_not_end_the_epoch(spoilt):
    """It decodes well; only the padding to a square, 20000 x 20000 pixels, is refused."""
    source = spoilt([])
    strip = b"P5 20000 1 255 " + bytes(20000)
    path = source.locate(5)
    Path(path).write_bytes(strip)
    loader = FaceLoader(source, 4, image_size=16)
    assert [len(identities) for _, identities in loader].count(3) == 1
    assert loader.unreadable.keys() == {5}
    assert path in loader.unreadable[5]


def test_images_of_other_sizes_are_fitted(tmp_path, write_faces):
    names = ["a/1.pgm", "a/2.pgm", "b/1.pgm"]
    write_faces(tmp_path, names)
    rng = np.random.default_rng(0)
    for name, (height, width) in zip(names, [(9, 31), (40, 20), (32, 32)], strict=True):
        pixels = rng.integers(0, 256, height * width, dtype=np.uint8)
        (tmp_path / name).write_bytes(b"P5 %d %d 255 " % (width, height) + pixels.tobytes())
    source = FolderSource(tmp_path)
    loader = FaceLoader(source, 3, image_size=24)
    got = batches(loader.epoch(1))
    assert got[0][0].shape == (3, 3, 24, 24)
    assert_same(got, naive(source, loader, 1, 3, image_size=24))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_abandoned_epoch_leaves_nothing_behind(faces, workers):
    loader = FaceLoader(faces, 2, image_size=16, seed=1, workers=workers)
    whole = {epoch: naive(faces, loader, epoch, 2) for epoch in (1, 2, 3)}
    assert_same(list(islice(loader.epoch(1), 3)), whole[1][:3])
    assert_same(batches(loader.epoch(2)), whole[2])
    for _ in loader.epoch(3):
        break
    abandoned = loader.epoch(1, 4)  # never started
    assert_same(batches(loader.epoch(3, 2)), whole[3][2:])
    del abandoned


@pytest.mark.parametrize("workers", [0, 1])
def test_iterating_goes_from_epoch_to_epoch(faces, workers):
    loader = FaceLoader(faces, 6, image_size=16, seed=1, workers=workers)
    for epoch in (1, 2, 3):
        assert_same([(images, identities) for images, identities in loader], naive(faces, loader, epoch, 6))
    assert_same(batches(loader.epoch(1)), naive(faces, loader, 1, 6))  # asking by number does not move the count
    next(iter(loader))  # epoch 4, left after one batch
    assert_same(batches(loader), naive(faces, loader, 5, 6))


def test_workers_end_with_the_loader(faces):
    before = set(multiprocessing.active_children())
    loader = FaceLoader(faces, 4, image_size=16, workers=2)
    next(loader.epoch(1))
    ours = set(multiprocessing.active_children()) - before
    assert len(ours) == 2
    del loader
    gc.collect()
    assert not ours & set(multiprocessing.active_children())


def test_workers_of_a_loader_in_a_cycle_end_with_it(faces):
    """The garbage collector may close their queues before torch tells them to end; SIGTERM they ignore."""
    before = set(multiprocessing.active_children())
    for _ in range(3):
        loader = FaceLoader(faces, 4, image_size=16, workers=1)
        loader.itself = loader
        next(loader.epoch(1))
    assert len(set(multiprocessing.active_children()) - before) >= 1
    del loader
    gc.collect()
    assert not set(multiprocessing.active_children()) - before


def test_workers_end_with_the_program(tmp_path, write_faces):
    """They ignore the SIGTERM with which multiprocessing ends those of a program that still has its loader."""
    write_faces(tmp_path, [f"{person}/{i}.png" for person in "ab" for i in range(4)])
    program = """
import sys
from coreface.data import FaceLoader, open_faces
loader = FaceLoader(open_faces(sys.argv[1]), 4, image_size=16, workers=2)
batches = loader.epoch(1)
print(len(next(batches)[0]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


@pytest.mark.parametrize("batch_size", [1, 0, -3])
def test_batches_too_small(faces, batch_size):
    with pytest.raises(InputError, match="batch_size"):
        FaceLoader(faces, batch_size)


def test_arguments_out_of_range(faces):
    with pytest.raises(InputError, match="workers"):
        FaceLoader(faces, 4, workers=-1)
    with pytest.raises(InputError, match="image_size"):
        FaceLoader(faces, 4, image_size=0)
    with pytest.raises(InputError, match="seed"):
        FaceLoader(faces, 4, seed=-1)
    for rank, world_size in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match="rank"):
            FaceLoader(faces, 4, rank=rank, world_size=world_size)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="max_unreadable"):
            FaceLoader(faces, 4, max_unreadable=share)
    with pytest.raises(InputError, match="start"):
        next(FaceLoader(faces, 4, image_size=16).epoch(1, -1))


def test_too_few_images(faces):
    FaceLoader(faces, 23)
    with pytest.raises(DataError, match="23 images cannot fill one batch of 24"):
        FaceLoader(faces, 24)
    FaceLoader(faces, 11, world_size=2)
    with pytest.raises(DataError, match="23 images cannot fill one batch of 12 for each of 2 processes"):
        FaceLoader(faces, 12, world_size=2)


def test_other_errors_are_not_swallowed(faces):
    class Broken(type(faces)):
        def _decode(self, index):
            raise RuntimeError("a bug, not a bad image")

    loader = FaceLoader(Broken(faces._root), 4, image_size=16)
    with pytest.raises(RuntimeError, match="a bug"):
        next(loader.epoch(1))
    assert loader.unreadable == {}
