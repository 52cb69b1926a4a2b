//! `import` and `pull` of a server: the files of a model are brought there in parts, or the server asks its own hub; the
//! output is that of the command where the data is, but for places on a disk that is not here.

use super::trust::id_of;
use crate::commands::import::{Import, summary};
use crate::commands::pull::Pull;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::progress::Progress;
use crate::remote::{Client, path_of};
use lyceum_service::imports;
use lyceum_service::language::import::name_of;
use lyceum_types::control::Control;
use lyceum_types::ids::ModelName;
use lyceum_types::limits;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PURPOSE: &str = "model";

impl Import {
    pub async fn run_remote(mut self, context: &Context, client: &Client) -> Result<(), Failure> {
        // The spec's data, which gives scales, labels and vocabulary, is on this machine: the model is made here, and brought
        // as one that was exported.
        let made_here = match self.spec {
            Some(_) => Some(self.exported_here(context).await?),
            None => None,
        };
        if let Some(folder) = &made_here {
            self.path = folder.path().to_owned();
        }
        let files = imports::files_of(&self.path)?;
        let name: Option<ModelName> = match &self.name {
            Some(name) => Some(name.parse()?),
            None if imports::has_own_name(&self.path) => None,
            None => Some(name_of(&self.path)?),
        };
        let mut brought = Vec::with_capacity(files.len());
        let imported = bring(context, client, &files, &mut brought).and_then(|()| {
            let request = json!({
                "name": name.as_ref().map(ModelName::as_str), "files": brought, "quant": self.quant.map(|quant| quant.name()),
                "context": self.context, "base": self.base.as_ref().map(ToString::to_string), "stream": true,
            });
            follow(context, client, "/v1/models", &request)
        });
        match imported {
            Ok(model) => {
                tell(context, &model);
                Ok(())
            }
            Err(failure) => {
                // Nobody else asks for them; what cannot be deleted now expires.
                for part in &brought {
                    let id = part["id"].as_str().unwrap_or_default();
                    let _ = client.delete(&format!("/v1/files/{}", path_of(id)));
                }
                Err(failure)
            }
        }
    }

    /// Bare weights and their spec as the folder that `lyceum export` would write of them.
    async fn exported_here(&self, context: &Context) -> Result<TempDir, Failure> {
        let exported = self.adopted(context).await?;
        let folder = tempfile::tempdir().map_err(|e| Failure::file("create", &std::env::temp_dir(), &e))?;
        exported.write(folder.path())?;
        Ok(folder)
    }
}

impl Pull {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let request = json!({
            "ref": self.reference, "name": self.name, "quant": self.quant.map(|quant| quant.name()),
            "context": self.context, "base": self.base.as_ref().map(ToString::to_string), "stream": true,
        });
        let model = follow(context, client, "/v1/models/pull", &request)?;
        tell(context, &model);
        Ok(())
    }
}

/// Brings the files, one after another; what is there already is in `brought` whatever happens.
fn bring(
    context: &Context,
    client: &Client,
    files: &[(String, PathBuf)],
    brought: &mut Vec<Value>,
) -> Result<(), Failure> {
    let n_bytes = |path: &Path| {
        let found = path.metadata().map_err(|error| Failure::file("read", path, &error))?;
        match found.len() {
            0 => {
                let message = format!("{} is empty", path.display());
                Err(Failure::usage(message, "a server takes no empty files", "write it, or take it away"))
            }
            n => Ok(n),
        }
    };
    let sizes: Vec<u64> = files.iter().map(|(_, path)| n_bytes(path)).collect::<Result<_, _>>()?;
    let mut sending = Sending {
        control: &context.control,
        progress: Progress::new("import", context.is_json()),
        done: 0,
        whole: sizes.iter().sum(),
    };
    for ((name, path), n_bytes) in files.iter().zip(sizes) {
        let part = sending.file(client, (name, path, n_bytes))?;
        brought.push(part);
    }
    sending.progress.finish();
    Ok(())
}

/// Files on their way.
struct Sending<'a> {
    control: &'a Control,
    progress: Progress,
    /// Of all files.
    done: u64,
    whole: u64,
}

