# SPDX-License-Identifier: Apache-2.0
"""Drawing with SVG elements for tools/report.py, whose page defines the colors of the classes, so that a picture follows light and dark
mode, and for tools/scaling_report.py, whose picture is a file with a style of its own. Lengths are pixels of the picture at its own size."""
import html
import math
from collections.abc import Sequence

Point = tuple[float, float]


def number(value: float) -> str:
    """Returns a coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns round numbers from low to high, `most` of them at most and at least one."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next((factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (step * factor) < most), 50)
    first = math.ceil(low / step - 1e-9)
    return [step * n for n in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """Returns a tick's number without digits that say nothing."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:g}" if abs(value) < 1e6 else f"{value:.2g}"


class Canvas:
    """Collects elements; `svg` returns the picture."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []

    def rect(self, corner: Point, size: Point, css: str, opacity: float = 1.0, title: str = "") -> None:
        """Adds a filled rectangle; `title` is shown where the pointer rests on it."""
        inside = f"<title>{html.escape(title)}</title>" if title else ""
        faint = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
        self.parts.append(f'<rect x="{number(corner[0])}" y="{number(corner[1])}" width="{number(size[0])}" '
                          f'height="{number(size[1])}" class="{css}"{faint}>{inside}</rect>')

    def line(self, points: Sequence[Point], css: str) -> None:
        """Adds a line through the points."""
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="line {css}"/>')

    def area(self, points: Sequence[Point], css: str) -> None:
        """Adds a filled polygon."""
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self.parts.append(f'<polygon points="{path}" class="{css}"/>')

    def dot(self, center: Point, css: str, radius: float = 3.0) -> None:
        """Adds a filled circle."""
        self.parts.append(f'<circle cx="{number(center[0])}" cy="{number(center[1])}" r="{number(radius)}" class="{css}"/>')

    def text(self, at: Point, text: str, anchor: str = "middle", css: str = "", turned: bool = False) -> None:
        """Adds a word; `turned` reads from bottom to top."""
        turn = f' transform="rotate(-90 {number(at[0])} {number(at[1])})"' if turned else ""
        self.parts.append(f'<text x="{number(at[0])}" y="{number(at[1])}" text-anchor="{anchor}"'
                          + (f' class="{css}"' if css else "") + f"{turn}>{html.escape(text)}</text>")

    def legend(self, at: Point, entries: Sequence[tuple[str, str, str]]) -> None:
        """Adds a row of (kind, class, words); kind is "box" or "line"."""
        x, y = at
        for kind, css, words in entries:
            if kind == "box":
                self.rect((x, y - 9), (12, 10), css)
            else:
                self.line([(x, y - 4), (x + 18, y - 4)], css)
            x += 16 if kind == "box" else 22
            self.text((x, y), words, "start")
            x += 16 + text_width(words)

    def place(self, corner: Point, other: "Canvas") -> None:
        """Adds what is on another canvas, its upper left corner at `corner`."""
        self.parts.append(f'<g transform="translate({number(corner[0])} {number(corner[1])})">{"".join(other.parts)}</g>')

    def svg(self, description: str) -> str:
        """Returns the picture as an element of a page; `description` is for those who cannot see it."""
        width, height = number(self.width), number(self.height)
        return (f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{html.escape(description)}">'
                + "".join(self.parts) + "</svg>")

    def file(self, description: str, style: str) -> str:
        """Returns the picture as a file that stands alone, on white; `style` has the rules of its classes."""
        head, rest = self.svg(description).split(">", 1)
        return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{rest}\n'


def legend_width(entries: Sequence[tuple[str, str, str]]) -> float:
    """Returns about how wide a legend of these entries is."""
    return sum((16 if kind == "box" else 22) + 16 + text_width(words) for kind, _, words in entries)


def text_width(words: str) -> float:
    """Returns about how wide words in 12 pixels are; letters of Chinese, Japanese and Korean count twice."""
    return sum(12.0 if ord(char) > 0x2E80 else 6.2 for char in words)


class Plot(Canvas):
    """A canvas with two axes: `x` and `y` are their ends, `above` and `beside` what stays free over and to the right of them."""

    def __init__(self, size: Point, x: Point, y: Point, above: float = 28, beside: float = 14) -> None:
        super().__init__(*size)
        self.left, self.right, self.top, self.bottom = 54.0, size[0] - beside, above, size[1] - 42
        self.x, self.y = x, y if y[1] > y[0] else (y[0], y[0] + 1)

    def at(self, x: float, y: float) -> Point:
        """Returns where a value stands on the canvas."""
        low, high = self.x
        return (self.left + (x - low) / ((high - low) or 1) * (self.right - self.left),
                self.bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - self.top))

    def axes(self, x_label: str, y_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
        """Adds both axes with their labels, ticks and faint lines."""
        for value in y_ticks:
            _, y = self.at(self.x[0], value)
            self.line([(self.left, y), (self.right, y)], "grid")
            self.text((self.left - 6, y + 4), tick_text(value), "end")
        self.line([(self.left, self.bottom), (self.right, self.bottom)], "axis")
        for value in x_ticks:
            x, _ = self.at(value, self.y[0])
            self.line([(x, self.bottom), (x, self.bottom + 4)], "axis")
            self.text((x, self.bottom + 16), tick_text(value))
        self.text(((self.left + self.right) / 2, self.height - 6), x_label, css="label")
        self.text((12, (self.top + self.bottom) / 2), y_label, css="label", turned=True)
