//! Passes on the engine's thread, one at a time: between two of them it serves everyone else.

use crate::meter::Share;
use lyceum_engine::Engine;
use lyceum_explain::language::{Turns, Work};
use lyceum_explain::{Device, ExplainError, Pass, PassResult};
use lyceum_nn::Workspace;
use lyceum_types::control::Control;
use std::sync::mpsc;

pub(super) struct EngineDevice {
    engine: Engine,
    /// Travels with the pass, so that passes of one explanation share their memory.
    ws: Option<Workspace>,
    share: Share,
}

impl EngineDevice {
    pub(super) fn new(engine: Engine, share: Share) -> Self {
        EngineDevice { engine, ws: None, share }
    }

    /// One task in its turn, which makes so many passes.
    pub(super) fn task<T: Send + 'static>(
        &mut self,
        n_passes: u64,
        work: impl FnOnce(&mut Workspace) -> T + Send + 'static,
    ) -> Result<T, ExplainError> {
        let (sender, receiver) = mpsc::channel();
        let mut ws = self.ws.take().unwrap_or_default();
        let share = self.share.clone();
        let task = move || {
            let result = work(&mut ws);
            share.add_passes(n_passes);
            drop(share);
            // A caller that is gone has dropped its end.
            let _ = sender.send((result, ws));
        };
        self.engine.with_device(task).map_err(|error| ExplainError::Device(error.to_string()))?;
        let (result, ws) = receiver.recv().map_err(|error| ExplainError::Device(error.to_string()))?;
        self.ws = Some(ws);
        Ok(result)
    }
}

impl Device for EngineDevice {
    fn run(&mut self, pass: Pass) -> Result<PassResult, ExplainError> {
        Ok(self.task(pass.passes(), move |ws| pass.run(ws))??)
    }
}

impl Turns for EngineDevice {
    fn turn(&mut self, n_passes: u64, work: Work) -> Result<Vec<Vec<f32>>, ExplainError> {
        Ok(self.task(n_passes, work)??)
    }
}

/// A caller that goes away stops the work before its next pass.
pub(crate) struct CancelOnDrop(pub(crate) Control);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
