"""Sample service: draws a small chart as SVG, which costs a little processor time."""

import math
from typing import Any

from serving import run

WIDTH, HEIGHT, POINTS = 320, 80, 96


def chart(target: str) -> dict[str, Any]:
    phase = sum(target.encode()) % 360
    step = WIDTH / (POINTS - 1)
    points = []
    for index in range(POINTS):
        angle = math.radians(phase + index * 11)
        height = HEIGHT / 2 * (1 + math.sin(angle) * math.cos(angle / 3))
        points.append(f"{index * step:.1f},{height:.1f}")
    line = f'<polyline fill="none" stroke="black" points="{" ".join(points)}"/>'
    return {"svg": f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{line}</svg>'}


if __name__ == "__main__":
    run("render", chart)
