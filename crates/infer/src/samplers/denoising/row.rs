//! One text on its way from masks, or random tokens, to words.

mod uniform;

use super::candidate::Candidate;
use super::canvas::Canvas;
use super::commit::{Placed, commit, filled_up};
use super::denoiser::{Denoiser, Shape};
use super::noise::Noise;
use super::record::{Change, Ghost, Step};
use super::settings::{BLOCK, Denoising, Ends, Keep, Remasking, Rule};
use crate::error::InferError;
use serde::Serialize;
use std::ops::Range;

/// Positions of [`Noise`] that belong to a row's decisions and to no token.
const DECISIONS: u64 = 1 << 40;

/// What a text has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Forward passes after the prompt: those that predict, and those that renew the state. A guided
    /// step counts as two.
    pub forwards: usize,
    /// Of these, passes that renew the state: read a finished block into it, or compute what a model of
    /// whole sequences keeps, the first block's included.
    pub refreshes: usize,
    /// Positions that a forward pass computed and the head did not need.
    pub idle_positions: usize,
    /// Rows of the head that were computed.
    pub head_rows: usize,
    /// Positions committed, those that were changed or masked again later counted once.
    pub committed: usize,
    /// Tokens changed or masked again.
    pub revised: usize,
}

impl Counters {
    /// Tokens that a forward pass brought, for a text of so many.
    pub fn tokens_per_forward(&self, tokens: usize) -> f64 {
        tokens as f64 / self.forwards.max(1) as f64
    }
}

/// A row of the sampler.
pub struct Row<S> {
    pub(super) settings: Denoising,
    shape: Shape,
    /// Tokens that end a text.
    pub(super) ends: Vec<u32>,
    /// Tokens that end a turn, and are kept back with those.
    turn_ends: Vec<u32>,
    pub(super) stream: u64,
    pub(super) tokens: Vec<u32>,
    /// Kept beside the tokens: the mask's id says nothing about what is known.
    open: Vec<bool>,
    given: Vec<bool>,
    /// Whether a position was committed before, which it may be no longer.
    written: Vec<bool>,
    /// Probability of each token when it was committed.
    confidence: Vec<f32>,
    /// Where the prompt ends.
    start: usize,
    pub(super) state: S,
    /// The state of a masked prompt, for guidance.
    pub(super) blind: Option<S>,
    /// Tokens that the state has read.
    read: usize,
    /// The block that is worked on.
    window: Range<usize>,
    /// Its number, from 0.
    block: usize,
    /// Steps that it may still take, by rules of fixed steps.
    steps_left: usize,
    /// Steps that it was given.
    steps_given: usize,
    /// Masks in earlier blocks when they began.
    settled_masks: usize,
    /// Forward passes since its last mask.
    passes: usize,
    step: usize,
    counters: Counters,
    /// Positions before it are final.
    settled: usize,
    /// Where the text ends.
    end: usize,
    over: bool,
    /// Whether the next step decides about written positions, too.
    deciding: bool,
}

impl Row<super::model::Carried> {
    /// Bytes of its state.
    pub fn state_bytes(&self) -> usize {
        self.state.state.bytes()
    }
}

