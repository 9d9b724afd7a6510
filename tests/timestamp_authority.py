"""A small RFC 3161 authority for tests: a root, a signing certificate, and a clock that is set."""

import hashlib
import http.server
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from models.trust import TimestampAuthority

START = datetime(2026, 1, 1, tzinfo=UTC)


class Authority:
    """Signs what it is given, at ``now``; mistakes are made on request."""

    def __init__(self, name="clock", start=START, days=3650, eku=True):
        self.name, self.start, self.now = name, start, start + timedelta(days=1)
        end = start + timedelta(days=days)
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = certificate(f"{name} root", self.root_key, None, start, end, ca=True)
        issuer = (self.root.subject, self.root_key)
        self.own = certificate(f"{name} signer", self.key, issuer, start, end, eku=eku)

    def trusted(self, **changes):
        """What a trust root says about it."""
        pems = [each.public_bytes(Encoding.PEM).decode() for each in (self.own, self.root)]
        said = {"name": self.name, "certificates": pems, "valid_from": self.start}
        return TimestampAuthority.model_validate(said | changes)

    def timestamp(self, message):
        """A TimeStampResp over ``message``."""
        return self.respond("sha256", hashlib.sha256(message).digest())

    def respond(self, algorithm, digest, nonce=None):
        """A TimeStampResp over a digest."""
        info = {
            "version": "v1",
            "policy": "1.3.6.1.4.1.57264.2",
            "message_imprint": {
                "hash_algorithm": {"algorithm": algorithm},
                "hashed_message": digest,
            },
            "serial_number": 1,
            "gen_time": self.now.replace(microsecond=0),
        }
        if nonce is not None:
            info["nonce"] = nonce
        content = tsp.TSTInfo(info).dump()
        token = {"content_type": "signed_data", "content": self._signed(content)}
        return tsp.TimeStampResp(
            {"status": {"status": "granted"}, "time_stamp_token": token}
        ).dump()

    def _signed(self, content):
        own = asn1_x509.Certificate.load(self.own.public_bytes(Encoding.DER))
        root = asn1_x509.Certificate.load(self.root.public_bytes(Encoding.DER))
        attributes = cms.CMSAttributes(
            [
                {"type": "content_type", "values": ["tst_info"]},
                {"type": "message_digest", "values": [hashlib.sha256(content).digest()]},
                {"type": "signing_time", "values": [cms.Time({"utc_time": self.now})]},
                {
                    "type": "signing_certificate_v2",
                    "values": [
                        tsp.SigningCertificateV2(
                            {"certs": [{"cert_hash": hashlib.sha256(own.dump()).digest()}]}
                        )
                    ],
                },
            ]
        )
        signer = {
            "version": "v1",
            "sid": {
                "issuer_and_serial_number": {
                    "issuer": own.issuer,
                    "serial_number": own.serial_number,
                }
            },
            "digest_algorithm": {"algorithm": "sha256"},
            "signed_attrs": attributes,
            "signature_algorithm": algos.SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"}),
            "signature": self.key.sign(attributes.dump(), ec.ECDSA(SHA256())),
        }
        return {
            "version": "v3",
            "digest_algorithms": [{"algorithm": "sha256"}],
            "encap_content_info": {
                "content_type": "tst_info",
                "content": core.ParsableOctetString(content),
            },
            "certificates": [own, root],
            "signer_infos": [signer],
        }


def certificate(name, key, issuer, start, end, *, ca=False, eku=True):
    """A certificate: of a root without ``issuer``, else of a timestamp signer."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = issuer or (subject, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
        .add_extension(
            x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True
        )
    )
    if eku and not ca:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, SHA256())


@contextmanager
def served(authority):
    """The authority over HTTP on a free port of loopback; gives its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = tsp.TimeStampReq.load(self.rfile.read(int(self.headers["Content-Length"])))
            imprint = asked["message_imprint"]
            body = authority.respond(
                imprint["hash_algorithm"]["algorithm"].native,
                imprint["hashed_message"].native,
                asked["nonce"].native,
            )
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/api/v1/timestamp"
    finally:
        server.shutdown()
        server.server_close()
