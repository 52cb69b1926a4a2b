"""Test rows as `lyceum explain --input` and the server take them: `rows.py digits|adult FILE N`, one JSON a line."""

import csv
import json
import sys

NUMBERS = {"age", "education_num", "capital_gain", "capital_loss", "hours_per_week"}


def rows(kind, path, n):
    """N rows, evenly from the whole file."""
    with open(path, newline="") as file:
        found = list(csv.DictReader(file))
    for i in range(n):
        row = found[i * len(found) // n]
        if kind == "digits":
            row.pop("label")
            yield [float(x) for x in row.values()]
        else:
            row.pop("income")
            yield {k: float(v) if k in NUMBERS else v for k, v in row.items()}


if __name__ == "__main__":
    for row in rows(sys.argv[1], sys.argv[2], int(sys.argv[3])):
        print(json.dumps(row))
