"""The tenant KV: what is kept, what is refused, and that no tenant reaches another's keys."""

import hashlib
import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from stores.kv import (
    ABSENT,
    LARGEST_VALUE,
    CorruptValue,
    KvError,
    QuotaExceeded,
    TenantKV,
    VersionConflict,
    value_digest,
)
from stores.sql import create_all, open_engine, write

pytest_plugins = ["databases"]


@pytest.fixture
def kv(engine: Engine) -> TenantKV:
    return TenantKV(engine, "acme")


@pytest.fixture
def victim(engine: Engine) -> TenantKV:
    """Another tenant, with a secret."""
    other = TenantKV(engine, "globex")
    other.put("secret", b"gold")
    other.put("a/b", b"ore")
    return other


def names(kv: TenantKV, prefix: str = "") -> list[str]:
    return [entry.key for entry in kv.list(prefix, limit=1000).keys]


# Values


@pytest.mark.parametrize(
    "value", [b"", b"\x00", bytes(range(256)), b"'; DROP TABLE kv_entry; --", b"x" * LARGEST_VALUE]
)
def test_values_come_back_as_they_were(kv: TenantKV, value: bytes) -> None:
    kv.put("key", value)
    found = kv.get("key")
    assert found is not None
    assert found.value == value


def test_put_overwrites_and_delete_removes(kv: TenantKV) -> None:
    kv.put("key", b"1")
    kv.put("key", b"2")
    found = kv.get("key")
    assert found is not None
    assert found.value == b"2"
    assert kv.delete("key")
    assert kv.get("key") is None
    assert not kv.delete("key")


def test_versions_grow_and_are_never_used_twice(kv: TenantKV) -> None:
    first = kv.put("key", b"1")
    second = kv.put("other", b"2")
    kv.delete("key")
    third = kv.put("key", b"1")
    assert first < second < third
    found = kv.get("key")
    assert found is not None
    assert found.version == third


def test_compare_and_set(kv: TenantKV) -> None:
    first = kv.put("key", b"1", expected_version=ABSENT)
    second = kv.put("key", b"2", expected_version=first)
    with pytest.raises(VersionConflict) as conflict:
        kv.put("key", b"3", expected_version=first)
    assert (conflict.value.expected, conflict.value.found) == (first, second)
    with pytest.raises(VersionConflict):
        kv.put("key", b"3", expected_version=ABSENT)
    with pytest.raises(VersionConflict):
        kv.delete("key", expected_version=first)
    with pytest.raises(VersionConflict):
        kv.delete("gone", expected_version=second)
    found = kv.get("key")
    assert found is not None
    assert found.value == b"2"
    assert kv.delete("key", expected_version=second)


def test_of_many_that_compare_and_set_one_wins(kv: TenantKV, engine: Engine) -> None:
    won: list[int] = []
    start = kv.put("key", b"0")

    def run(number: int) -> None:
        try:
            mine = TenantKV(engine, "acme")
            mine.put("key", str(number).encode(), expected_version=start)
            won.append(number)
        except VersionConflict:
            pass

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = kv.get("key")
    assert found is not None
    assert [str(number).encode() for number in won] == [found.value]


def test_no_write_is_lost_between_threads(kv: TenantKV, engine: Engine) -> None:
    def run(worker: int) -> None:
        mine = TenantKV(engine, "acme")
        for number in range(10):
            mine.put(f"{worker}/{number}", b"x")

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(kv)) == 40
    assert len({entry.version for entry in kv.list(limit=1000).keys}) == 40
    assert kv.used_bytes() == 40 * 4


# Corruption


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE kv_entry SET value = :data WHERE tenant = 'acme'",
        "UPDATE kv_entry SET sha256 = :data WHERE tenant = 'acme'",
    ],
)
def test_a_value_that_rotted_is_not_handed_out(engine: Engine, kv: TenantKV, damage: str) -> None:
    kv.put("key", b"good")
    with write(engine) as connection:
        connection.execute(text(damage), {"data": b"evil"})
    with pytest.raises(CorruptValue, match="key 'key'"):
        kv.get("key")
    kv.put("key", b"new")
    assert kv.get("key") is not None


