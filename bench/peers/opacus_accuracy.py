#!/usr/bin/env python3
"""Accuracy at equal epsilon beside Opacus: the digits and Adult, each by a small network, over several seeds.

usage: opacus_accuracy.py --lyceum BINARY [--seeds 10] [--only digits|adult]     needs PyTorch and opacus

Both sides have the same rows, preparation, architecture, initial distribution, Poisson rate q, steps T, clip C, noise
multiplier, learning rate and divisor. Ours is `lyceum train` on recipes/together/{digits,adult}_private.toml; Opacus has
its own sampler (UniformWithReplacementSampler), hooks (GradSampleModule) and DPOptimizer. A seed decides where training begins;
our noise comes from the operating system, so that a second run differs by it. The data is made by recipes/together/data. Equal (q, sigma, T) is equal
epsilon, whatever accountant counts it; both sides' own counts are printed.
"""

import argparse
import csv
import json
import math
import os
import pathlib
import statistics
import subprocess
import tempfile
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from opacus.accountants import PRVAccountant, RDPAccountant  # noqa: E402
from opacus.grad_sample import GradSampleModule  # noqa: E402
from opacus.optimizers import DPOptimizer  # noqa: E402
from opacus.utils.uniform_sampler import UniformWithReplacementSampler  # noqa: E402
from torch import nn  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache/together"
NUMBERS = ["age", "education_num", "capital_gain", "capital_loss", "hours_per_week"]
# What the specs say: hidden units, steps, divisor, learning rate, clip.
SETS = {
    "digits": dict(hidden=[64], steps=300, batch=144, lr=1.0, clip=1.0, target="label"),
    "adult": dict(hidden=[64, 32], steps=1000, batch=512, lr=1.0, clip=1.0, target="income"),
}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def prepared(name):
    """Training and test rows as numbers: pixels over 16; numbers as they are, categories one-hot by their sorted values with
    one place for what training did not have."""
    target = SETS[name]["target"]
    train, test = (rows(WORK / f"{name}_{part}.csv") for part in ["train", "test"])
    labels = sorted({row[target] for row in train})
    columns = [column for column in train[0] if column != target]
    values = {c: sorted({row[c] for row in train}) for c in columns if name == "adult" and c not in NUMBERS}

    def encode(row):
        x = []
        for column in columns:
            if column in values:
                x += [float(row[column] == value) for value in values[column]] + [float(row[column] not in values[column])]
            else:
                x.append(float(row[column]) / (16.0 if name == "digits" else 1.0))
        return x

    def tensors(part):
        return torch.tensor([encode(row) for row in part]), torch.tensor([labels.index(row[target]) for row in part])

    return tensors(train), tensors(test)


def ours(name, seeds, binary):
    """Test accuracies of `lyceum train`, and the guarantee of the last."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        def lyceum(*args):
            done = subprocess.run([binary, *args, "--json", "--data-dir", folder], stdout=subprocess.PIPE, text=True, check=True)
            return json.loads(done.stdout.splitlines()[-1])

        for seed in seeds:
            model = f"{name}-{seed}"
            done = lyceum("train", str(ROOT / f"recipes/together/{name}_private.toml"), "--seed", str(seed), "--name", model)
            measured = lyceum("eval", model, str(WORK / f"{name}_test.csv"))
            found.append(measured["metrics"]["accuracy"]["value"])
    return found, done["privacy"]


def opacus(name, seeds, q, sigma, data):
    settings, ((x, y), (test_x, test_y)) = SETS[name], data
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        widths, layers = [x.shape[1], *settings["hidden"]], []
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        module = GradSampleModule(nn.Sequential(*layers, nn.Linear(widths[-1], int(y.max()) + 1)))
        optimizer = DPOptimizer(torch.optim.SGD(module.parameters(), lr=settings["lr"]), noise_multiplier=sigma,
                                max_grad_norm=settings["clip"], expected_batch_size=settings["batch"])
        sampler = UniformWithReplacementSampler(num_samples=len(x), sample_rate=q, steps=settings["steps"])
        n_steps = 0
        for drawn in sampler:
            assert drawn, "an empty draw: its mean loss is not a number"
            optimizer.zero_grad()
            F.cross_entropy(module(x[drawn]), y[drawn]).backward()
            optimizer.step()
            n_steps += 1
        assert n_steps == settings["steps"]
        with torch.no_grad():
            found.append((module(test_x).argmax(1) == test_y).double().mean().item())
    return found


def told(values):
    return statistics.mean(values), statistics.stdev(values), statistics.stdev(values) / math.sqrt(len(values))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lyceum", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", choices=list(SETS))
    args = parser.parse_args()
    subprocess.run([ROOT / "recipes/together/data"], check=True)
    seeds = range(1, args.seeds + 1)
    print("| Data | q, σ, T, δ | ε: ours (PLD), Opacus (PRV, RDP) | ours | Opacus | difference | two standard errors |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in [args.only] if args.only else SETS:
        mine, privacy = ours(name, seeds, args.lyceum)
        (event,) = privacy["events"]
        q, sigma, delta = event["q"], event["sigma"], privacy["delta"]
        assert event["steps"] == SETS[name]["steps"] and privacy["max_grad_norm"] == SETS[name]["clip"]
        assert privacy["expected_batch"] == SETS[name]["batch"]
        theirs = opacus(name, seeds, q, sigma, prepared(name))
        counted = []
        for accountant in [PRVAccountant(), RDPAccountant()]:
            accountant.history = [(sigma, q, event["steps"])]
            counted.append(accountant.get_epsilon(delta))
        (a, a_deviation, a_error), (b, b_deviation, b_error) = told(mine), told(theirs)
        two = 2 * math.hypot(a_error, b_error)
        within = "within" if abs(a - b) <= two else "OUTSIDE"
        print(f"| {name}, {len(mine)} seeds | {q:g}, {sigma:.4g}, {event['steps']}, {delta:g} "
              f"| {privacy['epsilon']:.3f}; {counted[0]:.3f}, {counted[1]:.3f} "
              f"| {100 * a:.2f} ± {100 * a_deviation:.2f} % | {100 * b:.2f} ± {100 * b_deviation:.2f} % "
              f"| {100 * (a - b):+.2f} | {100 * two:.2f}, {within} |", flush=True)


if __name__ == "__main__":
    main()
