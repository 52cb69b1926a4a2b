//! The SQL against its plain twin, and what must survive on a real disk.

use super::budgets::{self, Granted, Period, Place, WindowKey};
use super::desk::{Desk, Hold, Settlement};
use super::simulate::{Bank, JOBS, RATES, Rng, request};
use super::{Counts, Entry, NewBill, Outcome, Rates, Spool, bills, entries, millionths, prices, recovery};
use crate::jobs::{self, Kind, NewJob, Progress, State};
use crate::tenancy::{Act, Actor, Page, audit, projects};
use crate::{Layout, Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{AdminKeyId, JobId, Project, UserId};

const NOW: Timestamp = Timestamp::from_millis(5);
const END: Timestamp = Timestamp::from_millis(i64::MAX);

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    (dir, store)
}

fn act() -> Act {
    Act::of_command_line(NOW)
}

fn place(project: &str, api_key: &str) -> Place {
    Place { tenant: "default".into(), project: project.into(), api_key: api_key.into() }
}

fn entry(id: &str, cost: u64) -> Entry {
    Entry {
        request: request(id),
        outcome: Outcome::Completed,
        counts: Counts { output_tokens: cost, ..Counts::default() },
        price: 1,
        cost: cost as i64,
        settled_at: NOW,
    }
}

#[tokio::test]
async fn the_database_does_what_its_plain_twin_does() {
    let (_dir, store) = store().await;
    let mut bank = Bank::default();
    let mut all = Vec::new();
    for (place, period, limit) in
        [(place("", ""), Period::Total, 900), (place("default", "key_1"), Period::Total, 700)]
    {
        let budget = budgets::set(&store, &place, period, limit, &act()).await.unwrap();
        let key = WindowKey { budget: budget.id.clone(), starts_at: 0 };
        bank.limits.insert(key.clone(), limit);
        all.push((budget, key));
    }
    let mut rng = Rng(7);
    let owners = ["own_a", "own_b"];
    prices::set(&store, ("*", "*", "*"), RATES, &act()).await.unwrap();
    for step in 0..200 {
        let owner = owners[rng.below(2) as usize];
        let (budget, key) = &all[rng.below(2) as usize];
        let amount = rng.below(40) as i64;
        match rng.below(8) {
            5 => {
                let id = JobId::from_bits(u128::from(rng.below(30)));
                let is_new = !bank.bills.contains_key(id.as_str());
                if is_new && make_job(&store, &id, amount as u64).await.is_ok() {
                    assert!(bank.make_job(id.as_str(), amount), "step {step}");
                } else if is_new {
                    assert!(!bank.make_job(id.as_str(), amount), "step {step}");
                }
            }
            6..=7 => {
                let known: Vec<String> = bank.bills.keys().cloned().collect();
                let Some(id) = known.get(rng.below(known.len().max(1) as u64) as usize) else { continue };
                let done = rng.below(9);
                let project = Project::default_project();
                let job = jobs::find(&store, &project, &id.parse().unwrap()).await.unwrap();
                match (job.state, rng.below(4)) {
                    (State::Queued, 0) => {
                        jobs::cancel(&store, &project, &job.id, NOW).await.unwrap();
                        bank.end_job(id, Outcome::Cancelled, None, NOW);
                    }
                    (State::Queued | State::Running, what) => {
                        let claim = jobs::claim_waiting(&store, &project, &job.id, "w", NOW).await.unwrap();
                        claim.count(Counts { training_tokens: done, ..Counts::default() });
                        match what {
                            1 => {
                                jobs::finish_failed(&store, &claim, "", NOW).await.unwrap();
                                bank.end_job(id, Outcome::Failed, Some(done), NOW);
                            }
                            2 => {
                                jobs::finish_done_with(&store, &claim, "{}", NOW).await.unwrap();
                                bank.end_job(id, Outcome::Completed, Some(done), NOW);
                            }
                            _ => {
                                // Its process dies after that.
                                let far = Progress { step: 1, steps: 2, message: String::new() };
                                jobs::report(&store, &claim, &far, NOW).await.unwrap();
                                bank.note_job(id, done);
                            }
                        }
                    }
                    _ => {
                        // At the command line, after its end: nobody pays.
                        let claim = jobs::claim(&store, &project, &job.id, "w", NOW).await;
                        let Ok(claim) = claim else { continue };
                        claim.count(Counts { training_tokens: 1000, ..Counts::default() });
                        jobs::finish_cancelled(&store, &claim, "", NOW).await.unwrap();
                    }
                }
                let bill = bills::find(&store, &project, &job.id).await.unwrap().unwrap();
                let twin = &bank.bills[id];
                let told = (bill.done.training_tokens, bill.settled_at.is_some());
                assert_eq!(told, (twin.done, twin.is_settled), "step {step}");
                assert_eq!(bill.cost(), twin.is_settled.then_some(twin.done as i64));
            }
            0..=1 => {
                let found = budgets::grant(&store, budget, owner, amount, NOW).await.unwrap();
                assert_eq!(found, bank.grant(key, owner, amount), "step {step}");
            }
            2..=3 => {
                // Ids come again: the second entry of one changes nothing.
                let id = format!("req_{}", rng.below(60));
                let cost = rng.below(12);
                let holds = vec![Hold { window: key.clone(), amount: cost as i64 }];
                let group = [Settlement { entry: entry(&id, cost), holds }];
                entries::commit(&store, owner, &group).await.unwrap();
                bank.commit(owner, &group);
            }
            _ => {
                budgets::release(&store, key, owner, amount).await.unwrap();
                bank.release(key, owner, amount);
            }
        }
        for window in budgets::windows(&store, NOW).await.unwrap() {
            let key = WindowKey { budget: window.budget.id.clone(), starts_at: 0 };
            let spent: i64 = bank.entries.values().map(|entry| entry.cost).sum();
            let (twin_spent, twin_reserved) = bank.windows.get(&key).copied().unwrap_or((spent, 0));
            assert_eq!((window.spent, window.reserved), (twin_spent, twin_reserved), "step {step}");
        }
    }
    let rows = entries::list(&store, "default", (NOW, END), "", 1000).await.unwrap();
    assert_eq!(rows, bank.entries.into_values().collect::<Vec<_>>());
    assert!(rows.len() > 20);
    assert!(rows.iter().filter(|row| row.request.route == JOBS).count() > 3);
}