def test_a_value_that_was_put_under_anothers_name_is_not_handed_out(
    engine: Engine, kv: TenantKV, victim: TenantKV
) -> None:
    kv.put("seen", b"lead")
    columns = "value, sha256 FROM kv_entry WHERE tenant = 'globex' AND key = :theirs"
    keys = {"theirs": b"secret", "mine": b"seen"}
    with write(engine) as connection:
        value, digest = connection.execute(text(f"SELECT {columns}"), keys).one()
        connection.execute(
            text("UPDATE kv_entry SET value = :value, sha256 = :digest WHERE tenant = 'acme'"),
            {"value": value, "digest": digest},
        )
    with pytest.raises(CorruptValue):
        kv.get("seen")


def test_the_digest_is_what_the_document_says() -> None:
    assert value_digest("acme", b"k", b"v") == hashlib.sha256(b"acme\0k\0v").digest()


# Keys


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "a/b",
        "../x",
        "%",
        "_",
        "a%2Fb",
        "ключ",
        "キー",
        "e\u0301",
        "\u00e9",
        "x" * 512,
        " ",
        "'",
    ],
)
def test_keys_are_taken_literally(kv: TenantKV, key: str) -> None:
    kv.put(key, key.encode())
    found = kv.get(key)
    assert found is not None
    assert found.value == key.encode()
    assert names(kv) == [key]
    assert names(kv, key) == [key]


def test_two_spellings_of_one_look_are_two_keys(kv: TenantKV) -> None:
    kv.put("\u00e9", b"composed")
    kv.put("e\u0301", b"decomposed")
    kv.put("K", b"upper")
    kv.put("k", b"lower")
    assert len(names(kv)) == 4


@pytest.mark.parametrize(
    "key", ["", "x" * 513, "й" * 257, "a\x00b", "a\nb", "\x7f", "\x85", "\ud800", "x" * 10_240]
)
def test_other_keys_are_refused(kv: TenantKV, key: str) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: kv.get(key),
        lambda: kv.put(key, b""),
        lambda: kv.delete(key),
    ]
    for attempt in attempts:
        with pytest.raises(KvError, match=r"^key: "):
            attempt()
    if key:
        with pytest.raises(KvError, match=r"^prefix: "):
            kv.list(key)
    with pytest.raises(KvError, match=r"^after: "):
        kv.list(after=key)
    assert names(kv) == []


def test_a_value_that_is_too_large_is_refused(kv: TenantKV) -> None:
    with pytest.raises(KvError, match=r"^value: "):
        kv.put("key", b"x" * (LARGEST_VALUE + 1))
    assert kv.get("key") is None


# Listing


def test_wildcards_in_a_prefix_are_literal(kv: TenantKV) -> None:
    for key in ("a%b", "a_b", "axb", "a", "b%"):
        kv.put(key, b"")
    assert names(kv, "a%") == ["a%b"]
    assert names(kv, "a_") == ["a_b"]
    assert names(kv, "%") == []
    assert names(kv, "_") == []


def test_pages_have_everything_once_in_order(kv: TenantKV) -> None:
    keys = [f"k/{number:02d}" for number in range(23)]
    for key in reversed([*keys, "j", "l", "k0"]):
        kv.put(key, b"12345")
    seen: list[str] = []
    after = None
    while True:
        page = kv.list("k/", after=after, limit=5)
        seen += [entry.key for entry in page.keys]
        assert all(entry.size == 5 for entry in page.keys)
        after = page.after
        if after is None:
            break
    assert seen == keys


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_has_a_limit(kv: TenantKV, limit: int) -> None:
    with pytest.raises(KvError, match=r"^limit: "):
        kv.list(limit=limit)


