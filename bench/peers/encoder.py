#!/usr/bin/env python3
"""PyTorch and ONNX Runtime as the peers of `lyceum bench encoder`: one JSON object a line in, one a line out.

usage: encoder.py --peer pytorch|onnxruntime [--threads 2]
needs PyTorch and transformers; for onnxruntime also onnx and onnxruntime

On start it prints {"event":"ready","peer",versions,"threads"}. Then, one line each:
  {"model":FOLDER,"precision":"f32","ids":[[…],…]}  loads it and tries each way that the peer has; answers with
                                                    {"modes":{NAME:{"seconds","vectors"}}}
  {"run":"f32","mode":NAME,"steps":3}               times single passes; the caller interleaves these with its own
  {"quit":true}
A pass goes from token ids to the mean over each row's tokens. Rows are of one length, so no mask is given.
  pytorch       f32, bf16: transformers' model (SDPA), eager and compiled
  onnxruntime   f32, int8: the model exported by torch.onnx, as it is and with its transformer optimiser's fusions; int8 is
                dynamic quantisation of the matrix products as optimum does it for avx512_vnni (signed weights, a scale for
                each tensor or for each column)
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
import warnings

parser = argparse.ArgumentParser()
parser.add_argument("--peer", required=True, choices=["pytorch", "onnxruntime"])
parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
ASKED = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(ASKED.threads)  # before torch is loaded
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch  # noqa: E402

torch.set_num_threads(ASKED.threads)


class Pooled(torch.nn.Module):
    """From token ids to the mean over the steps."""

    def __init__(self, folder):
        from transformers import AutoModel

        super().__init__()
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, return_dict=True).last_hidden_state.mean(1)


def pytorch(folder, precision, ids):
    module = Pooled(folder).to({"f32": torch.float32, "bf16": torch.bfloat16}[precision])
    ids = torch.tensor(ids)

    def step(forward):
        def run():
            with torch.inference_mode():
                return forward(ids).float().numpy()

        return run

    return {"eager": step(module), "compile": step(torch.compile(module))}


def onnx_files(folder, to, ids):
    """The exported model, and the one with the optimiser's fusions."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    plain, fused = to / "model.onnx", to / "fused.onnx"
    module, (rows, steps) = Pooled(folder), (len(ids), len(ids[0]))
    torch.onnx.export(module, (torch.tensor(ids),), str(plain), input_names=["input_ids"], output_names=["vectors"], dynamo=False,
                      opset_version=17, dynamic_axes={"input_ids": {0: "rows", 1: "steps"}, "vectors": {0: "rows"}})
    config = module.model.config
    options = FusionOptions("bert")
    optimised = optimizer.optimize_model(str(plain), model_type="bert", num_heads=config.num_attention_heads,
                                         hidden_size=config.hidden_size, optimization_options=options, opt_level=0)
    optimised.save_model_to_file(str(fused))
    return {"exported": plain, "fused": fused, "fusions": optimised.get_fused_operator_statistics()}


def onnxruntime(folder, precision, ids):
    import numpy
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    to = pathlib.Path(tempfile.mkdtemp(prefix="lyceum-bench-onnx-"))
    files = onnx_files(folder, to, ids)
    print("fused operators:", files.pop("fusions"), file=sys.stderr)
    if precision == "int8":
        made = {}
        for name, path in files.items():
            for per_channel in (False, True):
                where = to / f"{name}-{per_channel}.onnx"
                operators = ["MatMul", "Attention", "Gemm"]
                quantize_dynamic(str(path), str(where), op_types_to_quantize=operators, per_channel=per_channel,
                                 weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": 1})
                made[f"{name}, {'columns' if per_channel else 'tensors'}"] = where
        files = made
    elif precision != "f32":
        raise ValueError(f"onnxruntime has no {precision} here")
    feed = {"input_ids": numpy.array(ids, dtype=numpy.int64)}

    def step(path):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = ASKED.threads, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(["vectors"], feed)[0]

    return {name: step(path) for name, path in files.items()}


def timed(step, n):
    samples = []
    for _ in range(n):
        start = time.perf_counter()
        step()
        samples.append(time.perf_counter() - start)
    return samples


def answer(ready, asked):
    if "model" in asked:
        ways = {"pytorch": pytorch, "onnxruntime": onnxruntime}[ASKED.peer]
        modes = {}
        ready[asked["precision"]] = ways(asked["model"], asked["precision"], asked["ids"])
        for mode, step in ready[asked["precision"]].items():
            timed(step, 2)
            modes[mode] = dict(seconds=statistics.median(timed(step, 3)), vectors=step().tolist())
        return dict(modes=modes)
    if "run" in asked:
        step = ready[asked["run"]][asked["mode"]]
        return dict(seconds=statistics.median(timed(step, int(asked.get("steps", 3)))))
    raise ValueError("a line has one of: model, run, quit")


def main():
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr: stdout carries JSON alone
    say = lambda value: print(json.dumps(value), file=out)
    versions = dict(torch=torch.__version__)
    if ASKED.peer == "onnxruntime":
        import onnxruntime as ort

        versions["onnxruntime"] = ort.__version__
    say(dict(event="ready", peer=ASKED.peer, threads=ASKED.threads, **versions))
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