async fn make_job(store: &Store, id: &JobId, most: u64) -> Result<(), StoreError> {
    make_job_of(store, id, Counts { training_tokens: most, ..Counts::default() }).await
}

async fn make_job_of(store: &Store, id: &JobId, most: Counts) -> Result<(), StoreError> {
    let bill =
        NewBill { api_key: "key_1".into(), route: JOBS.into(), model: "m".into(), model_version: 0, most };
    let new = NewJob {
        kind: Kind::Train,
        spec: "{}".into(),
        request: Some("{}".into()),
        model: "n".into(),
        steps: 2,
        bill: Some(bill),
    };
    jobs::create_as(store, &Project::default_project(), id, new, NOW).await
}

#[tokio::test]
async fn a_job_holds_its_worst_cost_through_deaths_gives_it_back_in_pauses_and_pays_what_was_done() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    prices::set(&store, ("*", "*", "*"), RATES, &act()).await.unwrap();
    budgets::set(&store, &place("default", ""), Period::Month, 100, &act()).await.unwrap();
    let stands = async || {
        let window = budgets::windows(&store, NOW).await.unwrap().remove(0);
        (window.spent, window.reserved)
    };
    let (a, b) = (JobId::from_bits(1), JobId::from_bits(2));
    make_job(&store, &a, 70).await.unwrap();
    let refused = make_job(&store, &b, 31).await.unwrap_err();
    assert!(matches!(refused, StoreError::BudgetExhausted(_)), "{refused}");
    assert!(jobs::find(&store, &project, &b).await.is_err(), "no job without its money");
    assert_eq!(stands().await, (0, 70));
    // A dearer price later is not this job's.
    prices::set(&store, ("*", "*", "*"), Rates { training: 9_000_000, ..RATES }, &act()).await.unwrap();

    let tokens = |n| Counts { training_tokens: n, ..Counts::default() };
    let claim = jobs::claim_waiting(&store, &project, &a, "w", NOW).await.unwrap();
    claim.count(tokens(20));
    jobs::pause(&store, &project, &a, NOW).await.unwrap();
    assert_eq!(stands().await, (0, 70), "it runs still");
    // Taken back while it stopped: it waits for its turn with all that it may cost.
    jobs::resume(&store, &project, &a, NOW).await.unwrap();
    jobs::finish_paused(&store, &claim, "", NOW).await.unwrap();
    drop(claim);
    assert_eq!(stands().await, (0, 70));
    let claim = jobs::claim_waiting(&store, &project, &a, "w", NOW).await.unwrap();
    claim.count(tokens(20));
    jobs::pause(&store, &project, &a, NOW).await.unwrap();
    jobs::finish_paused(&store, &claim, "", NOW).await.unwrap();
    drop(claim);
    assert_eq!(stands().await, (0, 20), "what it has cost so far");
    jobs::pause(&store, &project, &a, NOW).await.unwrap();
    assert_eq!(stands().await, (0, 20));
    // Others spend the rest (8 tokens at the dearer price): it goes on when there is enough again, and not before.
    make_job(&store, &b, 8).await.unwrap();
    assert_eq!(stands().await, (0, 92));
    let refused = jobs::resume(&store, &project, &a, NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::BudgetExhausted(_)), "{refused}");
    assert!(jobs::claim(&store, &project, &a, "w", NOW).await.is_err(), "nor by its name");
    assert_eq!(jobs::find(&store, &project, &a).await.unwrap().state, jobs::State::Paused);
    jobs::cancel(&store, &project, &b, NOW).await.unwrap();
    assert_eq!(stands().await, (0, 20));
    jobs::resume(&store, &project, &a, NOW).await.unwrap();
    assert_eq!(stands().await, (0, 70));
    jobs::pause(&store, &project, &a, NOW).await.unwrap();
    assert_eq!(stands().await, (0, 20));
    // What a server's death gives back is its own.
    recovery::recover(&store, NOW).await.unwrap();
    assert_eq!(stands().await, (0, 20));
    jobs::cancel(&store, &project, &a, NOW).await.unwrap();
    assert_eq!(stands().await, (20, 0));
    let row = &entries::list(&store, "default", (NOW, END), "", 10).await.unwrap()[0];
    assert_eq!(
        (row.request.id.as_str(), row.outcome, row.cost, row.price),
        (a.as_str(), Outcome::Cancelled, 20, 1)
    );
    assert_eq!(row.counts, tokens(20));

    // What failed pays too, and the sums name its price.
    let cheap = Rates { training: 1_000_000, ..RATES };
    prices::set(&store, ("*", "*", "*"), cheap, &act()).await.unwrap();
    let d = JobId::from_bits(4);
    make_job(&store, &d, 80).await.unwrap();
    assert_eq!(stands().await, (20, 80));
    let claim = jobs::claim_waiting(&store, &project, &d, "w", NOW).await.unwrap();
    claim.count(tokens(33));
    jobs::finish_failed(&store, &claim, "it diverged", NOW).await.unwrap();
    assert_eq!(stands().await, (53, 0));
    let sums = entries::sums(&store, "default", (NOW, END), 1000, 10).await.unwrap();
    let told: Vec<(i64, i64, u64)> =
        sums.iter().map(|s| (s.price, s.cost, s.counts.training_tokens)).collect();
    assert_eq!(told, [(1, 20, 20), (3, 33, 33)]);
    // One that did nothing is not told of.
    let c = JobId::from_bits(3);
    make_job(&store, &c, 5).await.unwrap();
    jobs::cancel(&store, &project, &c, NOW).await.unwrap();
    assert_eq!(stands().await, (53, 0));
    assert_eq!(entries::list(&store, "default", (NOW, END), "", 10).await.unwrap().len(), 2);
    let other = Project { tenant: "other".into(), id: "default".into() };
    assert_eq!(bills::find(&store, &other, &a).await.unwrap(), None);
}

