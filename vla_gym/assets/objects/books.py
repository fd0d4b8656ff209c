"""Books of the primitive pack, which stand upright."""

from __future__ import annotations

from vla_gym.assets.objects.colors import BLACK, STEEL, WHITE, YELLOW
from vla_gym.assets.shapes import Asset, Body, Rgba, Vector3, box, move, paint, weigh


def _book(size: Vector3, middle: Vector3, mass: float, cover: Rgba, title: Rgba) -> Asset:
    x, y, z = size
    board = 0.0025
    # the back of the book is at its lower end of y
    binding = box((board, y, z), (board - x, 0, 0)) + box((board, y, z), (x - board, 0, 0))
    binding += box((x, board, z), (0, board - y, 0))
    pages = box((x - 0.001, y - 0.003, z - 0.003))
    lettering = box((x + 0.0002, 0.45 * y, 0.12 * z), (0, 0, 0.45 * z))
    lettering += box((0.5 * x, board, 0.45 * z), (0, board - y - 0.0002, 0.1 * z))
    visual = paint(binding, cover) + paint(pages, WHITE) + paint(lettering, title)
    body = Body("object", collision=weigh(move(box(size), middle), mass), visual=move(visual, middle))
    return Asset(body, -0.06, 0.04, 0.025)


BOOKS: dict[str, Asset] = {
    "turbosquid_objects/black_book/black_book.xml": _book(
        (0.0143, 0.0552, 0.0672), (-0.0005, -0.0121, 0.0694), 0.0425, BLACK, STEEL
    ),
    "turbosquid_objects/yellow_book/yellow_book.xml": _book(
        (0.0117, 0.0489, 0.0611), (0.0016, 0, 0.0631), 0.0281, YELLOW, BLACK
    ),
}
