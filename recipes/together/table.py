"""The table, the words and the plot of `recipes/together/run`: `table.py OUT MARKDOWN SVG`. Every number is read from OUT."""

import json
import math
import os
import pathlib
import statistics
import sys
from html import escape

SETS = {"digits": "Digits", "adult": "Adult"}
KINDS = {"plain": "plain", "private": "private", "robust": "robust", "private_robust": "private + robust"}
# Of each data set: the attack, the proof by intervals, the smoothed classifier, as their settings are called.
SETTINGS = {
    "digits": ("linf eps 0.1", "linf eps 0.02", "l2 sigma 0.25 eps 0.25"),
    "adult": ("linf eps 0.25", "linf eps 0.1", "l2 sigma 0.25 eps 0.25"),
}


def last(path):
    return json.loads(path.read_text().splitlines()[-1])


def read(out, name, kind):
    """All that was measured of one kind of model; of lists, one number a seed."""
    seeds = sorted(int(p.name.split("-")[2].split(".")[0]) for p in out.glob(f"{name}-{kind}-*.train.json"))
    found = {k: [] for k in ["accuracy", "pgd", "proved", "smoothed", "seconds", "ece"]}
    for seed in seeds:
        stem = f"{name}-{kind}-{seed}"
        done, measured, attacked = (last(out / f"{stem}.{part}.json") for part in ["train", "eval", "attack"])
        by = {(r["metric"], r["method"], r["setting"]): r for r in attacked["results"]}
        accuracy = measured["metrics"]["accuracy"]
        clean = by["clean_accuracy", "none", ""]["value"]
        if abs(clean - accuracy["value"]) > 1e-9:
            raise SystemExit(f"error: {stem}: eval says {accuracy['value']}, attack says {clean}")
        raised = [f["name"] for f in attacked["flags"] if f["state"] == "raised"]
        if raised:
            raise SystemExit(f"error: {stem}: the attack is not to be believed: {raised}")
        pgd, proved, smoothed = SETTINGS[name]
        found["accuracy"].append(accuracy["value"])
        found["ece"].append(measured["metrics"]["ece"]["value"])
        found["pgd"].append(by["robust_accuracy", "pgd", pgd]["value"])
        found["proved"].append(by["certified_accuracy", "interval bounds", proved]["value"])
        found["smoothed"].append(by["certified_accuracy", "smoothing", smoothed]["value"])
        found["seconds"].append(done["seconds"])
        found["privacy"] = done["privacy"]
        if seed == seeds[0]:
            found["interval"] = accuracy["ci95"]
            found["n"] = accuracy["n"]
    def explanations(method):
        return [json.loads(line) for line in (out / f"{name}-{kind}.{method}.jsonl").read_text().splitlines()]

    found["checks"], found["saliency"] = ([e["checks"] for e in explanations(m)] for m in ["integrated_gradients", "saliency"])
    found["passes"] = [e["usage"]["backward_passes"] for e in explanations("integrated_gradients")]
    found["epsilon"] = found["privacy"]["epsilon"] if found["privacy"] else math.inf
    return found


def deviation(values):
    return statistics.stdev(values) if len(values) > 1 else 0.0


def mean(values, digits=3):
    return f"{statistics.mean(values):.{digits}f} ± {deviation(values):.{digits}f}"


def epsilon(found):
    privacy = found["privacy"]
    return f"{privacy['epsilon']:.2f} (δ = {privacy['delta']:g})" if privacy else "∞"