#[tokio::test]
async fn what_a_gate_of_a_job_tries_is_held_noted_and_paid_for_once() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    prices::set(&store, ("*", "*", "*"), Rates { pass: 2_000_000, ..RATES }, &act()).await.unwrap();
    budgets::set(&store, &place("default", ""), Period::Month, 100, &act()).await.unwrap();
    let stands = async || {
        let window = budgets::windows(&store, NOW).await.unwrap().remove(0);
        (window.spent, window.reserved)
    };
    let most = Counts { training_tokens: 20, passes: 30, ..Counts::default() };
    let make = async |id: u128| {
        let id = JobId::from_bits(id);
        make_job_of(&store, &id, most).await.unwrap();
        id
    };
    let trained = Counts { training_tokens: 20, ..Counts::default() };

    let a = make(1).await;
    assert_eq!(stands().await, (0, 80));
    let claim = jobs::claim_waiting(&store, &project, &a, "w", NOW).await.unwrap();
    claim.count(trained);
    claim.count_passes(7);
    assert_eq!(jobs::report_counted(&store, &claim, NOW).await.unwrap(), jobs::Signal::Continue);
    let noted = bills::find(&store, &project, &a).await.unwrap().unwrap();
    assert_eq!((noted.done, noted.worst()), (Counts { passes: 7, ..trained }, 80));
    // Its process dies; the next one goes on behind the last step, and tries again.
    drop(claim);
    let claim = jobs::claim_waiting(&store, &project, &a, "w", NOW).await.unwrap();
    claim.count(trained);
    claim.count_passes(12);
    jobs::pause(&store, &project, &a, NOW).await.unwrap();
    assert_eq!(jobs::report_counted(&store, &claim, NOW).await.unwrap(), jobs::Signal::Pause);
    jobs::finish_paused(&store, &claim, "", NOW).await.unwrap();
    drop(claim);
    assert_eq!(stands().await, (0, 44), "what it has cost so far");
    jobs::resume(&store, &project, &a, NOW).await.unwrap();
    assert_eq!(stands().await, (0, 80));
    let claim = jobs::claim_waiting(&store, &project, &a, "w", NOW).await.unwrap();
    claim.count(trained);
    // More than it was said to be at most is nobody's to pay.
    claim.count_passes(31);
    jobs::finish_done_with(&store, &claim, "{}", NOW).await.unwrap();
    assert_eq!(stands().await, (80, 0));

    let b = JobId::from_bits(2);
    make_job_of(&store, &b, Counts { training_tokens: 10, passes: 5, ..Counts::default() }).await.unwrap();
    let claim = jobs::claim_waiting(&store, &project, &b, "w", NOW).await.unwrap();
    claim.count(Counts { training_tokens: 10, ..Counts::default() });
    claim.count_passes(3);
    jobs::cancel(&store, &project, &b, NOW).await.unwrap();
    assert_eq!(jobs::report_counted(&store, &claim, NOW).await.unwrap(), jobs::Signal::Cancel);
    jobs::finish_cancelled(&store, &claim, "", NOW).await.unwrap();
    assert_eq!(stands().await, (96, 0));
    let rows = entries::list(&store, "default", (NOW, END), "", 10).await.unwrap();
    let told: Vec<(u64, i64)> = rows.iter().map(|row| (row.counts.passes, row.cost)).collect();
    assert_eq!(told, [(30, 80), (3, 16)]);
}

