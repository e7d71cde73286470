"""Large requests: tokenized in turns, given up at any time, and answered as small ones are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import Server, running
from rows import make_rows

from serve.engine.admission import Unavailable
from serve.engine.workers import ClientGone
from serve.http.large import SLICE_CHARACTERS, Tokenizing, within
from serve.inference.text import Encoding, TextError

TEXTS = [row["text"] for row in make_rows(400, seed=41)]


class Encoder:
    """Takes a while, and notes whose slice it was."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: list[str] = []

    def encode(self, texts: Sequence[str], **_: Any) -> list[Encoding]:
        self.calls.append(texts[0][0])
        time.sleep(self.seconds)
        if "bad" in texts:
            raise TextError(list(texts).index("bad"), "no")
        return [{"input_ids": [1]} for _ in texts]


def slices(letter: str, count: int) -> list[str]:
    return [letter * SLICE_CHARACTERS] * count


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_requests_take_turns_and_who_leaves_gives_up_the_rest() -> None:
    encoder = Encoder(0.01)
    tokenizing = Tokenizing(max_characters=10**9)

    async def run() -> None:
        async def one(letter: str, count: int) -> int:
            texts = slices(letter, count)
            size = count * SLICE_CHARACTERS
            return len(await tokenizing.encode(encoder, texts, size))  # type: ignore[arg-type]

        async def leaves() -> None:
            await asyncio.sleep(0.03)

        hog = asyncio.create_task(within(one("h", 1000), timeout_s=9, gone=leaves))
        await asyncio.sleep(0)
        assert await within(one("a", 3), timeout_s=9, gone=forever) == 3
        with pytest.raises(ClientGone):
            await hog
        with pytest.raises(Unavailable) as caught:
            await within(one("t", 1000), timeout_s=0.03, gone=forever)
        assert caught.value.status == 504

    asyncio.run(run())

    assert tokenizing.characters == 0
    assert encoder.calls.count("h") < 20
    assert encoder.calls.count("t") < 20
    assert encoder.calls[:2] in (["h", "a"], ["h", "h"])  # two threads, or one


def test_what_may_wait_is_limited_and_small_requests_have_room_left() -> None:
    encoder = Encoder(0.01)
    tokenizing = Tokenizing(max_characters=16 * SLICE_CHARACTERS)

    async def run() -> None:
        async def one(count: int) -> list[Encoding]:
            size = count * SLICE_CHARACTERS
            return await tokenizing.encode(encoder, slices("x", count), size)  # type: ignore[arg-type]

        first = asyncio.create_task(one(12))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="wait to be tokenized") as caught:
            await one(2)
        assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
        assert len(await one(1)) == 1
        await first

    asyncio.run(run())


def test_a_bad_text_has_its_number_in_the_request() -> None:
    async def run() -> None:
        texts = [*slices("x", 2), "bad"]
        await Tokenizing(max_characters=10**9).encode(Encoder(), texts, 1)  # type: ignore[arg-type]

    with pytest.raises(TextError) as caught:
        asyncio.run(run())
    assert caught.value.index == 2


@pytest.fixture(scope="module")
def small_queue(bundles: Callable[[str], Path]) -> Any:
    with running(bundles("single"), "max_queue_tokens=800") as server:
        yield server


def test_a_request_over_the_whole_queue_is_answered_as_its_texts_are(
    small_queue: Server, serve: Callable[..., Server]
) -> None:
    large = small_queue.post({"inputs": TEXTS})
    usual = serve("single").post({"inputs": TEXTS})

    assert large.status_code == 200
    assert int(large.headers["x-compute-tokens"]) > 2 * 800
    for ours, theirs in zip(large.json(), usual.json(), strict=True):
        assert [each["label"] for each in ours] == [each["label"] for each in theirs]
        scores = [each["score"] for each in theirs]
        assert [each["score"] for each in ours] == pytest.approx(scores, abs=1e-4)


def test_small_requests_are_answered_beside_a_large_one(small_queue: Server) -> None:
    async def run() -> tuple[list[int], int]:
        async with httpx.AsyncClient(timeout=60) as client:

            async def post(inputs: Any) -> int:
                url = f"{small_queue.url}/predict"
                return (await client.post(url, json={"inputs": inputs})).status_code

            large = asyncio.create_task(post(TEXTS))
            small = []
            while not large.done():
                small.append(await post("my parcel"))
            return small, await large

    small, large = asyncio.run(run())

    assert large == 200
    assert set(small) == {200}


def test_a_text_that_cannot_be_cut_has_a_limit(small_queue: Server) -> None:
    answer = small_queue.post({"inputs": ["fine", "x" * 200_000]})

    assert answer.status_code == 422
    assert "`inputs.1`: more than 100000 characters must be read" in answer.json()["error"]
    assert small_queue.post({"inputs": "parcel late " * 100_000}).status_code == 200
