#!/usr/bin/env python3
"""Captum, Opacus and ART as the peers of `lyceum bench trust`: one JSON object a line in, one a line out.

usage: pytorch_trust.py [--threads 2]     needs PyTorch, and captum, opacus, adversarial-robustness-toolbox for their works

On start it prints {"event":"ready","torch","threads"}. Then, one line each:
  {"work":"ig_mlp"}                 builds it and warms up, choosing the fastest way that the peer has
  {"run":"ig_mlp","steps":5}        times single steps; the caller interleaves these with its own
  {"quit":true}
Works, all on weights from seed 0:
  ig_mlp, ig_cnn   captum.attr.IntegratedGradients, 50 Gauss-Legendre nodes, one row of 784 / one image of 28x28
  dp_mlp           one DP-SGD step of 128 rows: opacus.GradSampleModule with DPOptimizer, hooks or ghost clipping,
                   whichever is faster; SGD, clip 1, noise 1
  plain_mlp        the same step without privacy
  pgd_mlp          art.attacks.evasion.ProjectedGradientDescent, 40 steps on 128 rows that stay unfooled
The MLP is 784-512-256-10 with relu, the CNN two convolutions of 32 and 64 with pools, then 128.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
THREADS = parser.parse_args().threads
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # before torch is loaded
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(THREADS)
EPS = 1e-4  # so small that nothing is fooled: every step is made for every row


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))


def integrated_gradients(module, shape):
    from captum.attr import IntegratedGradients

    module.eval()
    method, x = IntegratedGradients(module), torch.rand(1, *shape)
    target = int(module(x).argmax())
    return {"captum": lambda: method.attribute(x, target=target, n_steps=50, method="gausslegendre")}


def plain_step():
    module, x, y = mlp().train(), torch.randn(128, 784), torch.randint(0, 10, (128,))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()

    return {"sgd": step}


def dp_steps():
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    x, y = torch.randn(128, 784), torch.randint(0, 10, (128,))

    def hooks():
        module = GradSampleModule(mlp().train())
        optimizer = DPOptimizer(torch.optim.SGD(module.parameters(), lr=0.1), noise_multiplier=1.0, max_grad_norm=1.0,
                                expected_batch_size=128)

        def step():
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()

        return step

    def ghost():
        module = GradSampleModuleFastGradientClipping(mlp().train(), max_grad_norm=1.0, use_ghost_clipping=True)
        optimizer = DPOptimizerFastGradientClipping(torch.optim.SGD(module.parameters(), lr=0.1), noise_multiplier=1.0,
                                                    max_grad_norm=1.0, expected_batch_size=128)
        loss = DPLossFastGradientClipping(module, optimizer, nn.CrossEntropyLoss())

        def step():
            optimizer.zero_grad()
            loss(module(x), y).backward()
            optimizer.step()

        return step

    return {"hooks": hooks(), "ghost": ghost()}


def pgd():
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    module, x = mlp().eval(), torch.rand(128, 784)
    y = module(x).argmax(1).numpy()
    classifier = PyTorchClassifier(module, nn.CrossEntropyLoss(), (784,), 10, clip_values=(0.0, 1.0), device_type="cpu")
    attack = ProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS / 16, max_iter=40, batch_size=128, num_random_init=1,
                                      verbose=False)
    rows = x.numpy()
    return {"art": lambda: attack.generate(rows, y)}


WORKS = {
    "ig_mlp": lambda: integrated_gradients(mlp(), (784,)),
    "ig_cnn": lambda: integrated_gradients(cnn(), (1, 28, 28)),
    "plain_mlp": plain_step,
    "dp_mlp": dp_steps,
    "pgd_mlp": pgd,
}


def timed(step, n):
    samples = []
    for _ in range(n):
        start = time.perf_counter()
        step()
        samples.append(time.perf_counter() - start)
    return samples


def answer(ready, asked):
    if "work" in asked:
        best, seconds = None, {}
        for mode, step in WORKS[asked["work"]]().items():
            timed(step, 3)
            seconds[mode] = statistics.median(timed(step, 5))
            if best is None or seconds[mode] < seconds[best[0]]:
                best = (mode, step)
        ready[asked["work"]] = best
        return dict(work=asked["work"], mode=best[0], modes=seconds)
    if "run" in asked:
        mode, step = ready[asked["run"]]
        return dict(run=asked["run"], mode=mode, seconds=statistics.median(timed(step, int(asked.get("steps", 5)))))
    raise ValueError("a line has one of: work, run, quit")


def main():
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr: stdout carries JSON alone
    say = lambda value: print(json.dumps(value), file=out)
    say(dict(event="ready", torch=torch.__version__, threads=torch.get_num_threads()))
    ready = {}
    for line in sys.stdin:
        try:
            asked = json.loads(line)
            if asked.get("quit"):
                break
            say(answer(ready, asked))
        except Exception as reason:
            say(dict(error=f"{type(reason).__name__}: {reason}"))


if __name__ == "__main__":
    main()
