#!/usr/bin/env python3
"""Writes the corpus of the mutation tests, but for checkpoints and architectures (`cargo test ... corpus -- --ignored`)."""

import gzip
import json
import struct
import zlib
from pathlib import Path

HERE = Path(__file__).parent


def put(name, data):
    path = HERE / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color, rows, extra=b"", interlace=0):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace))
    data = zlib.compress(b"".join(bytes([i % 5 if color == 2 else 0]) + row for i, row in enumerate(rows)), 9)
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def images():
    rgb = [bytes((x * 31 + y * c) % 256 for x in range(12) for c in (3, 17, 29)) for y in range(9)]
    put("image/rgb.png", png(12, 9, 8, 2, rgb))
    put("image/grey_alpha.png", png(12, 9, 8, 4, [bytes(range(24)) for _ in range(9)]))
    put("image/deep.png", png(5, 4, 16, 2, [bytes(range(30)) for _ in range(4)]))
    orientation = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    put("image/turned.png", png(12, 9, 8, 2, rgb, chunk(b"eXIf", orientation)))
    put("label/eight.png", png(12, 9, 8, 0, [bytes(i % 3 for i in range(12)) for _ in range(9)]))
    palette = chunk(b"PLTE", bytes(range(48)))
    put("label/palette_four.png", png(5, 3, 4, 3, [b"\x01\x23\x40"] * 3, palette))
    put("label/one_bit.png", png(12, 9, 1, 0, [b"\xaa\xf0"] * 9))


def lists():
    put("list/stems.txt", "a\nb c\nsub/d\n")
    put("list/windows.txt", b"\xef\xbb\xbfa\r\nw\\x\r\n")
    put("list/camvid.txt", "/SegNet/train/a.png /SegNet/trainannot/a.png\n")
    put("list/classes.txt", "sky 70 130 180\nroad\ntraffic light 250 170 30\n")
    put("list/voc.txt", "a\n2008_000008 -1\n2008_000015  1\n")


def coco():
    images = [
        {"id": 1, "width": 12, "height": 9, "file_name": "a.png"},
        {"id": 2, "width": 12.0, "height": "9", "file_name": "a.png"},
    ]
    boxes = [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3.5, 4], "area": 12, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 7, "bbox": [0, 0, 12, 9], "iscrowd": 1, "segmentation": {"counts": [1]}},
        {"id": 3, "image_id": 2, "category_id": 2, "bbox": [1.5, 2, 6, 5], "area": 30.0, "ignore": 1, "difficult": True},
    ]
    categories = [{"id": 2, "name": "cat", "supercategory": "animal"}, {"id": 7, "name": "Öl"}]
    file = {"info": {}, "images": images, "annotations": boxes, "categories": categories}
    put("coco/annotations.json", json.dumps(file, indent=1))
    put("coco/texts.json", json.dumps(file).replace('"id": 1,', '"id": "0001",').replace('_id": 1,', '_id": "0001",'))
    results = [
        {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.9},
        {"image_id": 2, "category_id": 7, "bbox": [0.5, 0.5, 11, 8], "score": 0.25},
    ]
    put("coco/results.json", json.dumps(results))


VOC = """<?xml version="1.0" encoding="{}"?>
<annotation><folder>x</folder><filename>a.png</filename>
  <size><width>12</width><height>9</height><depth>3</depth></size>
  <object><name>{}</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
    <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>7</xmax><ymax>8</ymax></bndbox></object>
  <object><name>cat</name><difficult>1</difficult>
    <bndbox><xmax>9.5</xmax><xmin>11</xmin><ymin>2</ymin><ymax>8</ymax></bndbox></object>
</annotation>
"""


def voc():
    put("voc/utf8.xml", VOC.format("UTF-8", "Öl &amp; Wasser"))
    put("voc/latin1.xml", VOC.format("ISO-8859-1", "Öl").encode("latin-1"))
    put("voc/utf16.xml", VOC.format("UTF-16", "猫").encode("utf-16"))


def packed():
    idx = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 3, 3) + bytes(range(18))
    put("packed/images.idx", idx)
    put("packed/images.gz", gzip.compress(idx, mtime=0))
    put("packed/cifar.bin", b"".join(bytes([label]) + bytes((label + i) % 256 for i in range(3072)) for label in (3, 9)))


def tables():
    text = "arch,valid,test,params\n0-1-2,0.5,0.4,12\n1-1-1,0.75,,8\n2-0-0,0.25,0.3,-1\n"
    put("table/plain.csv", text)
    put("table/marked.csv", b"\xef\xbb\xbf" + text.encode())
    put("table/quoted.csv", 'valid,"arch"\r\n0.5,"0-1-2"\r\n1e-3,1-1-1\r\n')
    put("table/packed.csv.gz", gzip.compress(text.encode(), mtime=0))


def logs():
    def line(i, arch, outcome, **more):
        return json.dumps({"id": i, "arch": arch, **more, "outcome": outcome}) + "\n"

    archs = [f"{i % 3}-{i // 3 % 3}-{i * 7 % 3}" for i in range(14)]
    plain = [line(i, arch, {"metrics": {"valid": i / 14, "params": i}}) for i, arch in enumerate(archs)]
    plain[5] = line(5, archs[5], {"failed": "exit status: 3"})
    put("trial_log/plain.jsonl", "".join(plain))
    put("trial_log/gap.jsonl", "".join(plain[:3] + plain[4:]) + '{"id": 3, "arch": "0-')
    budget = {"epochs": 3, "data": 0.5, "image": 1.0, "channels": 1.0, "cells": 1.0}
    steps = [
        line(0, "0-1-2", {"metrics": {"valid": 0.1}}, budget={"epochs": 1}),
        line(2, "1-1-1", {"metrics": {"valid": 0.3}}, budget={"epochs": 1}),
        line(1, "2-1-0", {"metrics": {"valid": 0.2}}, budget={"epochs": 1}),
        line(3, "1-1-1", {"metrics": {"valid": 0.4}}, budget=budget, parent=2),
    ]
    put("trial_log/budgets.jsonl", "".join(steps))


if __name__ == "__main__":
    for make in (images, lists, coco, voc, packed, tables, logs):
        make()
