"""Does the sentence that an explanation names hold the answer? Fifty made-up prompts, each a fact among distractors.

    python bench/explain_language.py URL KEY MODEL

Each prompt has facts of two people, a sentence that repeats the question and three others, and asks for one of the facts.
What is explained is the right answer, at the word that names the thing. Counted: how often the sentence with the largest
value is the one with the fact, beside a random sentence (its expectation), the last one, and the one that shares most
words with the question; with exact sign tests of the pairs. Standard library only.
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


def ask(body):
    request = urllib.request.Request(f"{URL}/v1/explanations", json.dumps(body).encode(), {
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
        yield sentences, question.format(name), *facts[name]


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def sign_test(wins, losses):
    """P(at least so many wins) if both were alike, one-sided."""
    n = wins + losses
    return sum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n if n else 1.0


rows, n = [], 50
for sentences, question, fact, thing in prompts(n):
    messages = [{"role": "user", "content": f"{' '.join(sentences)} {question}"}]
    answer = ask({"model": MODEL, "messages": messages, "completion": f"{fact}", "target": {"text": thing},
                  "granularity": "sentence"})
    parts = answer["attributions"]
    # The last one is the question.
    assert len(parts) == len(sentences) + 1, answer
    best = max(range(len(sentences)), key=lambda i: parts[i]["value"])
    overlap = max(range(len(sentences)), key=lambda i: (len(words(sentences[i]) & words(question)), -i))
    rows.append((sentences[best] == fact, 1 / len(sentences), sentences[-1] == fact, sentences[overlap] == fact))

share = lambda i: sum(row[i] for row in rows) / len(rows)
print(f"{MODEL}, {n} prompts: the fact's sentence is")
print(f"  the explanation's first: {share(0):.2f}, a random one: {share(1):.2f}, the last one: {share(2):.2f}, the one with the question's words: {share(3):.2f}")
for i, name in [(2, "the last one"), (3, "the one with the question's words")]:
    wins, losses = sum(r[0] and not r[i] for r in rows), sum(r[i] and not r[0] for r in rows)
    print(f"  beside {name}: {wins} won, {losses} lost, p = {sign_test(wins, losses):.2g}")
