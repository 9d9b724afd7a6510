"""What ran where and when: answers, the receipts and proofs under them, and what is not shown."""

import json
import re
from pathlib import Path

import pytest
from forensics_harness import (
    Past,
    digest,
    evidence_of,
    hour,
    sbom_bundle,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from tampering import damage

from models.merkle import root as merkle_root
from models.merkle import verify_inclusion
from models.merkle_tiles import TileError, TileTree, extend
from models.seeding import FleetLayout
from models.verifier import leaf_hash, verify_proof
from stores import forensics_queries as queries
from stores.forensics_bills import EvidenceUnavailable, update_bills
from stores.forensics_index import ForensicsError, ForensicsIndex
from stores.sql import read, write


@pytest.fixture
def past(tmp_path: Path) -> Past:
    """Release one everywhere at hour 1 and 2, two in part of it at hour 5, back at hour 6."""
    made = Past(tmp_path)
    made.judge("one", hour(0.5))
    made.activate("eu-000", "one", hour(1))
    made.activate("eu-001", "one", hour(2))
    made.activate("us-east-000", "one", hour(2))
    made.judge("two", hour(4), "fail")
    made.activate("eu-000", "two", hour(5), verdict=None)
    made.activate("eu-000", "one", hour(6))
    made.checkpoint()
    return made


def running(answer) -> dict[str, str]:
    return {stay.shard: stay.release for stay in answer.stays}


# --- at ---


@pytest.mark.parametrize(
    ("at", "shards"),
    [
        (0, {}),
        (1, {"eu-000": "one"}),
        (2.5, {"eu-000": "one", "eu-001": "one", "us-east-000": "one"}),
        (5.5, {"eu-000": "two", "eu-001": "one", "us-east-000": "one"}),
        (99, {"eu-000": "one", "eu-001": "one", "us-east-000": "one"}),
    ],
)
def test_what_ran_at_a_time(past: Past, at: float, shards: dict[str, str]):
    answer = past.ask().at(hour(at))
    assert running(answer) == {shard: digest(name) for shard, name in shards.items()}
    assert bool(answer.stays) != any("no receipt says" in each for each in answer.unproven)


def test_one_shard_one_region_and_its_verdict(past: Past):
    forensics = past.ask()
    [stay] = forensics.at(hour(1.5), shard="eu-000").stays
    assert (stay.receipt, stay.ended_by, stay.judged) == ("eu/0", "eu/2", "control/0")
    assert stay.since == "2026-01-01T01:00:00.000000Z"
    assert stay.until == "2026-01-01T05:00:00.000000Z"
    assert (stay.outcome, stay.source[-41:]) == ("pass", "@" + "c" * 40)
    assert set(running(forensics.at(hour(9), region="us-east"))) == {"us-east-000"}


def test_every_receipt_of_an_answer_is_proved(past: Past):
    answer = past.ask().at(hour(5.5))
    assert {each.reference for each in answer.receipts} >= {"eu/1", "eu/2", "eu/3", "control/1"}
    for each in answer.receipts:
        key = past.notaries[each.ledger]._key.public(each.ledger)
        assert verify_proof(json.dumps(each.proof).encode(), [key])
    assert not any("signed" in reason for reason in answer.unproven)


def test_what_is_not_shown_is_said(past: Past):
    past.activate("eu-001", "three", hour(7))
    answer = past.ask().at(hour(8))
    late = next(each for each in answer.receipts if each.reference == "eu/4")
    assert late.proof is None
    assert "not among the 4 signed ones" in late.unproven
    said = " ".join(answer.unproven)
    assert "eu/4: receipt 4 is not among" in said
    assert "nothing came after a shard's last activation" in said
    assert "eu/4: the receipt of its verdict" in said  # that verdict is about another release


def test_a_release_that_names_no_verdict_is_shown_with_the_newest_before_it(past: Past):
    answer = past.ask().at(hour(5.5), shard="eu-000")
    assert (answer.stays[0].outcome, answer.stays[0].judged) == ("fail", "control/1")
    assert any("names no verdict" in each for each in answer.unproven)


def test_a_clock_that_goes_back_changes_no_order(past: Past):
    past.activate("eu-000", "late", hour(5.9))
    answer = past.ask().at(hour(6), shard="eu-000")
    assert running(answer) == {"eu-000": digest("late")}
    assert running(past.ask().at(hour(5.95), shard="eu-000")) == {"eu-000": digest("two")}


# --- Tenants ---


def tenant_body(tenant: str, shard: str) -> dict:
    return {"id": tenant, "shard": shard, "state": "active"}


def test_where_a_tenant_lived(past: Past):
    layout = {"tenants": 10, "shards": 3, "regions": ["eu", "us-east"]}
    past.record("eu", "fleet.seeded", "eu", layout, hour(7))
    past.record("us-east", "fleet.seeded", "us-east", layout, hour(7))
    past.record("eu", "tenant.moved", "t-000001", tenant_body("t-000001", "eu-001"), hour(9))
    past.record("eu", "tenant.created", "acme", tenant_body("acme", "eu-000"), hour(9))
    ask = past.ask()
    assert set(running(ask.at(hour(8), tenant="t-000001"))) == {"eu-000"}
    assert set(running(ask.at(hour(9), tenant="t-000001"))) == {"eu-001"}
    assert set(running(ask.at(hour(9), tenant="t-000005"))) == {"us-east-000"}
    moved = ask.at(hour(9), tenant="acme")
    assert "eu/6" not in {stay.receipt for stay in moved.stays}
    assert "tenant.created" in {each.kind for each in moved.receipts}
    for tenant, at in (("acme", 8), ("t-000011", 9), ("t-1", 9), ("t-000001", 6)):
        with pytest.raises(ForensicsError, match="no receipt places"):
            ask.at(hour(at), tenant=tenant)


@given(
    tenants=st.integers(1, 400),
    shards=st.integers(1, 40),
    regions=st.integers(1, 4),
    tenant=st.integers(0, 401),
)
@settings(deadline=None)
def test_the_home_of_a_seeded_tenant(tenants: int, shards: int, regions: int, tenant: int):
    layout = FleetLayout(max(tenants, shards), shards, ["eu", "us-east", "apac", "latam"][:regions])
    name = f"t-{tenant:06d}"
    homes = {
        each.id: (region, each.shard)
        for region in layout.regions
        for each in layout.tenants_of(region)
    }
    assert layout.home_of(name) == homes.get(name)


# --- where ---


@pytest.fixture
def stocked(past: Past) -> Past:
    past.evidence[digest("one")] = [sbom_bundle(digest("one"), "pkg:pypi/a@1.0", "pkg:pypi/b@1.0")]
    past.evidence[digest("two")] = [sbom_bundle(digest("two"), "pkg:pypi/a@2.0", "pkg:npm/a@1.0")]
    return past


def places(answer) -> list[tuple[str, str, bool]]:
    return [(stay.shard, stay.receipt, stay.until == "") for stay in answer.stays]


def test_where_a_component_runs_and_ran(stocked: Past):
    answer = stocked.ask().where(["pkg:pypi/a@1.0"], question="q")
    assert (answer.total, answer.running) == (4, 3)
    assert places(answer) == [
        ("eu-000", "eu/3", True),
        ("eu-001", "eu/1", True),
        ("us-east-000", "us-east/0", True),
        ("eu-000", "eu/0", False),
    ]
    assert all(each.proof for each in answer.receipts)
    two = stocked.ask().where(["pkg:pypi/a@2.0"], question="q")
    assert (places(two), two.running) == ([("eu-000", "eu/2", False)], 0)
    assert two.stays[0].components == ["pkg:pypi/a@2.0"]


def test_where_any_version_or_several_packages_run(stocked: Past):
    ask = stocked.ask()
    assert ask.where(["pkg:pypi/a"], question="q").total == 5
    both = ask.where(["pkg:npm/a", "pkg:pypi/b@1.0"], question="q")
    assert both.total == 5
    assert ask.where(["pkg:pypi/none"], question="q").total == 0
    with pytest.raises(ForensicsError, match="no package URL"):
        ask.where(["nonsense"], question="q")


def test_the_list_is_bounded_and_the_count_is_not(stocked: Past):
    for number in range(20):
        stocked.activate("eu-000", ("two", "one")[number % 2], hour(10 + number))
    answer = stocked.ask().where(["pkg:pypi/a"], question="q", limit=6)
    assert (len(answer.stays), answer.total, answer.running) == (6, 25, 3)
    assert "19 more deployments are counted and not listed" in answer.unproven
    newest = [stay for stay in answer.stays if stay.until]
    assert newest == sorted(newest, key=lambda stay: stay.since, reverse=True)


def test_a_release_whose_components_are_not_known_is_named(past: Past):
    past.evidence[digest("one")] = [sbom_bundle(digest("two"), "pkg:pypi/a@1.0")]
    past.evidence[digest("two")] = [b"not a bundle"]
    said = " ".join(past.ask().where(["pkg:pypi/a"], question="q").unproven)
    for name in ("one", "two"):
        assert f"release {digest(name)}: its components are not known: no SBOM" in said
    past.evidence[digest("two")] = [sbom_bundle(digest("two"), "pkg:pypi/a@1.0")]
    assert past.ask().where(["pkg:pypi/a"], question="q").total == 1


def test_a_bill_that_hides_a_package_does_not_hide_it_here(past: Past):
    release = digest("one")
    past.evidence[release] = [sbom_bundle(release), sbom_bundle(release, "pkg:pypi/a@1.0")]
    assert past.ask().where(["pkg:pypi/a"], question="q").total == 4


def test_a_registry_out_of_reach_is_said(past: Past):
    def unreachable(release: str) -> list[bytes]:
        raise EvidenceUnavailable("the registry does not answer")

    assert update_bills(past.index, unreachable) == 0
    past.ask()
    assert update_bills(past.index, unreachable) == 0
    forensics = past.ask()
    forensics._evidence = unreachable
    for answer in (forensics.where(["pkg:a/b"], question="q"), forensics.trace(digest("one"))):
        assert any("does not answer" in each for each in answer.unproven)


# --- trace ---


def test_a_release_is_traced_to_its_commit_builder_materials_and_tests(past: Past):
    release = digest("one")
    past.evidence[release] = evidence_of(release, "pkg:pypi/a@1.0")
    from models.bundle import bundle_digest

    weighed = bundle_digest(past.evidence[release][0])
    past.judge("one", hour(8), bundles=[weighed])
    past.record("control", "breakglass.opened", "bg/1", {"release": release}, hour(9))
    answer = past.ask().trace(release)
    assert [event.kind for event in answer.events] == [
        "release.judged", "release.judged", "breakglass.opened",
    ]  # fmt: skip
    provenance, tests, sbom = answer.evidence
    assert provenance.says["builder"] == {"id": "urn:chainring:builder:local"}
    assert provenance.says["build"]["commit"] == "c" * 40
    assert provenance.says["materials"][0]["name"] == "Cargo.lock"
    assert provenance.judged == "control/2"
    assert (tests.says["result"], sbom.says["components"]) == ("PASSED", 1)
    assert any("no verdict in the receipts has weighed it" in each for each in answer.unproven)
    assert (answer.total, answer.running) == (4, 3)


def test_a_release_nobody_knows(past: Past):
    answer = past.ask().trace(digest("nothing"))
    assert answer.stays == answer.events == answer.evidence == []
    said = " ".join(answer.unproven)
    for part in ("no receipt names", "no verdict", "no provenance", "no tests", "no SBOM"):
        assert part in said


# --- The index ---


def test_it_goes_on_from_where_it_was_and_can_be_built_anew(past: Past, tmp_path: Path):
    past.ask()
    for number in range(300):
        past.activate(f"eu-{number % 5:03d}", f"r{number % 7}", hour(10 + number))
    past.checkpoint()
    grown = past.ask().at(hour(200))
    past.index = ForensicsIndex(tmp_path / "new.db")
    for ledger in past.ledgers.values():
        past.index.update(ledger, batch=17)
    assert past.ask().at(hour(200)) == grown
    assert all(each.proof for each in grown.receipts)
    past.index.forget("eu")
    assert past.index.position("eu").size == 0
    assert past.ask().at(hour(200)) == grown


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM receipt WHERE seq = 3",
        "UPDATE receipt SET data = (SELECT data FROM receipt WHERE seq = 0) WHERE seq = 3",
    ],
)
def test_a_ledger_that_lost_its_past_is_refused(past: Past, statement: str):
    past.ask()
    damage(past.ledgers["eu"].engine, statement)
    with pytest.raises(ForensicsError, match="eu: receipt 3 is missing or is not the one"):
        past.ask()