impl<S: Clone> Row<S> {
    /// A row before its first step; `ends` are the tokens that end a text.
    ///
    /// # Errors
    /// As [`Canvas::check`], and when the canvas is empty.
    pub fn new<D: Denoiser<State = S>>(
        denoiser: &D,
        canvas: &Canvas,
        settings: Denoising,
        ends: &[u32],
        stream: u64,
    ) -> Result<Self, InferError> {
        let shape = denoiser.shape();
        canvas.check(&shape, &settings)?;
        let positions = canvas.positions();
        if positions.is_empty() {
            return Err(InferError::EmptyPrompt);
        }
        let start = canvas.prompt();
        let state = denoiser.begin();
        let mut row = Self {
            blind: (settings.guidance != 0.0).then(|| state.clone()),
            settings,
            shape,
            ends: ends.to_vec(),
            turn_ends: Vec::new(),
            stream,
            // Of uniform noise, until [`Row::scatter`].
            tokens: positions.iter().map(|p| p.unwrap_or(shape.mask_token)).collect(),
            open: positions.iter().map(Option::is_none).collect(),
            given: positions.iter().map(Option::is_some).collect(),
            written: vec![false; positions.len()],
            confidence: vec![1.0; positions.len()],
            start,
            state,
            read: 0,
            window: start..start,
            block: 0,
            steps_left: 0,
            steps_given: 0,
            settled_masks: 0,
            passes: 0,
            step: 0,
            counters: Counters::default(),
            settled: start,
            end: positions.len(),
            over: false,
            deciding: false,
        };
        row.scatter(0..positions.len());
        row.begin_block(start, true);
        row.deciding = row.decides_anew();
        Ok(row)
    }

    /// The row with tokens that end a turn and no text: committed last where end tokens are.
    #[must_use]
    pub fn with_turn_ends(mut self, tokens: &[u32]) -> Self {
        self.turn_ends = tokens.to_vec();
        self
    }

    /// Nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Tokens before the first hole.
    pub fn prompt(&self) -> usize {
        self.start
    }

    /// The text behind the prompt, as far as it will not change: tokens and their probabilities when
    /// they were committed, of uniform noise when they were last asked about (1 for given ones). Nothing before the end where all positions are filled and cut
    /// then: whoever reads an end token ends the text.
    pub fn settled(&self) -> (&[u32], &[f32]) {
        let end = if self.settings.until_end || self.over { self.settled } else { self.start };
        (&self.tokens[self.start..end], &self.confidence[self.start..end])
    }

    /// The tokens behind the prompt before the first open position.
    pub(super) fn filled(&self) -> &[u32] {
        let until = (self.start..self.end).find(|&p| self.open[p]).unwrap_or(self.end);
        &self.tokens[self.start..until]
    }

    /// Whether the token so far behind the prompt was given.
    pub fn is_given(&self, index: usize) -> bool {
        self.given[self.start + index]
    }

    /// What it has cost.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Ends the text behind so many tokens after the prompt: whoever reads it has found a stop string.
    pub fn cut(&mut self, tokens: usize) {
        self.end = (self.start + tokens).min(self.end);
        self.settled = self.end;
        self.over = true;
    }

    /// The range of positions that a forward pass of this row takes.
    pub(super) fn unit(&self) -> Range<usize> {
        if let Some(block) = self.shape.block {
            let first = self.window.start / block * block;
            return first..(first + block).min(self.tokens.len());
        }
        match self.settings.keep {
            Keep::Nothing => 0..self.seen(),
            Keep::Prefix => self.window.start..self.seen(),
            Keep::Around => self.window.clone(),
        }
    }

    /// Where what a model of whole sequences sees ends.
    fn seen(&self) -> usize {
        let all = self.tokens.len();
        let seen = self.settings.ahead.map_or(all, |ahead| self.window.end.saturating_add(ahead).min(all));
        // What is given behind the block is there to be seen.
        let last_given = self.given.iter().rposition(|g| *g).map_or(0, |p| p + 1);
        seen.max(last_given).max(self.window.start)
    }

    /// The tokens of a pass over a whole sequence that the state has to be made of before the block can be
    /// worked on, if so, and those among them that the state leaves out: what each step computes.
    pub(super) fn surroundings(&self) -> Option<(usize, Range<usize>)> {
        let keeps = self.shape.block.is_none() && self.settings.keep != Keep::Nothing;
        if !keeps || self.over || self.read >= self.window.end {
            return None;
        }
        let (seen, own) = (self.seen(), self.unit());
        // Nothing stands around all of it.
        (own != (0..seen)).then_some((seen, own))
    }

