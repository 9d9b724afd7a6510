"""Trusted time: RFC 3161 timestamps over a signature, judged against known authorities.

A timestamp shows that a signature was there at a time. The certificates inside of one are not
believed: the authority's own must be the one that the trust root holds.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from rfc3161_client import (
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from models.signed_statement import SignatureRefused
from models.trust import TimestampAuthority


def trusted_time(
    timestamps: Iterable[bytes], message: bytes, authorities: Sequence[TimestampAuthority]
) -> datetime:
    """The earliest time at which a trusted authority saw ``message``, in UTC.

    Timestamps of strangers are passed over: anyone may add one. None left is a refusal.

    Args:
        timestamps: TimeStampResp, DER (RFC 3161, section 2.4.2).

    Raises:
        SignatureRefused: ``timestamp-missing``, or ``timestamp-untrusted`` with the reasons.
    """
    times, reasons = [], []
    for number, data in enumerate(timestamps):
        try:
            times.append(_time_of(data, message, authorities))
        except SignatureRefused as refusal:
            reasons.append(f"timestamp {number}: {refusal.detail}")
    if times:
        return min(times)
    if reasons:
        raise SignatureRefused("timestamp-untrusted", "; ".join(reasons))
    raise SignatureRefused("timestamp-missing", "nothing trusted shows when it was signed")


def _time_of(data: bytes, message: bytes, authorities: Sequence[TimestampAuthority]) -> datetime:
    response = _decode(data)
    reasons = []
    for authority in authorities:
        try:
            return _verify(response, message, authority)
        except VerificationError as error:
            reasons.append(f"{authority.name}: {error}")
    raise _untrusted("; ".join(reasons) or "no authority is trusted")


def _decode(data: bytes) -> TimeStampResponse:
    try:
        return decode_timestamp_response(data)
    except Exception as error:  # the library raises several kinds for bytes that are no response
        raise _untrusted(f"not a timestamp: {error}") from None


def _verify(response: TimeStampResponse, message: bytes, authority: TimestampAuthority) -> datetime:
    """The time in a response of one authority; raises `VerificationError`."""
    own, *above = authority.chain
    builder = VerifierBuilder(
        tsa_certificate=own, intermediates=above[:-1], roots=above[-1:] or [own]
    )
    try:
        builder.build().verify_message(response, message)
        at = response.tst_info.gen_time
    except VerificationError:
        raise
    except Exception as error:  # a response may decode and still have parts that do not
        raise VerificationError(f"not a timestamp: {error}") from None
    if not authority.was_valid(at):
        raise VerificationError(f"{at:%Y-%m-%d %H:%M:%SZ} is outside of its validity")
    return at


def _untrusted(detail: str) -> SignatureRefused:
    return SignatureRefused("timestamp-untrusted", detail)
