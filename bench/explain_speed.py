"""How much sooner is leave one out done than asking for every text by itself, and does it say the same to the bit?

    python bench/explain_speed.py URL KEY MODEL [--layouts whole,behind,first] [--sentences 20] [--rounds 3] [--pid PID]

About 2,000 tokens with so many sentences to leave out, in three places:

    whole    the sentences are the prompt
    behind   a system message and earlier turns (1,400 tokens), the message with the sentences, the question
    first    the message with the sentences, the same turns behind it, the question

Of the last two the explanation is of the message with the sentences alone (`sources`). Of each, one after the other, in each round:
one `/v1/explanations` with leave_one_out; each of its texts scored as a client can, by a completion whose whole prompt
reports its log-probabilities (that finds nothing kept); and each only read from scratch (another first token, so that nothing kept
is found, and one token behind it), which is the least that any scoring by itself takes. The second has every number that the first
has, and they must be equal to the last bit. With the server's PID (Linux) what is counted is its processor time, which other work on
the machine changes less than the clock. Standard library only.
"""

import argparse
import json
import os
import random
import statistics
import struct
import sys
import time
import urllib.request

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("url")
parser.add_argument("key")
parser.add_argument("model")
parser.add_argument("--layouts", default="whole,behind,first", type=lambda text: text.split(","))
parser.add_argument("--sentences", type=int, default=20)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--pid")
asked = parser.parse_args()
WORDS = "river stone market winter garden letter captain silver morning bridge window forest teacher engine island".split()
COMPLETION = "The river froze."
N_TOKENS, N_HISTORY = 1900, 1400


def now():
    """Seconds of the clock, or of the server's processors."""
    if asked.pid is None:
        return time.perf_counter()
    with open(f"/proc/{asked.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def post(path, body):
    request = urllib.request.Request(asked.url + path, json.dumps({"model": asked.model} | body).encode(), {
        "authorization": f"Bearer {asked.key}", "content-type": "application/json"})
    began = now()
    try:
        answer = json.load(urllib.request.urlopen(request, timeout=900))
    except urllib.error.HTTPError as error:
        sys.exit(f"{path}: {error.code} {error.read().decode()}")
    return answer, now() - began


def f32(number):
    """The number of 32 bits that JSON has in decimals."""
    return struct.unpack("f", struct.pack("f", number))[0]


def tokens(**what):
    return post("/tokenize", what)[0]["tokens"]


def sentence(rng, n_words):
    return " ".join(rng.choices(WORDS, k=n_words)).capitalize() + ". "


def conversation(rng, layout, sentences):
    """Messages, and the number of the one with the sentences."""
    share = N_HISTORY // 7
    turns = [{"role": role, "content": sentence(rng, share)} for role in ("user", "assistant") * 3]
    question = {"role": "user", "content": "What froze?"}
    if layout == "first":
        return [{"role": "system", "content": "".join(sentences)}, *turns, {"role": "user", "content": sentence(rng, share)}, question], 0
    system = {"role": "system", "content": sentence(rng, share)}
    return [system, *turns, {"role": "user", "content": "".join(sentences)}, question], 7


def texts_of(rng, layout):
    """What is asked of /v1/explanations, and the token ids of the prompts: whole, without each sentence, without all."""
    n_words = (N_TOKENS if layout == "whole" else N_TOKENS - N_HISTORY) // asked.sentences
    sentences = [sentence(rng, n_words) for _ in range(asked.sentences)]
    kept = ["".join(s for i, s in enumerate(sentences) if i != out) for out in [None, *range(asked.sentences)]] + [""]
    body = {"completion": COMPLETION, "granularity": "sentence", "method": "leave_one_out"}
    if layout == "whole":
        prompts = [tokens(prompt=text) if text else [] for text in kept]
        return body | {"prompt": kept[0]}, prompts
    messages, source = conversation(rng, layout, sentences)
    prompts = []
    for text in kept:
        messages[source]["content"] = text
        prompts.append(tokens(messages=messages, add_generation_prompt=True))
    messages[source]["content"] = kept[0]
    return body | {"messages": messages, "sources": [source]}, prompts


def measure(rng, layout):
    body, prompts = texts_of(rng, layout)
    answer = tokens(prompt=COMPLETION, add_special_tokens=False)
    explained, whole = post("/v1/explanations", body)
    ours = [part["value"] for part in explained["attributions"]]
    assert len(ours) == asked.sentences, len(ours)
    scored, logprobs = 0.0, []
    # Without anything before it an answer cannot be asked for, so a prompt that is nothing is not scored by itself.
    for prompt in filter(None, prompts):
        said, took = post("/v1/completions", {"prompt": prompt + answer, "max_tokens": 0, "temperature": 0, "prompt_logprobs": 0})
        scored += took
        told = said["choices"][0]["prompt_logprobs"][len(prompt):]
        logprobs.append(sum(f32(place[str(token)]["logprob"]) for place, token in zip(told, answer)))
    theirs = [logprobs[0] - without for without in logprobs[1 : asked.sentences + 1]]
    equal = [explained["output"]["value"], *ours] == [logprobs[0], *theirs]
    if len(logprobs) == len(prompts):
        equal = equal and explained["output"]["base_value"] == logprobs[-1]
    read = sum(post("/v1/completions", {"prompt": [rng.randrange(1000, 20000), *prompt, *answer], "max_tokens": 1, "temperature": 0})[1]
               for prompt in filter(None, prompts))
    print(f"{layout}: {len(prompts[0])} tokens, {asked.sentences} sentences: leave_one_out {whole:.1f} s; by prompt_logprobs {scored:.1f} s, "
          f"{scored / whole:.2f} times, bits {'equal' if equal else 'DIFFER'}; only read {read:.1f} s, {read / whole:.2f} times", flush=True)
    if not equal:
        print("  ", [explained["output"]["value"], *ours], [logprobs[0], *theirs], explained["output"]["base_value"], logprobs[-1])
    return scored / whole, read / whole


ratios = {layout: [] for layout in asked.layouts}
post("/v1/completions", {"prompt": "The", "max_tokens": 1})  # it is loaded
for round in range(asked.rounds):
    for layout in asked.layouts:
        # Other words in each round: nothing of the one before is kept.
        ratios[layout].append(measure(random.Random(f"{time.time()}"), layout))
for layout, all in ratios.items():
    scored, read = zip(*all)
    print(f"{layout}, median of {asked.rounds}: {statistics.median(scored):.2f} times sooner than prompt_logprobs "
          f"({min(scored):.2f} to {max(scored):.2f}), {statistics.median(read):.2f} than reading ({min(read):.2f} to {max(read):.2f})")
