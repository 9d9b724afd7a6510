"""Sample service: a product catalog. ``GET /products/<number>`` describes one product."""

from typing import Any

from serving import run

NAMES = ("bottom bracket", "cassette", "chain", "chainring", "crank", "derailleur", "hub", "spoke")


def product(target: str) -> dict[str, Any]:
    number = sum(target.encode()) % 997
    return {
        "product": number,
        "name": NAMES[number % len(NAMES)],
        "price_cents": 500 + number * 7,
        "in_stock": number % 5 != 0,
    }


if __name__ == "__main__":
    run("catalog", product)
