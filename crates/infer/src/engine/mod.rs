//! The engine: many sequences through one model at a time.
//!
//! A [`Request`] waits until there is a slot and memory for its state, is read in chunks, and then
//! takes part in every step: one forward pass writes a token of each sequence that is ready, so that
//! the weights are read once for all of them. [`request`] says what is asked and answered,
//! [`sequence`] is one request on its way, [`prefix_cache`] what was
//! read before, `denoised` what differs where a model denoises (a step commits some tokens of each
//! text, in any order), and the loop is here. Sequences never share a state;
//! a text does not depend on what runs beside it. `tests/engine.rs` holds it to that.
//!
//! The loop has a thread of its own, and computes on the process's pool. No lock is held while it
//! computes.

mod denoised;
mod prefix_cache;
mod request;
mod sequence;

pub use crate::samplers::constraint::Constraint;
pub use crate::snapshot::Snapshot;
pub use request::{Limits, Listener, Message, PromptToken, Refused, Request, Scored, Stats, Summary};

use crate::error::InferError;
use crate::samplers::constraint::{Form, Grammars};
use crate::samplers::denoising::{Carried, Row};
use prefix_cache::PrefixCache;
use recast_models::Model;
use recast_ops::cpu::on_worker;
use recast_text::Tokenizer;
use sequence::Sequence;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time after which the loop leaves the pool for a moment, between two steps: engines beside it, more of
/// them than threads perhaps, would wait as long as this one has work.
const ON_POOL: Duration = Duration::from_millis(10);

/// A model at work. Dropping it ends what runs.
pub struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Handle {
    cancelled: Arc<AtomicBool>,
}

impl Handle {
    /// Ends the request before its next step; its slot is free then.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

struct Shared {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    limits: Limits,
    /// Made when the first constraint comes.
    grammars: OnceLock<Result<Grammars, String>>,
    desk: Mutex<Desk>,
    /// Something was submitted, or the engine shall stop.
    wake: Condvar,
}

/// What the loop and its callers exchange.
#[derive(Default)]
struct Desk {
    waiting: VecDeque<Sequence>,
    stats: Stats,
    draining: bool,
    closed: bool,
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Starts the loop.
    ///
    /// # Errors
    /// When a limit is zero that may not be, or the system gives no thread.
    pub fn start(model: Arc<Model>, tokenizer: Arc<Tokenizer>, limits: Limits) -> Result<Self, InferError> {
        for (name, value) in [("slots", limits.slots), ("chunk", limits.chunk), ("state bytes", limits.state_bytes)] {
            if value == 0 {
                return Err(InferError::Option { name, expected: "at least 1", found: "0".into() });
            }
        }
        let desk = Desk { stats: Stats { slots: limits.slots, ..Stats::default() }, ..Desk::default() };
        let shared = Arc::new(Shared {
            model,
            tokenizer,
            limits,
            grammars: OnceLock::new(),
            desk: Mutex::new(desk),
            wake: Condvar::new(),
        });
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("recast-engine".into())
            .spawn(recast_ops::device::on_this_stream(move || work(&own)))
            .map_err(|error| InferError::Thread(error.to_string()))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.shared.model
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.shared.tokenizer
    }

    /// What it may use.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        let desk = self.shared.desk();
        Stats { waiting: desk.waiting.len(), ..desk.stats.clone() }
    }

    /// Hands a request in. `listener` gets every message, from the loop's thread: it must not block.
    ///
    /// # Errors
    /// When the request is wrong, can never fit, or is one too many.
    pub fn submit(&self, request: Request, listener: Listener) -> Result<Handle, Refused> {
        let mut handles = self.submit_all(vec![(request, listener)])?;
        Ok(handles.pop().expect("one request gives one handle"))
    }

    /// Hands requests in that belong together: all are taken, or none.
    ///
    /// # Errors
    /// As [`Engine::submit`], of the first that is refused; and when there is no room for all of them.
    pub fn submit_all(&self, requests: Vec<(Request, Listener)>) -> Result<Vec<Handle>, Refused> {
        let count = requests.len();
        let result = requests
            .into_iter()
            .map(|(request, listener)| self.prepare(request, listener))
            .collect::<Result<Vec<_>, _>>()
            .and_then(|sequences| self.admit(sequences));
        if result.is_err() {
            self.shared.desk().stats.refused += count as u64;
        }
        result
    }

