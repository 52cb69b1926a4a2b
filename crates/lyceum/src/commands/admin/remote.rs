//! `lyceum admin …` through a server, with a key of the organisation: the key says which organisation. Over
//! `/v1/organization`, in the words and with the output of the commands on the data folder.

use super::keys::Keys;
use super::limits::Limits;
use super::people::{ServiceAccounts, Users};
use super::projects::{Models, Projects, Retention, confirmed};
use super::{Admin, Command, list, say, show};
use crate::context::Context;
use crate::failure::Failure;
use crate::remote::{Client, path_of};
use crate::time;
use lyceum_store::tenancy::rates;
use lyceum_types::clock::Timestamp;
use lyceum_types::limits::RATE_MAX;
use serde_json::{Value, json};

const PROJECTS: &str = "/v1/organization/projects";
const USERS: &str = "/v1/organization/users";
const ADMIN_KEYS: &str = "/v1/organization/admin_api_keys";

/// Where administration is asked for.
struct Office<'a> {
    context: &'a Context,
    client: &'a Client,
}

impl Admin {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        if self.org != "default" {
            let why = "a key belongs to one organisation, and a server takes no other from it";
            return Err(Failure::usage("--org does not go with --url", why, "give that organisation's key"));
        }
        let office = Office { context, client };
        match self.command {
            Command::Organizations(_) => {
                stays("organizations", "a key of one organisation knows of no other")
            }
            Command::MasterKey(_) => {
                let why = "the key never travels: it is a file beside the server, and whoever could send another one \
                           could open every encrypted project; GET /v1/organization/projects tells the id of the key of each";
                stays("master-key", why)
            }
            Command::Shares(command) => command.run_remote(context, client),
            Command::Guard(command) => {
                let path = office.project(command.project(), "/guard_policy");
                command.run_remote(context, client, &path)
            }
            Command::VerifyReceipt { file } => super::master::verify_receipt(&file, context),
            Command::Projects(command) => office.projects(command),
            Command::Models(command) => office.models(command),
            Command::Retention(command) => office.retention(command),
            Command::Keys(command) => office.keys(command),
            Command::Users(command) => office.users(command),
            Command::ServiceAccounts(command) => office.service_accounts(command),
            Command::Limits(command) => office.limits(command),
        }
    }
}

/// Says that a command works on the data folder alone.
fn stays(name: &str, why: &str) -> Result<(), Failure> {
    let fix = "run it on the server's machine, without --url";
    Err(Failure::usage(format!("lyceum admin {name} cannot ask a server"), why, fix))
}

/// Every item of a list, page after page.
pub(in crate::commands) fn every(client: &Client, path: &str) -> Result<Vec<Value>, Failure> {
    let (mut all, mut after) = (Vec::new(), String::new());
    let sign = if path.contains('?') { '&' } else { '?' };
    loop {
        let page = client.get(&format!("{path}{sign}limit=100{after}"))?;
        all.extend(page["data"].as_array().into_iter().flatten().cloned());
        match page["last_id"].as_str() {
            Some(last) if page["has_more"] == true => after = format!("&after={}", path_of(last)),
            _ => return Ok(all),
        }
    }
}

/// A field as text, empty where it is none.
pub(in crate::commands) fn text(of: &Value, field: &str) -> String {
    of[field].as_str().unwrap_or_default().to_owned()
}

/// A field that holds seconds, for people.
pub(in crate::commands) fn moment(of: &Value, field: &str) -> String {
    let at = |seconds: i64| time::for_people(Timestamp::from_millis(seconds.saturating_mul(1000)));
    of[field].as_i64().map_or_else(|| "never".to_owned(), at)
}

