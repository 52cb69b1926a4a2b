"""How much later does a streamed answer begin where its project's guard looks through it, beyond what the guard holds back?

    python bench/guard_delay.py URL KEY GUARDED_KEY MODEL [--rounds 100] [--tokens 24] [--prompt TEXT]

KEY is of a project without a policy, GUARDED_KEY of one whose policy changes what goes out (`lyceum admin guard PROJECT --output
redact`); both may ask MODEL (`lyceum admin shares`). In each round the same greedy prompt is streamed three times, in an order
that changes: by GUARDED_KEY, by KEY, and by KEY once more. What an answer holds back is a word until its end, and that is no delay:
so the time of the first guarded piece is compared with the time at which the plain stream had one character more than that
piece holds, both since their request left. The second plain stream, compared with the first in the same way, says what the
difference of two equal streams is here. Told are the median with its interval (95 %, by order statistics) and the 90th percentile.
Streams must say the same; connections are kept. Standard library only.
"""

import argparse
import http.client
import json
import math
import statistics
import sys
import time
from urllib.parse import urlsplit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("url")
parser.add_argument("key")
parser.add_argument("guarded_key")
parser.add_argument("model")
parser.add_argument("--rounds", type=int, default=100)
parser.add_argument("--tokens", type=int, default=24)
parser.add_argument("--prompt", default="Write one sentence about the sea.")
asked = parser.parse_args()
if asked.rounds < 10:
    sys.exit("fewer than 10 rounds tell nothing")
ADDRESS = urlsplit(asked.url).netloc
BODY = json.dumps({"model": asked.model, "messages": [{"role": "user", "content": asked.prompt}], "max_tokens": asked.tokens,
                   "temperature": 0, "stream": True}).encode()


class Stream:
    """A connection of one key, on which one stream after another is asked for."""

    def __init__(self, key):
        self.connection = http.client.HTTPConnection(ADDRESS, timeout=300)
        self.headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    def ask(self):
        """The pieces of one answer: seconds since the request left, and the text."""
        began = time.perf_counter()
        self.connection.request("POST", "/v1/chat/completions", BODY, self.headers)
        answer = self.connection.getresponse()
        if answer.status != 200:
            sys.exit(f"{answer.status} {answer.read().decode()}")
        pieces = []
        for line in iter(answer.readline, b""):
            if not line.startswith(b"data: {"):
                continue
            at = time.perf_counter() - began
            event = json.loads(line[6:])
            if "error" in event:
                sys.exit(f"the stream ended: {event}")
            text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            if text:
                pieces.append((at, text))
        if not pieces:
            sys.exit("the model says nothing to this prompt: take another --prompt")
        return pieces


def said(pieces):
    return "".join(text for _, text in pieces)


def had(pieces, n):
    """When a stream had `n` characters, or all of them."""
    seen = 0
    for at, text in pieces:
        seen += len(text)
        if seen >= n:
            break
    return at


def told(name, seconds):
    """Median, its interval and the 90th percentile of these differences, in ms."""
    ms = sorted(1000 * second for second in seconds)
    n = len(ms)
    # Ranks that the median of n is between with 95 %, by the normal form of the binomial.
    reach = 1.96 * math.sqrt(n) / 2
    low, high = max(math.floor(n / 2 - reach), 0), min(math.ceil(n / 2 + reach), n - 1)
    print(f"{name}: median {statistics.median(ms):+.3f} ms [{ms[low]:+.3f}, {ms[high]:+.3f}], p90 {ms[math.ceil(0.9 * n) - 1]:+.3f} ms, n {n}")


guarded, plain, again = Stream(asked.guarded_key), Stream(asked.key), Stream(asked.key)
for stream in (guarded, plain, again):  # the model is loaded, and the prompt known to each
    stream.ask()
delays, control, held, firsts = [], [], [], []
for round in range(asked.rounds):
    order = [guarded, plain, again][round % 3:] + [guarded, plain, again][:round % 3]
    pieces = {stream: stream.ask() for stream in order}
    if said(pieces[plain]) != said(pieces[again]) or said(pieces[guarded]) != said(pieces[plain]):
        sys.exit(f"streams differ, so times say nothing: {said(pieces[guarded])!r}, {said(pieces[plain])!r}")
    at, first = pieces[guarded][0]
    delays.append(at - had(pieces[plain], len(first) + 1))
    control.append(had(pieces[again], len(first) + 1) - had(pieces[plain], len(first) + 1))
    held.append(had(pieces[plain], len(first) + 1) - pieces[plain][0][0])
    firsts.append(pieces[plain][0][0])
print(f"first guarded piece {first!r}, first plain piece {pieces[plain][0][1]!r}; the answer: {said(pieces[plain])!r}")
told("first plain piece after its request", firsts)
told("held back (a plain stream's time from its first piece to one character more than the guarded first piece)", held)
told("added beyond it by the guard", delays)
told("two plain streams, compared in the same way", control)
