//! A server as it is seen from here: the way there, who answers, and what the key opens. What stands in the way of the next
//! look is told once; a key is told to nobody who is not trusted, or does not answer as we do.

use super::{Check, Found};
use crate::commands::serve::CERTIFICATE_ENDS_SOON;
use crate::failure::{Exit, Failure};
use crate::remote::{Client, Looked, Whom};
use lyceum_api::tls;
use lyceum_types::clock::Timestamp;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};
use ureq::http::Uri;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Clocks that differ by more make expiries and signatures mean something else.
const CLOCK_SLACK_S: i64 = 60;
const ROUND_TRIPS: usize = 5;
/// No model has this name: who may manage models is told so, who may not is refused.
const NO_MODEL: &str = "/v1/models/lyceum-doctor-looks-for-no-model/export";
const BEHIND_THE_DOOR: [&str; 7] = ["server", "clock", "round trip", "key", "ready", "models", "rate limits"];

/// Every look, in the order in which one needs the one before.
pub fn looked_at(client: &Client, no_key: Option<Failure>) -> Vec<Check> {
    let place = match Place::of(client.url()) {
        Ok(place) => place,
        Err(failure) => return vec![Check::new("address", Err::<String, _>(failure))],
    };
    let mut checks = Vec::new();
    let reached = match connect(&place) {
        Ok((stream, told)) => {
            checks.push(Check::new("address", Ok::<_, Failure>(told)));
            stream
        }
        Err(failure) => {
            checks.push(Check::new("address", Err::<String, _>(failure)));
            return left_out(checks, &["certificate"], "nothing is reached at the address");
        }
    };
    let answer = client.look("/health", Whom::Nobody);
    let certificate = certificate(&place, reached, answer.as_ref().err());
    let is_trusted = certificate.is_ok();
    checks.push(Check::new("certificate", certificate));
    if !is_trusted {
        return left_out(checks, &[], "who answers is not trusted, and is told no key");
    }
    let answer = match server(client, answer) {
        Ok((answer, told)) => {
            checks.push(Check::new(BEHIND_THE_DOOR[0], Ok::<_, Failure>(told)));
            answer
        }
        Err(failure) => {
            checks.push(Check::new(BEHIND_THE_DOOR[0], Err::<String, _>(failure)));
            return left_out(checks, &[], "what answers is no Lyceum that works, and is told no key");
        }
    };
    checks.push(Check::new(BEHIND_THE_DOOR[1], clock(answer.header("date"), Timestamp::now())));
    checks.push(Check::new(BEHIND_THE_DOOR[2], round_trip(client)));
    match no_key.map_or_else(|| key(client), Err) {
        Ok(told) => checks.push(Check::new(BEHIND_THE_DOOR[3], Ok::<_, Failure>(told))),
        Err(failure) => {
            checks.push(Check::new(BEHIND_THE_DOOR[3], Err::<String, _>(failure)));
            return left_out(checks, &[], "there is no key that the server takes");
        }
    }
    if client.administers() {
        return left_out(checks, &[], "a key of an organisation administers, and asks no model");
    }
    checks.push(Check { name: BEHIND_THE_DOOR[4], found: ready(client) });
    checks.push(Check { name: BEHIND_THE_DOOR[5], found: models(client) });
    checks.push(Check { name: BEHIND_THE_DOOR[6], found: rate_limits(client) });
    checks
}

/// What comes behind these checks cannot be looked at.
fn left_out(mut checks: Vec<Check>, first: &[&'static str], why: &'static str) -> Vec<Check> {
    for name in first.iter().copied().chain(BEHIND_THE_DOOR) {
        if checks.iter().all(|check| check.name != name) {
            checks.push(Check { name, found: Found::LeftOut(why) });
        }
    }
    checks
}

/// Where a URL leads.
struct Place {
    host: String,
    port: u16,
    is_tls: bool,
}

impl Place {
    fn of(url: &str) -> Result<Self, Failure> {
        let wrong = |why: String| {
            Failure::usage("the URL of the server is none", why, "write --url https://HOST:8317")
        };
        let uri: Uri = url.parse().map_err(|error: ureq::http::uri::InvalidUri| wrong(error.to_string()))?;
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or_else(|| wrong("it names no host".into()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Place { host, port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }), is_tls })
    }
}

fn connect(place: &Place) -> Result<(TcpStream, String), Failure> {
    let (host, port) = (place.host.as_str(), place.port);
    let unreachable = |message: String, why: String, fix: &str| {
        Failure::new(Exit::Unreachable, "unreachable", message, why, fix)
    };
    let found = (host, port).to_socket_addrs().map_err(|error| {
        let fix = "check the name in --url, and how this machine resolves names";
        unreachable(format!("{host} has no address"), error.to_string(), fix)
    })?;
    let (mut tried, mut last) = (Vec::<SocketAddr>::new(), String::new());
    for address in found {
        let begun = Instant::now();
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                let told = format!("{host} is {}; connected in {}", address.ip(), millis(begun.elapsed()));
                return Ok((stream, told));
            }
            Err(error) => last = error.to_string(),
        }
        tried.push(address);
    }
    let tried = tried.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    let fix = "start it with lyceum serve, check host and port in --url, and what stands between (firewall, --host)";
    Err(unreachable(format!("nothing listens at {host} port {port} (tried {tried})"), last, fix))
}

