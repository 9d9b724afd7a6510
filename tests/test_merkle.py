"""The Merkle tree against RFC 6962: known roots, all proofs of small trees, and nothing else."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    root,
    verify_consistency,
    verify_inclusion,
)

SIZES = range(1, 71)
ENTRIES = [sha256(bytes([index])).digest() for index in range(72)]
ROOTS = [root(ENTRIES[:size]) for size in range(72)]


def by_definition(entries: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word by word."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    left, right = by_definition(entries[:split]), by_definition(entries[split:])
    return sha256(b"\x01" + left + right).digest()


@pytest.mark.parametrize(
    ("entries", "expected"),
    [  # the reference tree of Certificate Transparency's test vectors
        ([], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ([""], "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (["", "00"], "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        (["", "00", "10"], "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
    ],
)
def test_known_roots(entries, expected):
    assert root([bytes.fromhex(entry) for entry in entries]).hex() == expected


def test_the_root_is_the_one_of_the_definition():
    assert [by_definition(ENTRIES[:size]) for size in range(72)] == ROOTS


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_is_proven_and_nothing_else(size):
    for index in range(size):
        proof = inclusion_proof(ENTRIES[:size], index)
        entry, top = ENTRIES[index], ROOTS[size]
        assert verify_inclusion(entry, index, size, proof, top)
        assert not verify_inclusion(ENTRIES[index + 1], index, size, proof, top)
        assert not verify_inclusion(entry, index, size, proof, ROOTS[size + 1])
        assert not verify_inclusion(entry, index, size, [*proof, top], top)
        assert not verify_inclusion(entry, index, size, proof[:-1], top) or not proof
        for other in range(size):
            assert other == index or not verify_inclusion(entry, other, size, proof, top)


@pytest.mark.parametrize("size", SIZES)
def test_an_index_outside_of_the_tree_is_never_proven(size):
    proof = inclusion_proof(ENTRIES[:size], 0)
    for index in (-1, size, size + 1):
        assert not verify_inclusion(ENTRIES[0], index, size, proof, ROOTS[size])
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_proof(ENTRIES[:size], index)


@pytest.mark.parametrize("second", SIZES)
def test_every_beginning_is_proven_and_nothing_else(second):
    for first in range(1, second + 1):
        proof = consistency_proof(ENTRIES[:second], first)
        old, new = ROOTS[first], ROOTS[second]
        assert verify_consistency(first, second, proof, old, new)
        assert not verify_consistency(first, second, proof, ROOTS[first + 1], new)
        assert not verify_consistency(first, second, proof, old, ROOTS[second + 1])
        assert not verify_consistency(first, second, [*proof, new], old, new)
        assert not proof or not verify_consistency(first, second, proof[:-1], old, new)
        for other in range(1, second + 1):
            assert other == first or not verify_consistency(other, second, proof, old, new)


def test_the_empty_tree_is_the_beginning_of_all():
    assert verify_consistency(0, 5, [], ROOTS[0], ROOTS[5])
    assert not verify_consistency(0, 5, [], ROOTS[1], ROOTS[5])
    assert not verify_consistency(0, 5, [ROOTS[0]], ROOTS[0], ROOTS[5])
    assert not verify_consistency(6, 5, [], ROOTS[6], ROOTS[5])


@given(st.data())
def test_a_proof_with_one_changed_bit_proves_nothing(data):
    size = data.draw(st.integers(2, 70))
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(ENTRIES[:size], index)
    at = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, 255))
    changed = int.from_bytes(proof[at]) ^ (1 << bit)
    proof[at] = changed.to_bytes(32)
    assert not verify_inclusion(ENTRIES[index], index, size, proof, ROOTS[size])


@given(st.lists(st.integers(0, 9), max_size=12))
def test_a_frontier_grows_in_any_steps_and_over_restarts(steps):
    frontier = Frontier()
    for step in steps:
        frontier.extend(ENTRIES[frontier.size : min(71, frontier.size + step)])
        frontier = Frontier.from_bytes(frontier.size, frontier.to_bytes())
        assert frontier.root() == ROOTS[frontier.size]
        assert len(frontier.to_bytes()) <= 32 * 7


@pytest.mark.parametrize(("size", "length"), [(3, 32), (4, 64), (0, 32), (-1, 0), (1, 31)])
def test_a_frontier_of_another_size_is_refused(size, length):
    with pytest.raises(ValueError, match="not the frontier"):
        Frontier.from_bytes(size, bytes(length))
