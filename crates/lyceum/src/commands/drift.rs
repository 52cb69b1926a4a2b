//! `lyceum drift MODEL`: whether what a served model is asked, and answers, is as it was. Counts stand in the memory of the
//! server that answers, so a server is asked.

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::remote::{Client, path_of};
use clap::Args;
use lyceum_types::ids::ModelRef;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Drift {
    /// `name`, `name@VERSION` or `name@alias`
    model: String,
    /// Begin a new reference window of a language model, of so many answers (1000 without a number)
    #[arg(long, value_name = "ANSWERS", num_args = 0..=1, default_missing_value = "1000")]
    new_reference: Option<u64>,
}

impl Drift {
    pub fn run(self) -> Result<(), Failure> {
        let why = "counts stand in the memory of the server that answers, and in no folder";
        Err(Failure::usage("lyceum drift asks a server", why, "lyceum drift MODEL --url URL, or LYCEUM_URL"))
    }

    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let _: ModelRef = self.model.parse()?;
        let path = format!("/v1/models/{}/drift", path_of(&self.model));
        let found = match self.new_reference {
            None => client.get(&path)?,
            Some(answers) => client.post(&format!("{path}/reference"), &json!({ "answers": answers }))?,
        };
        if context.is_json() {
            output::json_line(&found);
        } else {
            show(&found);
        }
        Ok(())
    }
}

fn show(found: &Value) {
    if let (Some(n), Some(wanted)) = (found["reference_n"].as_u64(), found["reference_wanted"].as_u64()) {
        output::text(format!("the reference window has {n} of {wanted} answers"));
    }
    let number = |value: &Value| match value.as_f64() {
        Some(x) if x != 0.0 && x.abs() < 1e-3 => format!("{x:.1e}"),
        Some(x) => format!("{x:.4}"),
        None => String::new(),
    };
    let row = |f: &Value| {
        let text = |field: &str| f[field].as_str().unwrap_or_default().to_owned();
        let drifted = if f["p_holm"].as_f64() < found["level"].as_f64() { "drifted" } else { "" };
        vec![
            text("name"),
            text("test"),
            number(&f["statistic"]),
            number(&f["p_holm"]),
            number(&f["psi"]),
            f["n"].to_string(),
            f["n_reference"].to_string(),
            drifted.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = found["features"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        output::text(format!("{} rows or answers in the window: nothing to compare yet", found["n"]));
        return;
    }
    output::table(&["feature", "test", "statistic", "p (Holm)", "PSI", "n", "n before", ""], &rows);
}
