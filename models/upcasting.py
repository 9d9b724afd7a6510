"""Documents of older schema versions, brought to the present one by pure functions.

A backup's digests are those of the images that it was made of, and its signed state root is over
these. So a document is proved first, as it was, and changed then; what the changed ones make is a
state root of its own. A row in a chunk has no image with it: `Shape` says how its version spelled
one, as the database did then.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.documents import SCHEMA_VERSION, DocumentError
from models.schema_shapes import SHAPES

Step = Callable[[list[Any]], list[Any]]
"""From the values of an image of one version to those of the next; the key stays what it is."""


class SchemaUnknown(ValueError):
    """The backup was made under a schema version that this release does not know."""


class Shape(NamedTuple):
    """How the rows of a collection were spelled under one version.

    Attributes:
        kinds: of the image's columns, in order.
        payload: whether a row ends with a payload, which is not in the image.
    """

    kinds: tuple[str, ...]
    payload: bool

    @classmethod
    def of(cls, text: str) -> "Shape":
        """Read ``name:kind name:kind ...``; the kind ``payload`` comes last, if at all."""
        kinds = tuple(each.partition(":")[2] for each in text.split())
        return cls(kinds[:-1], True) if kinds[-1] == "payload" else cls(kinds, False)

    def image(self, row: Sequence[Any]) -> tuple[str, bytes | None]:
        """The image that the database made of a row then, and the row's payload.

        Raises:
            DocumentError: the row has other columns.
        """
        if len(row) != len(self.kinds) + self.payload:
            raise DocumentError(f"{len(row)} columns, not {len(self.kinds) + self.payload}")
        try:
            values = [_spelled(kind, value) for kind, value in zip(self.kinds, row, strict=False)]
        except (AttributeError, UnicodeDecodeError) as error:
            raise DocumentError(f"a column is of another type: {error}") from None
        return _image(values), bytes(row[-1]) if self.payload else None


@dataclass(frozen=True)
class Upcasters:
    """What is known of the schema's versions.

    Attributes:
        current: the version of this release.
        shapes: of each version's collections, by their names.
        steps: from a version to the next one, for collections whose rows changed.
    """

    current: int = SCHEMA_VERSION
    shapes: Mapping[int, Mapping[str, Shape]] = field(default_factory=lambda: _KNOWN)
    steps: Mapping[tuple[int, str], Step] = field(default_factory=dict)

    def check(self, version: object) -> int:
        """The version, if documents of it can be read.

        Raises:
            SchemaUnknown: they cannot.
        """
        if not isinstance(version, int) or isinstance(version, bool):
            raise SchemaUnknown(f"schema: {version!r:.40} is no version")
        if version > self.current:
            raise SchemaUnknown(
                f"schema: version {version} is newer than this release, which knows "
                f"{self.current}: restore with the release that made it, or a newer one"
            )
        if version not in self.shapes:
            raise SchemaUnknown(f"schema: version {version} is none that ever was")
        return version

    def image_of(
        self, version: int, collection: str, row: Sequence[Any]
    ) -> tuple[str, bytes | None]:
        """The image of a chunk's row as it was, and its payload; raises `DocumentError`."""
        shape = self.shapes[version].get(collection)
        if shape is None:
            raise DocumentError(f"{collection}: version {version} had no such collection")
        return shape.image(row)

    def upcast(self, version: int, collection: str, image: str) -> str:
        """What a document of an older version is now; the same text where nothing changed.

        Raises:
            DocumentError: a step does not take it.
        """
        steps = [
            self.steps[each, collection]
            for each in range(version, self.current)
            if (each, collection) in self.steps
        ]
        if not steps:
            return image
        try:
            values = json.loads(image)
            for step in steps:
                values = step(values)
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise DocumentError(f"{collection}: upcast from version {version}: {error}") from None
        return _image(values)


def _spelled(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "bytes":
        return value.hex()
    return value.decode() if kind == "textbytes" else value


def _image(values: Sequence[Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


_KNOWN: Mapping[int, Mapping[str, Shape]] = {
    version: {name: Shape.of(text) for name, text in collections.items()}
    for version, collections in SHAPES.items()
}

UPCASTERS = Upcasters()
"""Version 2 protects two more tables; the documents of version 1 are the same in it."""
