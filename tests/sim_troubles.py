"""What goes wrong in a simulated history: outages, damage in the bucket, lost keys, clocks."""

import random
import shutil
from dataclasses import dataclass

from sim_world import REGION, World


@dataclass
class Troubles:
    """Makes trouble in a world; each method says what it did."""

    world: World

    def __post_init__(self) -> None:
        self._chance = self.world.chance

    def outage(self) -> str:
        url = self.world.primary().database
        if not self.world.reachable(url):
            return "it is down already"
        kind = self._chance.choice(("lost", "unreachable", "away"))
        if kind == "lost":
            self.world.lose(url)
        else:
            self.world.cut_off(url, away=kind == "away")
        return f"{self.world.primary().store[:8]} is {kind}"

    def outage_over(self) -> str:
        back = sorted(self.world.faults.down - self.world.destroyed)
        if not back:
            return "nothing can come back"
        url = self._chance.choice(back)
        self.world.bring_back(url)
        return url.rpartition("/")[2]

    def bucket(self) -> str:
        bucket = self.world.bucket
        if bucket.unreachable:
            bucket.unreachable = False
            return "reachable again"
        trouble = self._chance.choice(("unreachable", "lost", "partial"))
        if trouble == "unreachable":
            bucket.unreachable = True
        else:
            bucket.next_put = trouble
        return trouble

    def damage(self) -> str:
        """Somebody changes, removes or doubles an object of the primary's backup."""
        world = self.world
        prefix = f"{REGION}/{world.primary().store}/"
        with world.faults.paused():
            names = [each.name for each in world.bucket.real.list(prefix)]
            if not names:
                return "there is nothing"
            name = self._chance.choice(names)
            data = world.bucket.real.get(name, 1 << 24)
            how = self._chance.choice(("missing", "flipped", "doubled"))
            if how == "doubled":
                return self._double(name, data)
            if name in world.damage:
                return "it is damaged already"
            world.damage[name] = data
            self._replace(name, None if how == "missing" else _flipped(data, self._chance))
        return f"{how} {name}"

    def _double(self, name: str, data: bytes) -> str:
        """Another object of the same meaning, as a shipper that was killed leaves it."""
        if not name.endswith(".seg"):
            return "only segments can be doubled"
        copy = f"{name[:-8]}{self._chance.randrange(1 << 16):04x}.seg"
        if self.world.bucket.real.stat(copy) is None:
            self.world.bucket.real.put(copy, data)
        return f"doubled {name}"

    def _replace(self, name: str, data: bytes | None) -> None:
        real = self.world.bucket.real
        found = real.stat(name)
        if found is not None:
            real.delete(name, if_generation=found.generation)
        if data is not None:
            real.put(name, data)

    def mend_bucket(self) -> str:
        with self.world.faults.paused():
            for name, data in self.world.damage.items():
                self._replace(name, data)
        self.world.damage.clear()
        return "all objects are as they were"

    def lose_keys(self) -> str:
        """The recovery process's machine is lost, and with it the keys of the tenants."""
        world = self.world
        if world.bucket.unreachable:
            return "not while their backup is out of reach"
        world.stop_recovery()
        with world.faults.paused():
            for suffix in ("", "-wal", "-shm"):
                (world.home / f"tenant-keys.db{suffix}").unlink(missing_ok=True)
            shutil.rmtree(world.home / "backup", ignore_errors=True)
        return "gone, with the state trees"

    def clock(self) -> str:
        hours = self._chance.choice((-30, -1, 1, 30))
        self.world.faults.now_ms += hours * 3_600_000
        return f"jumps by {hours} h"


def _flipped(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