    /// Takes the state made of them.
    pub(super) fn has_surroundings(&mut self, state: S, blind: Option<S>) {
        (self.state, self.blind, self.read) = (state, blind, self.window.end);
        // Of the first block too: it computes masks, not the prompt alone.
        let passes = 1 + usize::from(self.blind.is_some());
        self.counters.forwards += passes;
        self.counters.refreshes += passes;
    }

    /// Clean tokens that the state lacks before the block can be worked on; whole sequences have
    /// [`Row::surroundings`].
    pub(super) fn unread(&self) -> Range<usize> {
        if self.over || self.shape.block.is_none() { self.read..self.read } else { self.read..self.unit().start }
    }

    /// Whether a prompt is still to be read.
    pub fn is_reading(&self) -> bool {
        // What stands around the first block is computed with it.
        self.step == 0 && !self.unread().is_empty()
    }

    /// Notes that so many more tokens are in the state.
    pub(super) fn has_read(&mut self, tokens: usize) {
        if self.step > 0 {
            let passes = 1 + usize::from(self.blind.is_some());
            self.counters.forwards += passes;
            self.counters.refreshes += passes;
        }
        self.read += tokens;
    }

    /// Tokens that the state has to have read before the first step.
    pub(crate) fn reads_to(&self) -> usize {
        self.unit().start
    }

    /// Whether a second state goes along.
    pub(crate) fn is_guided(&self) -> bool {
        self.blind.is_some()
    }

    /// Begins from a state that has read some of the prompt already.
    pub(crate) fn resume(&mut self, state: S, read: usize) {
        debug_assert!(read <= self.unit().start && self.blind.is_none() && self.step == 0);
        (self.state, self.read) = (state, read);
    }

    /// The state and the number of tokens that it has read.
    pub(crate) fn held(&self) -> (&S, usize) {
        (&self.state, self.read)
    }

    /// Whether a token that is written may change before its block is done.
    pub(super) fn revises(&self) -> bool {
        self.shape.uniform || self.settings.revises()
    }

    /// All tokens, with the mask or a random one where nothing is known.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The row's tokens with the prompt masked.
    pub(super) fn blind_tokens(&self, range: Range<usize>) -> Vec<u32> {
        range.map(|p| if p < self.start { self.shape.mask_token } else { self.tokens[p] }).collect()
    }

    /// Positions whose prediction is wanted.
    pub(super) fn wanted(&self) -> Vec<usize> {
        let again = self.shape.uniform || self.settings.editing.is_some();
        // Behind an end token nothing is read; where all is decided anew, that token, too, may still go.
        let until = match self.first_end() {
            Some(end) if !self.deciding => end.min(self.window.end),
            _ => self.window.end,
        };
        (self.window.start..until).filter(|&p| self.open[p] || (again && !self.given[p])).collect()
    }

    /// Whether the token at a position is taken from the model's best, whatever the temperature.
    pub(super) fn is_settled_at(&self, position: usize) -> bool {
        !self.is_undecided(position)
    }

    pub(super) fn step_number(&self) -> u64 {
        self.step as u64
    }

    /// The first end token committed, where the text is over with it.
    fn first_end(&self) -> Option<usize> {
        let ends = |&p: &usize| !self.open[p] && !self.given[p] && self.ends.contains(&self.tokens[p]);
        if self.settings.until_end && !self.flows() { (self.start..self.end).find(ends) } else { None }
    }

