"""Draws front.svg, mIOU over multiply-adds, from the table front.csv beside it.    python front.py"""

import csv
import html
import os

here = os.path.dirname(os.path.abspath(__file__))
rows = list(csv.DictReader(open(os.path.join(here, "front.csv"))))
COLOURS = {"reference": "#1f4e9c", "searched": "#c0392b", "by hand": "#2e8b57", "random": "#888888"}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 1060, 640, 230, 46, 30, 52
X, Y = (0.38, 1.0), (42.0, 66.0)


def place(gigamacs, miou):
    across = LEFT + (gigamacs - X[0]) / (X[1] - X[0]) * (WIDTH - LEFT - RIGHT)
    return across, HEIGHT - BOTTOM - (miou - Y[0]) / (Y[1] - Y[0]) * (HEIGHT - TOP - BOTTOM)


def text(x, y, words, colour="#222", anchor="start", size=11, more=""):
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}"{more}>{html.escape(words)}</text>'


out = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
    f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    text(WIDTH / 2, 20, "CamVid, validation split: mIOU over multiply-adds at 360x480", anchor="middle", size=15),
    text(WIDTH / 2, 36, "dots: random weights, 40 epochs; rings: weights of a DeepLabv3+ of 40 epochs, 40 more; squares: ImageNet weights; bars: deviation over three seeds", "#666", "middle", 10),
    text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "gigamultiply-adds", anchor="middle"),
    text(0, 0, "mIOU %", anchor="middle", more=f' transform="translate(16,{HEIGHT / 2:.0f}) rotate(-90)"'),
]
for miou in range(42, 67, 2):
    x, y = place(X[0], miou)
    out += [f'<path d="M{x:.0f} {y:.0f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>', text(40, y + 4, str(miou), "#666", "end", 10)]
for tenths in range(4, 11):
    x, y = place(tenths / 10, Y[0])
    out += [f'<path d="M{x:.0f} {TOP}V{y:.0f}" stroke="#e4e4e4"/>', text(x, y + 16, f"{tenths / 10:.1f}", "#666", "middle", 10)]
for i, (group, colour) in enumerate(COLOURS.items()):
    out.append(text(WIDTH - RIGHT - 80, HEIGHT - BOTTOM - 14 - 16 * i, group, colour, size=12))

# Names of the crowd at the left stand in two columns, the others beside their points; all apart from each other.
columns = {"left": [], "right": []}
for row in rows:
    x, y = place(float(row["gigamacs"]), float(row["miou"]))
    crowded = float(row["gigamacs"]) < 0.5
    column = "left" if crowded and row["group"] == "random" else "right"
    columns[column].append((y, x, row, crowded))
for column, entries in columns.items():
    low = -1e9
    for y, x, row, crowded in sorted(entries, key=lambda entry: entry[0]):
        colour = COLOURS[row["group"]]
        if row["deviation"]:
            reach = float(row["deviation"]) / (Y[1] - Y[0]) * (HEIGHT - TOP - BOTTOM)
            out.append(f'<path d="M{x:.1f} {y - reach:.1f}V{y + reach:.1f}" stroke="{colour}" stroke-width="2"/>')
        ring = row["start"] == "DeepLabv3+"
        style = f'fill="#fff" stroke="{colour}" stroke-width="2"' if ring else f'fill="{colour}"'
        square = row["start"] == "ImageNet"
        shape = f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"' if square else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"'
        if crowded:
            at = max(y, low + 14)
            low = at
            to = LEFT - 6 if column == "left" else place(0.5, 42)[0]
            out.append(f'<path d="M{x:.1f} {y:.1f}L{to:.1f} {at:.1f}" stroke="{colour}" opacity="0.35"/>')
            side = (to - 4, "end") if column == "left" else (to + 4, "start")
            out.append(text(side[0], at + 4, row["network"], colour, side[1]))
        else:
            side = (x + 10, "start") if x < WIDTH * 0.72 else (x - 10, "end")
            out.append(text(side[0], y + 4, row["network"], colour, side[1]))
        out.append(f"{shape} {style}/>")
out.append("</svg>")
open(os.path.join(here, "front.svg"), "w").write("\n".join(out) + "\n")
