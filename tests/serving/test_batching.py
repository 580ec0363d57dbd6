"""Crops of several requests are embedded together; each request gets its own rows, errors and no others."""

import asyncio

import numpy as np
import pytest

from coreface.serving.batching import Batcher


def crop(value):
    return np.full((2, 2, 3), value, np.uint8)


def first_numbers(crops):
    return np.array([[image[0, 0, 0]] for image in crops], np.float32)


def test_every_request_gets_its_own_rows():
    sizes = []

    async def ask():
        batcher = Batcher(first_numbers, most=8, on_batch=sizes.append)
        requests = [[crop(10 * k + j) for j in range(k % 4)] for k in range(20)]
        rows = await asyncio.gather(*(batcher.embed(crops) for crops in requests))
        for k, found in enumerate(rows):
            assert found[:, 0].tolist() == [10 * k + j for j in range(k % 4)]
        batcher.close()

    asyncio.run(ask())
    assert sum(sizes) == sum(k % 4 for k in range(20))
    assert max(sizes) <= 8
    assert len(sizes) < 20  # they were together


def test_a_request_larger_than_a_batch_is_embedded_alone():
    sizes = []

    async def ask():
        batcher = Batcher(first_numbers, most=4, on_batch=sizes.append)
        many, one = await asyncio.gather(batcher.embed([crop(k) for k in range(9)]), batcher.embed([crop(99)]))
        assert many[:, 0].tolist() == list(range(9))
        assert one.tolist() == [[99]]
        batcher.close()

    asyncio.run(ask())
    assert sizes == [9, 1]


def test_an_error_reaches_those_of_its_batch_and_the_next_batch_works():
    calls = []

    def embed(crops):
        calls.append(len(crops))
        if len(calls) == 1:
            raise MemoryError("no memory")
        return first_numbers(crops)

    async def ask():
        batcher = Batcher(embed)
        with pytest.raises(MemoryError):
            await batcher.embed([crop(1)])
        assert (await batcher.embed([crop(2)])).tolist() == [[2]]
        batcher.close()

    asyncio.run(ask())


def test_who_has_left_is_not_embedded():
    async def ask():
        seen = []
        batcher = Batcher(lambda crops: seen.extend(crops) or first_numbers(crops))
        staying = asyncio.create_task(batcher.embed([crop(1)]))
        leaving = asyncio.create_task(batcher.embed([crop(2)]))
        await asyncio.sleep(0)  # both have asked, none is answered
        leaving.cancel()
        assert (await staying).tolist() == [[1]]
        assert (await batcher.embed([crop(3)])).tolist() == [[3]]
        assert len(seen) <= 3
        with pytest.raises(asyncio.CancelledError):
            await leaving
        batcher.close()

    asyncio.run(ask())
