"""Does the sentence that an explanation names hold the answer? Fifty made-up prompts, each a fact among distractors.

    python bench/explain_language.py URL KEY MODEL

Each prompt gives one fact a person, in shuffled order, and asks for one of them. The model's own answer is explained by
sentence, inline; counted where the answer is right: how often the sentence with the largest value is the one with the fact,
beside a random sentence (its expectation), the last one, and the one that shares most words with the question; with exact
sign tests of the pairs. Standard library only.
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
    request = urllib.request.Request(f"{URL}/v1/chat/completions", json.dumps(body).encode(), {
        "authorization": f"Bearer {KEY}", "content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=300))


def prompts(n):
    rng = random.Random(7)
    for i in range(n):
        names = rng.sample(NAMES, 4)
        if i % 2:
            facts = {name: (f"{name} lives in {thing}.", thing) for name, thing in zip(names, rng.sample(PLACES, 4))}
            question = "In which city does {} live? Answer with the name of the city."
        else:
            facts = {name: (f"The car of {name} is {thing}.", thing) for name, thing in zip(names, rng.sample(COLOURS, 4))}
            question = "Which colour has the car of {}? Answer with the colour."
        sentences = [fact for fact, _ in facts.values()] + rng.sample(DISTRACTORS, 3)
        rng.shuffle(sentences)
        name = rng.choice(names)
        yield sentences, question.format(name), *facts[name]


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def sign_test(wins, losses):
    """P(at least so many wins) if both were alike, one-sided."""
    n = wins + losses
    return sum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n if n else 1.0


rows, right, n = [], 0, 50
for sentences, question, fact, thing in prompts(n):
    text = " ".join(sentences)
    answer = ask({"model": MODEL, "temperature": 0, "max_tokens": 24, "explain": {"granularity": "sentence"},
                  "messages": [{"role": "system", "content": text}, {"role": "user", "content": question}]})
    said = answer["choices"][0]["message"]["content"]
    if thing.lower() not in said.lower():
        continue
    right += 1
    parts = [a for a in answer["explanation"]["attributions"] if a["message"] == 0]
    assert len(parts) == len(sentences), answer
    best = max(range(len(parts)), key=lambda i: parts[i]["value"])
    overlap = max(range(len(sentences)), key=lambda i: (len(words(sentences[i]) & words(question)), -i))
    rows.append((sentences[best] == fact, 1 / len(sentences), sentences[-1] == fact, sentences[overlap] == fact))

share = lambda i: sum(row[i] for row in rows) / len(rows)
print(f"{MODEL}: {right} of {n} answers name the thing; of these the fact's sentence is")
print(f"  the explanation's first: {share(0):.2f}, a random one: {share(1):.2f}, the last one: {share(2):.2f}, the one with the question's words: {share(3):.2f}")
for i, name in [(2, "the last one"), (3, "the one with the question's words")]:
    wins, losses = sum(r[0] and not r[i] for r in rows), sum(r[i] and not r[0] for r in rows)
    print(f"  beside {name}: {wins} won, {losses} lost, p = {sign_test(wins, losses):.2g}")