    /// Takes the candidates of [`Row::wanted`] and commits what the rule says.
    pub(super) fn take(&mut self, wanted: &[usize], candidates: &[Candidate]) -> Step {
        let passes = 1 + usize::from(self.blind.is_some());
        self.counters.forwards += passes;
        self.counters.head_rows += passes * wanted.len();
        self.counters.idle_positions += passes * (self.unit().len() - wanted.len().min(self.unit().len()));
        let mut decisions = Noise::new(self.settings.seed, self.stream, self.step as u64, DECISIONS);
        let is_end = |token: &u32| self.ends.contains(token) || self.turn_ends.contains(token);
        let places: Vec<Placed> = wanted
            .iter()
            .zip(candidates)
            .filter(|(position, _)| self.is_undecided(**position))
            .map(|(&position, &candidate)| Placed {
                position,
                candidate,
                last: self.settings.ends == Ends::Last && is_end(&candidate.token),
                open: self.open[position],
                // In random order what is written stays written.
                random: decisions.unit() + f64::from(u8::from(!self.open[position])),
            })
            .collect();
        let window = (self.window.start.saturating_sub(self.start), self.window.end - self.start);
        let mut step = Step { step: self.step, block: self.block, window, ..Step::default() };
        let only_edits = !self.flows() && self.window.clone().all(|p| !self.open[p]);
        // While noise is left, all is decided anew in any case.
        if !self.shape.uniform || places.is_empty() {
            self.edit(wanted, candidates, &mut step);
        }
        let taken = match self.settings.rule {
            Rule::Ancestral { .. } if self.shape.uniform => self.jump(&places, &mut decisions),
            Rule::Ancestral { remasking, .. } => self.reverse(remasking, &places, &mut decisions, &mut step),
            rule => {
                let written = places.iter().filter(|placed| !placed.open).count();
                let quota = written + (places.len() - written).div_ceil(self.steps_left.max(1));
                let taken = commit(rule, self.settings.order, &places, quota);
                // With masks it always does.
                if taken.len() > written { taken } else { filled_up(taken, self.settings.order, &places, written + 1) }
            }
        };
        self.steps_left = self.steps_left.saturating_sub(1);
        let mut taken = taken.into_iter().peekable();
        for (index, placed) in places.iter().enumerate() {
            let Placed { position, candidate, .. } = *placed;
            if taken.next_if_eq(&index).is_some() {
                self.write(position, &candidate, &mut step);
            } else {
                self.leave(position, &candidate, &mut step);
                if self.open[position] {
                    let Candidate { token, confidence, .. } = candidate;
                    step.ghosts.push(Ghost { index: position - self.start, token, confidence });
                }
            }
        }
        self.step += 1;
        self.scatter_again();
        // The next pass would compute the same, the best of each place whatever the temperature, unless chance masks again.
        let still = only_edits && step.changes.is_empty() && !(self.settings.remasks() && self.steps_left > 0);
        self.conclude(still);
        self.deciding = self.decides_anew();
        step.changes.sort_by_key(|change| change.index);
        step.forwards = self.counters.forwards;
        step.settled = self.settled - self.start;
        step
    }

    /// Writes a token, or takes it out again.
    fn put(&mut self, position: usize, token: Option<u32>, candidate: &Candidate, step: &mut Step) {
        let old = (!self.open[position]).then_some(self.tokens[position]);
        self.open[position] = token.is_none();
        self.tokens[position] = token.unwrap_or(self.shape.mask_token);
        self.confidence[position] = if token.is_some() { candidate.confidence } else { 1.0 };
        if old.is_some() {
            self.counters.revised += 1;
        } else if !std::mem::replace(&mut self.written[position], true) {
            self.counters.committed += 1;
        }
        let Candidate { confidence, entropy, .. } = *candidate;
        step.changes.push(Change { index: position - self.start, old, new: token, confidence, entropy });
    }

    /// Replaces committed tokens that the model now reads otherwise.
    fn edit(&mut self, wanted: &[usize], candidates: &[Candidate], step: &mut Step) {
        let Some(editing) = self.settings.editing else { return };
        for (&position, candidate) in wanted.iter().zip(candidates) {
            let differs = !self.open[position] && self.tokens[position] != candidate.token;
            if differs && candidate.confidence >= editing.at {
                self.put(position, Some(candidate.token), candidate, step);
            }
        }
    }