@given(
    keys=st.sets(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=4)),
    prefix=st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=2),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_prefix_is_a_prefix_of_bytes(
    keys: set[str], prefix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('kv')}/kv.db")
    create_all(engine)
    kv = TenantKV(engine, "acme")
    for key in keys:
        kv.put(key, b"")
    expected = sorted((key for key in keys if key.startswith(prefix)), key=str.encode)
    assert names(kv, prefix) == expected
    engine.dispose()


# Quota


def test_a_quota_counts_keys_and_values_and_gives_back(engine: Engine) -> None:
    kv = TenantKV(engine, "acme", quota_bytes=10)
    kv.put("ab", b"12345678")
    assert kv.used_bytes() == 10
    for attempt in (lambda: kv.put("c", b""), lambda: kv.put("ab", b"123456789")):
        with pytest.raises(QuotaExceeded, match="11 bytes needed, 10 allowed"):
            attempt()
    kv.put("ab", b"1")
    assert kv.used_bytes() == 3
    kv.put("cd", b"12345")
    kv.delete("ab")
    assert kv.used_bytes() == 7


def test_a_tenant_above_a_lowered_quota_can_still_shrink(engine: Engine) -> None:
    TenantKV(engine, "acme").put("key", b"x" * 100)
    lowered = TenantKV(engine, "acme", quota_bytes=10)
    lowered.put("key", b"x" * 50)
    with pytest.raises(QuotaExceeded):
        lowered.put("key", b"x" * 51)


def test_one_tenants_quota_is_not_anothers(engine: Engine) -> None:
    TenantKV(engine, "globex").put("key", b"x" * 100)
    TenantKV(engine, "acme", quota_bytes=10).put("key", b"x")


# Isolation


@pytest.mark.parametrize(
    "tenant",
    [
        "",
        "globex/",
        "acme/../globex",
        "acme%2fglobex",
        "globex%00",
        "globex\x00",
        "globex\n",
        " globex",
        "Globex",
        "GLOBEX",
        "g\u043bobex",
        "\uff47lobex",
        "gl\u03bfbex",
        "globex\u200b",
        "globex.",
        "globex.eu",
        "globex:secret",
        "globex,acme",
        "%",
        "_lobex",
        "globe_",
        "' OR '1'='1",
        "-globex",
        "globex-",
        "a" * 64,
        "a" * 10_240,
    ],
)
def test_no_other_spelling_of_a_tenant_is_accepted(
    engine: Engine, victim: TenantKV, tenant: str
) -> None:
    with pytest.raises(KvError, match=r"^tenant: "):
        TenantKV(engine, tenant)


@pytest.mark.parametrize(
    "key",
    [
        "secret",
        "globex/secret",
        "../globex/secret",
        "..%2Fglobex%2Fsecret",
        "/globex/secret",
        "globex\u2215secret",
        "globex:secret",
        "globex,secret",
        "acme' OR tenant='globex",
        "%",
        "_ecret",
        "secre%",
    ],
)
def test_no_key_reaches_another_tenant(kv: TenantKV, victim: TenantKV, key: str) -> None:
    assert kv.get(key) is None
    assert not kv.delete(key)
    assert names(kv, key) == []
    kv.put(key, b"mine")
    assert names(kv) == [key]
    secret = victim.get("secret")
    assert secret is not None
    assert secret.value == b"gold"
    assert names(victim) == ["a/b", "secret"]
    assert kv.delete(key)
    assert names(victim) == ["a/b", "secret"]


def test_tenants_whose_names_begin_alike_are_apart(engine: Engine) -> None:
    short, long = TenantKV(engine, "a"), TenantKV(engine, "ab")
    short.put("bc", b"1")
    long.put("c", b"2")
    assert (names(short), names(long)) == (["bc"], ["c"])
    assert short.get("c") is None
    assert long.get("bc") is None


def test_versions_of_one_tenant_say_nothing_about_another(engine: Engine, kv: TenantKV) -> None:
    for _ in range(5):
        TenantKV(engine, "globex").put("busy", b"")
    assert kv.put("first", b"") == 1
