//! What the engine counts under vLLM's names, over all models, for the dashboards that read them: a request is a sequence,
//! of which one with `n` answers has `n`.

use super::{family, line};
use lyceum_service::Engine;
use lyceum_service::observed::{Ended, Histogram, Observed};
use std::fmt::Write;

pub fn write(out: &mut String, engine: &Engine) {
    let (load, counted, observed) = (engine.load(), engine.counted(), engine.observed());
    let share = if load.kv_pages == 0 { 0.0 } else { load.kv_pages_used as f64 / load.kv_pages as f64 };
    let waiting = load.sequences.saturating_sub(load.sequences_running);
    for (name, help, value) in [
        (
            "vllm:num_requests_running",
            "Sequences in the passes of the engine.",
            load.sequences_running as f64,
        ),
        ("vllm:num_requests_waiting", "Sequences that wait to run.", waiting as f64),
        ("vllm:kv_cache_usage_perc", "Part of the pages of keys and values in use, 0 to 1.", share),
    ] {
        family(out, name, "gauge", help);
        line(out, name, "", value);
    }
    let (queries, hits) = observed.prefix_tokens();
    for (name, help, value) in [
        ("vllm:prompt_tokens_total", "Tokens of prompts and inputs that were read.", counted.prompt_tokens),
        ("vllm:generation_tokens_total", "Tokens that were made.", counted.generated_tokens),
        (
            "vllm:num_preemptions_total",
            "Sequences that gave way and were computed anew.",
            observed.preemptions(),
        ),
        ("vllm:prefix_cache_queries_total", "Tokens looked for among what was computed.", queries),
        ("vllm:prefix_cache_hits_total", "Of these, the ones that were found.", hits),
    ] {
        family(out, name, "counter", help);
        line(out, name, "", value as f64);
    }
    let name = "vllm:request_success_total";
    family(out, name, "counter", "Sequences that ended, by how.");
    for how in Ended::ALL {
        line(out, name, &format!("finished_reason=\"{}\"", how.as_str()), observed.ended(how) as f64);
    }
    histograms(out, observed);
}

fn histograms(out: &mut String, observed: &Observed) {
    for (name, help, of) in [
        ("vllm:time_to_first_token_seconds", "From a request to its first token.", &observed.first_token),
        ("vllm:inter_token_latency_seconds", "From a token to the next.", &observed.next_token),
        (
            "vllm:request_time_per_output_token_seconds",
            "The mean time from a token to the next of each request.",
            &observed.per_token,
        ),
        ("vllm:request_queue_time_seconds", "From a request to its first pass.", &observed.queued),
        ("vllm:request_prefill_time_seconds", "From the first pass to the first token.", &observed.prefill),
        ("vllm:request_decode_time_seconds", "From the first token to the last.", &observed.decode),
        ("vllm:e2e_request_latency_seconds", "From a request to its end.", &observed.whole),
        ("vllm:request_prompt_tokens", "Tokens of each prompt.", &observed.prompt_tokens),
        ("vllm:request_generation_tokens", "Tokens of each answer.", &observed.generated_tokens),
    ] {
        histogram(out, name, help, of);
    }
}

fn histogram(out: &mut String, name: &str, help: &str, of: &Histogram) {
    let found = of.read();
    family(out, name, "histogram", help);
    for (bound, n) in found.at_most {
        // Prometheus' clients write whole bounds with a point.
        let _ = writeln!(out, "{name}_bucket{{le=\"{bound:?}\"}} {n}");
    }
    let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", found.n);
    let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", found.sum, found.n);
}
