#!/usr/bin/env python3
"""scikit-learn as the peer of `lyceum choose`: five small tables, the same rows, the same minutes.

usage: sklearn_choose.py LYCEUM [--minutes 1] [--tables iris,wine,…] [--threads 2] [--keep DIR]

Each table of scikit-learn's own (iris, wine, breast_cancer, digits, diabetes) is parted once: 30 % of its rows, stratified
by class, are the test part, which neither side sees before the end. scikit-learn gets a portfolio (logistic regression or
ridge, random forest, histogram gradient boosting, SVM, k nearest neighbours, MLP), each in a random search over its usual
settings, scored by 5-fold cross-validation until the minutes are over and three settings of each kind were tried, which on a
busy machine takes longer than ours; the best is fitted again on all training rows. `lyceum
choose` gets the same rows with `candidates = "auto"`, 5 folds, and the same minutes. Prints one JSON
object a table and a Markdown table at the end: the test score of each with its 95 % interval (accuracy: Wilson's; R²:
bootstrap over rows), and the paired difference on the same test rows (accuracy: exact McNemar; squared error: paired t).
"""

import argparse
import csv
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings

parser = argparse.ArgumentParser()
parser.add_argument("lyceum")
parser.add_argument("--minutes", type=float, default=1.0)
parser.add_argument("--tables", default="iris,wine,breast_cancer,digits,diabetes")
parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
parser.add_argument("--keep", help="leave the files of each choice in this folder")
parser.add_argument("--settings-min", type=int, default=18, help="scikit-learn tries as many, however long they take")
parser.add_argument("--seed", type=int, default=1)
ARGS = parser.parse_args()
for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]:
    os.environ[name] = str(ARGS.threads)
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
from scipy import stats  # noqa: E402
from sklearn import datasets  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor)
from sklearn.linear_model import LogisticRegression, Ridge  # noqa: E402
from sklearn.model_selection import cross_val_score, train_test_split  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.svm import SVC, SVR  # noqa: E402


def draw(kind, is_class, rng):
    """One random setting of this kind."""
    log = lambda low, high: 10 ** rng.uniform(low, high)  # noqa: E731
    seed = rng.randrange(1 << 30)
    if kind == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(C=log(-3, 3), max_iter=2000) if is_class
                             else Ridge(alpha=log(-3, 3)))
    if kind == "forest":
        make = RandomForestClassifier if is_class else RandomForestRegressor
        return make(n_estimators=rng.choice([100, 300, 500]), max_features=rng.choice(["sqrt", 0.5, 1.0]),
                    min_samples_leaf=rng.choice([1, 2, 5]), random_state=seed)
    if kind == "boosting":
        make = HistGradientBoostingClassifier if is_class else HistGradientBoostingRegressor
        return make(learning_rate=log(-2, -0.3), max_leaf_nodes=rng.choice([7, 15, 31]), max_iter=rng.choice([50, 100, 200]),
                    l2_regularization=log(-3, 1), min_samples_leaf=rng.choice([5, 10, 20]), random_state=seed)
    if kind == "svm":
        make = SVC if is_class else SVR
        return make_pipeline(StandardScaler(), make(C=log(-2, 3), gamma=rng.choice(["scale", log(-4, 0)])))
    if kind == "neighbours":
        make = KNeighborsClassifier if is_class else KNeighborsRegressor
        return make_pipeline(StandardScaler(), make(n_neighbors=rng.choice([1, 3, 5, 9, 15, 25]),
                                                    weights=rng.choice(["uniform", "distance"])))
    make = MLPClassifier if is_class else MLPRegressor
    return make_pipeline(StandardScaler(), make(hidden_layer_sizes=rng.choice([(16,), (64,), (128, 64)]), alpha=log(-5, 0),
                                                learning_rate_init=log(-3.5, -1.5), max_iter=500, random_state=seed))


def portfolio(x, y, is_class, seconds):
    """The best of the random search within the time, fitted on all rows; its name and how many settings were tried."""
    rng, begun, n = random.Random(ARGS.seed), time.monotonic(), 0
    best, last = (-math.inf, None, None), 0.0
    # The quick ones first: on a busy machine not every kind is reached often.
    kinds = ["linear", "svm", "neighbours", "mlp", "boosting", "forest"]
    while n < ARGS.settings_min or time.monotonic() - begun + last < seconds * 0.95:
        kind, at = kinds[n % len(kinds)], time.monotonic()
        model = draw(kind, is_class, rng)
        score = cross_val_score(model, x, y, cv=5, scoring="accuracy" if is_class else "neg_mean_squared_error").mean()
        best, n, last = max(best, (score, kind, model), key=lambda b: b[0]), n + 1, time.monotonic() - at
    return best[1], best[2].fit(x, y), n


def write(path, x, y, names):
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*names, "target"])
        out.writerows([*map(float, row), label] for row, label in zip(x, y))