def test_a_broken_chain_is_not_indexed(past: Past):
    damage(past.ledgers["eu"].engine, "DELETE FROM receipt WHERE seq = 1")
    with pytest.raises(ForensicsError, match="eu/1: missing, or does not follow"):
        past.ask()
    assert past.index.position("eu").size == 0


def test_an_altered_receipt_proves_nothing_and_is_noticed(past: Past):
    past.ask()
    engine = past.ledgers["eu"].engine
    change = "CAST(replace(CAST(data AS TEXT), 'rollout/one/1', 'rollout/one/9') AS BLOB)"
    damage(engine, f"UPDATE receipt SET data = {change} WHERE seq = 0")
    answer = past.ask().at(hour(1))
    [receipt] = [each for each in answer.receipts if each.reference == "eu/0"]
    assert receipt.proof is None
    assert "not the one that was signed" in receipt.unproven


def test_an_index_that_lies_is_refused(past: Past):
    forensics = past.ask()
    with write(past.index.engine) as connection:
        connection.execute(text("UPDATE activation SET release = 'sha256:lie' WHERE seq = 0"))
    with pytest.raises(ForensicsError, match="does not say what the index says"):
        forensics.at(hour(1))
    with write(past.index.engine) as connection:
        connection.execute(text("UPDATE tile SET hashes = zeroblob(64)"))
        connection.execute(text("UPDATE activation SET seq = 77 WHERE seq = 0"))
    with pytest.raises(ForensicsError, match="eu/77"):
        forensics.at(hour(1))