/// The certificate that is shown, judged by the connection that carried a request.
fn certificate(place: &Place, stream: TcpStream, refused: Option<&String>) -> Result<String, Failure> {
    let told = |message: String, why: String, fix: &str| {
        Failure::new(Exit::Unreachable, "invalid_tls", message, why, fix)
    };
    if !place.is_tls {
        return Ok("none: http:// hides nothing, the key included".into());
    }
    let bounded = stream.set_read_timeout(Some(CONNECT_TIMEOUT));
    let bounded = bounded.and_then(|()| stream.set_write_timeout(Some(CONNECT_TIMEOUT)));
    let shown = bounded.map_err(|error| error.to_string()).and_then(|()| tls::presented(stream, &place.host));
    let validity = shown.map_err(|why| {
        let fix = "write http:// in --url where the server has no certificate, or serve it with --tls-cert and --tls-key";
        told(format!("{} port {} shows no certificate", place.host, place.port), why, fix)
    })?;
    let (now, until) = (Timestamp::now(), validity.not_after);
    if until < now || validity.not_before > now {
        let held = format!("{} to {}", validity.not_before.date_time(), until.date_time());
        let fix = "renew it on the server's machine, then kill -HUP the server; or set this machine's clock";
        let message = format!("the certificate of {} holds from {held}", place.host);
        return Err(told(message, "clients refuse it outside of that time".into(), fix));
    }
    if let Some(why) = refused.filter(|why| why.contains("certificate")) {
        let fix = "give the authority that signed it with --ca FILE, and a name that is in it with --url";
        return Err(told(format!("the certificate of {} is not trusted", place.host), why.clone(), fix));
    }
    let days = (until.seconds() - now.seconds()) / 86_400;
    let soon = if until < now.plus(CERTIFICATE_ENDS_SOON) { ": renew it soon" } else { "" };
    Ok(format!("trusted, and holds {days} days, until {}{soon}", until.date_time()))
}

/// Whether who answers is a Lyceum that works, and which.
fn server(client: &Client, answer: Result<Looked, String>) -> Result<(Looked, String), Failure> {
    let url = client.url();
    let other = |why: String| {
        let message = format!("what answers at {url} is no Lyceum");
        let fix = "check host, port and path in --url; a proxy must hand all paths on";
        Failure::new(Exit::Unreachable, "not_lyceum", message, why, fix)
    };
    let answer = answer.map_err(|why| other(format!("it speaks otherwise: {why}")))?;
    let body = answer.json();
    if answer.status == 503 && body["error"].is_object() {
        let mut failure = answer.refusal();
        failure.message = format!("the server at {url} does not work: {}", failure.message);
        failure.fix = "start it again; its log says more".into();
        return Err(failure);
    }
    let version = body["version"].as_str().filter(|_| answer.status == 200 && body["status"] == "ok");
    let version =
        version.ok_or_else(|| other(format!("GET /health was answered with status {}", answer.status)))?;
    let shown: String = version.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    let own = env!("CARGO_PKG_VERSION");
    let told = match shown == own {
        true => format!("lyceum {own}, as this program"),
        false => {
            format!("lyceum {shown}; this program is {own}: either may know words that the other does not")
        }
    };
    Ok((answer, told))
}

/// How the server's clock differs from this one, by the header of its answer.
fn clock(date: Option<&str>, now: Timestamp) -> Result<String, Failure> {
    let Some(date) = date else { return Ok("the server does not say what time it has".into()) };
    let wrong = |message: String, why: &str| {
        let fix = "set the clock of whichever is wrong, as with timedatectl set-ntp true";
        Failure::new(Exit::Failed, "wrong_clock", message, why, fix)
    };
    let there = http_date(date).ok_or_else(|| wrong(format!("{date:?} is no time"), "a header says so"))?;
    let by = there - now.seconds();
    if by.abs() > CLOCK_SLACK_S {
        let message = format!(
            "the server's clock is {} s {} of this one",
            by.abs(),
            if by > 0 { "ahead" } else { "behind" }
        );
        return Err(wrong(message, "keys end and certificates hold by the clock"));
    }
    Ok(format!("{} s from this one's", by.abs()))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7), the one form that servers write.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let rest = text.split_once(", ")?.1.strip_suffix(" GMT")?;
    let mut parts = rest.split(' ');
    let day: i64 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as i64 + 1;
    let year: i64 = parts.next()?.parse().ok()?;
    let time: Vec<i64> = parts.next()?.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let &[hour, minute, second] = &time[..] else { return None };
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 (Hinnant): years begin in March, so that the leap day is their last.
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn round_trip(client: &Client) -> Result<String, Failure> {
    let mut all = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let looked = client.look("/health", Whom::Nobody).map_err(|why| broke_off(client, why))?;
        all.push(looked.took);
    }
    all.sort();
    let (least, most) = (millis(all[0]), millis(all[ROUND_TRIPS - 1]));
    Ok(format!("{}, the median of {ROUND_TRIPS} from {least} to {most}", millis(all[ROUND_TRIPS / 2])))
}