/// A list of texts, for people.
pub(in crate::commands) fn joined(of: &Value, field: &str) -> String {
    let all = of[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    all.collect::<Vec<_>>().join(", ")
}

impl Office<'_> {
    fn say(&self, json: &Value, words: impl AsRef<str>) {
        say(self.context, json, words);
    }

    fn ended(&self, id: &str, words: String) {
        self.say(&json!({"event": "done", "id": id}), words);
    }

    fn project(&self, id: &str, rest: &str) -> String {
        format!("{PROJECTS}/{}{rest}", path_of(id))
    }

    fn projects(&self, command: Projects) -> Result<(), Failure> {
        let told = |found: &Value| -> Result<Value, Failure> {
            let id = text(found, "id");
            let retention = self.client.get(&self.project(&id, "/data_retention"))?;
            Ok(json!({"id": id, "name": found["name"], "created": found["created_at"],
                "archived_at": found["archived_at"], "retention_type": retention["type"]}))
        };
        match command {
            Projects::Create { encrypted: true, .. } => {
                let why =
                    "which master key seals a project is said by its id (external_key_id of POST …/projects)";
                return Err(Failure::usage(
                    "--encrypted does not go with --url",
                    why,
                    "run it on the server's machine",
                ));
            }
            Projects::Create { name, encrypted: false } => {
                let made = told(&self.client.post(PROJECTS, &json!({"name": name}))?)?;
                self.say(&made, text(&made, "id"));
            }
            Projects::Ls { archived } => {
                let row = |found: &Value| {
                    let json = told(found)?;
                    let ended = match json["archived_at"].is_null() {
                        true => "active".to_owned(),
                        false => moment(&json, "archived_at"),
                    };
                    let row =
                        vec![text(&json, "id"), text(&json, "name"), ended, text(&json, "retention_type")];
                    Ok((json, row))
                };
                let all = every(self.client, &format!("{PROJECTS}?include_archived={archived}"))?;
                let rows = all.iter().map(row).collect::<Result<_, Failure>>()?;
                list(self.context, "projects", &["id", "name", "archived", "retention"], rows);
            }
            Projects::Erase { id, confirm } => {
                confirmed(&id, &confirm)?;
                let receipt = self.client.post(&self.project(&id, "/erase"), &json!({"confirm": confirm}))?;
                self.say(&receipt, format!("{receipt:#}"));
            }
            Projects::Rename { id, name } => {
                self.client.post(&self.project(&id, ""), &json!({"name": name}))?;
                self.ended(&id, format!("{id} is called {name:?}"));
            }
            Projects::Archive { id } => {
                self.client.post(&self.project(&id, "/archive"), &json!({}))?;
                self.ended(&id, format!("archived {id}"));
            }
        }
        Ok(())
    }

    fn models(&self, command: Models) -> Result<(), Failure> {
        let of = |id: &str| self.project(id, "/model_permissions");
        let set = |id: &str, mode: &str, models: Vec<String>| {
            self.client.post(&of(id), &json!({"mode": mode, "model_ids": models})).map(drop)
        };
        let id = match command {
            Models::Show { project } => project,
            Models::All { project } => {
                self.client.delete(&of(&project))?;
                project
            }
            Models::Allow { project, models } => {
                set(&project, "allow_list", models)?;
                project
            }
            Models::Deny { project, models } => {
                set(&project, "deny_list", models)?;
                project
            }
        };
        let holds = self.client.get(&of(&id))?;
        // A deny list of nothing is what holds where nothing was set.
        let is_all = holds["mode"] == "deny_list" && holds["model_ids"].as_array().is_some_and(Vec::is_empty);
        let mode = if is_all { Value::Null } else { holds["mode"].clone() };
        let words = match (is_all, holds["mode"] == "allow_list") {
            (true, _) => format!("{id} may ask every model"),
            (_, true) => format!("{id} may ask only: {}", joined(&holds, "model_ids")),
            (_, false) => format!("{id} may ask all but: {}", joined(&holds, "model_ids")),
        };
        self.say(&json!({"project": id, "mode": mode, "model_ids": holds["model_ids"]}), words);
        Ok(())
    }

    fn retention(&self, command: Retention) -> Result<(), Failure> {
        let path = match &command.project {
            None => "/v1/organization/data_retention".to_owned(),
            Some(id) => self.project(id, "/data_retention"),
        };
        if let Some(kind) = &command.kind {
            self.client.post(&path, &json!({"retention_type": kind}))?;
        }
        let holds = self.client.get(&path)?;
        let of = command.project.unwrap_or_else(|| "the organisation".into());
        let words = format!("{of}: {}", text(&holds, "type"));
        self.say(&json!({"id": of, "retention_type": holds["type"]}), words);
        Ok(())
    }

    fn keys(&self, command: Keys) -> Result<(), Failure> {
        let told = |key: &Value| {
            json!({"id": key["id"], "name": key["name"], "scopes": key["scopes"], "owner": key["owner"]["id"],
                "created": key["created_at"], "expires_at": key["expires_at"], "last_used_at": key["last_used_at"]})
        };
        let shown = |key: &Value| {
            let mut json = told(key);
            json["key"] = key["value"].clone();
            show(self.context, &json, &text(key, "value"), &text(key, "id"));
        };
        match command {
            Keys::Create { name, scopes, expires, user } => {
                if user.is_some() {
                    let why = "a server makes keys for whom the asking key belongs to";
                    return Err(Failure::usage("--user does not go with --url", why, "leave it out"));
                }
                let scopes: Vec<&str> =
                    scopes.iter().flat_map(|scopes| scopes.split(',')).map(str::trim).collect();
                let mut body = json!({"name": name, "scopes": scopes});
                if let Some(expires) = expires {
                    body["expires_in_seconds"] = time::duration(&expires, "--expires 90d")?.as_secs().into();
                }
                shown(&self.client.post(ADMIN_KEYS, &body)?);
            }
            Keys::Ls => {
                let row = |key: &Value| {
                    let owner = text(&key["owner"], "name");
                    let cells = vec![text(key, "id"), text(key, "name"), joined(key, "scopes"), owner];
                    let times = ["expires_at", "last_used_at"].map(|field| moment(key, field));
                    (told(key), cells.into_iter().chain(times).collect())
                };
                let mut all = every(self.client, ADMIN_KEYS)?;
                all.sort_by_key(|key| text(key, "id"));
                let header = ["id", "name", "scopes", "owner", "expires", "last used"];
                list(self.context, "keys", &header, all.iter().map(row).collect());
            }
            Keys::Revoke { id } => {
                self.client.delete(&format!("{ADMIN_KEYS}/{}", path_of(&id)))?;
                self.ended(&id, format!("revoked {id}"));
            }
            Keys::Rotate { id, overlap } => {
                let overlap = overlap.map(|text| time::duration(&text, "--overlap 12h")).transpose()?;
                let body = json!({"overlap_seconds": overlap.unwrap_or_default().as_secs()});
                shown(&self.client.post(&format!("{ADMIN_KEYS}/{}/rotate", path_of(&id)), &body)?);
            }
        }
        Ok(())
    }

    fn users(&self, command: Users) -> Result<(), Failure> {
        let told = |user: &Value| {
            json!({"id": user["id"], "name": user["name"], "email": user["email"], "role": user["role"],
                "added": user["added_at"]})
        };
        let of = |project: &Option<String>, id: &str| match project {
            None => format!("{USERS}/{}", path_of(id)),
            Some(project) => self.project(project, &format!("/users/{}", path_of(id))),
        };
        match command {
            Users::Add { name, email, role } => {
                let made = self.client.post(USERS, &json!({"name": name, "email": email, "role": role}))?;
                self.say(&told(&made), text(&made, "id"));
            }
            Users::Ls { project } => {
                let people = every(self.client, USERS)?;
                let places = match &project {
                    Some(id) => Some(every(self.client, &self.project(id, "/users"))?),
                    None => None,
                };
                // A place in a project has its own role and beginning; who has it is told as the organisation knows them.
                let row = |user: &Value| {
                    let mut json = told(user);
                    let mut cells = ["id", "name", "email", "role"].map(|field| text(user, field)).to_vec();
                    if let Some(places) = &places {
                        let place = places.iter().find(|place| place["id"] == user["id"])?;
                        json["project_role"] = place["role"].clone();
                        cells[3] = text(place, "role");
                    }
                    Some((json, cells))
                };
                let rows = people.iter().filter_map(row).collect();
                list(self.context, "users", &["id", "name", "email", "role"], rows);
            }
            Users::Role { id, role, project } => {
                let place = of(&project, &id);
                match &project {
                    // Who has no place in the project gets one.
                    Some(project) if self.client.get(&place).is_err() => {
                        let body = json!({"user_id": id, "role": role});
                        self.client.post(&self.project(project, "/users"), &body)?;
                    }
                    _ => drop(self.client.post(&place, &json!({"role": role}))?),
                }
                self.say(&json!({"event": "done", "id": id, "role": role}), format!("{id} is {role}"));
            }
            Users::Rm { id, project } => {
                self.client.delete(&of(&project, &id))?;
                self.ended(&id, format!("removed {id}"));
            }
        }
        Ok(())
    }

    fn service_accounts(&self, command: ServiceAccounts) -> Result<(), Failure> {
        let told = |account: &Value| json!({"id": account["id"], "name": account["name"], "role": account["role"], "created": account["created_at"]});
        let of = |project: &str, rest: &str| self.project(project, &format!("/service_accounts{rest}"));
        match command {
            ServiceAccounts::Create { project, name, no_key } => {
                let body = json!({"name": name, "create_service_account_only": no_key});
                let made = self.client.post(&of(&project, ""), &body)?;
                let (mut json, key) = (told(&made), &made["api_key"]);
                if key.is_null() {
                    self.say(&json, text(&made, "id"));
                } else {
                    json["key_id"] = key["id"].clone();
                    json["key"] = key["value"].clone();
                    let note = format!("{} of {}", text(key, "id"), text(&made, "id"));
                    show(self.context, &json, &text(key, "value"), &note);
                }
            }
            ServiceAccounts::Ls { project } => {
                let all = every(self.client, &of(&project, ""))?;
                let row = |account: &Value| {
                    (told(account), ["id", "name", "role"].map(|field| text(account, field)).to_vec())
                };
                list(
                    self.context,
                    "service_accounts",
                    &["id", "name", "role"],
                    all.iter().map(row).collect(),
                );
            }
            ServiceAccounts::Rm { project, id } => {
                self.client.delete(&of(&project, &format!("/{}", path_of(&id))))?;
                self.ended(&id, format!("removed {id}"));
            }
        }
        Ok(())
    }

    fn limits(&self, command: Limits) -> Result<(), Failure> {
        const FIELDS: [(&str, &str); 4] = [
            ("requests_per_minute", "max_requests_per_1_minute"),
            ("tokens_per_minute", "max_tokens_per_1_minute"),
            ("requests_per_day", "max_requests_per_1_day"),
            ("concurrent_requests", "max_concurrent_requests"),
        ];
        // The largest number that can be set means that nothing was.
        let number = |limit: &Value, field: &str| limit[field].as_u64().filter(|n| *n < RATE_MAX);
        let told = |limit: &Value| {
            let model = Some(text(limit, "model")).filter(|model| model != "*");
            let mut json = json!({"id": limit["id"], "model": model, "key": limit["api_key_id"]});
            FIELDS.iter().for_each(|(ours, theirs)| json[*ours] = json!(number(limit, theirs)));
            json
        };
        let of = |project: &str, id: &str| self.project(project, &format!("/rate_limits/{}", path_of(id)));
        match command {
            Limits::Set { of: subject, limit } => {
                let id = rates::id_of(&subject.subject()?);
                let mut body = json!({});
                for ((_, theirs), n) in FIELDS.iter().zip(limit.all()) {
                    if let Some(n) = n {
                        body[*theirs] = n.into();
                    }
                }
                let set = self.client.post(&of(subject.project(), &id), &body)?;
                self.say(&told(&set), format!("set {id}"));
            }
            Limits::Ls { project } => {
                let all = every(self.client, &self.project(&project, "/rate_limits"))?;
                // A server lists every model; what has no limit was not set.
                let is_set =
                    |limit: &&Value| FIELDS.iter().any(|(_, theirs)| number(limit, theirs).is_some());
                let row = |limit: &Value| {
                    let cell = |field: &str| number(limit, field).map_or_else(String::new, |n| n.to_string());
                    let cells = FIELDS.iter().map(|(_, theirs)| cell(theirs));
                    (told(limit), std::iter::once(text(limit, "id")).chain(cells).collect())
                };
                let header = ["id", "requests/min", "tokens/min", "requests/day", "at once"];
                list(self.context, "limits", &header, all.iter().filter(is_set).map(row).collect());
            }
            Limits::Rm { of: subject } => {
                let id = rates::id_of(&subject.subject()?);
                let mut body = json!({});
                FIELDS.iter().for_each(|(_, theirs)| body[*theirs] = RATE_MAX.into());
                self.client.post(&of(subject.project(), &id), &body)?;
                self.ended(&id, format!("removed {id}"));
            }
        }
        Ok(())
    }
}
