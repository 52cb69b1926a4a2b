//! `preview` through a server: the files are brought for this look alone, judged there, and shown as they are here.

use super::brought::patiently;
use super::training::{of_rows, request};
use super::trust::document;
use crate::commands::preview::{Preview, tell};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::Client;
use lyceum_api::previews::PreviewBody;
use lyceum_service::fine_tuning::preview::Part;
use serde_json::Value;
use std::path::Path;

impl Preview {
    pub async fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let folder = self.spec.parent().unwrap_or(Path::new("."));
        let mut brought = Vec::new();
        let asked =
            document(&self.spec).and_then(|spec| request(client, spec, folder, of_rows, &mut brought));
        let found = match asked {
            Ok(body) => {
                let part = Part::from(self.part).as_str();
                let path = format!("/v1/fine_tuning/jobs/preview?part={part}&rows={}", self.rows);
                let asking = client.clone();
                patiently(context, move || asking.post(&path, &body)).await
            }
            Err(failure) => Err(failure),
        };
        let removed = brought.into_iter().try_for_each(|(_, file)| file.end(client));
        let mut found = found?;
        removed?;
        let (Value::Array(data), summary @ Value::Object(_)) =
            (found["data"].take(), found["summary"].take())
        else {
            let message = "the server speaks otherwise";
            let why = "its answer is no preview";
            return Err(Failure::new(Exit::Unreachable, "unreachable", message, why, "check --url"));
        };
        tell(context, &PreviewBody { object: "fine_tuning.preview", data, summary });
        Ok(())
    }
}
