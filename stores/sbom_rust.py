"""The list of crates that ``cargo auditable`` puts into a Linux binary: section ``.dep-v0``.

Source: ``cargo-auditable``'s ``PARSING.md``: zlib over JSON. The file may be made to harm: every
size that it states is checked before anything of that size is read.
"""

import zlib
from pathlib import Path
from typing import BinaryIO

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.construct.lib.container import Container
from elftools.elf.elffile import ELFFile

from models.lock_cargo import AUDIT_BYTES, read_audit_list
from models.packages import Package
from models.strict_json import EvidenceError

MAGIC = b"\x7fELF"
SECTION = b".dep-v0\0"
MAX_SECTIONS = 10_000
NAMES_BYTES = 1024**2
COMPRESSED_BYTES = 4 * 1024**2


def read_audited_binary(path: Path, source: str) -> list[Package] | None:
    """The crates in a binary; nothing if the file is no ELF file or has no such section.

    A file that only begins like an ELF file is none.

    Raises:
        EvidenceError: the section is there, and is not as specified or beyond the limits.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
        section = _section(file, path.stat().st_size, source)
    return None if section is None else read_audit_list(inflate(section, source), source)


def inflate(data: bytes, source: str) -> bytes:
    """Decompress a section's zlib data, to at most `AUDIT_BYTES`.

    Raises:
        EvidenceError: not zlib, cut off, followed by something else, or larger than that.
    """
    reader = zlib.decompressobj()
    try:
        plain = reader.decompress(data, AUDIT_BYTES + 1)
    except zlib.error as error:
        raise EvidenceError(f"{source} .dep-v0: not zlib: {error}") from None
    if len(plain) > AUDIT_BYTES or not reader.eof or reader.unused_data:
        raise EvidenceError(f"{source} .dep-v0: cut off, followed by more, or above the limit")
    return plain


def _section(file: BinaryIO, size: int, source: str) -> bytes | None:
    try:
        elf = ELFFile(file)
        headers = _headers(elf, size)
        names = _bytes(file, headers[elf["e_shstrndx"]], NAMES_BYTES, size) if headers else b""
        for header in headers:
            start = header["sh_name"]
            if names[start : start + len(SECTION)] == SECTION:
                return _bytes(file, header, COMPRESSED_BYTES, size)
    except (ELFError, IndexError, KeyError, ValueError, OverflowError, AttributeError, TypeError):
        if _mentions(file):
            raise EvidenceError(f"{source}: a damaged ELF file with .dep-v0") from None
    return None


def _headers(elf: ELFFile, size: int) -> list[Container]:
    """All section headers, if their table is one that the file can hold."""
    first, step, count = elf["e_shoff"], elf["e_shentsize"], elf["e_shnum"]
    if first == 0 or count == 0:
        return []
    if count > MAX_SECTIONS or step < elf.structs.Elf_Shdr.sizeof() or first + step * count > size:
        raise ValueError("the table of sections is not in the file")
    return [
        struct_parse(elf.structs.Elf_Shdr, elf.stream, stream_pos=first + index * step)
        for index in range(count)
    ]


def _bytes(file: BinaryIO, header: Container, limit: int, size: int) -> bytes:
    length, offset = header["sh_size"], header["sh_offset"]
    if length > limit or offset + length > size:
        raise ValueError("a section is too large or not in the file")
    file.seek(offset)
    return file.read(length)


def _mentions(file: BinaryIO) -> bool:
    """Whether the section's name is anywhere in the file."""
    file.seek(0)
    rest = b""
    while block := file.read(1024**2):
        if SECTION in rest + block:
            return True
        rest = block[-len(SECTION) :]
    return False