#[tokio::test]
async fn the_price_of_the_most_particular_place_holds_and_never_changes() {
    let (_dir, store) = store().await;
    let rates = |input| Rates { input, ..Rates::default() };
    for (at, input) in [
        (("*", "*", "*"), 1),
        (("*", "*", "m"), 2),
        (("default", "*", "*"), 3),
        (("default", "default", "*"), 4),
        (("*", "*", "m"), 5),
    ] {
        prices::set(&store, at, rates(input), &act()).await.unwrap();
    }
    let list = prices::list(&store).await.unwrap();
    let found = |tenant, project, model| {
        list.find(tenant, project, model).map(|price| (price.version, price.rates.input))
    };
    assert_eq!(found("other", "p", "n"), Some((1, 1)));
    assert_eq!(found("other", "p", "m"), Some((5, 5)));
    assert_eq!(found("default", "q", "m"), Some((3, 3)));
    assert_eq!(found("default", "default", "m"), Some((4, 4)));
    assert_eq!(list.all().len(), 5, "the older price of m is still there");
    assert!(prices::set(&store, ("*", "p", "m"), rates(1), &act()).await.is_err());
    assert!(prices::set(&store, ("*", "*", "m"), rates(-1), &act()).await.is_err());
    assert!(prices::set(&store, ("*", "*", "m m"), rates(1), &act()).await.is_err());
    assert!(prices::set(&store, ("default", "nowhere", "m"), rates(1), &act()).await.is_err());
    assert!(prices::set(&store, ("nobody", "*", "m"), rates(1), &act()).await.is_err());
    assert_eq!(prices::list(&store).await.unwrap().all().len(), 5, "what was refused left nothing");
}

