//! OpenAI's pages of usage and costs: buckets of time, each with a result for every group.

use crate::error::ApiError;
use lyceum_service::usage::{CURRENCY, Class, Counts, Kind, Owners, PriceList, Sum, UNIT};
use lyceum_types::clock::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct Page {
    /// `page`
    pub object: &'static str,
    pub data: Vec<Bucket>,
    pub has_more: bool,
    pub next_page: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Bucket {
    /// `bucket`
    pub object: &'static str,
    /// Seconds since 1970.
    pub start_time: i64,
    pub end_time: i64,
    /// One for every group that has something.
    #[schema(value_type = Vec<Object>)]
    pub results: Vec<Value>,
}

/// A question about a span of time that cannot be wrong.
#[derive(Debug)]
pub struct Asked {
    /// Of the page: whole buckets, in seconds.
    first: i64,
    n_buckets: i64,
    /// Of the question.
    start: i64,
    end: i64,
    width: i64,
    groups: Vec<&'static str>,
    projects: Vec<String>,
    users: Vec<String>,
    keys: Vec<String>,
    models: Vec<String>,
    batch: Option<bool>,
    /// Whose keys are, where the question is about users.
    owners: Owners,
}

/// A bucket's width by name and in seconds, and how many buckets a page has and may have.
type Width = (&'static str, i64, i64, i64);

/// OpenAI's.
const USAGE_WIDTHS: [Width; 3] = [("1m", 60, 60, 1440), ("1h", 3600, 24, 168), ("1d", 86_400, 7, 31)];
const COST_WIDTHS: [Width; 1] = [("1d", 86_400, 7, 180)];

impl Asked {
    pub fn usage(pairs: Vec<(String, String)>, kind: Kind, now: Timestamp) -> Result<Self, ApiError> {
        let groups: &[&'static str] = match kind {
            Kind::Completions => &["project_id", "user_id", "api_key_id", "model", "batch", "service_tier"],
            _ => &["project_id", "user_id", "api_key_id", "model"],
        };
        let filters: &[&str] = match kind {
            Kind::Completions => &["user_ids", "models", "batch"],
            _ => &["user_ids", "models"],
        };
        Self::parse(pairs, (groups, filters, &USAGE_WIDTHS), now)
    }

    pub fn costs(pairs: Vec<(String, String)>, now: Timestamp) -> Result<Self, ApiError> {
        // `model` is ours.
        let groups = &["project_id", "api_key_id", "line_item", "model"];
        Self::parse(pairs, (groups, &[], &COST_WIDTHS), now)
    }

    fn parse(
        pairs: Vec<(String, String)>,
        (groups, filters, widths): (&[&'static str], &[&str], &[Width]),
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        let (mut start, mut end, mut limit, mut page, mut width) = (None, None, None, None, None);
        let mut asked = Asked {
            first: 0,
            n_buckets: 0,
            start: 0,
            end: 0,
            width: 0,
            groups: Vec::new(),
            projects: Vec::new(),
            users: Vec::new(),
            keys: Vec::new(),
            models: Vec::new(),
            batch: None,
            owners: Owners::new(),
        };
        for (name, value) in pairs {
            // Lists are sent as `models=a&models=b`, and by OpenAI's packages as `models[]=a&models[]=b`.
            let name = name.strip_suffix("[]").unwrap_or(&name);
            match name {
                "start_time" => start = Some(seconds(name, &value)?),
                "end_time" => end = Some(seconds(name, &value)?),
                "limit" => limit = Some(seconds(name, &value)?),
                "page" => page = Some(value),
                "bucket_width" => width = Some(value),
                "project_ids" => asked.projects.push(value),
                "api_key_ids" => asked.keys.push(value),
                "user_ids" if filters.contains(&name) => asked.users.push(value),
                "models" if filters.contains(&name) => asked.models.push(value),
                "batch" if filters.contains(&name) => {
                    let flag = value.parse().map_err(|_| wrong(name, &value, "true or false"))?;
                    asked.batch = Some(flag);
                }
                "group_by" => {
                    let known = groups.iter().find(|group| **group == value);
                    let known = known.ok_or_else(|| wrong(name, &value, &groups.join(", ")))?;
                    asked.groups.push(known);
                }
                _ => {
                    let message = format!("{name}: there is no such parameter");
                    return Err(ApiError::field(name, "unknown_parameter", message));
                }
            }
        }
        let width = width.unwrap_or_else(|| "1d".into());
        let names = || widths.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
        let found = widths.iter().find(|(name, ..)| *name == width);
        let &(_, seconds, default, max) = found.ok_or_else(|| wrong("bucket_width", &width, &names()))?;
        let start = start.ok_or_else(|| {
            ApiError::field("start_time", "missing_required_parameter", "start_time: it is required")
        })?;
        let end = end.unwrap_or(now.seconds() + 1);
        if end <= start {
            return Err(wrong("end_time", &end.to_string(), "later than start_time"));
        }
        asked.n_buckets = super::within("limit", limit.unwrap_or(default), 1, max)?;
        (asked.start, asked.end, asked.width) = (start, end, seconds);
        asked.first = match page {
            None => start.div_euclid(seconds) * seconds,
            Some(page) => {
                let at = page.strip_prefix("page_").and_then(|at| i64::from_str_radix(at, 16).ok());
                let at = at.filter(|at| at % seconds == 0 && *at > start - seconds && *at < end);
                at.ok_or_else(|| wrong("page", &page, "the next_page of the same question"))?
            }
        };
        Ok(asked)
    }

    /// The moments of this page's buckets that the question is about.
    pub fn span(&self) -> (Timestamp, Timestamp) {
        let (from, to) = (self.first.max(self.start), self.page_end().min(self.end));
        (Timestamp::from_millis(from * 1000), Timestamp::from_millis(to * 1000))
    }

    /// Whether it must be known whose each key is.
    pub fn is_about_users(&self) -> bool {
        !self.users.is_empty() || self.groups.contains(&"user_id")
    }

    pub fn with_owners(self, owners: Owners) -> Self {
        Asked { owners, ..self }
    }

    pub fn width_ms(&self) -> i64 {
        self.width * 1000
    }

    fn page_end(&self) -> i64 {
        self.first + self.n_buckets * self.width
    }

    fn takes(&self, sum: &Sum) -> bool {
        let within = |list: &[String], own: &str| list.is_empty() || list.iter().any(|item| item == own);
        within(&self.projects, &sum.project)
            && within(&self.users, self.owners.get(&sum.api_key).map_or("", String::as_str))
            && within(&self.keys, &sum.api_key)
            && within(&self.models, &sum.model)
            && self.batch.is_none_or(|batch| batch == (sum.class == Class::Batch))
    }

    /// The group of a sum: a value for each field that is grouped by, null for the others.
    fn group(&self, sum: &Sum) -> Group {
        let of = |name: &str, own: &str| self.groups.contains(&name).then(|| own.to_owned());
        Group {
            project_id: of("project_id", &sum.project),
            user_id: self.owners.get(&sum.api_key).and_then(|owner| of("user_id", owner)),
            api_key_id: of("api_key_id", &sum.api_key),
            model: of("model", &sum.model),
            batch: self.groups.contains(&"batch").then_some(sum.class == Class::Batch),
            service_tier: of("service_tier", "default"),
        }
    }

    /// Buckets of this page with what `results` makes of their sums.
    fn page(&self, sums: &[Sum], results: impl Fn(Vec<&Sum>) -> Vec<Value>) -> Page {
        let starts = (0..self.n_buckets).map(|i| self.first + i * self.width);
        let data = starts.filter(|start| *start < self.end).map(|start_time| Bucket {
            object: "bucket",
            start_time,
            end_time: start_time + self.width,
            results: results(
                sums.iter().filter(|sum| sum.bucket == start_time * 1000 && self.takes(sum)).collect(),
            ),
        });
        let has_more = self.page_end() < self.end;
        Page {
            object: "page",
            data: data.collect(),
            has_more,
            next_page: has_more.then(|| format!("page_{:x}", self.page_end())),
        }
    }
}

fn seconds(name: &str, value: &str) -> Result<i64, ApiError> {
    // A year has fewer than 2^25 seconds: sums of these cannot overflow.
    let parsed = value.parse().ok().filter(|n: &i64| (0..1 << 40).contains(n));
    parsed.ok_or_else(|| wrong(name, value, "a whole number"))
}

fn wrong(name: &str, value: &str, wanted: &str) -> ApiError {
    let value: String = value.chars().take(64).collect();
    ApiError::field(name, "invalid_value", format!("{name}: {value:?} is not {wanted}"))
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    project_id: Option<String>,
    /// None also where a key is nobody's.
    user_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    batch: Option<bool>,
    service_tier: Option<String>,
}

/// OpenAI's usage of one kind of work.
pub fn usage_page(asked: &Asked, kind: Kind, sums: &[Sum]) -> Page {
    asked.page(sums, |sums| {
        let mut groups: BTreeMap<Group, (Counts, u64)> = BTreeMap::new();
        for sum in sums.into_iter().filter(|sum| Kind::of(&sum.route) == kind) {
            let (counts, n_requests) = groups.entry(asked.group(sum)).or_default();
            *counts += sum.counts;
            *n_requests += sum.n_requests;
        }
        groups.into_iter().map(|(group, (counts, n))| result(kind, &group, &counts, n)).collect()
    })
}

fn result(kind: Kind, group: &Group, counts: &Counts, n_requests: u64) -> Value {
    let mut result = match kind {
        Kind::Completions => {
            let uncached = counts.input_tokens - counts.cached_tokens;
            json!({
                "object": "organization.usage.completions.result",
                "input_tokens": counts.input_tokens,
                "input_cached_tokens": counts.cached_tokens,
                "input_cache_write_tokens": 0,
                "input_uncached_tokens": uncached,
                "output_tokens": counts.output_tokens,
                "input_text_tokens": uncached,
                "output_text_tokens": counts.output_tokens,
                "input_cached_text_tokens": counts.cached_tokens,
                "input_audio_tokens": 0,
                "input_cached_audio_tokens": 0,
                "output_audio_tokens": 0,
                "input_image_tokens": 0,
                "input_cached_image_tokens": 0,
                "output_image_tokens": 0,
            })
        }
        Kind::Embeddings => json!({
            "object": "organization.usage.embeddings.result",
            "input_tokens": counts.input_tokens,
        }),
        Kind::Moderations => json!({
            "object": "organization.usage.moderations.result",
            "input_tokens": counts.input_tokens,
        }),
        Kind::Predictions | Kind::Explanations => json!({
            "object": match kind {
                Kind::Predictions => "organization.usage.predictions.result",
                _ => "organization.usage.explanations.result",
            },
            "input_tokens": counts.input_tokens,
            "input_cached_tokens": counts.cached_tokens,
            "output_tokens": counts.output_tokens,
        }),
        Kind::Trainings => json!({
            "object": "organization.usage.trainings.result",
            "num_jobs": n_requests,
            "trained_tokens": counts.training_tokens,
            "trained_rows": counts.training_rows,
            "cpu_seconds": counts.cpu_seconds,
        }),
    };
    // Ours on every page: rows that went through a model have a price.
    result["num_passes"] = counts.passes.into();
    result["num_model_requests"] = n_requests.into();
    result["project_id"] = json!(group.project_id);
    result["user_id"] = json!(group.user_id);
    result["api_key_id"] = json!(group.api_key_id);
    result["model"] = json!(group.model);
    if kind == Kind::Completions {
        result["batch"] = json!(group.batch);
        result["service_tier"] = json!(group.service_tier);
    }
    result
}

/// Trillionths of the currency, and the quantity with its unit.
type Amount = (i128, u64, Option<&'static str>);

/// OpenAI's costs. A line item's amount is exact; the sum of a day's requests, each rounded to a millionth, may differ
/// from that of its items by half a millionth a request.
pub fn costs_page(asked: &Asked, sums: &[Sum], prices: &PriceList) -> Page {
    let by_item = asked.groups.contains(&"line_item");
    asked.page(sums, |sums| {
        let mut groups: BTreeMap<(Group, Option<String>), Amount> = BTreeMap::new();
        for sum in sums.into_iter().filter(|sum| sum.cost > 0) {
            if !by_item {
                let amount = i128::from(sum.cost) * i128::from(UNIT);
                groups.entry((asked.group(sum), None)).or_default().0 += amount;
                continue;
            }
            for (item, n, rate, unit) in items(sum, prices) {
                let key = (asked.group(sum), Some(format!("{}, {item}", sum.model)));
                let (amount, quantity, in_unit) = groups.entry(key).or_default();
                *amount += i128::from(n) * i128::from(rate);
                *quantity += n;
                *in_unit = unit;
            }
        }
        let result = |((group, item), (amount, quantity, unit)): ((Group, Option<String>), _)| {
            let mut result = json!({
                "object": "organization.costs.result",
                "amount": { "value": amount as f64 / (UNIT as f64 * UNIT as f64), "currency": CURRENCY },
                "line_item": item,
                "project_id": group.project_id,
                "api_key_id": group.api_key_id,
                "quantity": by_item.then_some(quantity),
                "quantity_unit": unit,
            });
            if let Some(model) = group.model {
                result["model"] = model.into();
            }
            result
        };
        groups
            .into_iter()
            .map(|(key, value): (_, (i128, u64, Option<&'static str>))| result((key, value)))
            .collect()
    })
}

/// What of a sum has a price: its name, quantity, rate and OpenAI's unit.
fn items(sum: &Sum, prices: &PriceList) -> Vec<(&'static str, u64, i64, Option<&'static str>)> {
    let Some(price) = prices.all().iter().find(|price| price.version == sum.price) else { return vec![] };
    let (counts, rates) = (&sum.counts, &price.rates);
    let tokens = Some("tokens");
    let all = [
        ("input", counts.input_tokens - counts.cached_tokens, rates.input, tokens),
        ("cached input", counts.cached_tokens, rates.cached_input, tokens),
        ("output", counts.output_tokens, rates.output, tokens),
        ("training", counts.training_tokens, rates.training, tokens),
        ("training rows", counts.training_rows, rates.training_row, None),
        ("processor seconds", counts.cpu_seconds, rates.cpu_second, None),
        ("passes", counts.passes, rates.pass, None),
    ];
    all.into_iter().filter(|(_, n, rate, _)| *n > 0 && *rate > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bucket: i64, model: &str, cost: i64) -> Sum {
        let counts =
            Counts { input_tokens: 1000, cached_tokens: 400, output_tokens: 10, ..Counts::default() };
        Sum {
            bucket: bucket * 1000,
            project: "p".into(),
            api_key: "key_1".into(),
            model: model.into(),
            route: "/v1/completions".into(),
            class: Class::Interactive,
            price: 1,
            n_requests: 2,
            counts,
            cost,
        }
    }

    fn pairs(text: &str) -> Vec<(String, String)> {
        let pair = |part: &str| part.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        text.split('&').map(pair).collect()
    }

    const NOW: Timestamp = Timestamp::from_millis(100 * 86_400_000);

    #[test]
    fn pages_follow_each_other_and_have_every_bucket_once() {
        let ask = |page: &str| {
            let text = format!("start_time=90000&end_time=432001&limit=2{page}");
            Asked::usage(pairs(&text), Kind::Completions, NOW).unwrap()
        };
        let sums = [sum(86_400, "m", 5), sum(172_800, "m", 5), sum(432_000, "m", 5)];
        let (mut page, mut starts) = (String::new(), Vec::new());
        loop {
            let asked = ask(&page);
            let (from, to) = asked.span();
            assert!(from.seconds() >= 90_000 && to.seconds() <= 432_001);
            let found = usage_page(&asked, Kind::Completions, &sums);
            starts.extend(found.data.iter().map(|b| (b.start_time, b.results.len())));
            match found.next_page {
                Some(next) => page = format!("&page={next}"),
                None => break,
            }
        }
        assert_eq!(starts, [(86_400, 1), (172_800, 1), (259_200, 0), (345_600, 0), (432_000, 1)]);
    }

    #[test]
    fn groups_and_filters_are_openais() {
        let sums = [sum(0, "a", 5), sum(0, "b", 7), sum(0, "a", 1)];
        let ask = |text: &str| {
            let asked =
                Asked::usage(pairs(&format!("start_time=0&end_time=10{text}")), Kind::Completions, NOW);
            usage_page(&asked.unwrap(), Kind::Completions, &sums).data.remove(0).results
        };
        let one = ask("");
        assert_eq!(
            (one.len(), &one[0]["num_model_requests"], &one[0]["model"]),
            (1, &json!(6), &Value::Null)
        );
        assert_eq!(one[0]["input_uncached_tokens"], 1800);
        let by_model = ask("&group_by[]=model&group_by[]=batch");
        let told: Vec<_> = by_model.iter().map(|r| (&r["model"], &r["num_model_requests"])).collect();
        assert_eq!(told, [(&json!("a"), &json!(4)), (&json!("b"), &json!(2))]);
        assert_eq!(by_model[0]["batch"], false);
        assert_eq!(ask("&models=b")[0]["num_model_requests"], 2);
        assert!(ask("&batch=true").is_empty() && ask("&project_ids=q").is_empty());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (text, param) in [
            ("end_time=5", "start_time"),
            ("start_time=5&end_time=5", "end_time"),
            ("start_time=x", "start_time"),
            ("start_time=0&limit=32", "limit"),
            ("start_time=0&bucket_width=1w", "bucket_width"),
            ("start_time=0&group_by=line_item", "group_by"),
            ("start_time=0&page=page_1", "page"),
            ("start_time=0&page=7", "page"),
            ("start_time=0&colour=red", "colour"),
        ] {
            let error = Asked::usage(pairs(text), Kind::Completions, NOW).unwrap_err();
            assert_eq!(error.detail.param.as_deref(), Some(param), "{text}");
        }
        assert!(Asked::costs(pairs("start_time=0&bucket_width=1h"), NOW).is_err());
        assert!(Asked::costs(pairs("start_time=0&limit=180"), NOW).is_ok());
        let error = Asked::costs(pairs("start_time=0&user_ids=u"), NOW).unwrap_err();
        assert_eq!(error.detail.param.as_deref(), Some("user_ids"), "costs have no users at OpenAI");
    }

    #[test]
    fn costs_of_each_model_are_whole_millionths() {
        let sums = [sum(0, "a", 5), sum(0, "b", 7), sum(0, "a", 1)];
        let asked = Asked::costs(pairs("start_time=0&end_time=10&group_by=model"), NOW).unwrap();
        let page = costs_page(&asked, &sums, &PriceList::default());
        let told = page.data[0].results.iter().map(|r| (&r["model"], r["amount"]["value"].as_f64().unwrap()));
        assert_eq!(told.collect::<Vec<_>>(), [(&json!("a"), 6e-6), (&json!("b"), 7e-6)]);
    }

    #[test]
    fn users_are_the_owners_of_keys_and_nobody_is_null() {
        let nobodys = Sum { api_key: "key_2".into(), ..sum(0, "a", 1) };
        let sums = [sum(0, "a", 5), nobodys];
        let owners = Owners::from([("key_1".to_owned(), "user-1".to_owned())]);
        let ask = |text: &str| {
            let asked =
                Asked::usage(pairs(&format!("start_time=0&end_time=10{text}")), Kind::Completions, NOW);
            let asked = asked.unwrap();
            assert!(asked.is_about_users(), "{text}");
            usage_page(&asked.with_owners(owners.clone()), Kind::Completions, &sums).data.remove(0).results
        };
        let told: Vec<Value> = ask("&group_by=user_id").iter().map(|r| r["user_id"].clone()).collect();
        assert_eq!(told, [Value::Null, json!("user-1")]);
        let hers = ask("&user_ids=user-1&group_by=user_id");
        assert_eq!((hers.len(), &hers[0]["num_model_requests"]), (1, &json!(2)));
        assert!(ask("&user_ids=user-2").is_empty());
    }
}