def test_damaged_tiles_prove_nothing(past: Past):
    past.ask()
    with write(past.index.engine) as connection:
        connection.execute(text("UPDATE tile SET hashes = zeroblob(32)"))
    answer = past.ask().at(hour(9), region="eu")
    assert answer.stays
    assert not any(each.proof for each in answer.receipts if each.ledger == "eu")
    assert any("the index is damaged" in each for each in answer.unproven)


def test_a_receipt_that_does_not_say_what_its_kind_should_stops_it(past: Past):
    past.record("eu", "shard.activated", "eu-000", {"shard": "eu-000", "release": "x"}, hour(9))
    with pytest.raises(ForensicsError, match="eu/4: release: not a digest"):
        past.ask()


def test_a_region_out_of_reach_is_missing_and_named(past: Past):
    past.ask()
    answer = past.ask(without="us-east").at(hour(9))
    assert set(running(answer)) == {"eu-000", "eu-001"}
    assert any(each.startswith("us-east: the ledger cannot be read") for each in answer.unproven)
    assert past.ask(without="control").at(hour(9)).stays[0].judged == ""


def test_an_answer_is_json(past: Past):
    answer = past.ask().at(hour(9))
    assert json.loads(answer.model_dump_json())["as_of"]["eu"]["size"] == 4


