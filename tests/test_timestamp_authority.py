"""The local clock: its timestamps count with the one who trusts it, and are of its own time."""

import hashlib
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from asn1crypto import tsp
from hypothesis import given
from hypothesis import strategies as st

from models.signed_statement import SignatureRefused
from models.timestamps import trusted_time
from stores.timestamp_authority import BadTimestampRequest, LocalTimestampAuthority

NOW = datetime(2026, 11, 25, 12, 0, 30, 999_999, tzinfo=UTC)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> LocalTimestampAuthority:
    return LocalTimestampAuthority(tmp_path_factory.mktemp("clock"), clock=lambda: NOW)


def test_its_time_counts_with_who_trusts_it(clock):
    stamp = clock.timestamp(b"signature")
    assert trusted_time([stamp], b"signature", [clock.trusted()]) == NOW.replace(microsecond=0)


def test_its_time_counts_with_nobody_else(clock, tmp_path):
    other = LocalTimestampAuthority(tmp_path, clock=lambda: NOW)
    with pytest.raises(SignatureRefused, match="timestamp-untrusted"):
        trusted_time([clock.timestamp(b"signature")], b"signature", [other.trusted()])


def test_a_timestamp_is_over_one_message(clock):
    with pytest.raises(SignatureRefused, match="timestamp-untrusted"):
        trusted_time([clock.timestamp(b"one")], b"other", [clock.trusted()])


def test_a_second_start_is_the_same_authority(tmp_path):
    first = LocalTimestampAuthority(tmp_path, clock=lambda: NOW)
    again = LocalTimestampAuthority(tmp_path, clock=lambda: NOW)
    assert again.trusted() == first.trusted()
    assert (tmp_path / "timestamp.pem").stat().st_mode & 0o077 == 0


def test_a_start_that_was_cut_short_starts_anew(tmp_path):
    LocalTimestampAuthority(tmp_path)
    (tmp_path / "timestamp-chain.pem").unlink()
    again = LocalTimestampAuthority(tmp_path, clock=lambda: NOW)
    assert trusted_time([again.timestamp(b"x")], b"x", [again.trusted()])


def request(algorithm: str, digest: bytes) -> bytes:
    imprint = {"hash_algorithm": {"algorithm": algorithm}, "hashed_message": digest}
    return tsp.TimeStampReq(
        {"version": "v1", "message_imprint": imprint, "nonce": 7, "cert_req": True}
    ).dump()


def test_it_answers_a_request_with_its_nonce(clock):
    answer = tsp.TimeStampResp.load(clock.answer(request("sha256", hashlib.sha256(b"x").digest())))
    info = answer["time_stamp_token"]["content"]["encap_content_info"]["content"].parsed
    assert info["nonce"].native == 7


@pytest.mark.parametrize(
    ("algorithm", "digest"), [("sha1", bytes(20)), ("md5", bytes(16)), ("sha256", bytes(31))]
)
def test_a_weak_or_wrong_hash_is_refused(clock, algorithm, digest):
    with pytest.raises(BadTimestampRequest, match="hash"):
        clock.answer(request(algorithm, digest))


@given(st.binary(max_size=200))
def test_whatever_is_no_request_is_refused_in_words(clock, data):
    with pytest.raises(BadTimestampRequest):
        clock.answer(data)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_it_too(tmp_path: Path):
    authority = LocalTimestampAuthority(tmp_path / "clock")
    (tmp_path / "data").write_bytes(b"signature")
    (tmp_path / "stamp.tsr").write_bytes(authority.timestamp(b"signature"))
    (tmp_path / "root.pem").write_text(authority.trusted().certificates[-1])
    verified = subprocess.run(
        ["openssl", "ts", "-verify", "-data", "data", "-in", "stamp.tsr", "-CAfile", "root.pem"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr
