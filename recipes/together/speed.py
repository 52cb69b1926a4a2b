"""Answers per second of the server, by one client on one connection: `speed.py WORK OUT`.

Five rounds; a round asks every model in turn, so that a busy minute of the machine falls on all. Medians of the rounds."""

import http.client
import json
import pathlib
import statistics
import sys
import time
import urllib.parse

from rows import rows

KINDS = ["plain", "private", "robust", "private_robust"]
ROUNDS = 5
# What is asked beside the answer, the rows a request, and the requests a round.
CASES = {
    "alone": ({}, 1, 200),
    "batch": ({}, 200, 10),
    "explained": ({"explain": {"method": "integrated_gradients", "baseline": {"type": "zeros"}}}, 1, 30),
    "certified": ({"certify": {"sigma": 0.25, "n": 1000, "alpha": 0.001}}, 1, 30),
}


def main(work, out):
    listening = json.loads((out / "serve.jsonl").read_text().splitlines()[0])
    place = urllib.parse.urlparse(listening["url"])
    link = http.client.HTTPConnection(place.hostname, place.port)
    head = {"authorization": f"Bearer {listening['key']}", "content-type": "application/json"}

    def ask(model, body):
        link.request("POST", f"/v1/models/{model}:predict", body, head)
        answer = link.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"error: {model}: {answer.status} {text[:500]!r}")

    speeds = {}
    for round_idx in range(ROUNDS + 1):
        for name in ["digits", "adult"]:
            tested = list(rows(name, work / f"{name}_test.csv", 200))
            for case, (extra, n_rows, n_requests) in CASES.items():
                bodies = [json.dumps({"instances": [tested[(i + j) % 200] for j in range(n_rows)], **extra}) for i in range(n_requests)]
                for kind in KINDS:
                    start = time.perf_counter()
                    for body in bodies:
                        ask(f"{name}-{kind}-1", body)
                    speed = n_rows * n_requests / (time.perf_counter() - start)
                    # The first round loads the models and does not count.
                    if round_idx > 0:
                        speeds.setdefault(f"{name}-{kind}", {}).setdefault(case, []).append(speed)
    found = {m: {c: statistics.median(v) for c, v in cases.items()} for m, cases in speeds.items()}
    (out / "speed.json").write_text(json.dumps(found, indent=1))


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
