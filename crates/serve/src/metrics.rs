//! What Prometheus reads at `/metrics`: counters and histograms of our own, gauges of the engines.
//!
//! Names begin with `recast_`, but for the memory of the process, which has the name that Prometheus' own libraries give
//! it. They stay as they are; docs/guide/serving.md lists them, and a test holds the list to the page.

use crate::app::App;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the buckets, in seconds.
const SECONDS: [f64; 16] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Durations by their size. Written from engines' threads, so without locks.
#[derive(Default)]
pub(crate) struct Histogram {
    /// One a bucket, and one for what is longer than all.
    counts: [AtomicU64; SECONDS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    pub fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = SECONDS.iter().position(|end| seconds <= *end).unwrap_or(SECONDS.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, page: &mut String, name: &str, label: &str) {
        let mut sum = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            sum += count.load(Ordering::Relaxed);
            let end = SECONDS.get(bucket).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            line(page, &format!("{name}_bucket"), &format!("{label},le=\"{end}\""), sum as f64);
        }
        line(page, &format!("{name}_sum"), label, self.microseconds.load(Ordering::Relaxed) as f64 / 1e6);
        line(page, &format!("{name}_count"), label, sum as f64);
    }
}

/// Of one model.
#[derive(Default)]
pub(crate) struct ModelMetrics {
    /// From submission to the first token.
    pub first_token: Histogram,
    /// From a token to the next.
    pub between_tokens: Histogram,
}

/// Of the server.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(String, u16), (u64, f64)>>,
}

impl Metrics {
    /// A request that ended.
    pub fn ended(&self, route: &str, status: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = requests.entry((route.to_owned(), status)).or_default();
        entry.0 += 1;
        entry.1 += took.as_secs_f64();
    }
}

fn line(page: &mut String, name: &str, labels: &str, value: f64) {
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    // Writing to a string does not fail.
    let _ = writeln!(page, "{name}{braces} {value}");
}

fn head(page: &mut String, name: &str, kind: &str, about: &str) {
    let _ = write!(page, "# HELP {name} {about}\n# TYPE {name} {kind}\n");
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The page.
pub(crate) fn page(app: &App) -> String {
    let mut page = String::new();
    let requests = app.metrics.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    head(&mut page, "recast_http_requests_total", "counter", "Requests that ended, by route and status.");
    for ((route, status), (count, _)) in &requests {
        line(
            &mut page,
            "recast_http_requests_total",
            &format!("route=\"{}\",status=\"{status}\"", escaped(route)),
            *count as f64,
        );
    }
    head(&mut page, "recast_http_request_seconds_total", "counter", "Seconds that these requests took together.");
    for ((route, status), (_, seconds)) in &requests {
        line(
            &mut page,
            "recast_http_request_seconds_total",
            &format!("route=\"{}\",status=\"{status}\"", escaped(route)),
            *seconds,
        );
    }
    let single: [(&str, &str, &str, f64); 4] = [
        ("recast_http_requests_in_flight", "gauge", "Requests to /v1 that are being answered.", app.in_flight() as f64),
        ("recast_kept_states", "gauge", "States and responses kept to go on from.", app.kept.count() as f64),
        ("recast_kept_state_bytes", "gauge", "Bytes that they take.", app.kept.bytes() as f64),
        ("recast_draining", "gauge", "1 while the server is shutting down.", f64::from(u8::from(app.is_draining()))),
    ];
    let memory = recast_ops::cpu::memory_in_use().map(|[resident, allocated]| {
        [
            ("process_resident_memory_bytes", "gauge", "Memory that the system has given the process.", resident as f64),
            (
                "recast_allocated_bytes",
                "gauge",
                "What the program has allocated and not freed: weights, states, whatever is kept.",
                allocated as f64,
            ),
        ]
    });
    for (name, kind, about, value) in single.into_iter().chain(memory.into_iter().flatten()) {
        head(&mut page, name, kind, about);
        line(&mut page, name, "", value);
    }
    let stats: Vec<(String, recast_infer::engine::Stats)> =
        app.models.iter().map(|m| (format!("model=\"{}\"", escaped(&m.id)), m.engine.stats())).collect();
    type Value = fn(&recast_infer::engine::Stats) -> f64;
    let rows: [(&str, &str, &str, Value); 15] = [
        ("recast_sequences_running", "gauge", "Sequences in slots.", |s| s.running as f64),
        ("recast_sequences_waiting", "gauge", "Sequences that wait for a slot.", |s| s.waiting as f64),
        ("recast_slots", "gauge", "Slots there are.", |s| s.slots as f64),
        ("recast_state_bytes", "gauge", "Bytes of state of running sequences.", |s| s.state_bytes as f64),
        ("recast_prefix_bytes", "gauge", "Bytes of states kept of prompts read before.", |s| s.prefix_bytes as f64),
        ("recast_prefix_entries", "gauge", "States kept of prompts read before.", |s| s.prefix_entries as f64),
        ("recast_prefix_lookups_total", "counter", "Prompts looked up among them.", |s| s.prefix_lookups as f64),
        ("recast_prefix_hits_total", "counter", "Prompts of which a beginning was found.", |s| s.prefix_hits as f64),
        ("recast_prefix_tokens_total", "counter", "Prompt tokens not read again thanks to them.", |s| s.prefix_tokens as f64),
        ("recast_prompt_tokens_total", "counter", "Prompt tokens read.", |s| s.prompt_tokens as f64),
        ("recast_completion_tokens_total", "counter", "Tokens written.", |s| s.completion_tokens as f64),
        ("recast_sequences_completed_total", "counter", "Sequences that ended by themselves.", |s| s.completed as f64),
        ("recast_sequences_cancelled_total", "counter", "Sequences ended by who asked, or by time.", |s| s.cancelled as f64),
        ("recast_sequences_failed_total", "counter", "Sequences ended by an error.", |s| s.failed as f64),
        ("recast_sequences_refused_total", "counter", "Sequences not taken.", |s| s.refused as f64),
    ];
    for (name, kind, about, value) in rows {
        head(&mut page, name, kind, about);
        for (label, stats) in &stats {
            line(&mut page, name, label, value(stats));
        }
    }
    type Of = fn(&ModelMetrics) -> &Histogram;
    let histograms: [(&str, &str, Of); 2] = [
        ("recast_time_to_first_token_seconds", "From submission to the first token.", |m| &m.first_token),
        ("recast_inter_token_latency_seconds", "From a token to the next.", |m| &m.between_tokens),
    ];
    for (name, about, of) in histograms {
        head(&mut page, name, "histogram", about);
        for (model, (label, _)) in app.models.iter().zip(&stats) {
            of(&model.metrics).write(&mut page, name, label);
        }
    }
    page
}
