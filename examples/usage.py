"""Usage and costs with the openai package: what was asked by whom, and what it cost.

    python usage.py URL ADMIN_KEY MODEL

URL is where `lyceum serve` listens, ADMIN_KEY the `sk-admin-…` of its first start, MODEL a language model that the
default project has. Without a price (`lyceum prices set MODEL --output 2`) all costs are zero.
"""

import sys
import time

import openai

url, admin_key, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", admin_api_key=admin_key, max_retries=0)
# What is not OpenAI's is asked by its path.
plain = openai.OpenAI(base_url=f"{url}/v1", api_key=admin_key, max_retries=0)
organization = client.admin.organization

# Keys of a service account are its own: usage knows whose they are.
bot = organization.projects.service_accounts.create("default", name="reader")
asker = openai.OpenAI(base_url=f"{url}/v1", api_key=bot.api_key.value, max_retries=0)
start = int(time.time())
said = [asker.completions.create(model=model, prompt="abc", max_tokens=5, seed=i).usage for i in range(3)]
tokens = sum(usage.completion_tokens for usage in said)


def results(page):
    return [result for bucket in page.data for result in bucket.results]


def settled():
    """The account's usage, a few milliseconds after its last answer."""
    for _ in range(100):
        page = organization.usage.completions(
            start_time=start, bucket_width="1h", user_ids=[bot.id], group_by=["user_id", "model", "api_key_id"]
        )
        found = results(page)
        if sum(result.num_model_requests for result in found) == len(said):
            return found
        time.sleep(0.05)
    raise AssertionError("the requests were not settled")


for result in settled():
    assert (result.user_id, result.model, result.api_key_id) == (bot.id, model, bot.api_key.id), result
    assert result.output_tokens == tokens, (result, tokens)

# Costs in days: by what was paid for, and of this key alone.
costs = organization.usage.costs(start_time=start, api_key_ids=[bot.api_key.id], group_by=["line_item"])
items = {result.line_item: result.amount.value for result in results(costs)}
whole = organization.usage.costs(start_time=start, api_key_ids=[bot.api_key.id], group_by=["project_id"])
paid = sum(result.amount.value for result in results(whole))
assert all(item.startswith(f"{model}, ") for item in items), items
# An item's amount is exact, a request's is rounded to a millionth.
assert abs(sum(items.values()) - paid) <= len(said) * 0.5e-6 + 1e-12, (items, paid)

# Ours: every entry of the ledger, and costs by model.
entries = plain.get(f"/organization/usage/requests?start_time={start}&limit=100", cast_to=object)["data"]
own = [entry for entry in entries if entry["api_key_id"] == bot.api_key.id]
assert len(own) == len(said) and abs(sum(entry["cost_usd"] for entry in own) - paid) < 1e-9, own
by_model = plain.get(
    f"/organization/costs?start_time={start}&api_key_ids={bot.api_key.id}&group_by=model", cast_to=object
)
amounts = [result["amount"]["value"] for bucket in by_model["data"] for result in bucket["results"]]
assert abs(sum(amounts) - paid) < 1e-9, by_model

organization.projects.service_accounts.delete(bot.id, project_id="default")
print(f"{len(said)} requests, {tokens} tokens made, {paid:.6f} USD")
