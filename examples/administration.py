"""Administration with the openai package: a project, a service account, limits, models, retention, the audit log.

    python administration.py URL ADMIN_KEY MODEL

URL is where `lyceum serve` listens, ADMIN_KEY the `sk-admin-…` of its first start, MODEL a classifier of numbers in a
table that the default project has.
"""

import json
import sys
import urllib.request

import openai

url, admin_key, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", admin_api_key=admin_key, max_retries=0)
organization = client.admin.organization

project = organization.projects.create(name="team")
assert organization.projects.retrieve(project.id).name == "team"
assert organization.projects.update(project.id, name="the team").name == "the team"
for i in range(3):
    organization.projects.create(name=f"further {i}")
# The package follows `has_more` and `last_id` by itself.
names = [found.name for found in organization.projects.list(limit=2)]
assert len(names) >= 5 and "the team" in names, names

account = organization.projects.service_accounts.create(project.id, name="bot")
team = openai.OpenAI(base_url=f"{url}/v1", api_key=account.api_key.value, max_retries=0)
assert [found.id for found in team.models.list()] == []
keys = list(organization.projects.api_keys.list(project.id))
assert [key.owner.service_account.id for key in keys] == [account.id], keys

bot = organization.projects.service_accounts.create("default", name="asker")
asker = openai.OpenAI(base_url=f"{url}/v1", api_key=bot.api_key.value, max_retries=0)
assert model in [found.id for found in asker.models.list()]

rate_limits = organization.projects.rate_limits
before = {found.model: found for found in rate_limits.list_rate_limits("default")}.get(model)
limit = rate_limits.update_rate_limit(
    f"rl-{model}", project_id="default", max_requests_per_1_minute=1
)
assert limit.max_requests_per_1_minute == 1, limit
limits = {found.model: found for found in rate_limits.list_rate_limits("default")}
assert limits[model].max_requests_per_1_minute == 1, limits
asked = urllib.request.Request(f"{url}/v2/models/{model}", headers={"authorization": f"Bearer {bot.api_key.value}"})
columns = json.load(urllib.request.urlopen(asked))["inputs"][0]["shape"][-1]
rows = {"instances": [[1] * columns]}
first = asker.post(f"/models/{model}:predict", body=rows, cast_to=object)
try:
    asker.post(f"/models/{model}:predict", body=rows, cast_to=object)
    raise AssertionError("the second request of the minute must be refused")
except openai.RateLimitError as error:
    assert error.code == "rate_limit_exceeded", error
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0", error.response.headers
    assert int(error.response.headers["retry-after"]) > 0
# Where nothing was set, the largest number that can be set holds.
rate_limits.update_rate_limit(
    f"rl-{model}", project_id="default", max_requests_per_1_minute=before.max_requests_per_1_minute if before else 10**9
)

permissions = organization.projects.model_permissions
permissions.update("default", mode="deny_list", model_ids=[model])
assert model not in [found.id for found in asker.models.list()]
assert permissions.retrieve("default").model_ids == [model]
assert permissions.delete("default").deleted

retention = organization.projects.data_retention
assert retention.update(project.id, retention_type="zero_data_retention").type == "zero_data_retention"
try:
    team.files.create(file=("rows.csv", b"a,b\n1,2\n"), purpose="user_data")
    raise AssertionError("nothing may be kept")
except openai.BadRequestError as error:
    assert error.code == "zero_data_retention", error
assert organization.data_retention.retrieve().type == "modified_abuse_monitoring"

made = organization.admin_api_keys.create(name="ci", expires_in_seconds=3600)
assert made.value.startswith("sk-admin-") and made.owner.role == "owner"
assert organization.admin_api_keys.delete(made.id).deleted
assert made.id not in [key.id for key in organization.admin_api_keys.list()]
assert [user.role for user in organization.users.list()] == ["owner"]

organization.projects.service_accounts.delete(account.id, project_id=project.id)
try:
    team.models.list()
    raise AssertionError("the account's key must have ended")
except openai.AuthenticationError as error:
    assert error.code == "revoked_api_key", error
assert organization.projects.archive(project.id).status == "archived"
log = list(organization.audit_logs.list(project_ids=[project.id], limit=3))
assert [entry.type for entry in log][:1] == ["project.archived"] and len(log) >= 6, log
try:
    outsider = openai.OpenAI(base_url=f"{url}/v1", admin_api_key=account.api_key.value, max_retries=0)
    outsider.admin.organization.projects.retrieve(project.id)
    raise AssertionError("a project's key must not administer")
except (openai.AuthenticationError, openai.PermissionDeniedError):
    pass
print(f"administered {len(names)} projects, {len(log)} entries about one of them")
