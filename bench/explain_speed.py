"""How much sooner is leave one out done than asking for every text by itself?

    python bench/explain_speed.py URL KEY MODEL [SENTENCES] [ROUNDS] [PID]

A made-up prompt of so many sentences (20), about 2,000 tokens, with an answer behind it. Beside each other, in turn:
one `/v1/explanations` with leave_one_out; each of its texts read from scratch (one token behind it, and another first word, so that
nothing kept is found), which is the least that any scoring takes; and each scored as a client can: a completion whose whole
prompt reports its log-probabilities. With the server's PID (Linux) what is counted is its processor time, which other work on the
machine changes less than the clock. Standard library only.
"""

import json
import os
import random
import sys
import time
import urllib.request

URL, KEY, MODEL = sys.argv[1:4]
N = int(sys.argv[4]) if len(sys.argv) > 4 else 20
ROUNDS = int(sys.argv[5]) if len(sys.argv) > 5 else 1
PID = sys.argv[6] if len(sys.argv) > 6 else None
WORDS = "river stone market winter garden letter captain silver morning bridge window forest teacher engine island".split()


def now():
    """Seconds of the clock, or of the server's processors."""
    if PID is None:
        return time.perf_counter()
    with open(f"/proc/{PID}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def post(path, body):
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {
        "authorization": f"Bearer {KEY}", "content-type": "application/json"})
    began = now()
    answer = json.load(urllib.request.urlopen(request, timeout=900))
    return answer, now() - began


ratios = []
for round in range(ROUNDS):
    # Other words in each round: nothing of the one before is kept.
    rng = random.Random(round + int(time.time()))
    sentences = [" ".join(rng.choices(WORDS, k=95)).capitalize() + ". " for _ in range(N)]
    completion = " The river froze."
    texts = ["".join(s for i, s in enumerate(sentences) if i != out) for out in [None, *range(N)]] + [""]
    asked = {"model": MODEL, "prompt": texts[0], "completion": completion, "granularity": "sentence"}
    answer, whole = post("/v1/explanations", asked)
    assert len(answer["attributions"]) == N, len(answer["attributions"])
    first = lambda text: f"{rng.random()} {text}{completion}"
    body = {"model": MODEL, "max_tokens": 1, "temperature": 0}
    took = [post("/v1/completions", body | {"prompt": first(text)}) for text in texts]
    read, n_tokens = sum(t for _, t in took), took[0][0]["usage"]["prompt_tokens"]
    print(f"{n_tokens} tokens, {N} sentences: leave_one_out {whole:.1f} s; each read from scratch {read:.1f} s, "
          f"{read / whole:.2f} times", flush=True)
    took = [post("/v1/completions", body | {"prompt": text + completion, "prompt_logprobs": 0}) for text in texts]
    scored = sum(t for _, t in took)
    print(f"  each scored by prompt_logprobs {scored:.1f} s, {scored / whole:.2f} times", flush=True)
    ratios.append((read / whole, scored / whole))
middle = lambda i: sorted(ratio[i] for ratio in ratios)[ROUNDS // 2]
print(f"median of {ROUNDS}: {middle(0):.2f} and {middle(1):.2f}")
