"""Line charts as SVG, with nothing but strings: a logarithmic x axis, a y axis from nought to a fixed
top, so that charts of two runs can be laid side by side."""

import math
from xml.etree import ElementTree
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 76, 170, 54, 56
COLOURS = ("#0b62a4", "#c2410c", "#15803d", "#7e22ce", "#525252")
MARKS = ("circle", "square", "diamond", "triangle", "circle")


class Chart:
    """`top` is doubled until the data fit. `lines` are `(label, [(x, y), …])`."""

    def __init__(self, title, x_label, y_label, left, right, top, lines):
        self.title, self.x_label, self.y_label = title, x_label, y_label
        self.left, self.right, self.lines = left, right, [(label, dots) for label, dots in lines if dots]
        highest = max((y for _, dots in self.lines for _, y in dots), default=0)
        while highest > top:
            top *= 2
        self.top = top

    def x(self, value):
        share = (math.log10(value) - math.log10(self.left)) / (math.log10(self.right) - math.log10(self.left))
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)

    def svg(self):
        picture = "\n".join(self.parts()) + "\n"
        # Put together from strings: what is no XML is not written.
        ElementTree.fromstring(picture)
        return picture

    def parts(self):
        yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
               f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="13" role="img">')
        yield f"<title>{escape(self.title)}</title>"
        yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        yield text(LEFT, 26, self.title, size=16, weight="bold")
        yield from self.grid()
        heights = spread([self.y(dots[-1][1]) for _, dots in self.lines])
        for index, (label, dots) in enumerate(self.lines):
            colour = COLOURS[index % len(COLOURS)]
            points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in dots)
            yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            for x, y in dots:
                yield mark(MARKS[index % len(MARKS)], self.x(x), self.y(y), colour)
            # Beside the end of its line, moved apart from the others'.
            yield text(self.x(dots[-1][0]) + 10, heights[index] + 4, label, colour=colour)
        yield "</svg>"

    def grid(self):
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        for step in range(6):
            value = self.top * step / 5
            y = self.y(value)
            yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#d4d4d4"/>'
            yield text(LEFT - 8, y + 4, plain(value), anchor="end")
        for power in range(math.ceil(math.log10(self.left)), math.floor(math.log10(self.right)) + 1):
            x = self.x(10 ** power)
            yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#e5e5e5"/>'
            yield text(x, bottom + 20, f"{10 ** power:,}", anchor="middle")
        yield f'<line x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#404040"/>'
        yield text((LEFT + right) / 2, HEIGHT - 12, self.x_label, anchor="middle")
        yield text(LEFT - 60, TOP - 12, self.y_label)


def spread(heights, least=16):
    """The heights of labels, moved as far as it takes to be legible: down, and up from the axis."""
    placed, order = list(heights), sorted(range(len(heights)), key=lambda index: heights[index])
    last = -math.inf
    for index in order:
        last = placed[index] = max(placed[index], last + least)
    lowest = HEIGHT - BOTTOM
    for index in reversed(order):
        placed[index] = min(placed[index], lowest)
        lowest = placed[index] - least
    return placed


def plain(value):
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def text(x, y, words, anchor="start", size=13, weight="normal", colour="#171717"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
            f'font-weight="{weight}" fill="{colour}">{escape(words)}</text>')


def mark(kind, x, y, colour):
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
    }[kind]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" fill="{colour}"/>'
