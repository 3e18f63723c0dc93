"""SVG plots without a library: bars of ratios, and lines over a logarithmic axis."""

import math
from xml.sax.saxutils import escape

INK, GREY, OURS, PEER = "#24292f", "#8c959f", "#0969da", "#bf8700"
COLOURS = [OURS, PEER, "#1a7f37", "#8250df"]


class Canvas:
    def __init__(self, width, height):
        self.size, self.parts = (width, height), []

    def text(self, x, y, words, size=12, colour=INK, anchor="start", weight="normal"):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(words)}</text>')

    def line(self, points, colour=GREY, width=1.0, dash=""):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>')

    def bar(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.5, width):.1f}" height="{height}" fill="{colour}"/>')

    def dot(self, x, y, colour):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')

    def save(self, path):
        width, height = self.size
        with open(path, "w") as file:
            file.write(
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
                'font-family="Helvetica, Arial, sans-serif">\n'
                f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def ratios(path, title, rows):
    """`rows` are (name, ratio ours to peer, words behind the bar): a bar to the left of 1 is less than the peer."""
    left, width, step = 330, 330, 24
    canvas = Canvas(left + width + 230, 70 + step * len(rows))
    canvas.text(16, 26, title, 15, weight="bold")
    low = min([0.01] + [ratio for _, ratio, _ in rows if ratio > 0])
    span = math.log10(low), math.log10(max([10] + [ratio for _, ratio, _ in rows]))
    at = lambda ratio: left + width * (math.log10(max(ratio, 10 ** span[0])) - span[0]) / (span[1] - span[0])
    bottom = 52 + step * len(rows)
    for tick in (0.001, 0.01, 0.1, 1, 10, 100):
        if span[0] <= math.log10(tick) <= span[1]:
            canvas.line([(at(tick), 44), (at(tick), bottom)], INK if tick == 1 else "#d0d7de")
            canvas.text(at(tick), bottom + 14, f"{tick:g}", 11, GREY, "middle")
    for number, (name, ratio, words) in enumerate(rows):
        y = 52 + step * number
        canvas.text(left - 10, y + 12, name, 12, anchor="end")
        begin, end = sorted((at(1), at(ratio)))
        canvas.bar(begin, y + 2, end - begin, 13, OURS if ratio <= 1 else PEER)
        canvas.text(left + width + 12, y + 12, words, 11, GREY)
    canvas.save(path)


def curves(path, title, under, beside, lines, floor=None):
    """`lines` are (name, [(x, y)]); both axes are logarithmic."""
    canvas = Canvas(640, 360)
    canvas.text(16, 26, title, 15, weight="bold")
    points = [point for _, line in lines for point in line]
    low_x, high_x = (math.log10(f([x for x, _ in points])) for f in (min, max))
    low_y = math.floor(math.log10(floor or min(y for _, y in points)))
    high_y = math.ceil(math.log10(max(y for _, y in points)))
    at = lambda x, y: (
        70 + 410 * (math.log10(x) - low_x) / max(high_x - low_x, 1e-9),
        310 - 250 * (math.log10(max(y, 10 ** low_y)) - low_y) / max(high_y - low_y, 1))
    for power in range(low_y, high_y + 1):
        x, y = 70, at(10 ** low_x, 10 ** power)[1]
        canvas.line([(x, y), (480, y)], "#d0d7de")
        canvas.text(x - 6, y + 4, f"{10 ** power:g}", 11, GREY, "end")
    for x in sorted({x for x, _ in points}):
        canvas.text(at(x, 1)[0], 326, f"{x:g}", 11, GREY, "middle")
    canvas.text(275, 346, under, 12, anchor="middle")
    canvas.text(16, 46, beside, 12)
    for number, (name, line) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        canvas.line([at(x, y) for x, y in line], colour, 2)
        for x, y in line:
            canvas.dot(*at(x, y), colour)
        canvas.text(496, 80 + 20 * number, name, 12, colour)
    canvas.save(path)
