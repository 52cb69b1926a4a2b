"""Does the sentence that an explanation names hold the answer? Fifty made-up prompts, each a fact among distractors.

    python bench/explain_language.py URL KEY MODEL

Each prompt has facts of two people, a sentence that repeats the question and three others, and asks for one of the facts.
Explained is the right answer, at the word that names the thing (/v1/explanations; leave_one_out and contextcite), and inline what
the model says itself where it may say either fact and nothing else (`explain` on chat completions, `structured_outputs.choice`;
leave_one_out): then the fact is the one that it says. Counted: how often the sentence with the largest value is the one with
the fact, beside a random sentence (its expectation), the last one, and the one that shares most words with the question:
the difference with its paired bootstrap interval over the prompts, and exact sign tests.

Also their linear datamodelling score: with the masks that contextcite kept from its fit (16 of 64 a prompt), the rank
correlation between the sum of the attributions that are there and the answer's log-odds as they came out. Both methods are held
to the same masks; beside them the word overlap with the question as if it were an attribution. Mean over prompts with a
bootstrap interval. Standard library only.
"""

import json
import math
import random
import re
import sys
import urllib.request

URL, KEY, MODEL = sys.argv[1:4]
NAMES = ["Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack"]
PLACES = ["Rome", "Oslo", "Cairo", "Lima", "Tokyo", "Paris", "Berlin", "Madrid", "Vienna", "Dublin"]
COLOURS = ["red", "blue", "green", "yellow", "black", "white", "purple", "orange", "brown", "pink"]
DISTRACTORS = ["The weather was mild.", "It is a long story.", "Nobody was surprised.", "The train was late.",
               "They had met before.", "Lunch was served at noon."]


def ask(body, path="/v1/explanations"):
    request = urllib.request.Request(f"{URL}{path}", json.dumps(body).encode(), {
        "authorization": f"Bearer {KEY}", "content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=300))


def prompts(n):
    """Sentences (facts of two people, one that repeats the question's words, distractors), the question, fact, thing."""
    rng = random.Random(7)
    for i in range(n):
        names = rng.sample(NAMES, 2)
        if i % 2:
            facts = {name: (f"{name} lives in {thing}.", thing) for name, thing in zip(names, rng.sample(PLACES, 2))}
            question, echo = "Where does {} live?", "People like to ask where does {} live."
        else:
            facts = {name: (f"{name} has a {thing} car.", thing) for name, thing in zip(names, rng.sample(COLOURS, 2))}
            question, echo = "What colour is the car of {}?", "Some ask what colour is the car of {}."
        name = rng.choice(names)
        sentences = [fact for fact, _ in facts.values()] + [echo.format(name)] + rng.sample(DISTRACTORS, 3)
        rng.shuffle(sentences)
        yield sentences, question.format(name), name, facts


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def sign_test(wins, losses):
    """P(at least so many wins) if both were alike, one-sided."""
    n = wins + losses
    return sum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n if n else 1.0


def ranks(values):
    order = sorted(range(len(values)), key=lambda i: values[i])
    out, i = [0.0] * len(values), 0
    while i < len(order):
        j = i
        while j + 1 < len(order) and values[order[j + 1]] == values[order[i]]:
            j += 1
        for k in range(i, j + 1):
            out[order[k]] = (i + j) / 2
        i = j + 1
    return out


def spearman(a, b):
    """None where a side is constant."""
    a, b = ranks(a), ranks(b)
    mean = (len(a) - 1) / 2
    product = lambda x, y: sum((i - mean) * (j - mean) for i, j in zip(x, y))
    scale = math.sqrt(product(a, a) * product(b, b))
    return product(a, b) / scale if scale else None


def interval(values, n=2000):
    rng = random.Random(1)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(n))
    return means[n // 40], means[-n // 40]


METHODS, INLINE = ["leave_one_out", "contextcite"], "inline, what it says itself"
n = int(sys.argv[4]) if len(sys.argv) > 4 else 50
hits, scores, drops = {m: [] for m in [*METHODS, INLINE]}, {m: [] for m in [*METHODS, "overlap"]}, []
controls, controls_inline, right = [], [], 0
CONTROLS = ["a random one", "the last one", "the one with the question's words"]


def beside(sentences, question, fact):
    """How often each control names the fact."""
    overlaps = [len(words(s) & words(question)) for s in sentences]
    overlap = max(range(len(sentences)), key=lambda i: (overlaps[i], -i))
    return 1 / len(sentences), sentences[-1] == fact, sentences[overlap] == fact


for sentences, question, name, facts in prompts(n):
    fact, thing = facts[name]
    messages = [{"role": "user", "content": f"{' '.join(sentences)} {question}"}]
    overlaps = [len(words(s) & words(question)) for s in sentences]
    values, fit = {}, None
    for method in METHODS:
        answer = ask({"model": MODEL, "messages": messages, "completion": fact, "target": {"text": thing},
                      "granularity": "sentence", "method": method})
        values[method] = [part["value"] for part in answer["attributions"]]
        # The last one is the question.
        assert len(values[method]) == len(sentences) + 1, answer
        best = max(range(len(sentences)), key=lambda i: values[method][i])
        hits[method].append(sentences[best] == fact)
        fit = answer.get("fit", fit)
    values["overlap"] = overlaps + [len(words(question))]
    controls.append(beside(sentences, question, fact))
    drops.append(fit["top_k_drop"][0]["logprob_drop"])
    held = list(zip(fit["ablations"]["masks"], fit["ablations"]["values"]))[-fit["n_held_out"]:]
    for method, parts in values.items():
        said = [sum(v for v, kept in zip(parts, mask) if kept == "1") for mask, _ in held]
        score = spearman(said, [value for _, value in held])
        # What says the same of all masks has no order.
        scores[method].append(score if score is not None else 0.0)

    said = ask({"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 24,
                "structured_outputs": {"choice": [fact for fact, _ in facts.values()]},
                "explain": {"method": "leave_one_out", "granularity": "sentence"}}, "/v1/chat/completions")
    said_fact, own = said["choices"][0]["message"]["content"], said["explanation"]["attributions"]
    best = max(range(len(sentences)), key=lambda i: own[i]["value"])
    hits[INLINE].append(sentences[best] == said_fact)
    controls_inline.append(beside(sentences, question, said_fact))
    right += said_fact == fact

share = lambda rows: sum(rows) / len(rows)
print(f"{MODEL}, {n} prompts; inline it says the right fact in {right}")
for method, found in hits.items():
    rows = controls_inline if method == INLINE else controls
    print(f"  {method}: its first sentence holds the fact in {share(found):.2f}")
    for i, name in enumerate(CONTROLS):
        differences = [hit - row[i] for hit, row in zip(found, rows)]
        low, high = interval(differences)
        pairs = [d for d in differences if d != 0 and i > 0]
        wins = sum(d > 0 for d in pairs)
        test = f"; {wins} won, {len(pairs) - wins} lost, p = {sign_test(wins, len(pairs) - wins):.2g}" if i else ""
        print(f"    {name}: {share([row[i] for row in rows]):.2f}; better by {share(differences):.2f} [{low:.2f}, {high:.2f}]{test}")
print("linear datamodelling score (rank correlation on held-out masks), mean [95 %]:")
for method, found in scores.items():
    low, high = interval(found)
    print(f"  {method}: {share(found):.3f} [{low:.3f}, {high:.3f}]")
print(f"without contextcite's first sentence the answer loses {share(drops):.2f} nats")
