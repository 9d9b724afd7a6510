"""The state root: a function of the documents alone, kept up to date change by change."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.changelog import ABSENT, CHAIN_START, ENDS, Change, ChangelogBroken, Op, chain_over
from models.state_tree import EMPTY, state_root
from stores.leaf_spool import LeafSpool
from stores.state_tree import Position, StateTree

STORE = "0" * 32
DIGESTS = st.binary(min_size=32, max_size=32).filter(lambda digest: digest != ABSENT)
# Keys that share buckets and branches are the interesting ones.
KEYS = st.builds(
    lambda head, tail: bytes(head) + bytes(29) + bytes([tail]),
    st.tuples(st.sampled_from([0, 1, 255]), st.sampled_from([0, 255])),
    st.integers(1, 6),
)
STATES = st.dictionaries(KEYS, DIGESTS, max_size=12)


def change(seq: int, key: bytes, before: bytes, after: bytes) -> Change:
    kind = Op.DELETE if after == ABSENT else Op.PUT
    return Change(seq, 1, kind | ENDS, key, before, after, 1, 0)


def leaves(state: dict[bytes, bytes]) -> list[bytes]:
    return [key + digest for key, digest in state.items()]


@settings(max_examples=60, deadline=None)
@given(STATES, st.lists(st.tuples(KEYS, DIGESTS | st.just(ABSENT)), max_size=20))
def test_the_tree_follows_changes_and_goes_back(
    tmp_path_factory: pytest.TempPathFactory,
    state: dict[bytes, bytes],
    puts: list[tuple[bytes, bytes]],
) -> None:
    tree = StateTree(tmp_path_factory.mktemp("tree") / "tree.db")
    start = Position(STORE, 0, CHAIN_START)
    tree.build(start, state.items())
    assert tree.root() == state_root(leaves(state))
    first, now, changes = tree.root(), dict(state), []
    for key, after in puts:
        before = now.get(key, ABSENT)
        if before == after == ABSENT:
            continue
        changes.append(change(len(changes) + 1, key, before, after))
        now[key] = after
        if after == ABSENT:
            del now[key]
    with tree.following(changes) as moved:
        assert tree.root() == state_root(leaves(now))
    assert moved.chain == chain_over(CHAIN_START, [each.core() for each in changes])
    tree.undo(changes, start)
    assert (tree.root(), tree.position) == (first, start)
    tree.close()


@settings(max_examples=40, deadline=None)
@given(STATES)
def test_the_spool_has_the_same_root(state: dict[bytes, bytes]) -> None:
    with LeafSpool(in_memory=64 * 3) as spool:
        for key, digest in state.items():
            spool.add(key, bytes([digest[0] ^ 1]) + digest[1:])
            spool.add(key, digest)
        assert spool.root() == state_root(leaves(state))
        assert all(spool.digest(key) == digest for key, digest in state.items())


@settings(max_examples=40, deadline=None)
@given(STATES, st.integers(1, 20))
def test_leaves_are_taken_many_at_a_time(state: dict[bytes, bytes], room: int) -> None:
    old = [bytes([digest[0] ^ 1]) + digest[1:] for digest in state.values()]
    with LeafSpool(in_memory=64 * room) as spool, LeafSpool(in_memory=64 * room) as other:
        spool.extend(list(state), old)
        spool.extend(list(state), list(state.values()))
        other.take(b"".join(map(bytes.__add__, state, old)))
        other.take(b"".join(leaves(state)))
        assert spool.root() == other.root() == state_root(leaves(state))
        assert spool.same(other)


@settings(deadline=None)
@given(STATES, KEYS, DIGESTS)
def test_another_state_has_another_root(
    state: dict[bytes, bytes], key: bytes, digest: bytes
) -> None:
    other = {**state, key: digest}
    if other != state:
        assert state_root(leaves(other)) != state_root(leaves(state))


def test_nothing_has_the_empty_root() -> None:
    assert state_root([]) == EMPTY


def test_a_step_that_fails_leaves_the_tree_as_it_was(tmp_path: Path) -> None:
    tree = StateTree(tmp_path / "tree.db")
    key, one, two = bytes(32), b"\1" * 32, b"\2" * 32
    tree.build(Position(STORE, 0, CHAIN_START), [(key, one)])
    root = tree.root()
    with pytest.raises(RuntimeError), tree.following([change(1, key, one, two)]):
        assert tree.root() != root
        raise RuntimeError
    assert tree.root() == root
    tree.close()
    again = StateTree(tmp_path / "tree.db")
    assert (again.root(), again.position) == (root, Position(STORE, 0, CHAIN_START))


@pytest.mark.parametrize(
    "bad", [change(2, bytes(32), b"\1" * 32, b"\2" * 32), change(1, bytes(32), ABSENT, b"\2" * 32)]
)
def test_a_change_that_does_not_follow_is_refused(tmp_path: Path, bad: Change) -> None:
    tree = StateTree(tmp_path / "tree.db")
    tree.build(Position(STORE, 0, CHAIN_START), [(bytes(32), b"\1" * 32)])
    with pytest.raises(ChangelogBroken), tree.following([bad]):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    tree = StateTree(tmp_path / "tree.db")
    with pytest.raises(BlockingIOError):
        StateTree(tmp_path / "tree.db")
    tree.close()
    StateTree(tmp_path / "tree.db").close()