def test_no_question_scans_the_activations(past: Past):
    """Seven years of them: each look-up follows an index."""
    with read(past.index.engine) as connection:
        for query in (queries._AT, queries._RUNNING, queries._PAST, queries._STAYS, queries._JUDGED,
                      queries._PLACED, queries._FACTS, queries._COMPONENTS):  # fmt: skip
            names = dict.fromkeys(re.findall(r":(\w+)", query.text), "1")
            explain = text(f"EXPLAIN QUERY PLAN {query.text.replace(':releases', '(:releases)')}")
            plan = "; ".join(row[3] for row in connection.execute(explain, names))
            assert "SCAN c" in plan or "SCAN" not in plan, plan
            assert "AUTOMATIC" not in plan, plan


# --- Tiles ---


@given(steps=st.lists(st.integers(1, 700), min_size=1, max_size=5), data=st.data())
@settings(max_examples=25, deadline=None)
def test_proofs_from_tiles_are_those_of_the_whole_tree(steps: list[int], data):
    entries = [number.to_bytes(32, "big") for number in range(sum(steps))]
    tiles: dict[tuple[int, int], bytes] = {}

    def load(level: int, number: int) -> bytes:
        return tiles.get((level, number), b"")

    size = 0
    for step in steps:
        leaves = [leaf_hash(entry) for entry in entries[size : size + step]]
        tiles |= extend(size, leaves, load)
        size += step
    part = data.draw(st.integers(1, size))
    index = data.draw(st.integers(0, part - 1))
    root = merkle_root(entries[:part])
    tree = TileTree(load)
    assert tree.root(0, part) == root
    path = tree.inclusion_path(index, part)
    assert verify_inclusion(entries[index], index, part, path, root)
    with pytest.raises(ValueError, match="no leaf"):
        tree.inclusion_path(part, part)
    tiles[0, size // 256] = b"short"
    with pytest.raises(TileError):
        extend(size + (size % 256 == 0), [bytes(32)], load)


def test_a_proof_reads_few_tiles():
    entries = [number.to_bytes(32, "big") for number in range(70_000)]
    tiles = extend(0, [leaf_hash(entry) for entry in entries], lambda level, number: b"")
    read: set[tuple[int, int]] = set()

    def load(level: int, number: int) -> bytes:
        read.add((level, number))
        return tiles[level, number]

    TileTree(load).inclusion_path(12_345, 70_000)
    assert len(read) <= 6
