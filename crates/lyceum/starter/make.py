#!/usr/bin/env python3
"""Makes the data that ships with the binary for `lyceum quickstart`, from fetched assets; README.md says what it is.

usage: scripts/fetch-assets tables corpora && crates/lyceum/starter/make.py [ASSETS] (default .cache/assets)

Deterministic: the same assets give the same bytes. Standard library only.
"""

import csv
import json
import random
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent.parent
PER_SOURCE = 1000
CHARACTERS = 400_000


def sentences(text):
    """Sentences of 60 to 160 characters on one line, plain ASCII punctuation, without headings."""
    text = re.sub(r"\s+", " ", text.translate(str.maketrans("“”‘’—–", "\"\"''--")))
    for piece in re.split(r"(?<=[.!?])\"? (?=[\"A-Z])", text):
        piece = piece.strip().strip('"').strip()
        if 60 <= len(piece) <= 160 and piece.isascii() and piece[0].isupper() and not re.search(r"CHAPTER|\d{3,}|[\[\]_]", piece):
            yield piece


def speeches(text):
    """Shakespeare's speeches without the speaker's name, which would give the answer away."""
    for block in text.split("\n\n"):
        lines = block.strip().splitlines()
        if len(lines) >= 2 and lines[0].endswith(":"):
            yield from sentences(" ".join(lines[1:]))


def texts(assets):
    addresses = sorted((assets / "sotu").iterdir())
    between = lambda a, b: " ".join(p.read_text() for p in addresses if a <= int(p.name[:4]) < b)
    sources = {
        "melville": sentences((assets / "moby-dick.txt").read_text()),
        "shakespeare": speeches((REPOSITORY / "recipes/data/tinyshakespeare.txt").read_text()),
        "president_1790_1900": sentences(between(1790, 1900)),
        "president_1960_2020": sentences(between(1960, 2020)),
    }
    draw = random.Random(20260102)
    rows = []
    for label, found in sources.items():
        unique = sorted(set(found))
        rows += [(text, label) for text in draw.sample(unique, PER_SOURCE)]
    draw.shuffle(rows)
    return rows


def additions():
    """Every sum of two numbers below 100, each once, in an order that the seed decides."""
    draw = random.Random(20260103)
    pairs = [(a, b) for a in range(100) for b in range(100)]
    draw.shuffle(pairs)
    return [{"source": f"{a}+{b}", "target": str(a + b)} for a, b in pairs]


def main():
    assets = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / ".cache/assets"
    for name in ("breast_cancer.csv", "digits.csv"):
        shutil.copyfile(assets / "tables" / name, HERE / name)
    shutil.copyfile(assets / "corpora/births.csv", HERE / "births.csv")
    with open(HERE / "sources.csv", "w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([("text", "label"), *texts(assets / "corpora")])
    with open(HERE / "addition.jsonl", "w") as f:
        f.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in additions())
    play = (REPOSITORY / "recipes/data/tinyshakespeare.txt").read_text()
    (HERE / "shakespeare.txt").write_text(play[: play.index("\n\n", CHARACTERS) + 1])
    for path in sorted(HERE.iterdir()):
        print(f"{path.stat().st_size:9,}  {path.name}")


if __name__ == "__main__":
    main()