    /// One step of the reverse process from t to s: which masked places are drawn; visible ones are
    /// masked again with probability sigma.
    fn reverse(&mut self, remasking: Remasking, places: &[Placed], decisions: &mut Noise, step: &mut Step) -> Vec<usize> {
        let given = self.steps_given.max(1) as f64;
        let t = self.steps_left.max(1) as f64 / given;
        let s = (self.steps_left.max(1) - 1) as f64 / given;
        let (alpha_t, alpha_s) = (1.0 - t, 1.0 - s);
        let most = if alpha_t > 0.0 { ((1.0 - alpha_s) / alpha_t).min(1.0) } else { 1.0 };
        let sigma = match remasking {
            // Of a doubtful one it depends on the position.
            Remasking::Never | Remasking::Doubtful => 0.0,
            Remasking::Cap { eta } => most.min(f64::from(eta)),
            Remasking::Rescale { eta } => most * f64::from(eta),
        };
        let draw = ((alpha_s - (1.0 - sigma) * alpha_t) / (1.0 - alpha_t)).clamp(0.0, 1.0);
        let visible: Vec<usize> = self.window.clone().filter(|&p| !self.open[p] && !self.given[p]).collect();
        let doubt = |p: usize| (-f64::from(self.confidence[p])).exp();
        let total: f64 = visible.iter().map(|&p| doubt(p)).sum();
        let again: Vec<usize> = visible
            .iter()
            .copied()
            .filter(|&p| {
                let sigma = if remasking == Remasking::Doubtful { most * doubt(p) / total } else { sigma };
                sigma > 0.0 && decisions.unit() < sigma
            })
            .collect();
        // Drawn before anything is masked again: both are decided by what was there before the step.
        let taken = (0..places.len()).filter(|_| decisions.unit() < draw).collect();
        // Nothing may be left open by the last step.
        if s > 0.0 {
            for position in again {
                let candidate =
                    Candidate { token: self.tokens[position], confidence: self.confidence[position], entropy: 0.0, margin: 0.0 };
                self.put(position, None, &candidate, step);
            }
        }
        taken
    }

    /// Ends the block or the text where they are done; `still`: another pass over the block would change nothing.
    fn conclude(&mut self, still: bool) {
        if let Some(end) = self.first_end()
            && self.open[self.start..end].iter().all(|open| !open)
        {
            return self.cut(end + 1 - self.start);
        }
        if self.flows() || self.window.clone().any(|p| self.open[p]) {
            return;
        }
        if let Some(editing) = self.settings.editing {
            self.passes += 1;
            if self.passes <= editing.passes && !still {
                return;
            }
        }
        self.begin_block(self.window.end, false);
    }

    /// The first block with an open position at or behind `from`.
    fn begin_block(&mut self, from: usize, first: bool) {
        let Some(open) = (from..self.end).find(|&p| self.open[p]) else {
            // What is given behind the last hole belongs to the text.
            (self.settled, self.over) = (self.end, true);
            return;
        };
        let (anchor, limit) = match self.shape.block {
            Some(block) => (open / block * block, (open / block + 1) * block),
            None => (self.start, usize::MAX),
        };
        let length = self.settings.block.unwrap_or(self.shape.block.unwrap_or(BLOCK));
        let begin = anchor + (open - anchor) / length * length;
        self.window = begin..begin.saturating_add(length).min(limit).min(self.end);
        self.settled = begin.max(self.start);
        self.block += usize::from(!first);
        self.passes = 0;
        let steps = match self.settings.rule {
            Rule::Fixed { steps } | Rule::Random { steps } | Rule::Ancestral { steps, .. } => steps,
            _ => return,
        };
        // The steps are shared out by the number of masks, ragged blocks included.
        let masks = |range: Range<usize>| range.filter(|&p| !self.given[p]).count();
        let all = masks(self.start..self.end).max(1);
        let own = masks(self.window.clone());
        let until = |masks: usize| (steps as u128 * masks as u128 / all as u128) as usize;
        let share = until(self.settled_masks + own) - until(self.settled_masks);
        self.settled_masks += own;
        self.steps_left = share.max(1);
        self.steps_given = self.steps_left;
    }
}
