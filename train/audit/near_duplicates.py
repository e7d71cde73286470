"""Find near duplicates: MinHash selects candidates, the exact similarity decides.

Similarity is the Jaccard index of the sets of character 5-grams. Pure; expects normalized texts.

Shape suffixes: N texts, S 5-grams of all texts of a block, P hash functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

NGRAM = 5
"""Characters of an n-gram; a shorter text is one n-gram."""

BANDS = 24
RECALL = 0.99
"""Fraction of the pairs exactly at the threshold that become candidates; higher above it."""

MAX_BUCKET = 48
"""In a larger bucket each candidate is compared only with the first so many."""

BLOCK_CHARACTERS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class NearPair:
    """Two positions, the smaller first, and the similarity of their texts (0 to 1)."""

    first: int
    second: int
    similarity: float


def near_pairs(texts: Sequence[str], *, threshold: float, seed: int = 0) -> list[NearPair]:
    """Return pairs of texts whose similarity is at least `threshold`, most similar first.

    Candidates share one of BANDS bands of r MinHash values (Broder 1997; banding as in
    Leskovec, Rajaraman and Ullman 2014, section 3.4). r is the largest value at which a pair at
    the threshold becomes a candidate with probability RECALL. Memory grows with the number of
    texts (about 0.7 KB each at 0.8), not with their length.
    """
    assert 0 < threshold < 1
    at_least_one = 1 - (1 - RECALL) ** (1 / BANDS)
    rows = min(10, max(1, math.floor(math.log(at_least_one) / math.log(threshold))))
    signatures_NP = _signatures(texts, BANDS * rows, seed)

    @lru_cache(maxsize=100_000)
    def ngrams(position: int) -> U64:
        return np.unique(_ngrams([texts[position]])[0])

    found = []
    for first, second in _candidates(signatures_NP, rows):
        a, b = ngrams(first), ngrams(second)
        if min(len(a), len(b)) < threshold * max(len(a), len(b)):
            continue
        common = len(np.intersect1d(a, b, assume_unique=True))
        similarity = common / (len(a) + len(b) - common)
        if similarity >= threshold:
            found.append(NearPair(first=first, second=second, similarity=similarity))
    return sorted(found, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def _candidates(signatures_NP: NDArray[np.uint32], rows: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs that share a band, each once."""
    num_texts = len(signatures_NP)
    codes: set[int] = set()
    for start in range(0, signatures_NP.shape[1], rows):
        key_N = np.zeros(num_texts, dtype=np.uint64)
        for value_N in signatures_NP[:, start : start + rows].T:
            key_N = _mix(key_N ^ value_N.astype(np.uint64))
        order_N = np.argsort(key_N, kind="stable")
        is_first_N = np.ones(num_texts, dtype=bool)
        is_first_N[1:] = np.diff(key_N[order_N]) != 0
        starts = np.append(np.flatnonzero(is_first_N), num_texts)
        for bucket in np.flatnonzero(np.diff(starts) > 1):
            # In ascending order, because the sort is stable.
            members = order_N[starts[bucket] : starts[bucket + 1]].tolist()
            for place, second in enumerate(members[1:], start=1):
                codes.update(first * num_texts + second for first in members[:place][:MAX_BUCKET])
    for code in sorted(codes):
        yield divmod(code, num_texts)


def _signatures(texts: Sequence[str], num_hashes: int, seed: int) -> NDArray[np.uint32]:
    """Return the minimum hash of each text's n-grams for each hash function, (N, P)."""
    random = np.random.default_rng(seed)
    factors = random.integers(0, 2**63, num_hashes, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = random.integers(0, 2**63, num_hashes, dtype=np.uint64)
    signatures_NP = np.empty((len(texts), num_hashes), dtype=np.uint32)
    for start, block in _blocks(texts):
        ngrams_S, starts = _ngrams(block)
        for column, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
            hashes_S = ((ngrams_S * factor + offset) >> np.uint64(32)).astype(np.uint32)
            smallest = np.minimum.reduceat(hashes_S, starts)
            signatures_NP[start : start + len(block), column] = smallest
    return signatures_NP


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield consecutive texts of about BLOCK_CHARACTERS, and the position of the first."""
    block: list[str] = []
    size = 0
    for position, text in enumerate(texts):
        block.append(text)
        size += len(text)
        if size >= BLOCK_CHARACTERS or position == len(texts) - 1:
            yield position + 1 - len(block), block
            block, size = [], 0


def _ngrams(texts: Sequence[str]) -> tuple[U64, NDArray[np.intp]]:
    """Hash all n-grams of all texts; also return where those of each text start."""
    padded = [text.ljust(NGRAM, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    length_N = np.array([len(text) for text in padded])
    hashes = np.zeros(len(codes) - NGRAM + 1, dtype=np.uint64)
    for offset in range(NGRAM):
        hashes = _mix(hashes + codes[offset : offset + len(hashes)])
    end_N = np.cumsum(length_N)
    inside = np.ones(len(hashes), dtype=bool)  # no n-gram crosses the end of a text
    for offset in range(1, NGRAM):
        inside[end_N[:-1] - offset] = False
    count_N = length_N - NGRAM + 1
    return hashes[inside], np.cumsum(count_N) - count_N


def _mix(value: U64) -> U64:
    """Scramble 64-bit integers one-to-one (splitmix64, Steele et al. 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
