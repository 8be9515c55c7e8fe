//! What all requests share: the models, the settings, the kept states, the counters.

use crate::error::{ApiError, ServeError};
use crate::kept::Store;
use crate::metrics::{Metrics, ModelMetrics};
use crate::settings::Settings;
use recast_infer::Engine;
use recast_text::ChatTemplate;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Positions that are filled where nobody says how many and the model sees all of them at once.
const DENOISED: usize = 128;

/// A model that is served.
pub(crate) struct Served {
    pub id: String,
    pub engine: Engine,
    pub template: Option<ChatTemplate>,
    /// Tokens that prompt and answer may have together.
    pub context: usize,
    /// Shared with listeners, which live in the engine's thread: were the engine shared with them
    /// too, it could come to be dropped, and wait for itself, there.
    pub metrics: Arc<ModelMetrics>,
}

impl Served {
    fn new(id: String, engine: Engine, context: Option<usize>) -> Result<Self, ServeError> {
        let template = engine.tokenizer().chat_template();
        let template = template.map_err(|source| ServeError::Template { model: id.clone(), source })?;
        let model = engine.model();
        let trained = model.config.max_positions;
        let grows = model.state_bytes(trained.saturating_mul(2)) > model.state_bytes(trained);
        let context = context.unwrap_or(if grows { trained } else { usize::MAX });
        Ok(Self { id, template, context, metrics: Arc::default(), engine })
    }

    /// The template, where it is needed.
    pub fn template(&self) -> Result<&ChatTemplate, ApiError> {
        self.template.as_ref().ok_or_else(|| ApiError::NoTemplate(self.id.clone()))
    }

    /// How many tokens to write between a prompt and a suffix: what was asked, if it fits; else `default`, or what is left.
    pub fn room(&self, prompt: usize, suffix: usize, asked: Option<usize>, default: usize) -> Result<usize, ApiError> {
        let given = prompt.saturating_add(suffix);
        let left = self.context.saturating_sub(given);
        // Of a model that sees the whole sequence every position asked for costs in every step.
        let whole = self.engine.model().config.diffusion.as_ref().is_some_and(|d| d.block.is_none());
        let default = if whole { default.min(DENOISED) } else { default };
        let wanted = asked.unwrap_or(default.min(left).max(1));
        if wanted <= left {
            return Ok(wanted);
        }
        let (have, them) = if suffix == 0 { ("the prompt has", "the prompt") } else { ("prompt and suffix have", "them") };
        Err(ApiError::ContextLength(format!(
            "{} takes {} tokens at most, and {have} {given} and {wanted} are to be written: shorten {them} or ask for fewer",
            self.id, self.context
        )))
    }
}

/// The server's inside.
pub(crate) struct App {
    pub models: Vec<Arc<Served>>,
    pub settings: Settings,
    pub kept: Store,
    pub metrics: Metrics,
    pub started: u64,
    keys: Vec<[u8; 32]>,
    draining: AtomicBool,
    in_flight: AtomicUsize,
}

impl App {
    pub fn new(settings: Settings, models: Vec<(String, Engine)>) -> Result<Self, ServeError> {
        settings.check()?;
        if models.is_empty() {
            return Err(ServeError::NoModel);
        }
        let mut served: Vec<Arc<Served>> = Vec::new();
        for (id, engine) in models {
            if served.iter().any(|other| other.id == id) {
                return Err(ServeError::SameName(id));
            }
            served.push(Arc::new(Served::new(id, engine, settings.context)?));
        }
        Ok(Self {
            models: served,
            kept: Store::new(settings.kept_states, settings.kept_bytes),
            metrics: Metrics::default(),
            started: now(),
            keys: settings.api_keys.iter().map(|key| Sha256::digest(key.as_bytes()).into()).collect(),
            draining: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            settings,
        })
    }

    pub fn model(&self, name: &str) -> Result<&Arc<Served>, ApiError> {
        self.models.iter().find(|model| model.id == name).ok_or_else(|| ApiError::NoModel {
            name: name.chars().take(200).collect(),
            known: self.models.iter().map(|m| m.id.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whose request it is, by the header `Authorization`. Digests are compared, each to its end,
    /// so that the time taken tells nothing of a key.
    pub fn owner(&self, authorization: Option<&str>) -> Result<Option<usize>, ApiError> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        let Some(authorization) = authorization else { return Err(ApiError::Unauthorized("none")) };
        let Some((scheme, key)) = authorization.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        else {
            return Err(ApiError::Unauthorized("another scheme"));
        };
        debug_assert!(!scheme.is_empty());
        let given: [u8; 32] = Sha256::digest(key.trim().as_bytes()).into();
        let mut owner = None;
        for (index, known) in self.keys.iter().enumerate() {
            let differing = known.iter().zip(given).fold(0u8, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
            if differing == 0 {
                owner = Some(index);
            }
        }
        owner.map(Some).ok_or(ApiError::Unauthorized("a key that it does not know"))
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// New requests are refused from now on, running ones finish.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.models.iter().for_each(|model| model.engine.drain());
    }

    /// Ends what runs with an error that says why.
    pub fn cut(&self) {
        self.models.iter().for_each(|model| model.engine.close());
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
