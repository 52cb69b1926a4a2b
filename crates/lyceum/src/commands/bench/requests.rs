//! `lyceum bench requests`: how many short requests a second one server answers, key, limits, ledger and engine included,
//! and how soon after its start it is ready. The model is so small that it is no work: what is measured is the way to it.

use super::http::{Connection, Target, metric, percentile, percentiles};
use super::random::{self, Shape};
use super::server::{House, MODEL, Server};
use crate::failure::{Exit, Failure};
use crate::output;
use clap::Args;
use lyceum_kernels::stored::Stored;
use lyceum_types::control::Control;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub struct RequestsBench {
    /// Clients, each with a connection that it keeps
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How long they ask
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Starts without a model
    #[arg(long, default_value_t = 5)]
    starts: usize,
}

/// One layer, so that a token costs next to nothing.
const STUB: Shape = Shape {
    name: "stub",
    architecture: "llama",
    layers: 1,
    hidden: 64,
    heads: 2,
    kv_heads: 1,
    head_dim: 32,
    feedforward: 128,
    vocabulary: 320,
    head_norms: false,
};

impl RequestsBench {
    pub async fn measure(self, control: &Control, is_json: bool) -> Result<Value, Failure> {
        let starts = self.starts().await?;
        control.check().map_err(|_| Failure::interrupted("nothing was written"))?;
        let place = House::empty()?;
        let file = place.folder().join("stub.gguf");
        random::write(&STUB, Stored::Q8_0, &file).map_err(|error| Failure::file("write", &file, &error))?;
        let house = House::with(&file)?;
        let server = house.serve(&[])?;
        server.ready().await?;
        let requests = self.load(&server.target).await?;
        let report = json!({ "event": "done", "starts": starts, "requests": requests });
        if !is_json {
            output::text(serde_json::to_string_pretty(&report).unwrap_or_default());
        }
        Ok(report)
    }

    /// Milliseconds from the start of the process to its readiness.
    async fn starts(&self) -> Result<Value, Failure> {
        let house = House::empty()?;
        let mut times = Vec::new();
        for _ in 0..self.starts {
            let began = Instant::now();
            let server: Server = house.serve(&[])?;
            server.ready_for_models().await?;
            times.push(began.elapsed().as_secs_f64());
        }
        Ok(json!({ "n": self.starts, "ready_ms": percentiles(times) }))
    }

    async fn load(&self, target: &Target) -> Result<Value, Failure> {
        let body = json!({ "model": MODEL, "prompt": [40, 41, 42, 43], "max_tokens": 1, "temperature": 0.0 });
        // Whoever asks first waits until the model is loaded.
        let first = Connection::to(target).await?.ask(&body.to_string()).await?;
        if first != 200 {
            return Err(broken("the first request was not answered", &format!("status {first}")));
        }
        let before = entries(target).await?;
        let began = Instant::now();
        let until = began + Duration::from_secs(self.seconds);
        let clients: Vec<_> = (0..self.clients)
            .map(|_| {
                let (target, body) = (target.clone(), body.to_string());
                tokio::spawn(async move {
                    let mut connection = Connection::to(&target).await?;
                    let (mut times, mut refused) = (Vec::new(), 0);
                    while Instant::now() < until {
                        let asked = Instant::now();
                        match connection.ask(&body).await? {
                            200 => times.push(asked.elapsed().as_secs_f64()),
                            _ => refused += 1,
                        }
                    }
                    Ok::<_, Failure>((times, refused))
                })
            })
            .collect();
        let (mut times, mut refused) = (Vec::new(), 0);
        for client in clients {
            let told = client.await.map_err(|error| Failure::internal("a client broke off", &error))??;
            times.extend(told.0);
            refused += told.1;
        }
        let seconds = began.elapsed().as_secs_f64();
        let billed = entries(target).await? - before;
        let report = json!({ "clients": self.clients, "answered": times.len(), "refused": refused, "billed": billed,
            "requests_per_s": times.len() as f64 / seconds, "ms": percentiles(times.clone()),
            "slowest_ms": percentile(&mut times, 1.0).map(|s| s * 1e3) });
        match billed == times.len() as f64 && refused == 0 {
            true => Ok(report),
            false => Err(broken("not every request was answered and billed once", &report.to_string())),
        }
    }
}

/// Rows of the ledger, when none is on its way any more and no token is without one.
async fn entries(target: &Target) -> Result<f64, Failure> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        let (_, text) = target.get("/metrics").await?;
        let value = |name: &str| metric(&text, name).unwrap_or(f64::NAN);
        let names = ["lyceum_ledger_open", "lyceum_ledger_pending", "lyceum_usage_delta_tokens"];
        if names.map(value) == [0.0; 3] {
            return Ok(value("lyceum_ledger_entries_total"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(broken("requests are not settled", "the ledger is not at rest half a minute after the last answer"))
}

fn broken(message: &str, why: &str) -> Failure {
    Failure::new(Exit::Failed, "unreliable", message, why, "the server's log says more")
}
