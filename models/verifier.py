"""Verify exported receipts with nothing of Chainring: this file, Python and ``cryptography``.

    python verifier.py eu.jsonl --key eu.vkey --checkpoint checkpoints
    python verifier.py --proof proof.json --key eu.vkey

An export has one receipt a line, each line exactly the bytes that were hashed. Receipt n names in
``prev`` the SHA-256 of receipt n-1. A checkpoint is a signed note (C2SP signed-note and
tlog-checkpoint, Ed25519) over the number of receipts, the Merkle root (RFC 6962, section 2.1; a
leaf's data are the 32 bytes of a receipt's SHA-256) and the last receipt's hash.

Without a checkpoint only the chain's own consistency is shown: whoever can write the file could
have cut its end off, or computed all of it anew.

A ledger that was forked or damaged is never rewritten: a receipt of kind ``ledger.repaired`` says
what happened, signed by the ledger's key over its place in the chain. It excuses what it names and
nothing else: signed heads of a branch that was left (or such that ``--branch FILE`` shows to be on
it), and damaged receipts by the hashes that the chain still has of them. Every repair is reported.
Exit status: 0 verified, 1 not verified (the first bad receipt is named), 2 wrong usage.
"""

import argparse
import base64
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

GENESIS = "0" * 64
ORIGIN_PREFIX = "chainring/"
FIELDS: dict[str, str] = {
    "actor": r"[^\x00-\x1f\x7f]{1,512}",
    "at": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z",
    "idempotency_key": r"[^\x00-\x1f\x7f]{1,512}",
    "kind": r"(?!.{101})[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*",
    "ledger": r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?",
    "prev": r"[0-9a-f]{64}",
    "run_id": r"[^\x00-\x1f\x7f]{0,512}",
    "subject": r"[^\x00-\x1f\x7f]{1,512}",
    "workflow_id": r"[^\x00-\x1f\x7f]{0,512}",
}
"""The string fields of a receipt, each with its grammar; ``body`` and ``seq`` come beside them."""

REPAIR_KIND = "ledger.repaired"

_REPAIR_MARK = b'"kind":"ledger.repaired"'
_MAX_INTEGER = 2**53 - 1
_ED25519 = b"\x01"  # algorithm identifier of C2SP signed-note


class Refused(Exception):
    """Something is not as it must be. ``code`` is for programs, ``seq`` the first bad receipt."""

    def __init__(self, code: str, detail: str, seq: int | None = None) -> None:
        super().__init__(f"{code}: {detail}" if seq is None else f"{code}: receipt {seq}: {detail}")
        self.code, self.detail, self.seq = code, detail, seq


# --- Merkle tree (RFC 6962, section 2.1; proofs as in RFC 9162, section 2.1) ---
def leaf_hash(entry: bytes) -> bytes:
    """Hash of a leaf with these data."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of a node over two subtrees."""
    return sha256(b"\x01" + left + right).digest()


def add_leaf(frontier: list[bytes], size: int, leaf: bytes) -> None:
    """Append to a tree of ``size`` leaves, known by its perfect subtrees' roots, widest first."""
    while size & 1:
        leaf = node_hash(frontier.pop(), leaf)
        size >>= 1
    frontier.append(leaf)


def frontier_root(frontier: Sequence[bytes]) -> bytes:
    """The root of the tree whose perfect subtrees have these roots, widest first."""
    if not frontier:
        return sha256().digest()
    root = frontier[-1]
    for left in reversed(frontier[:-1]):
        root = node_hash(left, root)
    return root