#[tokio::test]
async fn prices_and_budgets_stand_in_the_logs_of_those_whom_they_concern() {
    let (_dir, store) = store().await;
    let (theirs, _) = projects::create_organization(&store, "theirs", &act()).await.unwrap();
    let operator = Actor::AdminKey {
        id: AdminKeyId::from_bits(7),
        tenant: "default".into(),
        user: UserId::from_bits(8),
        email: Some("op@example.com".into()),
    };
    let operator = Act { actor: operator, now: NOW };
    let rates = Rates { input: 3, ..Rates::default() };
    prices::set(&store, ("*", "*", "*"), rates, &operator).await.unwrap();
    // Of a model that they may not ask they are not told.
    prices::set(&store, ("*", "*", "ours"), rates, &operator).await.unwrap();
    prices::set(&store, (&theirs.id, "*", "m"), rates, &operator).await.unwrap();
    prices::set(&store, ("default", "default", "m"), rates, &act()).await.unwrap();
    let of_theirs = Place { tenant: theirs.id.clone(), ..place("", "") };
    budgets::set(&store, &of_theirs, Period::Month, 5, &operator).await.unwrap();
    budgets::set(&store, &of_theirs, Period::Month, 6, &operator).await.unwrap();
    budgets::remove(&store, &of_theirs, Period::Month, &act()).await.unwrap();
    assert!(budgets::remove(&store, &of_theirs, Period::Month, &act()).await.is_err());
    assert!(budgets::set(&store, &place("nowhere", ""), Period::Month, 5, &act()).await.is_err());
    let log = async |tenant: &str| -> Vec<(String, String, Option<String>)> {
        let listed = audit::list(&store, tenant, &audit::Filter::default(), Page::WHOLE, None).await.unwrap();
        let told = |entry: audit::Entry| (entry.kind, entry.actor, entry.actor_email);
        let is_money = |kind: &str| kind.starts_with("price") || kind.starts_with("budget");
        listed.data.into_iter().rev().map(told).filter(|(kind, ..)| is_money(kind)).collect()
    };
    let key = AdminKeyId::from_bits(7).to_string();
    let of = |kind: &str, actor: &str| {
        let email = (actor == key).then(|| "op@example.com".to_owned());
        (kind.to_owned(), actor.to_owned(), email)
    };
    let ours = [
        of("price.created", &key),
        of("price.created", &key),
        of("price.created", &key),
        of("price.created", "command_line"),
        of("budget.created", &key),
        of("budget.updated", &key),
    ];
    assert_eq!(log("default").await, ours);
    let found = log(&theirs.id).await;
    let expected = [
        of("price.created", audit::OPERATOR),
        of("price.created", audit::OPERATOR),
        of("budget.created", audit::OPERATOR),
        of("budget.updated", audit::OPERATOR),
        of("budget.deleted", "command_line"),
    ];
    assert_eq!(found, expected, "nobody of another organisation is named");
    for tenant in ["default", theirs.id.as_str()] {
        audit::verify(&store, tenant, None).await.unwrap().unwrap();
    }
}

