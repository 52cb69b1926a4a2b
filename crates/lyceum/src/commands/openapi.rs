//! `lyceum openapi`: what the server's routes take and answer, for programs that write clients.

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::remote::Client;
use clap::Args;

#[derive(Debug, Args)]
pub struct Openapi {}

impl Openapi {
    /// The document of this program; a running server's is at `GET /openapi.json`.
    pub fn run(self) -> Result<(), Failure> {
        output::write_stdout(&format!("{}\n", lyceum_api::openapi()));
        Ok(())
    }

    /// The document of that server, whose version may be another.
    pub fn run_remote(self, _: &Context, client: &Client) -> Result<(), Failure> {
        output::json_line(&client.get("/openapi.json")?);
        Ok(())
    }
}