def verify_inclusion(
    entry: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Whether ``entry`` is leaf ``index`` of the tree (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, current = index, size - 1, leaf_hash(entry)
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            current = node_hash(sibling, current)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and current == root


def verify_consistency(
    first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes
) -> bool:
    """Whether the first tree is a beginning of the second (RFC 9162, section 2.1.4.2)."""
    if first in (0, second):  # every tree goes on from itself and from the empty one
        return not proof and first_root == (second_root if first else frontier_root([]))
    path = list(proof) if first & (first - 1) else [first_root, *proof]
    if not 0 < first < second or not path:
        return False
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


# --- Keys and checkpoints (C2SP signed-note, tlog-checkpoint) ---
@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 key and the origin whose checkpoints it signs.

    ``until`` is there once the key is retired: up to which size it counts, by origin, and for
    others not at all. Where it is lost, or in wrong hands, it can sign nothing new.
    """

    raw: bytes
    name: str
    until: Mapping[str, int] | None = field(default=None, hash=False)

    @property
    def key_id(self) -> bytes:
        """The four bytes by which a signature names its key."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:4]

    def vkey(self) -> str:
        """The verifier key of C2SP signed-note: ``name+id+key``."""
        key = base64.b64encode(_ED25519 + self.raw).decode()
        return f"{self.name}+{self.key_id.hex()}+{key}"

    def line(self) -> str:
        """The vkey, and how far it counts if it is retired: what `parse_keys` reads."""
        if self.until is None:
            return self.vkey()
        limits = (f"{origin}={size}" for origin, size in sorted(self.until.items()))
        return " ".join((self.vkey(), "until", *limits))

    def vouches(self, origin: str, size: int) -> bool:
        """Whether what it signs of ``origin`` at this size counts."""
        return self.until is None or size <= self.until.get(origin, -1)


def parse_keys(text: str) -> list[PublicKey]:
    """Read keys, one a line; raises `Refused` (bad-key)."""
    keys = [parse_key(line) for line in text.splitlines() if line.strip()]
    if not keys:
        raise Refused("bad-key", "there is none")
    return keys


def parse_key(text: str) -> PublicKey:
    """Read a vkey, and up to which sizes it counts if it is retired; raises `Refused` (bad-key)."""
    match = re.fullmatch(
        r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)( until(?: [a-z0-9/-]+=[0-9]{1,16})*)?",
        text.strip(),
    )
    if match is None:
        raise Refused("bad-key", "not a vkey (name+id+key)")
    raw = _base64(match[3], "bad-key")
    limits = [each.split("=") for each in (match[4] or "").split()[1:]]
    until = {origin: int(size) for origin, size in limits} if match[4] else None
    key = PublicKey(raw[1:], match[1], until)
    if raw[:1] != _ED25519 or len(raw) != 33 or key.key_id.hex() != match[2]:
        raise Refused("bad-key", f"the vkey of {match[1]} is damaged or not Ed25519")
    return key


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says; `open_checkpoint` gives only signed ones."""

    origin: str
    size: int
    root: bytes
    head: str  # hex SHA-256 of the last receipt; zeros when there is none

    @property
    def ledger(self) -> str:
        """The ledger's name."""
        return self.origin.removeprefix(ORIGIN_PREFIX)


_NOTE = re.compile(
    r"(?P<body>(?:[^\n]+\n)+)\n(?P<signatures>(?:\u2014 [^\s+]+ [A-Za-z0-9+/=]+\n)+)"
)
_BODY = re.compile(
    r"(?P<origin>chainring/[a-z][a-z0-9-]*)\n(?P<size>0|[1-9][0-9]{0,15})\n"
    r"(?P<root>[A-Za-z0-9+/]{43}=)\nhead (?P<head>[0-9a-f]{64})\n(?:[^\n]+\n)*"
)


def open_checkpoint(note: bytes, keys: Iterable[PublicKey]) -> Checkpoint:
    """Check and read a note; raises `Refused`.

    Codes: bad-checkpoint, unknown-key, bad-signature, retired-key.
    """
    try:
        match = _NOTE.fullmatch(note.decode())
    except UnicodeDecodeError:
        match = None
    said = match and _BODY.fullmatch(match["body"])
    if not match or not said:
        raise Refused("bad-checkpoint", "not a signed checkpoint of a Chainring ledger")
    root = _base64(said["root"], "bad-checkpoint")
    found = Checkpoint(said["origin"], int(said["size"]), root, said["head"])
    _check_signature(match["body"], match["signatures"], (found.origin, found.size), list(keys))
    return found


def _check_signature(
    body: str, signatures: str, signed: tuple[str, int], keys: Sequence[PublicKey]
) -> None:
    """``signed`` is the origin, and the size of it that the signature is about."""
    known, (origin, size) = False, signed
    for line in signatures.splitlines():
        _, name, encoded = line.split(" ")
        signature = _base64(encoded, "bad-checkpoint")
        for key in keys:
            if not (name == origin == key.name and signature[:4] == key.key_id):
                continue
            if not key.vouches(origin, size):
                raise Refused("retired-key", f"{key.vkey()} was retired before size {size}")
            known = True
            try:
                Ed25519PublicKey.from_public_bytes(key.raw).verify(signature[4:], body.encode())
            except InvalidSignature:
                raise Refused("bad-signature", f"that of {name} does not verify") from None
    if not known:
        raise Refused("unknown-key", f"no given key has signed this checkpoint of {origin}")


def _base64(text: str, code: str) -> bytes:
    """Bytes from their one spelling: b64decode alone would let unused bits differ."""
    with suppress(ValueError):
        if base64.b64encode(data := base64.b64decode(text)).decode() == text:
            return data
    raise Refused(code, "bad base64")


# --- Strict reading (RFC 8785) ---
def canonical(value: Any) -> str:
    """The RFC 8785 form of parsed JSON; raises ValueError where there is none."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(item)}" for key, item in items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise ValueError("an integer is beyond 2^53 - 1")
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """A double as ECMAScript writes it (ECMA-262, Number::toString)."""
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    if value == 0:
        return "0"
    parts = Decimal(repr(abs(value))).normalize().as_tuple()
    digits, sign = "".join(map(str, parts.digits)), "-" if value < 0 else ""
    point = len(digits) + int(parts.exponent)
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if 0 < point <= 21:
        whole = digits[:point].ljust(point, "0")
        return sign + whole + (f".{digits[point:]}" if digits[point:] else "")
    rest = f".{digits[1:]}" if digits[1:] else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"


def read_receipt(line: bytes) -> dict[str, Any]:
    """Read one receipt: canonical bytes, all fields and no others, of their form; or ValueError."""
    try:
        receipt = json.loads(line.decode(), object_pairs_hook=_unique)
        if canonical(receipt).encode() != line:
            raise ValueError("not in canonical form")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(receipt, dict) or receipt.keys() != {*FIELDS, "body", "seq"}:
        raise ValueError("not an object with exactly a receipt's fields")
    for name, grammar in FIELDS.items():
        if not isinstance(receipt[name], str) or not re.fullmatch(grammar, receipt[name]):
            raise ValueError(f"{name} is not of its form")
    if type(receipt["seq"]) is not int or receipt["seq"] < 0:
        raise ValueError("seq is not a number from 0 on")
    if not isinstance(receipt["body"], dict):
        raise ValueError("body is not an object")
    return receipt


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


# --- Repairs ---
@dataclass(frozen=True)
class Repair:
    """What a receipt says that calls itself a repair; without a signature it says nothing.

    ``common`` is what both branches share, ``abandoned`` the end of the one that was left: sizes
    and last hashes. ``heads`` are signed heads on the latter: size, root (hex) and last hash.
    ``damaged`` are receipts that are not there as they were, by the hashes they had.
    """

    seq: int
    digest: str
    signed: bool
    common: tuple[int, str] = (0, GENESIS)
    abandoned: tuple[int, str] | None = None
    heads: tuple[tuple[int, str, str], ...] = ()
    damaged: tuple[tuple[int, str], ...] = ()


def repair_text(ledger: str, seq: int, prev: str, body: Mapping[str, Any]) -> str:
    """What a repair's signature is over: its place, and its body but for the signature.

    It has the form of a note's text, and cannot be read as a checkpoint's.
    """
    said = {name: value for name, value in body.items() if name != "signature"}
    digest = base64.b64encode(sha256(canonical(said).encode()).digest()).decode()
    return f"{ORIGIN_PREFIX}{ledger}\nrepair {seq} {prev}\n{digest}\n"


def read_repairs(lines: Iterable[bytes], keys: Sequence[PublicKey]) -> list[Repair]:
    """The receipts among these lines that call themselves repairs, signed by a given key or not."""
    marked = (line for line in lines if _REPAIR_MARK in line)
    return [repair for line in marked for repair in _repairs(line, keys)]


def _repairs(line: bytes, keys: Sequence[PublicKey]) -> Iterator[Repair]:
    try:
        receipt = read_receipt(line)
    except ValueError:
        return
    if receipt["kind"] != REPAIR_KIND:
        return
    seq, digest, body = receipt["seq"], sha256(line).hexdigest(), receipt["body"]
    try:
        text = repair_text(receipt["ledger"], seq, receipt["prev"], body)
        of = ORIGIN_PREFIX + receipt["ledger"]
        _check_signature(text, body["signature"], (of, seq + 1), keys)
        yield _signed_repair(seq, digest, receipt["prev"], body)
    except (Refused, KeyError, TypeError, ValueError, AttributeError):
        yield Repair(seq, digest, signed=False)


def _signed_repair(seq: int, digest: str, prev: str, body: Mapping[str, Any]) -> Repair:
    def end(said: Any) -> tuple[int, str]:
        return int(said["size"]), str(said["hash"])

    repair = Repair(
        seq,
        digest,
        signed=True,
        common=end(body["common"]),
        abandoned=None if body["abandoned"] is None else end(body["abandoned"]),
        heads=tuple((int(h["size"]), str(h["root"]), str(h["head"])) for h in body["heads"]),
        damaged=tuple((int(d["seq"]), str(d["hash"])) for d in body["damaged"]),
    )
    last = repair.abandoned[0] if repair.abandoned else 0
    if end(body["kept"]) != (seq, prev) or not 0 <= repair.common[0] <= seq:
        raise ValueError("it does not follow what it says")
    if any(not repair.common[0] < size <= last for size, _, _ in repair.heads):
        raise ValueError("a head is not on the branch that was left")
    if any(not 0 <= number < seq for number, _ in repair.damaged):
        raise ValueError("a damaged receipt is not before it")
    return repair


# --- The chain ---
@dataclass
class Report:
    """What was verified, and what a repair had to be believed for.

    ``abandoned`` are the sizes of signed heads that are on a branch that was left, ``damaged`` the
    receipts whose content is lost, ``unsigned`` receipts that call themselves repairs and are none.
    """

    ledger: str
    size: int
    head: str
    root: bytes | None  # of the Merkle tree; None when nobody asked for it
    checkpoints: list[int] = field(default_factory=list)
    repairs: list[int] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    unsigned: list[int] = field(default_factory=list)


class _Chain:
    """Receipts seen so far, all of them good; one method a step, each raises `Refused`."""

    def __init__(
        self,
        ledger: str | None,
        checkpoints: Iterable[Checkpoint],
        repairs: Sequence[Repair] = (),
        branches: Sequence[Sequence[bytes]] = (),
    ) -> None:
        self.ledger, self.size, self.head = ledger, 0, GENESIS
        self.repairs = {repair.digest: repair for repair in repairs}
        self.branches = branches
        self.named = {seq: lost for repair in repairs for seq, lost in repair.damaged}
        self.believed: list[Repair] = []  # signed, and met where they say they are
        self.report = Report("", 0, GENESIS, None)
        self.contradicted: list[tuple[Checkpoint, Refused]] = []
        self.frontier: list[bytes] = []
        self.hashes = bytearray()  # 32 bytes a receipt: to tell a fork from a duplicate
        self.waiting = sorted(checkpoints, key=lambda checkpoint: checkpoint.size)
        self.met: list[int] = []

    def take(self, line: bytes, rest: Iterator[bytes]) -> None:
        """The next line must be the next receipt; ``rest`` is read only to say why not."""
        digest = sha256(line)
        while self.named.get(self.size, digest.hexdigest()) != digest.hexdigest():
            here = next(_readable([line]), {"seq": self.size})["seq"]
            self.report.damaged.append(self.size)
            self._append(bytes.fromhex(self.named[self.size]))
            if here < self.size:  # it was the damaged one; else that was left out
                return
        try:
            receipt = read_receipt(line)
        except ValueError as error:
            self.meet_checkpoints()
            raise Refused("malformed", str(error), self.size) from None
        self.ledger = self.ledger or receipt["ledger"]
        linked = (receipt["seq"], receipt["prev"]) == (self.size, self.head)
        if not linked or receipt["ledger"] != self.ledger:
            self._explain(receipt, digest.hexdigest(), rest)
        repair = self.repairs.get(digest.hexdigest())
        if repair is not None:
            (self.report.repairs if repair.signed else self.report.unsigned).append(self.size)
            self.believed += [repair] if repair.signed else []
        self._append(digest.digest())

    def _append(self, digest: bytes) -> None:
        self.meet_checkpoints()
        add_leaf(self.frontier, self.size, leaf_hash(digest))
        self.hashes += digest
        self.size, self.head = self.size + 1, digest.hex()

    def meet_checkpoints(self) -> None:
        """What was signed over as many receipts must agree with them."""
        while self.waiting and self.waiting[0].size == self.size:
            signed = self.waiting.pop(0)
            if (signed.root, signed.head) != (frontier_root(self.frontier), self.head):
                detail = f"it or one up to {self.size - 1} is not the one that was signed"
                refusal = Refused("rewritten", detail, max(self.met, default=0))
                if not any(repair.signed for repair in self.repairs.values()):
                    raise refusal
                self.contradicted.append((signed, refusal))
                continue
            self.met.append(signed.size)

    def finish(self) -> Report:
        self.meet_checkpoints()
        if self.waiting:
            last = self.waiting[-1].size - 1
            refusal = Refused("truncated", f"missing up to {last}, which is signed", self.size)
            self.contradicted += [(signed, refusal) for signed in self.waiting]
        self._believe_repairs()
        report = self.report
        report.ledger, report.size, report.head = self.ledger or "", self.size, self.head
        report.root, report.checkpoints = frontier_root(self.frontier), self.met
        return report

    def _believe_repairs(self) -> None:
        """What a repair excuses, it must name or show; everything else is refused after all."""
        for repair in self.believed:
            size, head = repair.common
            if self._hash(size - 1) != head:
                detail = f"it says that receipt {size - 1} is another one"
                raise Refused("bad-repair", detail, repair.seq)
        named = {seq for repair in self.believed for seq, _ in repair.damaged}
        for seq in self.report.damaged:
            if seq not in named:
                raise Refused("altered", "the repair that names it is not in this chain", seq)
        for signed, refusal in self.contradicted:
            if not any(self._is_on_branch(signed, repair) for repair in self.believed):
                raise refusal
            self.report.abandoned.append(signed.size)

    def _is_on_branch(self, signed: Checkpoint, repair: Repair) -> bool:
        """Whether a signed head is on the branch that a repair says was left."""
        if (signed.size, signed.root.hex(), signed.head) in repair.heads:
            return True
        size, head = repair.common
        for lines in self.branches:
            hashes, last = bytearray(self.hashes[: 32 * size]), head
            for line in lines:
                receipt = next(_readable([line]), {"prev": "", "seq": -1})
                if (receipt["prev"], receipt["seq"]) != (last, len(hashes) // 32):
                    hashes.clear()
                    break
                hashes += sha256(line).digest()
                last = hashes[-32:].hex()
            if repair.abandoned == (len(hashes) // 32, last) and self._signs(signed, hashes):
                return signed.size > size
        return False

    def _signs(self, signed: Checkpoint, hashes: bytearray) -> bool:
        """Whether a signed head is over the first of these hashes."""
        if signed.size * 32 > len(hashes):
            return False
        frontier: list[bytes] = []
        for seq in range(signed.size):
            add_leaf(frontier, seq, leaf_hash(bytes(hashes[32 * seq : 32 * seq + 32])))
        head = hashes[32 * signed.size - 32 : 32 * signed.size].hex() or GENESIS
        return (signed.root, signed.head) == (frontier_root(frontier), head)

    def _explain(self, receipt: Mapping[str, Any], digest: str, rest: Iterator[bytes]) -> NoReturn:
        seq, prev, here = receipt["seq"], receipt["prev"], self.size
        if seq == here and prev != self.head and receipt["ledger"] == self.ledger:
            self._explain_prev(prev, digest, rest)
        self.meet_checkpoints()
        if receipt["ledger"] != self.ledger:
            raise Refused("wrong-ledger", f"it is of ledger {receipt['ledger']}", here)
        if seq > here and prev != self.head:
            if any(later["seq"] == here for later in _readable(rest)):
                raise Refused("reordered", f"receipt {seq} comes before it", here)
            raise Refused("missing", f"receipt {seq} comes in its place", here)
        if seq < here and digest == self._hash(seq):
            raise Refused("duplicated", "it is there twice", seq)
        if seq < here and prev == self._hash(seq - 1):
            raise Refused("forked", f"two receipts follow receipt {seq - 1}", seq)
        raise Refused("altered", f"it says seq {seq}", here)

    def _explain_prev(self, prev: str, digest: str, rest: Iterator[bytes]) -> NoReturn:
        """Receipt n does not name n-1: one of the two was altered, or n belongs elsewhere."""
        here = self.size
        if any(prev == self._hash(seq) for seq in range(-1, here - 1)):
            raise Refused("forked", "it follows a receipt that another one follows", here)
        signed = next((c for c in self.waiting if c.size == here), None)
        if here > 0 and signed is not None and signed.head == prev:
            raise Refused("altered", f"receipt {here} and a checkpoint name another hash", here - 1)
        self.meet_checkpoints()
        authentic = bool(self.met) and self.met[-1] == here
        follower = next(_readable(rest), None)
        if here > 0 and not authentic and follower and follower["prev"] == digest:
            raise Refused("altered", f"receipt {here} names another hash", here - 1)
        raise Refused("altered", "its prev is not the hash of the receipt before it", here)

    def _hash(self, seq: int) -> str:
        return GENESIS if seq < 0 else self.hashes[32 * seq : 32 * seq + 32].hex()


def verify_chain(
    lines: Iterable[bytes],
    *,
    ledger: str | None = None,
    checkpoints: Sequence[Checkpoint] = (),
    repairs: Sequence[Repair] = (),
    branches: Sequence[Sequence[bytes]] = (),
) -> Report:
    """Verify a ledger's receipts from the first one on, strictly, against signed checkpoints.

    ``ledger`` says whose they must be; when None, the checkpoints or the first receipt do.
    ``repairs`` are those of `read_repairs` over the same lines, ``branches`` the receipts of
    branches that were left, each from the first one that both do not share.
    Raises `Refused`: malformed, altered, missing, reordered, duplicated, forked, wrong-ledger,
    truncated, rewritten, wrong-checkpoint, bad-repair; its ``seq`` is the first bad receipt.
    """
    if ledger is None and checkpoints:
        ledger = checkpoints[0].ledger
    for checkpoint in checkpoints:
        if checkpoint.ledger != ledger:
            raise Refused("wrong-checkpoint", f"it is of {checkpoint.origin}, not of {ledger}")
    chain, rest = _Chain(ledger, checkpoints, repairs, branches), iter(lines)
    for line in rest:
        chain.take(line, rest)
    return chain.finish()


def _readable(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with suppress(ValueError):
            yield read_receipt(line)


# --- Proof documents ---
def verify_proof(document: bytes, keys: Sequence[PublicKey]) -> str:
    """Verify what `chainring receipts prove` wrote, or raise `Refused`; says what is proven."""
    try:
        said = json.loads(document, object_pairs_hook=_unique)
        proof = [_base64(item, "bad-proof") for item in said["proof"]]
        if said["kind"] == "inclusion":
            return _inclusion(said, proof, keys)
        if said["kind"] == "consistency":
            return _consistency(said, proof, keys)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused("bad-proof", f"not a proof document: {error}") from None
    raise Refused("bad-proof", "its kind is neither inclusion nor consistency")


def _inclusion(said: dict[str, str], proof: list[bytes], keys: Sequence[PublicKey]) -> str:
    signed, line = open_checkpoint(said["checkpoint"].encode(), keys), said["receipt"].encode()
    receipt = read_receipt(line)
    seq = receipt["seq"]
    if receipt["ledger"] != signed.ledger:
        raise Refused("wrong-ledger", f"the checkpoint is of {signed.origin}", seq)
    if not verify_inclusion(sha256(line).digest(), seq, signed.size, proof, signed.root):
        raise Refused("bad-proof", f"not proven to be among the {signed.size} signed", seq)
    return f"receipt {seq} is in {signed.origin} of size {signed.size}"


def _consistency(said: dict[str, str], proof: list[bytes], keys: Sequence[PublicKey]) -> str:
    first, second = (open_checkpoint(said[name].encode(), keys) for name in ("first", "second"))
    if first.origin != second.origin:
        raise Refused("wrong-checkpoint", f"{first.origin} and {second.origin} are two ledgers")
    if not verify_consistency(first.size, second.size, proof, first.root, second.root):
        raise Refused("bad-proof", f"size {second.size} is not proven to go on from {first.size}")
    return f"{second.origin} of size {second.size} goes on from size {first.size}"


# --- Command ---
def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of an export without their line ends; the last one must have its end too."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                raise Refused("truncated", "the file ends in the middle of a line")
            yield line[:-1]


def _notes(path: Path) -> list[bytes]:
    files = path.glob("*.checkpoint") if path.is_dir() else [path]
    return [file.read_bytes() for file in files]


def _keys(given: str) -> list[PublicKey]:
    is_vkey = given.startswith(ORIGIN_PREFIX) and "+" in given
    return parse_keys(given if is_vkey else Path(given).read_text(errors="replace"))


def _run(arguments: argparse.Namespace) -> None:
    keys = [key for given in arguments.key for key in _keys(given)]
    if arguments.proof:
        print("verified:", verify_proof(arguments.proof.read_bytes(), keys))
        return
    notes = [note for path in arguments.checkpoint for note in _notes(path)]
    signed = [open_checkpoint(note, keys) for note in notes]
    report = verify_chain(
        read_lines(arguments.export),
        ledger=arguments.ledger,
        checkpoints=signed,
        repairs=read_repairs(read_lines(arguments.export), keys),
        branches=[list(read_lines(path)) for path in arguments.branch],
    )
    print(f"verified: ledger {report.ledger}, {report.size} receipts, head {report.head}")
    print(
        f"signed: {max(report.checkpoints, default=0)}, by {len(report.checkpoints)} checkpoint(s)"
    )
    for line in repair_lines(report):
        print(line)


def repair_lines(report: Report) -> list[str]:
    """What must be said of a ledger that was repaired, a sentence a line; nothing of another."""
    lines = [f"REPAIRED: receipt {seq} says what, and why" for seq in report.repairs]
    if report.abandoned:
        sizes = ", ".join(map(str, report.abandoned))
        lines.append(f"ABANDONED: what was signed at size {sizes} is on a branch that was left")
    if report.damaged:
        lost = ", ".join(map(str, report.damaged))
        lines.append(f"DAMAGED: the content of receipt {lost} is lost; its hash stands")
    lines += [
        f"NOT SIGNED: receipt {seq} calls itself a repair; it excuses nothing"
        for seq in report.unsigned
    ]
    return lines


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Verify exported Chainring receipts.")
    add = parser.add_argument
    add("export", type=Path, nargs="?", help="receipts, one a line")
    add("--key", action="append", default=[], help="vkey, or file that holds some")
    add("--checkpoint", type=Path, action="append", default=[], help="file, or directory of them")
    add("--branch", type=Path, action="append", default=[], help="receipts of a branch left")
    add("--ledger", help="whose receipts they must be")
    add("--proof", type=Path, help="verify this proof document instead")
    arguments = parser.parse_args()
    if (arguments.export is None) == (arguments.proof is None):
        parser.error("give either an export or --proof")
    try:
        _run(arguments)
    except Refused as refusal:
        print(f"NOT VERIFIED: {refusal}")
        return 1
    except OSError as error:
        print(f"verifier: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
