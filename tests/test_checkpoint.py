"""Checkpoints: signed notes that say exactly what was signed, by whom, about which ledger."""

import base64
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from models.checkpoint import Checkpoint, open_checkpoint, parse_key, public_key, sign
from models.verifier import Refused
from stores.keys import KeyFileError, ensure_key, load_key

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
EU = Checkpoint("chainring/eu", 7, bytes(range(32)), "ab" * 32)
NOTE = sign(EU, KEY)
PUBLIC = public_key(KEY, "eu")


def refusal(note: str | bytes, *keys) -> str:
    data = note.encode() if isinstance(note, str) else note
    with pytest.raises(Refused) as refused:
        open_checkpoint(data, keys or [PUBLIC])
    return refused.value.code


def test_the_form_is_a_signed_tlog_checkpoint():
    root = base64.b64encode(bytes(range(32))).decode()
    body, signature = NOTE.split("\n\n")
    assert body == f"chainring/eu\n7\n{root}\nhead {'ab' * 32}"
    assert signature.startswith("\u2014 chainring/eu ")
    assert open_checkpoint(NOTE.encode(), [PUBLIC]) == EU
    assert EU.ledger == "eu"


def test_signing_twice_gives_the_same_bytes():
    assert sign(EU, KEY) == NOTE


def test_a_vkey_reads_back():
    assert parse_key(PUBLIC.vkey()) == PUBLIC
    assert parse_key(PUBLIC.vkey() + "\n") == PUBLIC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        PUBLIC.vkey()[:-4],
        PUBLIC.vkey().replace("eu", "us"),
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    ],
)
def test_a_bad_key_is_refused(text):
    with pytest.raises(Refused, match="bad-key"):
        parse_key(text)


def test_unknown_key():
    assert refusal(NOTE, public_key(OTHER, "eu")) == "unknown-key"
    assert refusal(NOTE, public_key(KEY, "latam")) == "unknown-key"


def test_bad_signature():
    assert refusal(NOTE.replace("\n7\n", "\n8\n")) == "bad-signature"


@given(st.data())
def test_no_changed_byte_of_a_note_passes(data):
    note = bytearray(NOTE.encode())
    at = data.draw(st.integers(0, len(note) - 1))
    note[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Refused):
        open_checkpoint(bytes(note), [PUBLIC])


def test_the_unused_bits_of_base64_may_not_differ():
    assert NOTE.endswith("=\n")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = alphabet.index(NOTE[-3])
    other = f"{NOTE[:-3]}{alphabet[last ^ 1]}=\n"
    assert base64.b64decode(other.rsplit(maxsplit=1)[-1]) == base64.b64decode(NOTE.split()[-1])
    assert refusal(other) == "bad-checkpoint"


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xff\xfe",
        NOTE[:-1],
        NOTE + "\n",
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("\n7\n", "\n07\n"),
        NOTE.replace("\n7\n", "\n-7\n"),
        NOTE.replace("chainring/eu\n7", "elsewhere/eu\n7"),
        NOTE.split("\u2014")[0],
    ],
)
def test_what_is_no_checkpoint_is_refused(note):
    assert refusal(note) == "bad-checkpoint"


def test_a_key_file_is_made_once_and_for_its_owner_only(tmp_path: Path):
    path = tmp_path / "keys" / "eu.pem"
    made: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: made.append(ensure_key(path).public("eu").raw))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["eu.pem"]
    assert load_key(path).public("eu").raw == made[0]


def test_a_key_is_never_shown(tmp_path: Path):
    key = ensure_key(tmp_path / "eu.pem")
    assert "Private" not in repr(key)


def test_bad_key_files_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "eu.pem"
    with pytest.raises(KeyFileError, match=r"eu\.pem: No such file"):
        load_key(path)
    path.write_text("nonsense")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="no unencrypted private key"):
        load_key(path)
    other = generate_private_key(SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(KeyFileError, match="no Ed25519 key"):
        ensure_key(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="others may read it"):
        load_key(path)
