//! Rows for one command: brought to the server and taken away again, or named by the id that they have there already.

use super::trust::id_of;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::{Client, path_of};
use lyceum_types::ids::FileId;
use std::path::Path;
use std::time::Duration;

/// Between two looks at whether somebody asked to end.
const LOOK: Duration = Duration::from_millis(50);

/// A file on the server.
pub(super) struct Brought {
    pub id: String,
    /// It was brought for this command alone.
    is_ours: bool,
}

impl Brought {
    /// Brings a file of a folder, unless no file there has this name and it is the id of one that the server has.
    pub fn bring(client: &Client, (folder, name): (&Path, &str), purpose: &str) -> Result<Self, Failure> {
        let data = folder.join(name);
        if name.parse::<FileId>().is_ok() && !data.exists() {
            return Ok(Brought { id: name.to_owned(), is_ours: false });
        }
        let kept = client.upload(&data, purpose)?;
        Ok(Brought { id: id_of(&kept)?.to_owned(), is_ours: true })
    }

    /// Takes away what was brought.
    pub fn end(self, client: &Client) -> Result<(), Failure> {
        if self.is_ours {
            client.delete(&format!("/v1/files/{}", path_of(&self.id)))?;
        }
        Ok(())
    }
}

/// What was asked for with these files; where the server refused it they are taken away again.
pub(super) fn unless_refused<T>(
    asked: Result<T, Failure>,
    client: &Client,
    brought: impl IntoIterator<Item = Brought>,
) -> Result<T, Failure> {
    // Of one that cannot be heard nobody knows whether it reads them now.
    if let Err(failure) = &asked
        && failure.exit != Exit::Unreachable
    {
        // Why it was refused counts, whatever becomes of them.
        brought.into_iter().for_each(|file| _ = file.end(client));
    }
    asked
}

/// Asks for what takes a while on a thread of its own, so that Ctrl-C is heard: the server ends what nobody waits for when
/// the connection ends with this process.
pub(super) async fn patiently<T: Send + 'static>(
    context: &Context,
    ask: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (told, mut answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Who was interrupted does not listen.
        let _ = told.send(ask());
    });
    loop {
        tokio::select! {
            answer = &mut answer => {
                return answer.map_err(|error| Failure::internal("asking the server broke off", &error))?;
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        if context.control.check().is_err() {
            return Err(Failure::interrupted("the server ends what nobody waits for"));
        }
    }
}
