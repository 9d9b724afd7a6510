"""The ledgers of this home, as reading commands open them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url

from models.addresses import BackupAddress
from models.checkpoint import Checkpoint, PublicKey
from models.ids import CONTROL_LEDGER
from models.receipts import ReceiptError
from models.verifier import Refused
from stores.checkpoints import CheckpointError, CheckpointFiles, default_directory
from stores.keys import KeyFileError, load_key
from stores.ledger import Ledger
from stores.proofs import ProofError
from stores.repair_evidence import ABANDONED
from stores.sql import StoreUnavailable, engine_for
from workers.cli.output import NEGATIVE, UNREACHABLE, USAGE, fail
from workers.settings import (
    SettingsError,
    control_file,
    home,
    known_regions,
    load_control,
    load_region,
    primary_pointer,
)


@dataclass(frozen=True)
class LedgerPlace:
    """One ledger: its name, and where its receipts and its signing key are."""

    name: str
    database: str
    signing_key: Path
    former: tuple[str, ...] = ()
    backup: BackupAddress | None = None

    def open(self) -> Ledger:
        """Open for reading; raises `SettingsError` rather than make an empty database."""
        address = make_url(self.database)
        if address.drivername == "sqlite" and not Path(address.database or "").exists():
            raise SettingsError(f"ledger {self.name}: {address.database} does not exist")
        return Ledger(engine_for(self.database), self.name)

    def trusted(self) -> list[PublicKey]:
        """The key that signs it, and the retired ones with how far they count."""
        return load_key(self.signing_key).trusted(self.name)

    def files(self) -> CheckpointFiles:
        return CheckpointFiles(default_directory(self.signing_key), self.name)

    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints outside the database, signatures checked; raises `Refused`.

        Those of branches that were left are among them: a repair must excuse them.
        """
        return self.files().open_all(self.trusted())

    def repairs(self) -> Path:
        """Where the evidence of its repairs is."""
        return home() / "repairs" / self.name

    def branches(self) -> list[Path]:
        """The branches that were left, as far as their receipts were kept."""
        return sorted(self.repairs().glob(f"*/{ABANDONED}"))


def known_ledgers() -> list[LedgerPlace]:
    """The control plane's ledger and those of all regions that this home has addresses of."""
    places = []
    if control_file().exists():
        control = load_control()
        places.append(LedgerPlace(CONTROL_LEDGER, control.database, control.signing_key))
    for region in known_regions():
        addresses = load_region(region)
        pointer = primary_pointer(region).read()
        places.append(
            LedgerPlace(
                region,
                addresses.database,
                addresses.signing_key,
                former=() if pointer is None else pointer.former,
                backup=addresses.backup,
            )
        )
    if not places:
        raise SettingsError("this home has no ledgers: is the stack set up? (`chainring up`)")
    return places


def find_ledger(name: str) -> LedgerPlace:
    """One ledger of this home by name; ends the command when there is none."""
    places = {place.name: place for place in known_ledgers()}
    if name not in places:
        fail(f"ledger: {name!r} is not one of: {', '.join(places)}")
    return places[name]


@contextmanager
def refusals() -> Iterator[None]:
    """End the command with one line and the right exit code when a ledger refuses."""
    try:
        yield
    except (ProofError, KeyFileError) as error:
        fail(str(error), USAGE)
    except (SettingsError, StoreUnavailable) as error:
        fail(str(error), UNREACHABLE)
    except (CheckpointError, ReceiptError, Refused) as error:
        fail(str(error), NEGATIVE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", USAGE)
