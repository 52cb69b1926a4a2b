use super::*;
use lyceum_store::tenancy::projects;
use lyceum_types::tenancy::Retention;

fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

fn meter(rates: &Arc<Rates>, limits: &[(RateSubject, RateLimit)]) -> Arc<Meter> {
    let decided = projects::Standing { archived_at: None, retention: Retention::Kept, models: None };
    let limits = limits.iter().cloned().collect();
    let standing = Arc::new(Standing { decided, limits, guard: lyceum_guard::Policy::default() });
    Meter::new(rates.clone(), Project::default_project(), KeyId::from_bits(1), standing)
}

fn of_project() -> RateSubject {
    RateSubject { key: None, model: None }
}

fn reached(result: Result<(), ServiceError>) -> Reached {
    match result {
        Err(ServiceError::RateLimited(reached)) => *reached,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_are_counted_for_key_project_and_the_models_that_have_a_limit() {
    let rates = Arc::new(Rates::default());
    let of_key = RateSubject { key: Some(KeyId::from_bits(1)), model: None };
    let of_model = RateSubject { key: None, model: Some(name("m")) };
    let limit = |n| RateLimit { requests_per_minute: Some(n), ..RateLimit::default() };
    let limits = [(of_project(), limit(3)), (of_key, limit(2)), (of_model, limit(1))];
    let first = meter(&rates, &limits);
    first.admit().unwrap();
    first.model(&name("m")).unwrap();
    // The same request counts once, however often it names the model.
    first.model(&name("m")).unwrap();
    first.model(&name("free")).unwrap();
    assert_eq!(first.left().0.remaining, 0);
    let second = meter(&rates, &limits);
    second.admit().unwrap();
    let refused = reached(second.model(&name("m")));
    assert_eq!(refused.what, What::RequestsPerMinute);
    assert!(
        refused.message.contains("for m in the project default on requests per min (RPM): Limit 1, Used 1")
    );
    let third = meter(&rates, &limits);
    let refused = reached(third.admit());
    assert!(refused.message.contains("with the key key_"), "{}", refused.message);
    assert!(refused.retry_after.is_some_and(|wait| wait <= Duration::from_secs(30)));
    // What was refused was not counted: one of the project's three is left.
    assert_eq!(third.left().0, Left { limit: 2, remaining: 0, reset: third.left().0.reset });
}

#[test]
fn requests_at_once_are_freed_by_dropping() {
    let rates = Arc::new(Rates::default());
    let limits = [(of_project(), RateLimit { concurrent_requests: Some(2), ..RateLimit::default() })];
    let (a, b, c) = (meter(&rates, &limits), meter(&rates, &limits), meter(&rates, &limits));
    a.admit().unwrap();
    b.admit().unwrap();
    assert_eq!(reached(c.admit()).what, What::ConcurrentRequests);
    drop(a);
    c.admit().unwrap();
}

#[test]
fn tokens_are_reserved_at_their_worst_and_corrected() {
    let rates = Arc::new(Rates::default());
    let limits = [(of_project(), RateLimit { tokens_per_minute: Some(100), ..RateLimit::default() })];
    let meter = meter(&rates, &limits);
    meter.admit().unwrap();
    let mut reserved = meter.clone().reserve(80).unwrap();
    assert!(meter.left().1.remaining <= 21);
    let refused = reached(meter.clone().reserve(30).map(drop));
    assert_eq!((refused.what.kind(), refused.retry_after.is_some()), ("tokens", true));
    let refused = reached(meter.clone().reserve(101).map(drop));
    assert!(refused.message.starts_with("Request too large for all models") && refused.retry_after.is_none());
    reserved.used(10);
    drop(reserved);
    assert!((90..=92).contains(&meter.left().1.remaining), "{:?}", meter.left());
    // More than was reserved counts too.
    let mut reserved = meter.clone().reserve(1).unwrap();
    reserved.used(50);
    drop(reserved);
    assert!((40..=43).contains(&meter.left().1.remaining), "{:?}", meter.left());
    meter.clone().reserve(40).unwrap().spend();
    assert!(meter.left().1.remaining <= 5);
}

#[tokio::test]
async fn a_request_finds_its_meter_and_nothing_else_does() {
    let rates = Arc::new(Rates::default());
    let limits = [(of_project(), RateLimit { tokens_per_minute: Some(10), ..RateLimit::default() })];
    let meter = meter(&rates, &limits);
    meter.admit().unwrap();
    assert!(reserve(1000).unwrap().is_none(), "there is no request");
    let within = scope(meter.clone(), async { reserve(1000).map(|reserved| reserved.is_some()) }).await;
    assert!(matches!(within, Err(ServiceError::RateLimited(_))));
}

#[test]
fn times_are_written_as_in_openais_headers() {
    for (ms, text) in [
        (0, "0ms"),
        (17, "17ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (72_050, "1m12.05s"),
        (7_380_000, "2h3m0s"),
        (86_400_000, "24h0m0s"),
    ] {
        assert_eq!(in_words(Duration::from_millis(ms)), text);
    }
}
