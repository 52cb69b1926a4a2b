"""Files, uploads and batches with the openai package.

    python files_and_batches.py URL KEY MODEL

URL is where `lyceum serve` listens, KEY a project's key, MODEL a model that completes text.
"""

import hashlib
import json
import sys
import time

import openai

url, key, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def lines(ids, **more):
    body = {"model": model, "prompt": "abc", "max_tokens": 4, "temperature": 0} | more
    asked = [{"custom_id": id, "method": "POST", "url": "/v1/completions", "body": body} for id in ids]
    return "".join(json.dumps(line) + "\n" for line in asked).encode()


def ended(batch):
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def read(file_id):
    return {line["custom_id"]: line for line in map(json.loads, client.files.content(file_id).text.splitlines())}


# Files.
file = client.files.create(
    file=("questions.jsonl", lines("abc") + lines("d", temperature=99)),
    purpose="batch",
    expires_after={"anchor": "created_at", "seconds": 3600},
)
assert file.purpose == "batch" and file.expires_at - file.created_at == 3600, file
assert client.files.retrieve(file.id).filename == "questions.jsonl"
notes = client.files.create(file=("notes.txt", b"words"), purpose="user_data")
assert [found.id for found in client.files.list(purpose="user_data", limit=1)][0] == notes.id
assert client.files.delete(notes.id).deleted
try:
    client.files.create(file=("wrong.jsonl", b"nope\n\n" + lines("aa")), purpose="batch")
    raise AssertionError("a wrong file must be refused")
except openai.BadRequestError as error:
    problems = error.body["problems"]
    found = [(problem["line"], problem["code"]) for problem in problems["errors"]]
    assert found == [(1, "invalid_json"), (2, "blank_line"), (4, "duplicate_custom_id")], problems

# A batch.
batch = client.batches.create(
    input_file_id=file.id, endpoint="/v1/completions", completion_window="24h", metadata={"of": "an example"}
)
batch = ended(batch)
assert batch.status == "completed", batch
counts = batch.request_counts
assert (counts.total, counts.completed, counts.failed) == (4, 3, 1), batch
output, errors = read(batch.output_file_id), read(batch.error_file_id)
assert set(output) == set("abc") and set(errors) == {"d"}
alone = client.completions.create(model=model, prompt="abc", max_tokens=4, temperature=0)
for line in output.values():
    assert line["response"]["body"]["choices"][0]["text"] == alone.choices[0].text
assert batch.usage.total_tokens == 3 * alone.usage.total_tokens, batch.usage
assert errors["d"]["response"]["status_code"] == 400
assert batch.id in [found.id for found in client.batches.list(limit=1)]

# An upload: parts in any order, one file of all.
data = lines([str(i) for i in range(500)])
cuts = [data[: len(data) // 2], data[len(data) // 2 :]]
upload = client.uploads.create(bytes=len(data), filename="many.jsonl", mime_type="application/jsonl", purpose="batch")
last, first = (client.uploads.parts.create(upload.id, data=part) for part in reversed(cuts))
done = client.uploads.complete(upload.id, part_ids=[first.id, last.id], md5=hashlib.md5(data).hexdigest())
assert done.status == "completed" and done.file.bytes == len(data), done
upload = client.uploads.create(bytes=5, filename="a.txt", mime_type="text/plain", purpose="user_data")
assert client.uploads.cancel(upload.id).status == "cancelled"

# A batch that is cancelled keeps what was answered.
batch = client.batches.create(input_file_id=done.file.id, endpoint="/v1/completions", completion_window="24h")
while batch.status == "validating":
    time.sleep(0.05)
    batch = client.batches.retrieve(batch.id)
try:
    batch = client.batches.cancel(batch.id)
    assert batch.status == "cancelling", batch
except openai.ConflictError as error:
    assert error.code == "batch_over", error
batch = ended(batch)
answered = read(batch.output_file_id) if batch.output_file_id else {}
rest = read(batch.error_file_id) if batch.error_file_id else {}
assert len(answered) == batch.request_counts.completed and len(answered) + len(rest) == 500, batch
assert all(line["error"]["code"] == "batch_cancelled" for line in rest.values())

print(f"asked {len(answered) + 4} lines in batches; one was {batch.status} with {len(rest)} lines not asked")
