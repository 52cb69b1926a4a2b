//! The device thread: take what has arrived, make one batch of predictions, make one step of generation, run
//! one task (a pass of an explanation, a proof of readiness). However many tasks come, answers do not wait for
//! more than one of them, and have half of the time ([`Owed`]).

use crate::generate::Generator;
use crate::predict::Predictor;
use crate::{EngineLimits, Gauges, Task, Work};
use lyceum_nn::Workspace;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// Since when the device thread is at its present step, so that others see when it does not come back from one.
pub(crate) struct Pulse {
    started: Instant,
    /// Milliseconds after `started`, and one more; 0: it waits for work.
    since: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse { started: Instant::now(), since: AtomicU64::new(0) }
    }
}

impl Pulse {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn step(&self) {
        self.since.store(self.now().saturating_add(1), Ordering::Relaxed);
    }

    fn rest(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// How long the present step has taken; none: the thread waits for work.
    pub(crate) fn step_time(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((self.now() + 1).saturating_sub(since)),
        }
    }
}

/// Time that answers have to come before the next task: as much as the last task took, so that long tasks one after
/// another do not make every token wait for one.
#[derive(Default)]
struct Owed(Duration);

impl Owed {
    /// Whether a task may run now.
    fn is_paid(&self) -> bool {
        self.0.is_zero()
    }

    fn task_took(&mut self, time: Duration) {
        self.0 = time;
    }

    /// Where nobody waits for an answer nothing is owed.
    fn answers_took(&mut self, time: Duration, is_idle: bool) {
        self.0 = if is_idle { Duration::ZERO } else { self.0.saturating_sub(time) };
    }
}

pub(crate) fn run(inbox: Receiver<Work>, gauges: &Gauges, limits: EngineLimits) {
    // A panic below is a bug: it ends this thread, and the engine then says that it is not healthy.
    struct Alive<'a>(&'a Gauges);
    impl Drop for Alive<'_> {
        fn drop(&mut self) {
            self.0.dead.store(true, Ordering::Relaxed);
        }
    }
    let _alive = Alive(gauges);
    let mut workspace = Workspace::new();
    let mut predictor = Predictor::default();
    let mut generator = Generator::new(limits);
    let mut tasks: VecDeque<Task> = VecDeque::new();
    let mut owed = Owed::default();
    let take =
        |work, predictor: &mut Predictor, generator: &mut Generator, tasks: &mut VecDeque<Task>| match work {
            Work::Predict(request) => predictor.push(request),
            Work::Generate(request, place) => generator.push(*request, place),
            Work::Task(task) => tasks.push_back(task),
        };
    loop {
        if predictor.is_idle() && generator.is_idle() && tasks.is_empty() {
            gauges.pulse.rest();
            match inbox.recv() {
                Ok(work) => take(work, &mut predictor, &mut generator, &mut tasks),
                Err(_) => return,
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(work) => take(work, &mut predictor, &mut generator, &mut tasks),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected)
                    if predictor.is_idle() && generator.is_idle() && tasks.is_empty() =>
                {
                    return;
                }
                Err(TryRecvError::Disconnected) => break,
            }
        }
        gauges.pulse.step();
        let begun = Instant::now();
        predictor.step(&mut workspace, gauges, &limits);
        gauges.pulse.step();
        generator.step(&mut workspace, gauges);
        gauges.pulse.step();
        owed.answers_took(begun.elapsed(), predictor.is_idle() && generator.is_idle());
        if owed.is_paid()
            && let Some(task) = tasks.pop_front()
        {
            let begun = Instant::now();
            task();
            owed.task_took(begun.elapsed());
        }
    }
}

impl Gauges {
    pub(crate) fn predictions_done(&self, n: usize) {
        self.predictions.fetch_sub(n, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_as_much_time_as_the_task_before_them_took_and_nobody_waits_for_nobody() {
        let ms = Duration::from_millis;
        let mut owed = Owed::default();
        assert!(owed.is_paid(), "the first task waits for one step");
        owed.task_took(ms(100));
        for _ in 0..9 {
            owed.answers_took(ms(11), false);
            assert!(!owed.is_paid());
        }
        owed.answers_took(ms(11), false);
        assert!(owed.is_paid());
        owed.task_took(ms(100));
        owed.answers_took(ms(1), true);
        assert!(owed.is_paid(), "no answer is under way");
    }
}