def table(head, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def promises(name, all_found):
    pgd, proved, smoothed = (s.replace("linf eps", "L∞").replace("l2 sigma 0.25 eps", "L2") for s in SETTINGS[name])
    head = ["Trained", "ε", "accuracy", "95 % interval, seed 1", f"PGD-40, {pgd}", f"proved, {proved}", f"smoothed, {smoothed}", "calibration error"]
    rows = []
    for kind, words in KINDS.items():
        f = all_found[name, kind]
        low, high = f["interval"]
        rows.append([words, epsilon(f), mean(f["accuracy"]), f"{low:.3f} to {high:.3f}", mean(f["pgd"]), mean(f["proved"]), mean(f["smoothed"]), mean(f["ece"])])
    return table(head, rows)


def explained(name, all_found):
    head = ["Trained", "faithful", "adds up", "comprehensiveness (random)", "sufficiency (random)", "deletion AUC (random)", "insertion AUC (random)", "passes back", "saliency faithful"]
    rows = []
    for kind, words in KINDS.items():
        checks = all_found[name, kind]["checks"]
        n = len(checks)

        def beside(measure):
            ours = statistics.mean(c[measure] for c in checks)
            random = statistics.mean(c["controls"][measure]["mean"] for c in checks)
            return f"{ours:.3f} ({random:.3f})"

        faithful, complete = (sum(c[k] is True for c in checks) for k in ["faithful", "complete"])
        saliency = all_found[name, kind]["saliency"]
        passes = statistics.mean(all_found[name, kind]["passes"])
        control = f"{sum(c['faithful'] is True for c in saliency)} of {len(saliency)}"
        rows.append([words, f"{faithful} of {n}", f"{complete} of {n}", *map(beside, ["comprehensiveness", "sufficiency", "deletion_auc", "insertion_auc"]), f"{passes:.0f}", control])
    return table(head, rows)


def speeds(name, all_found, speed):
    head = ["Trained", "training, s", "one row a request", "200 rows a request", "explained (integrated gradients)", "certified (1,000 samples)"]
    rows = []
    for kind, words in KINDS.items():
        s = speed[f"{name}-{kind}"]
        rows.append([words, mean(all_found[name, kind]["seconds"], 1), *(f"{s[c]:,.0f}" for c in ["alone", "batch", "explained", "certified"])])
    return table(head, rows)


def difference(a, b):
    """b − a in points of a hundred, and how it is told."""
    points = 100 * (statistics.mean(b) - statistics.mean(a))
    error = 100 * math.sqrt(deviation(a) ** 2 / len(a) + deviation(b) ** 2 / len(b))
    told = "" if abs(points) > 2 * error else ", not told apart"
    return f"{points:+.2f}".replace("-", "−") + f" points (± {error:.2f}{told})"


def costs(name, all_found):
    pairs = [
        ("Privacy", "plain", "private"),
        ("Robust training", "plain", "robust"),
        ("Privacy on top of robust training", "robust", "private_robust"),
        ("Robust training on top of privacy", "private", "private_robust"),
        ("Both", "plain", "private_robust"),
    ]
    head = ["What", "accuracy", "under PGD", "proved", "smoothed"]
    rows = []
    for words, a, b in pairs:
        a, b = all_found[name, a], all_found[name, b]
        rows.append([words, *(difference(a[k], b[k]) for k in ["accuracy", "pgd", "proved", "smoothed"])])
    return table(head, rows)


def front(name, all_found):
    """Kinds that no other kind beats: by mean accuracy, mean accuracy under PGD, and ε."""
    point = {k: (statistics.mean(all_found[name, k]["accuracy"]), statistics.mean(all_found[name, k]["pgd"]), -all_found[name, k]["epsilon"]) for k in KINDS}
    return [k for k in KINDS if not any(point[o] != point[k] and all(x >= y for x, y in zip(point[o], point[k])) for o in KINDS)]


def ticks(low, high):
    """Between three and nine round numbers."""
    unit = 10 ** math.floor(math.log10((high - low) / 3))
    step = next(unit * k for k in (5, 2, 1) if unit * k <= (high - low) / 3)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def plot(all_found):
    """Two panels: accuracy under PGD to the right, accuracy upwards; filled marks are private; bars are deviations over seeds."""
    width, height, left, top, side = 920, 470, 70, 60, 340
    parts = []
    described = []
    for panel, (name, title) in enumerate(SETS.items()):
        x0 = left + panel * (side + 110)
        found = {k: all_found[name, k] for k in KINDS}
        best = front(name, all_found)

        def span(key):
            low = min(statistics.mean(f[key]) - deviation(f[key]) for f in found.values())
            high = max(statistics.mean(f[key]) + deviation(f[key]) for f in found.values())
            room = (high - low) * 0.2 or 0.01
            return low - room, high + room

        (xa, xb), (ya, yb) = span("pgd"), span("accuracy")
        px = lambda v: x0 + (v - xa) / (xb - xa) * side
        py = lambda v: top + side - (v - ya) / (yb - ya) * side
        parts.append(f'<rect x="{x0}" y="{top}" width="{side}" height="{side}" fill="#fff" stroke="#999"/>')
        parts.append(f'<text x="{x0 + side / 2}" y="{top - 15}" text-anchor="middle" font-weight="bold">{title}</text>')
        for v in ticks(xa, xb):
            parts.append(f'<line x1="{px(v):.1f}" y1="{top}" x2="{px(v):.1f}" y2="{top + side}" stroke="#eee"/>')
            parts.append(f'<text x="{px(v):.1f}" y="{top + side + 18}" text-anchor="middle">{v:.4g}</text>')
        for v in ticks(ya, yb):
            parts.append(f'<line x1="{x0}" y1="{py(v):.1f}" x2="{x0 + side}" y2="{py(v):.1f}" stroke="#eee"/>')
            parts.append(f'<text x="{x0 - 6}" y="{py(v) + 4:.1f}" text-anchor="end">{v:.4g}</text>')
        threat = SETTINGS[name][0].replace("linf eps", "L∞")
        parts.append(f'<text x="{x0 + side / 2}" y="{top + side + 40}" text-anchor="middle">accuracy under PGD-40, {threat}</text>')
        parts.append(f'<text transform="translate({x0 - 52} {top + side / 2}) rotate(-90)" text-anchor="middle">accuracy</text>')
        for kind, words in KINDS.items():
            f = found[kind]
            x, y = px(statistics.mean(f["pgd"])), py(statistics.mean(f["accuracy"]))
            dx, dy = deviation(f["pgd"]) / (xb - xa) * side, deviation(f["accuracy"]) / (yb - ya) * side
            ink = "#0b5394" if f["privacy"] else "#b45f06"
            fill = ink if f["privacy"] else "#fff"
            parts.append(f'<path d="M{x - dx:.1f} {y:.1f}H{x + dx:.1f}M{x:.1f} {y - dy:.1f}V{y + dy:.1f}" stroke="{ink}"/>')
            if "robust" in kind:
                parts.append(f'<rect x="{x - 6:.1f}" y="{y - 6:.1f}" width="12" height="12" fill="{fill}" stroke="{ink}" stroke-width="2"/>')
            else:
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" fill="{fill}" stroke="{ink}" stroke-width="2"/>')
            words = f"{words}, ε = {f['epsilon']:.2f}" if f["privacy"] else words
            words += "" if kind in best else " (beaten)"
            # Robust marks carry their words below, the others above, all inside the panel.
            half = 3.4 * len(words) + 4
            at, down = min(max(x, x0 + half), x0 + side - half), dy + 24 if "robust" in kind else -dy - 14
            parts.append(f'<text x="{at:.1f}" y="{y + down:.1f}" text-anchor="middle" fill="{ink}">{escape(words)}</text>')
            described.append(f"{title} {words}: accuracy {statistics.mean(f['accuracy']):.3f}, under PGD {statistics.mean(f['pgd']):.3f}")
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title desc" font-family="sans-serif" font-size="13" fill="#222">',
        '<title id="title">What accuracy, robustness and privacy cost each other</title>',
        f'<desc id="desc">{escape(". ".join(described))}.</desc>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *parts,
        '<text x="20" y="24">Circles: trained as usual. Squares: robust training. Filled: private. Bars: deviation over seeds. Right and up is better.</text>',
        f'<text x="20" y="{height - 8}">Beaten: by the means, another is at least as good in both and in ε.</text>',
        "</svg>\n",
    ])


