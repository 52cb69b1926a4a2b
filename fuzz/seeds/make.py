#!/usr/bin/env python3
"""Writes the small valid inputs that the fuzz targets and the malformed files of the tests begin with.

Needs numpy and Pillow: fuzz/seeds/make.py. Its output is committed.
"""

import io
import json
import struct
import wave
from pathlib import Path

import numpy
from PIL import Image

HERE = Path(__file__).parent


def write(target, name, content):
    folder = HERE / target
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf():
    """A file of version 3 with a value of every kind and a tensor each of F32, F16 and Q8_0."""
    kinds = [("u32", 4, struct.pack("<I", 3)), ("f32", 6, struct.pack("<f", 1e-5)), ("bool", 7, b"\1"),
             ("general.architecture", 8, text("llama")), ("u64", 10, struct.pack("<Q", 9)),
             ("ints", 9, struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, 2, 3)),
             ("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b"))]
    tensors = [("a", [4, 2], 0, 32), ("b", [8], 1, 16), ("c", [32], 8, 34)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(kinds))
    head += b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in kinds)
    data = b""
    for name, dims, kind, n in tensors:
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += bytes([0, 60] * (n // 2)).ljust(-(-n // 32) * 32, b"\0")
    return head + bytes(-len(head) % 32) + data


def safetensors(names):
    header, data = {}, b""
    for name, kind, dims in names:
        n = {"F32": 4, "F16": 2, "BF16": 2}[kind] * int(numpy.prod(dims))
        header[name] = {"dtype": kind, "shape": dims, "data_offsets": [len(data), len(data) + n]}
        data += bytes(n)
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def of_bytes(save):
    out = io.BytesIO()
    save(out)
    return out.getvalue()


def sound(channels, width):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(bytes(range(48)))
    return out.getvalue()


def main():
    write("gguf", "kinds.gguf", gguf())
    one = safetensors([("a", "F32", [2, 3]), ("b", "BF16", [4])])
    write("safetensors", "one", one)
    write("safetensors", "two", one + b"\xff\xfe" + safetensors([("c", "F16", [5])]))
    write("grammar", "expression", "\0[a-c]{2,4}(x|yz)*\\d+(?i:the)\\.")
    write("grammar", "grammar", '\1start: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]{1,3}/\n')
    address = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 120}},
               "required": ["n"], "additionalProperties": False}
    schema = {"$defs": {"a": address}, "type": "array", "items": {"anyOf": [{"$ref": "#/$defs/a"}, {"enum": ["x", 1, None]},
              {"type": "string", "pattern": "^[a-f]+$", "minLength": 1}, {"const": 2.5}]}, "minItems": 1, "maxItems": 3}
    write("schema", "schema.json", json.dumps(schema))
    rows = "".join(f"{i % 3},{i * 0.5},word {i % 2},{'yes' if i % 2 else 'no'}\n" for i in range(24))
    write("csv", "plain.csv", "a,b,c,y\n" + rows)
    write("csv", "quoted.csv", 'a,y\n"x, ""y""",1\n,2\nNA,1\n' + "b,2\n" * 12)
    labels = numpy.arange(12, dtype="int64") % 2
    inputs = numpy.arange(36, dtype="float32").reshape(12, 3)
    write("npy", "array.npy", of_bytes(lambda out: numpy.save(out, inputs)))
    write("npy", "arrays.npz", of_bytes(lambda out: numpy.savez(out, x=inputs, y=labels)))
    write("npy", "packed.npz", of_bytes(lambda out: numpy.savez_compressed(out, x=inputs, y=labels)))
    write("wav", "mono.wav", sound(1, 2))
    write("wav", "stereo.wav", sound(2, 3))
    picture = Image.fromarray(numpy.arange(5 * 6 * 3, dtype="uint8").reshape(5, 6, 3))
    for kind in ["png", "jpeg", "gif", "webp"]:
        write("image", f"picture.{kind}", of_bytes(lambda out: picture.save(out, kind)))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    chat = {"model": "a", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content":
            [{"type": "text", "text": "b"}]}], "max_tokens": 9, "temperature": 0.5, "stop": ["x"], "n": 2, "logprobs": True,
            "top_logprobs": 2, "seed": 1, "response_format": {"type": "json_object"}, "tools": [tool],
            "logit_bias": {"1": 2}, "stream": True, "stream_options": {"include_usage": True}}
    write("chat", "chat.json", json.dumps(chat))
    response = {"model": "a", "input": [{"role": "user", "content": "b"}, {"type": "function_call", "call_id": "c",
                "name": "f", "arguments": "{}"}, {"type": "function_call_output", "call_id": "c", "output": "1"}],
                "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}],
                "text": {"format": {"type": "json_object"}}, "metadata": {"a": "b"}, "background": True, "store": True,
                "include": ["message.output_text.logprobs"], "top_logprobs": 3, "reasoning": {"effort": "none"}}
    write("responses", "response.json", json.dumps(response))


if __name__ == "__main__":
    main()