/// Whether the key is taken, and which scopes it has.
fn key(client: &Client) -> Result<String, Failure> {
    let look = |path: &str| client.look(path, Whom::Key).map_err(|why| broke_off(client, why));
    if client.administers() {
        let looked = look("/v1/organization/projects?limit=1")?;
        return match looked.status {
            200 => Ok("an organisation's, which may read what it has".into()),
            _ => Err(looked.refusal()),
        };
    }
    let mut scopes = Vec::new();
    let asked = look("/v1/models")?;
    match asked.status {
        200 => scopes.push("inference"),
        403 => {}
        _ => return Err(asked.refusal()),
    }
    // Whether the models work is another question.
    if !matches!(look("/openapi.json")?.status, 401 | 403) {
        scopes.push("metrics");
    }
    if !matches!(look(NO_MODEL)?.status, 401 | 403) {
        scopes.push("admin");
    }
    if scopes.is_empty() {
        Err(asked.refusal())
    } else {
        Ok(format!("taken; its scopes: {}", scopes.join(", ")))
    }
}

fn ready(client: &Client) -> Found {
    let looked = match client.look("/ready", Whom::Key) {
        Ok(looked) => looked,
        Err(why) => return Found::Wrong(vec![broke_off(client, why)]),
    };
    match (looked.status, looked.json()["models"].as_u64()) {
        (200, Some(0)) => Found::Well("yes; no model is loaded that could have made a token".into()),
        (200, Some(n)) => {
            Found::Well(format!("yes; each of {n} loaded models has just made a token or a prediction"))
        }
        (403, _) => Found::LeftOut("the key has not the scope metrics, which /ready asks for"),
        _ => {
            let mut failure = looked.refusal();
            failure.fix =
                "the server's log says which model does not work; lyceum doctor there looks at its files"
                    .into();
            Found::Wrong(vec![failure])
        }
    }
}

fn models(client: &Client) -> Found {
    let looked = match client.look("/v1/models", Whom::Key) {
        Ok(looked) => looked,
        Err(why) => return Found::Wrong(vec![broke_off(client, why)]),
    };
    match (looked.status, looked.json()["data"].as_array()) {
        (200, Some(all)) if all.is_empty() => {
            Found::Well("none that this key may ask; lyceum train --url … makes one".into())
        }
        (200, Some(all)) => Found::Well(format!("{} names that this key may ask", all.len())),
        (403, _) => Found::LeftOut("the key has not the scope inference"),
        _ => Found::Wrong(vec![looked.refusal()]),
    }
}

fn rate_limits(client: &Client) -> Found {
    let looked = match client.look("/v1/files?limit=1", Whom::Key) {
        Ok(looked) => looked,
        Err(why) => return Found::Wrong(vec![broke_off(client, why)]),
    };
    let of = |what: &str| {
        let header = |which: &str| looked.header(&format!("x-ratelimit-{which}-{what}"));
        Some(format!("{} of {} {what} a minute are left", header("remaining")?, header("limit")?))
    };
    let told: Vec<String> = ["requests", "tokens"].into_iter().filter_map(of).collect();
    match looked.status {
        403 => Found::LeftOut("the key has not the scope inference"),
        200 if told.is_empty() => Found::LeftOut("the server says none"),
        200 => Found::Well(told.join("; ")),
        _ => Found::Wrong(vec![looked.refusal()]),
    }
}

fn broke_off(client: &Client, why: String) -> Failure {
    let message = format!("the server at {} stopped answering", client.url());
    Failure::new(Exit::Unreachable, "unreachable", message, why, "try again; its log says more")
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_answers_are_read_and_clocks_compared() {
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
        for wrong in ["", "yesterday", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT"] {
            assert_eq!(http_date(wrong), None, "{wrong}");
        }
        let now = Timestamp::from_millis(784_111_777_000);
        assert_eq!(clock(Some("Sun, 06 Nov 1994 08:49:30 GMT"), now).unwrap(), "7 s from this one's");
        let failure = clock(Some("Sun, 06 Nov 1994 09:49:37 GMT"), now).unwrap_err();
        assert_eq!((failure.code.as_ref(), failure.message.contains("3600 s ahead")), ("wrong_clock", true));
    }

    #[test]
    fn urls_lead_to_hosts_and_ports() {
        for (url, host, port) in [
            ("http://localhost", "localhost", 80),
            ("https://a.example/x", "a.example", 443),
            ("https://[::1]:8317", "::1", 8317),
        ] {
            let place = Place::of(url).unwrap();
            assert_eq!((place.host.as_str(), place.port), (host, port), "{url}");
        }
    }
}