def machine():
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else 'an unnamed processor'}, load average {os.getloadavg()[2]:.1f} over the last 15 minutes"


def main(out, markdown, svg):
    all_found = {(name, kind): read(out, name, kind) for name in SETS for kind in KINDS}
    speed = json.loads((out / "speed.json").read_text())
    svg.write_text(plot(all_found))
    n_seeds = len(all_found["digits", "plain"]["accuracy"])
    fronts = {name: ", ".join(KINDS[k] for k in front(name, all_found)) for name in SETS}
    tables = []
    for name, title in SETS.items():
        n = all_found[name, "plain"]["n"]
        tables.append(f"""## {title}

{n:,} test rows.

{promises(name, all_found)}

What each promise costs the others:

{costs(name, all_found)}

No other of the four is at least as good in accuracy, under PGD and in ε (by the means): {fronts[name]}.

Explanations by integrated gradients, {len(all_found[name, "plain"]["checks"])} test rows, seed 1:

{explained(name, all_found)}

Speed; answers a second of the server, one client on one connection, medians of five interleaved rounds, seed 1:

{speeds(name, all_found, speed)}
""")
    words = pathlib.Path(__file__).with_name("words.md").read_text()
    head, tail = words.split("<!-- tables -->\n")
    text = head + "\n".join(tables) + tail
    markdown.write_text(text.replace("{seeds}", str(n_seeds)).replace("{machine}", machine()))


main(*map(pathlib.Path, sys.argv[1:]))