    /// A request that could run, with its handle.
    fn prepare(&self, request: Request, listener: Listener) -> Result<(Sequence, Handle), Refused> {
        let Shared { model, tokenizer, limits, .. } = &*self.shared;
        request.sampling.check().map_err(|e| Refused::Invalid(e.to_string()))?;
        model.check_tokens(&request.prompt).map_err(|e| Refused::Invalid(e.to_string()))?;
        let before = request.state.as_ref().map_or(0, |s| s.tokens.len());
        if request.prompt.is_empty() {
            return Err(Refused::Invalid(InferError::EmptyPrompt.to_string()));
        }
        let tokens = before.saturating_add(request.prompt.len()).saturating_add(request.max_tokens);
        let needed = model.state_bytes(tokens);
        if needed > limits.state_bytes {
            return Err(Refused::TooLarge { tokens, needed, limit: limits.state_bytes });
        }
        let row: Option<Row<Carried>> = denoised::row(model, tokenizer, &request)?;
        let form = request.constraint.as_ref().map(|c| self.form(c)).transpose()?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let sequence = Sequence::new(model, tokenizer, request, form, row, listener, cancelled.clone(), needed);
        Ok((sequence, Handle { cancelled }))
    }

    /// Lets them wait, if there is room for all.
    fn admit(&self, prepared: Vec<(Sequence, Handle)>) -> Result<Vec<Handle>, Refused> {
        let limits = &self.shared.limits;
        let (sequences, handles): (Vec<Sequence>, Vec<Handle>) = prepared.into_iter().unzip();
        let mut desk = self.shared.desk();
        if desk.draining {
            return Err(Refused::Stopping);
        }
        // Those that find free slots do not wait.
        let free = limits.slots.saturating_sub(desk.stats.running);
        let waiting = desk.waiting.len();
        if waiting.saturating_add(sequences.len()) > limits.queue.saturating_add(free) {
            return Err(Refused::QueueFull { waiting, retry_seconds: 1 + waiting as u64 / limits.slots as u64 });
        }
        desk.waiting.extend(sequences);
        drop(desk);
        self.shared.wake.notify_one();
        Ok(handles)
    }

    fn form(&self, constraint: &Constraint) -> Result<Form, Refused> {
        let Shared { model, tokenizer, grammars, .. } = &*self.shared;
        let grammars = grammars.get_or_init(|| Grammars::new(tokenizer, model.config.vocabulary).map_err(|e| e.to_string()));
        let refused = |message| Refused::Field { field: "constraint", message };
        let grammars = grammars.as_ref().map_err(|e| refused(e.clone()))?;
        grammars.begin(constraint).map_err(|error| match error {
            InferError::Constraint(message) => refused(message),
            error => refused(error.to_string()),
        })
    }

    /// Takes nothing new from now on; what was taken runs to its end.
    pub fn drain(&self) {
        self.shared.desk().draining = true;
        self.shared.wake.notify_one();
    }

    /// Ends what runs and what waits before the next step ([`Finish::Cancelled`](crate::Finish::Cancelled)), for good:
    /// nothing new is taken.
    pub fn close(&self) {
        {
            let mut desk = self.shared.desk();
            desk.draining = true;
            desk.closed = true;
        }
        self.shared.wake.notify_one();
    }