def choose(folder, table, is_class, minutes):
    """The document of a choice, and the winner's answers to the test rows."""
    spec = f"""name = "{table}"
task = "{'classification' if is_class else 'regression'}"
seed = {ARGS.seed}
candidates = "auto"
[data]
train = "train.csv"
target = "target"
folds = 5
[budget]
minutes = {minutes}
"""
    with open(os.path.join(folder, "choose.toml"), "w") as file:
        file.write(spec)
    command = [ARGS.lyceum, "--data-dir", os.path.join(folder, "data"), "--threads", str(ARGS.threads), "--json"]
    done = subprocess.run([*command, "choose", os.path.join(folder, "choose.toml")], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    document = json.loads(done.stdout.splitlines()[-1])
    asked = subprocess.run([*command, "predict", document["recommendation"]["model"], os.path.join(folder, "test.csv")],
                           capture_output=True, text=True, check=True)
    return document, [json.loads(line)["output"] for line in asked.stdout.splitlines()]


def wilson(k, n):
    p, z = k / n, 1.959964
    middle, half = (p + z * z / 2 / n), z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    return [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]


def r2(y, answers, rng=None):
    rows = rng.integers(0, len(y), len(y)) if rng is not None else np.arange(len(y))
    return 1 - ((y[rows] - answers[rows]) ** 2).sum() / ((y[rows] - y[rows].mean()) ** 2).sum()


def score(y, answers, is_class):
    if is_class:
        right = int((y == answers).sum())
        return right / len(y), wilson(right, len(y))
    rng = np.random.default_rng(0)
    return r2(y, answers), [float(q) for q in np.quantile([r2(y, answers, rng) for _ in range(2000)], [0.025, 0.975])]


def p_value(y, ours, theirs, is_class):
    if is_class:
        a, b = int(((ours == y) & (theirs != y)).sum()), int(((ours != y) & (theirs == y)).sum())
        return 1.0 if a + b == 0 else float(stats.binomtest(a, a + b).pvalue)
    return float(stats.ttest_rel((y - ours) ** 2, (y - theirs) ** 2).pvalue)


def compare(table):
    data = getattr(datasets, f"load_{table}")()
    is_class = table != "diabetes"
    labels = [str(data.target_names[i]) for i in data.target] if is_class else data.target
    y = np.array(labels, dtype=object) if is_class else np.array(labels, dtype=float)
    x = np.asarray(data.data, dtype=np.float32).astype(float)
    parts = train_test_split(x, y, test_size=0.3, random_state=ARGS.seed, stratify=y if is_class else None)
    x_train, x_test, y_train, y_test = parts
    with tempfile.TemporaryDirectory() as folder:
        folder = os.path.join(ARGS.keep, table) if ARGS.keep else folder
        os.makedirs(folder, exist_ok=True)
        names = [f"x{i}" for i in range(x.shape[1])]
        write(os.path.join(folder, "train.csv"), x_train, y_train, names)
        write(os.path.join(folder, "test.csv"), x_test, y_test, names)
        begun = time.monotonic()
        document, ours = choose(folder, table, is_class, ARGS.minutes)
        our_seconds = time.monotonic() - begun
    begun = time.monotonic()
    kind, model, n = portfolio(x_train, y_train, is_class, ARGS.minutes * 60)
    theirs, their_seconds = model.predict(x_test), time.monotonic() - begun
    ours = np.array(ours, dtype=object if is_class else float)
    (our_score, our_ci), (their_score, their_ci) = score(y_test, ours, is_class), score(y_test, theirs, is_class)
    row = {
        "table": table, "metric": "accuracy" if is_class else "r2", "train": len(y_train), "test": len(y_test),
        "lyceum": our_score, "lyceum_ci95": our_ci, "taken": document["recommendation"]["candidate"],
        "best_by_choose": document["recommendation"]["best"], "lyceum_seconds": our_seconds,
        "sklearn": their_score, "sklearn_ci95": their_ci, "sklearn_taken": kind, "settings": n,
        "sklearn_seconds": their_seconds, "p": p_value(y_test, ours, theirs, is_class),
        "their_score_in_our_interval": bool(our_ci[0] <= their_score <= our_ci[1]),
    }
    print(json.dumps(row), flush=True)
    return row


def main():
    rows = [compare(table) for table in ARGS.tables.split(",")]
    print("| table (rows) | metric | lyceum choose | 95 % | took | scikit-learn's best | 95 % | settings | seconds | p |\n"
          "|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        of = lambda v: f"{v:.3f}"  # noqa: E731
        ours, theirs = (" – ".join(map(of, row[k])) for k in ("lyceum_ci95", "sklearn_ci95"))
        print(f"| {row['table']} ({row['train']} + {row['test']}) | {row['metric']} | {of(row['lyceum'])} | {ours} | {row['taken']} "
              f"| {row['sklearn_taken']}, {of(row['sklearn'])} | {theirs} | {row['settings']} | {row['lyceum_seconds']:.0f} / "
              f"{row['sklearn_seconds']:.0f} | {row['p']:.2f} |")


main()
