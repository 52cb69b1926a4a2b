//! `lyceum bench ledger`: how many settlements a second are on the disk, and how long a request waits at the door for its
//! key and its money.

use crate::failure::Failure;
use clap::Args;
use lyceum_engine::{Engine, EngineLimits};
use lyceum_service::meter::Counts;
use lyceum_service::{Payer, Service, keys};
use lyceum_store::keys::KeyGrant;
use lyceum_store::ledger::budgets::{self, Period, Place};
use lyceum_store::ledger::{Rates, prices};
use lyceum_store::models::Version;
use lyceum_store::tenancy::Act;
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::{KeyScope, Project};
use lyceum_types::limits;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub struct LedgerBench {
    /// Settlements
    #[arg(long, default_value_t = 30_000)]
    n: usize,
    /// Requests under way at once
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Requests whose wait at the door is measured
    #[arg(long, default_value_t = 2000)]
    waits: usize,
    /// Where the ledger lies; a new folder, which is removed afterwards (default: beside the data folder)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl LedgerBench {
    pub fn measure(&self, control: &Control, data_dir: &Path, is_json: bool) -> Result<Value, Failure> {
        let name = format!("bench-ledger-{}", std::process::id());
        let dir = self.dir.clone().unwrap_or_else(|| data_dir.to_owned()).join(name);
        let measured = tokio::runtime::Handle::current().block_on(self.run(control, &dir));
        std::fs::remove_dir_all(&dir).map_err(|error| Failure::file("remove", &dir, &error))?;
        let report = measured?;
        if !is_json {
            crate::output::text(format!(
                "{} settlements/s ({} in {:.2} s)\nkey and reservation: p50 {} µs, p99 {} µs; beside settlements: p50 {} µs, p99 {} µs",
                report["settlements_per_s"],
                self.n,
                report["seconds"].as_f64().unwrap_or(0.0),
                report["wait_us"]["p50"],
                report["wait_us"]["p99"],
                report["wait_loaded_us"]["p50"],
                report["wait_loaded_us"]["p99"],
            ));
        }
        Ok(report)
    }

    async fn run(&self, control: &Control, dir: &Path) -> Result<Value, Failure> {
        let store = Store::open(Layout::new(dir), Timestamp::now()).await?;
        let project = Project::default_project();
        let grant = KeyGrant { name: "bench".into(), scopes: vec![KeyScope::Inference], expires_at: None };
        let (_, secret) = lyceum_store::keys::create(&store, &project, grant, Timestamp::now()).await?;
        let rates = Rates { input: 150_000, cached_input: 75_000, output: 600_000, ..Rates::default() };
        let act = Act::of_command_line(Timestamp::now());
        prices::set(&store, ("*", "*", "*"), rates, &act).await?;
        let place = Place { tenant: project.tenant.clone(), project: String::new(), api_key: String::new() };
        budgets::set(&store, &place, Period::Month, limits::AMOUNT_MAX, &act).await?;
        let engine = Engine::start(EngineLimits::default())
            .map_err(|error| Failure::internal("the device thread does not start", &error))?;
        let asker = Arc::new(Asker {
            service: Service::new(store, engine),
            version: version(dir)?,
            secret: secret.reveal().to_owned(),
            project,
        });
        asker.ask(usize::MAX).await?;
        let alone = asker.waits(self.waits, 0).await?;
        control.check().map_err(|_| Failure::interrupted("nothing was written"))?;

        let began = Instant::now();
        let each = self.n.div_ceil(self.clients.max(1));
        let mut tasks = Vec::new();
        for client in 0..self.clients.max(1) {
            let asker = asker.clone();
            tasks.push(tokio::spawn(async move {
                for i in 0..each {
                    asker.settle(client * each + i).await?;
                    // What is on its way to the disk is bounded, as the work of real requests bounds it.
                    while asker.service.ledger().n_pending() > 4096 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                Ok::<(), Failure>(())
            }));
        }
        let beside = asker.waits(self.waits, self.n + self.clients).await?;
        for task in tasks {
            task.await.map_err(|error| Failure::internal("a client broke off", &error))??;
        }
        while asker.service.ledger().n_pending() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        let figures = asker.service.ledger().figures();
        asker.service.ledger().close().await;
        let n = self.clients.max(1) * each;
        Ok(json!({
            "event": "done", "settlements": n, "clients": self.clients, "seconds": seconds,
            "settlements_per_s": (n as f64 / seconds).round(),
            "wait_us": alone, "wait_loaded_us": beside, "delta_tokens": figures.delta_tokens,
            "entries": figures.totals.entries,
        }))
    }
}

struct Asker {
    service: Service,
    version: Version,
    secret: String,
    project: Project,
}

impl Asker {
    /// What stands before the work of a request.
    async fn ask(&self, i: usize) -> Result<(), Failure> {
        let key = keys::authorize(&self.service, &self.secret, KeyScope::Inference, Timestamp::now()).await?;
        let payer =
            Payer::of_request(key.project.clone(), key.id.clone(), "/v1/completions", format!("req_{i}"));
        let most = Counts { input_tokens: 100, output_tokens: 1000, ..Counts::default() };
        let guard = self.service.ledger().open(&payer, &self.version, most).await?;
        guard.finish_as_counted();
        Ok(())
    }

    async fn settle(&self, i: usize) -> Result<(), Failure> {
        let key = lyceum_types::ids::KeyId::from_bits(7);
        let payer = Payer::of_request(self.project.clone(), key, "/v1/completions", format!("req_s{i}"));
        let most = Counts { input_tokens: 100, output_tokens: 1000, ..Counts::default() };
        let guard = self.service.ledger().open(&payer, &self.version, most).await?;
        guard.finish_as_counted();
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Microseconds from key to reservation, of `n` requests.
    async fn waits(&self, n: usize, first: usize) -> Result<Value, Failure> {
        let mut waits = Vec::with_capacity(n);
        for i in 0..n {
            let began = Instant::now();
            self.ask(first + i).await?;
            waits.push(began.elapsed().as_secs_f64() * 1e6);
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        waits.sort_by(f64::total_cmp);
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].round();
        Ok(json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99) }))
    }
}

fn version(dir: &Path) -> Result<Version, Failure> {
    Ok(Version {
        owner: lyceum_types::ids::Project::default_project(),
        name: "bench".parse()?,
        number: 1,
        family: "mlp".into(),
        task: "classification".into(),
        n_params: 1,
        bytes: 1,
        sha256: String::new(),
        job: None,
        created_at: Timestamp::now(),
        held: None,
        dir: dir.into(),
    })
}