#[test]
fn amounts_are_exact_or_refused() {
    assert_eq!(millionths("0.15"), Ok(150_000));
    assert_eq!(millionths("12"), Ok(12_000_000));
    assert_eq!(millionths("0.000001"), Ok(1));
    for text in ["", ".5", "5.", "-1", "1e3", "0.0000001", "1,5", "9999999999999999999"] {
        assert!(millionths(text).is_err(), "{text}");
    }
}

#[test]
fn a_cost_is_the_exact_sum_rounded_once() {
    // $0.15, $0.075 and $0.60 for a million tokens.
    let rates = Rates {
        input: 150_000,
        cached_input: 75_000,
        output: 600_000,
        training: 3_000_000,
        training_row: 250_000,
        cpu_second: 14_000_000,
        pass: 2_500_000,
    };
    let counts = |input_tokens, cached_tokens, output_tokens, passes| Counts {
        input_tokens,
        cached_tokens,
        output_tokens,
        passes,
        ..Counts::default()
    };
    assert_eq!(rates.cost(&counts(1_000_000, 0, 1_000_000, 0)), 750_000);
    // 600 · 0.15 + 400 · 0.075 + 10 · 0.6 = 126
    assert_eq!(rates.cost(&counts(1000, 400, 10, 0)), 126);
    // 0.45 and 0.6 are one millionth and a bit; 2.5 is three.
    assert_eq!(rates.cost(&counts(3, 0, 1, 0)), 1);
    assert_eq!(rates.cost(&counts(0, 0, 0, 1)), 3);
    assert_eq!(rates.worst(&counts(1000, 0, 10, 0)), 156);
    let trained = Counts { training_tokens: 7, training_rows: 5, cpu_seconds: 2, ..Counts::default() };
    // 21 + 1.25 + 28
    assert_eq!(rates.cost(&trained), 50);
    assert_eq!(rates.cost(&counts(u64::MAX, 0, u64::MAX, 0)), i64::MAX);
    let dear_cache = Rates { cached_input: 900_000, ..rates };
    assert!(dear_cache.worst(&counts(10, 0, 0, 0)) >= dear_cache.cost(&counts(10, 10, 0, 0)));
}

#[tokio::test]
async fn a_new_month_begins_with_nothing_spent_and_a_new_budget_with_what_was() {
    let (_dir, store) = store().await;
    let group = [Settlement { entry: entry("req_1", 30), holds: vec![] }];
    entries::commit(&store, "own_a", &group).await.unwrap();
    let budget = budgets::set(&store, &place("default", ""), Period::Month, 100, &act()).await.unwrap();
    let spent = |at| {
        let store = store.clone();
        async move { budgets::windows(&store, at).await.unwrap()[0].spent }
    };
    assert_eq!(spent(NOW).await, 30);
    assert!(matches!(
        budgets::grant(&store, &budget, "own_a", 71, NOW).await.unwrap(),
        Granted::Exhausted { left: 70 }
    ));
    let february = Timestamp::from_millis(32 * 86_400_000);
    assert_eq!(spent(february).await, 0);
    assert_eq!(budgets::grant(&store, &budget, "own_a", 80, february).await.unwrap(), Granted::Has(80));
    // What began in January is January's, whenever it is settled.
    let late = Entry { settled_at: february, ..entry("req_2", 7) };
    entries::commit(&store, "own_a", &[Settlement { entry: late, holds: vec![] }]).await.unwrap();
    assert_eq!((spent(NOW).await, spent(february).await), (37, 0));
}

