//! `lyceum calibrate MODEL`

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::Args;
use lyceum_service::robustness::calibrated;
use lyceum_service::tenancy::Act;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::ModelRef;
use lyceum_types::manifest::CalibrationReport;
use serde_json::json;

/// The kept validation rows choose one temperature, and the next version has it in its weights: same labels, other
/// probabilities. The old version stays as it is.
#[derive(Debug, Args)]
pub struct Calibrate {
    /// `name`, `name@VERSION` or `name@alias`
    pub(in crate::commands) model: String,
}

impl Calibrate {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let reference: ModelRef = self.model.parse()?;
        let (service, _) = context.resident(&self.model).await?;
        let act = Act::of_command_line(Timestamp::now());
        let (version, report) = calibrated::publish(&service, &context.project, &reference, &act).await?;
        if context.is_json() {
            output::json_line(&json!({
                "event": "done", "model": version.id(), "path": version.dir.display().to_string(), "calibration": report,
            }));
            return Ok(());
        }
        output::text(format!("{}  {}", version.id(), version.dir.display()));
        for_people(&report);
        Ok(())
    }
}

pub(in crate::commands) fn for_people(report: &CalibrationReport) {
    output::text(format!(
        "temperature {:.4} from {} validation rows of {}; ECE {:.4} before, {:.4} after, on the same rows: new rows \
         show a little more",
        report.temperature, report.n, report.parent, report.ece_before, report.ece_after
    ));
}