impl Sending<'_> {
    /// One file, as the import names it. Its upload is cancelled where it does not come to its end.
    fn file(&mut self, client: &Client, (name, path, n_bytes): (&str, &Path, u64)) -> Result<Value, Failure> {
        let begun = client.post(
            "/v1/uploads",
            &json!({
                "bytes": n_bytes, "filename": name, "mime_type": "application/octet-stream", "purpose": PURPOSE,
            }),
        )?;
        let upload = id_of(&begun)?.to_owned();
        let sent = self.parts(client, &upload, (name, path, n_bytes));
        if sent.is_err() {
            // What cannot be cancelled now expires.
            let _ = client.post(&format!("/v1/uploads/{}/cancel", path_of(&upload)), &json!({}));
        }
        sent
    }

    fn parts(
        &mut self,
        client: &Client,
        upload: &str,
        (name, path, n_bytes): (&str, &Path, u64),
    ) -> Result<Value, Failure> {
        let file = File::open(path).map_err(|error| Failure::file("read", path, &error))?;
        let watched = RefCell::new(Watched { file, sending: self, name, digest: Sha256::new() });
        let (mut ids, mut sent) = (Vec::new(), 0);
        while sent < n_bytes {
            let n = limits::UPLOAD_PART_BYTES_MAX.min(n_bytes - sent);
            let part = client.part(upload, Shared(&watched).take(n));
            // What ended the reading is said before what became of the request.
            watched.borrow().sending.check()?;
            ids.push(id_of(&part?)?.to_owned());
            sent += n;
        }
        let sha256 = hexadecimal(&watched.into_inner().digest.finalize());
        let path = format!("/v1/uploads/{}/complete", path_of(upload));
        let done = client.post(&path, &json!({ "part_ids": ids }))?;
        let id = id_of(&done["file"])?;
        if done["file"]["sha256"] != sha256 {
            let _ = client.delete(&format!("/v1/files/{}", path_of(id)));
            let why = format!("its sha256 was {sha256} here and is {} there", done["file"]["sha256"]);
            let message = format!("{name} arrived damaged");
            return Err(Failure::new(Exit::Failed, "wrong_hash", message, why, "run it again"));
        }
        Ok(json!({ "id": id, "path": name, "sha256": sha256 }))
    }

    fn check(&self) -> Result<(), Failure> {
        self.control
            .check()
            .map_err(|_| Failure::interrupted("what was on its way to the server is deleted there"))
    }
}

/// A file that is read and sent: its hash, how far it is, and whether somebody ends it.
struct Watched<'a, 'b> {
    file: File,
    sending: &'a mut Sending<'b>,
    name: &'a str,
    digest: Sha256,
}

struct Shared<'a, 'b, 'c>(&'a RefCell<Watched<'b, 'c>>);

impl Read for Shared<'_, '_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut watched = self.0.borrow_mut();
        let Watched { file, sending, name, digest } = &mut *watched;
        sending.control.check().map_err(io::Error::other)?;
        let n = file.read(into)?;
        digest.update(&into[..n]);
        sending.done += n as u64;
        let (done, whole) = (sending.done, sending.whole);
        sending.progress.at(done, whole, &far(done, whole, name));
        Ok(n)
    }
}

fn far(done: u64, whole: u64, file: &str) -> String {
    format!("bytes, {} of {}: {file}", output::bytes(done), output::bytes(whole))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks for an import and shows how far it is: the model that its last event is. Ctrl-C leaves, which ends it there.
fn follow(context: &Context, client: &Client, path: &str, request: &Value) -> Result<Value, Failure> {
    let name = if path.ends_with("pull") { "pull" } else { "import" };
    let mut progress = Progress::new(name, context.is_json());
    let mut model = None;
    let followed = client.events_while(path, request, &context.control, |event| {
        match event["status"].as_str() {
            None => model = Some(event.clone()),
            Some("fetching") => {
                let of = |field: &str| event[field].as_u64().unwrap_or(0);
                let (done, whole) = (of("completed"), of("total"));
                let file = event["file"].as_str().unwrap_or_default();
                progress.at(done, whole, &far(done, whole, file));
            }
            // There is no telling how far.
            Some(_) => {}
        }
    });
    progress.finish();
    followed?;
    model.ok_or_else(|| {
        let (message, why) = ("the server says nothing of the model", "its last event was none");
        Failure::new(
            Exit::Failed,
            "no_model",
            message,
            why,
            "lyceum ls with the same --url shows what is there",
        )
    })
}

/// What came of it, in the words of a command where the data is.
fn tell(context: &Context, model: &Value) {
    let text = |field: &str| model[field].as_str().unwrap_or_default();
    if context.is_json() {
        let mut line = json!({ "event": "done", "model": model["id"], "sha256": model["sha256"] });
        if !model["kind"].is_null() {
            for field in ["kind", "family", "n_parameters", "context", "quant", "licence", "base", "notes"] {
                line[field] = model[field].clone();
            }
        }
        line["already_there"] = model["already_there"].clone();
        return output::json_line(&line);
    }
    let notes = model["notes"].as_array().into_iter().flatten();
    let notes: Vec<String> = notes.filter_map(|note| note.as_str().map(str::to_owned)).collect();
    for note in summary(&notes) {
        output::note(note);
    }
    let there = match model["already_there"] == true {
        true => format!("already there as {}", text("id")),
        false => format!("{} is there", text("id")),
    };
    if model["kind"].is_null() {
        return output::text(there);
    }
    let millions = model["n_parameters"].as_f64().unwrap_or(0.0) / 1e6;
    let licence = model["licence"].as_str().unwrap_or("not said in its files");
    output::text(format!(
        "{there}\n  {}, {millions:.0} million parameters, context {}, licence: {licence}",
        text("family"),
        model["context"]
    ));
    if let Some(base) = model["base"]["model"].as_str() {
        output::text(format!("  adds to {base}"));
    }
}