    /// Whether nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        let desk = self.shared.desk();
        desk.stats.running == 0 && desk.waiting.is_empty()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
        let Some(thread) = self.thread.take() else { return };
        // Dropped by a listener, it is the loop that would wait for itself: it ends by the flag.
        if std::thread::current().id() != thread.thread().id() && !recast_ops::cpu::is_worker() {
            // A panic of the loop was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// The loop.
fn work(shared: &Shared) {
    let mut running: Vec<Sequence> = Vec::new();
    let mut kept = PrefixCache::new(shared.limits.prefix_bytes);
    let mut shortest = false;
    loop {
        {
            let mut desk = shared.desk();
            while running.is_empty() && desk.waiting.is_empty() && !desk.closed {
                desk = shared.wake.wait(desk).unwrap_or_else(PoisonError::into_inner);
            }
            if desk.closed {
                running.extend(desk.waiting.drain(..));
                drop(desk);
                running.iter_mut().for_each(Sequence::cancel);
                sweep(shared, &mut running, &mut kept);
                return;
            }
        }
        let steps = catch_unwind(AssertUnwindSafe(|| {
            on_worker(|| {
                let begun = Instant::now();
                while begun.elapsed() < ON_POOL {
                    seat(shared, &mut running);
                    if running.is_empty() {
                        break;
                    }
                    step(shared, &mut running, &mut kept, &mut shortest);
                    sweep(shared, &mut running, &mut kept);
                }
            });
        }));
        if steps.is_err() {
            fail_all(shared, &mut running);
            // It may hold a state that was left half done.
            kept = PrefixCache::new(shared.limits.prefix_bytes);
        }
    }
}

/// Ends everything that runs or waits with an error, after a panic: whoever asked would wait for ever otherwise.
fn fail_all(shared: &Shared, running: &mut Vec<Sequence>) {
    running.extend(shared.desk().waiting.drain(..));
    for sequence in running.iter_mut() {
        // The listener may be what panicked.
        let _ = catch_unwind(AssertUnwindSafe(|| sequence.fail(InferError::Panicked)));
    }
    let mut desk = shared.desk();
    let stats = &mut desk.stats;
    running.iter_mut().for_each(|sequence| sequence.account(stats));
    (stats.running, stats.state_bytes, stats.prefix_bytes, stats.prefix_entries) = (0, 0, 0, 0);
    drop(desk);
    // Not under the lock, as in `sweep`.
    running.clear();
}

/// Gives waiting requests slots, first come first served, as far as slots and memory go. Those whose client left or
/// whose time is over wait no longer, wherever they stand: they would keep the place from others. They need no slot,
/// since the step that follows ends them before all else.
fn seat(shared: &Shared, running: &mut Vec<Sequence>) {
    let now = Instant::now();
    let mut used: usize = running.iter().map(Sequence::reserved).sum();
    let mut free = shared.limits.slots.saturating_sub(running.len());
    let mut desk = shared.desk();
    if desk.waiting.iter().any(|s| s.is_over(now)) {
        let waiting = std::mem::take(&mut desk.waiting);
        let (over, waiting): (VecDeque<Sequence>, VecDeque<Sequence>) = waiting.into_iter().partition(|s| s.is_over(now));
        desk.waiting = waiting;
        running.extend(over);
    }
    while free > 0 && desk.waiting.front().is_some_and(|s| used.saturating_add(s.reserved()) <= shared.limits.state_bytes) {
        let Some(mut sequence) = desk.waiting.pop_front() else { break };
        sequence.seated();
        used += sequence.reserved();
        free -= 1;
        running.push(sequence);
    }
    desk.stats.running = running.len();
}

/// About a chunk of prompts that are not read, then one token of every sequence that writes. Of the prompts the oldest
/// comes first, and in every other step (`shortest`) the one with the least left: a short one does not wait for a long
/// one to be read, and a long one goes on at half its pace at least. Not all in turn: several answers to one prompt
/// would each read all of it, as none finds a kept state but before its first chunk.
fn step(shared: &Shared, running: &mut [Sequence], kept: &mut PrefixCache, shortest: &mut bool) {
    let Shared { model, tokenizer, limits, .. } = shared;
    let now = Instant::now();
    running.iter_mut().filter(|s| s.is_over(now)).for_each(Sequence::cancel);
    let mut left = limits.chunk;
    let mut readers: Vec<&mut Sequence> = running.iter_mut().filter(|s| s.is_reading()).collect();
    if *shortest {
        // Stable: of equals the oldest.
        readers.sort_by_key(|s| s.unread());
    }
    // The first of several that come together gets the lead: the others find what it has read.
    *shortest = readers.len() > 1 && !*shortest;
    for sequence in readers {
        // Several short prompts, or a part of a long one.
        left = left.saturating_sub(sequence.read(model, limits.chunk, kept));
        if left == 0 {
            break;
        }
    }
    let mut writing: Vec<&mut Sequence> = running.iter_mut().filter(|s| s.is_writing()).collect();
    if writing.is_empty() {
        return;
    }
    if model.config.diffusion.is_some() {
        denoised::write(model, tokenizer, &mut writing);
    } else {
        sequence::write(model, &mut writing);
    }
}

/// Takes out what has ended and brings the counters up to date.
fn sweep(shared: &Shared, running: &mut Vec<Sequence>, kept: &mut PrefixCache) {
    running.iter_mut().filter(|s| s.has_ended()).for_each(|s| s.leave(kept));
    let mut desk = shared.desk();
    let stats = &mut desk.stats;
    for sequence in running.iter_mut() {
        sequence.account(stats);
    }
    let ended: Vec<Sequence> = running.extract_if(.., |s| s.has_ended()).collect();
    (stats.prefix_bytes, stats.prefix_entries) = (kept.bytes(), kept.len());
    stats.running = running.len();
    stats.state_bytes = running.iter().map(Sequence::state_bytes).sum();
    drop(desk);
    // Not under the lock: a listener may hold the last handle of this very engine.
    drop(ended);
}