#[tokio::test]
async fn what_a_dead_process_left_is_settled_once_and_its_money_goes_back() {
    let (_dir, store) = store().await;
    let budget = budgets::set(&store, &place("", ""), Period::Total, 1000, &act()).await.unwrap();
    let window = WindowKey { budget: budget.id.clone(), starts_at: 0 };
    let mut spool = Spool::create(store.layout()).unwrap();
    let Granted::Has(amount) = budgets::grant(&store, &budget, spool.owner(), 300, NOW).await.unwrap() else {
        panic!("there is enough")
    };
    let mut desk = Desk::new(10);
    desk.granted(&window, amount);
    for id in ["req_a", "req_b", "req_c"] {
        let open = desk.open(request(id), (1, RATES), std::slice::from_ref(&window), 100).unwrap();
        spool.begun(open).unwrap();
    }
    let tokens = |n| Counts { output_tokens: n, ..Counts::default() };
    spool.counted("req_a", &tokens(11)).unwrap();
    desk.note("req_a", tokens(11));
    for (id, n) in [("req_b", 22), ("req_c", 33)] {
        spool.settled(desk.settle(id, Outcome::Completed, tokens(n), NOW).unwrap()).unwrap();
    }
    // One of them reached the ledger. A long spool was begun anew with what still mattered.
    entries::commit(&store, spool.owner(), &desk.batch(1)).await.unwrap();
    desk.committed(1);
    spool.begin_anew(desk.open_requests(), desk.pending().iter().map(|s| &s.entry)).unwrap();
    assert_eq!(recovery::recover(&store, NOW).await.unwrap(), recovery::Recovered::default(), "it lives");

    drop(spool);
    let found = recovery::recover(&store, NOW).await.unwrap();
    let expected = recovery::Recovered { processes: 1, settled: 1, interrupted: 1, n_damaged: 0 };
    assert_eq!(found, expected);
    assert_eq!(recovery::recover(&store, NOW).await.unwrap(), recovery::Recovered::default());
    let rows = entries::list(&store, "default", (NOW, END), "", 10).await.unwrap();
    let costs: Vec<(&str, i64)> = rows.iter().map(|row| (row.outcome.as_str(), row.cost)).collect();
    assert_eq!(costs, [("interrupted", 11), ("completed", 22), ("completed", 33)]);
    let after = &budgets::windows(&store, NOW).await.unwrap()[0];
    assert_eq!((after.spent, after.reserved), (66, 0));
    assert_eq!(std::fs::read_dir(store.layout().spool()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_take_no_more_than_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    let budget = budgets::set(&store, &place("", ""), Period::Total, 1000, &act()).await.unwrap();
    let mut tasks = Vec::new();
    for i in 0..4 {
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        let budget = budget.clone();
        tasks.push(tokio::spawn(async move {
            let owner = format!("own_{i}");
            let mut has = 0;
            while let Granted::Has(amount) = budgets::grant(&store, &budget, &owner, 7, NOW).await.unwrap() {
                has += amount;
            }
            has
        }));
    }
    let mut sum = 0;
    for task in tasks {
        sum += task.await.unwrap();
    }
    assert!((994..=1000).contains(&sum), "{sum}");
}

#[tokio::test]
async fn sums_are_by_bucket_and_a_bound_holds() {
    let (_dir, store) = store().await;
    let hour = 3_600_000;
    for (i, at) in [0, 10, hour, hour + 10, 30 * hour].into_iter().enumerate() {
        let settled_at = Timestamp::from_millis(at);
        let entry = Entry { settled_at, ..entry(&format!("req_{i}"), 3) };
        entries::commit(&store, "own_a", &[Settlement { entry, holds: vec![] }]).await.unwrap();
    }
    let all = (Timestamp::from_millis(0), END);
    let sums = entries::sums(&store, "default", all, hour, 10).await.unwrap();
    let told: Vec<(i64, u64, i64)> = sums.iter().map(|sum| (sum.bucket, sum.n_requests, sum.cost)).collect();
    assert_eq!(told, [(0, 2, 6), (hour, 2, 6), (30 * hour, 1, 3)]);
    assert!(entries::sums(&store, "another", all, hour, 10).await.unwrap().is_empty());
    assert!(matches!(
        entries::sums(&store, "default", all, hour, 2).await,
        Err(StoreError::TooMuch { max: 2, .. })
    ));
}
