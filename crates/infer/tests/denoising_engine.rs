//! Models that denoise in the engine: every text is what it would be alone, and what cannot be asked
//! of them is refused.

mod common;

use common::{endless, masked, model, scattered, unmasked_prompt};
use recast_infer::engine::{Constraint, Limits, Message, Refused, Request, Summary};
use recast_infer::samplers::denoising::{Canvas, Denoising, Filler, Keep, Masked, Rule};
use recast_infer::samplers::{Event, Finish};
use recast_infer::{Engine, Sampling};
use recast_models::Model;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

fn engine(model: Model) -> Engine {
    let tokenizer = endless(model.config.vocabulary);
    let limits = Limits { slots: 4, queue: 64, state_bytes: 64 << 20, prefix_bytes: 8 << 20, chunk: 16 };
    Engine::start(Arc::new(model), Arc::new(tokenizer), limits).expect("starts")
}

fn submit(engine: &Engine, request: Request) -> Receiver<Message> {
    let (send, receive) = channel();
    let listener =
        Box::new(move |message| if send.send(message).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) });
    engine.submit(request, listener).expect("taken");
    receive
}

/// Tokens, text, steps and summary.
fn collect(messages: &Receiver<Message>) -> (Vec<u32>, String, usize, Summary) {
    let (mut tokens, mut text, mut steps) = (Vec::new(), String::new(), 0);
    for message in messages {
        match message {
            Message::Event(Event::Fixed { token, index, .. }) => {
                assert_eq!(index, tokens.len());
                tokens.push(token);
            }
            Message::Event(Event::Text(piece)) => text.push_str(&piece),
            Message::Event(Event::Step(step)) => {
                assert!(step.changes.iter().all(|change| change.index >= tokens.len()), "what is final does not change");
                steps += 1;
            }
            Message::End(result) => return (tokens, text, steps, result.expect("no error")),
            Message::Event(Event::Done(_)) | Message::Prompt(_) => {}
        }
    }
    panic!("no end");
}

#[test]
fn many_requests_are_each_what_they_are_alone() {
    type Make = fn(&str, Option<usize>, bool) -> Model;
    let cases = [
        ("families/llama_gqa", Some(8), true, masked as Make),
        ("families/llama_gqa", None, false, masked),
        ("families/llama_gqa", None, false, scattered),
        ("released/rwkv7_hybrid", Some(8), true, masked),
        ("released/rwkv7_hybrid", Some(8), true, scattered),
        ("released/rwkv6_rope_gate2", Some(8), false, masked),
    ];
    for (name, block, shift, make) in cases {
        let reference = make(name, block, shift);
        let denoiser = Masked::new(&reference).expect("masked");
        let tokenizer = endless(reference.config.vocabulary);
        let engine = engine(make(name, block, shift));
        let all = unmasked_prompt(&reference, 100);
        // Twice the same, so that the second round finds states.
        for round in 0..2 {
            let requests: Vec<Request> = (0..9usize)
                .map(|i| Request {
                    prompt: all[..20 + i * 7].to_vec(),
                    sampling: Sampling { temperature: [0.0, 1.0][i % 2], seed: i as u64, ..Sampling::default() },
                    denoising: Some(Denoising {
                        rule: [Rule::Threshold { at: 0.04 }, Rule::Fixed { steps: 5 }][i % 2],
                        ..Denoising::default()
                    }),
                    max_tokens: 11 + i * 3,
                    ..Request::default()
                })
                .collect();
            let running: Vec<Receiver<Message>> = requests.iter().map(|request| submit(&engine, request.clone())).collect();
            for (i, (request, messages)) in requests.iter().zip(&running).enumerate() {
                let (tokens, text, steps, summary) = collect(messages);
                let Sampling { temperature, seed, .. } = request.sampling;
                let settings = Denoising { temperature, seed, ..request.denoising.clone().expect("given") };
                let filler = Filler::new(&denoiser, &tokenizer, settings, Vec::new()).expect("settings");
                let alone = filler
                    .fill(&Canvas::after(&request.prompt, request.max_tokens), &mut |_| ControlFlow::Continue(()))
                    .expect("fills");
                assert_eq!((&tokens, &text), (&alone.tokens, &alone.text), "{name} {block:?}, round {round}, request {i}");
                let counters = summary.denoising.expect("it denoises");
                assert_eq!((counters, summary.completion_tokens), (alone.counters, alone.tokens.len()));
                assert_eq!(steps, counters.forwards - counters.refreshes);
                assert_eq!(summary.finish, Finish::Length);
                // States of fewer than 16 tokens are not kept.
                assert!(
                    round == 0 || block.is_none() || i < 2 || summary.reused_tokens >= 16,
                    "{name}: {}",
                    summary.reused_tokens
                );
            }
        }
        let stats = engine.stats();
        assert_eq!((stats.completed, stats.failed), (18, 0));
        assert_eq!(stats.completion_tokens, 2 * (0..9).map(|i| 11 + i * 3).sum::<u64>());
    }
}

#[test]
fn what_models_that_denoise_cannot_do_is_refused() {
    let engine = engine(masked("families/llama_gqa", Some(8), false));
    let refused = |request: Request| match engine.submit(request, Box::new(|_| ControlFlow::Continue(()))) {
        Err(error @ (Refused::Invalid(_) | Refused::Field { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let plain = || Request { prompt: vec![1, 2, 3], max_tokens: 9, ..Request::default() };
    let sampling = |sampling| Request { sampling, ..plain() };
    let penalty = Sampling { presence_penalty: 0.5, ..Sampling::default() };
    for (name, settings) in [("top_k", Sampling { top_k: Some(3), ..Sampling::default() }), ("presence_penalty", penalty)] {
        let error = refused(sampling(settings));
        assert!(error.starts_with(&format!("{name}: ")) && error.contains("the model denoises"), "{error}");
    }
    let constraint = refused(Request { constraint: Some(Constraint::Regex("a".into())), ..plain() });
    assert!(constraint.starts_with("constraint: expected a next-token model"), "{constraint}");
    assert!(refused(Request { keep_state: true, ..plain() }).contains("state"));
    assert!(refused(Request { alternatives: 2, ..plain() }).contains("alternatives"));
    assert!(refused(Request { score_prompt: true, ..plain() }).contains("scores"));
    let with = |denoising| Request { denoising: Some(denoising), ..plain() };
    assert!(refused(with(Denoising { block: Some(20), ..Denoising::default() })).contains("block: expected at most"));
    assert!(refused(with(Denoising { rule: Rule::Fixed { steps: 0 }, ..Denoising::default() })).contains("steps"));
    assert!(refused(Request { prompt: vec![1, 95], ..plain() }).contains("mask token"));
    let next_token = self::engine(model("families/llama_gqa"));
    let asked = next_token.submit(with(Denoising::default()), Box::new(|_| ControlFlow::Continue(())));
    assert!(matches!(asked, Err(Refused::Field { field: "denoising", message }) if message.contains("next-token model")));
    // What a recurrence cannot keep is refused before it takes a slot.
    let recurrent = self::engine(masked("released/rwkv7_hybrid", None, false));
    for keep in [Keep::Prefix, Keep::Around] {
        let request = with(Denoising { keep, ..Denoising::default() });
        let asked = recurrent.submit(request, Box::new(|_| ControlFlow::Continue(())));
        assert!(matches!(asked, Err(Refused::Field { field: "denoising", message }) if message.contains("keep nothing")));
    }
    // More than can be laid out.
    let long = Request { max_tokens: usize::MAX, ..plain() };
    let asked = recurrent.submit(long.clone(), Box::new(|_| ControlFlow::Continue(())));
    assert!(matches!(asked, Err(Refused::TooLarge { .. })), "{asked:?}");
    let constant = self::engine(masked("released/rwkv7_keys_omitted", None, false));
    let asked = constant.submit(long, Box::new(|_| ControlFlow::Continue(())));
    assert!(matches!(asked, Err(Refused::Invalid(message)) if message.contains("at most 1048576 positions")));
    // Nothing to write is nothing wrong.
    let (tokens, _, steps, summary) = collect(&submit(&engine, Request { max_tokens: 0, ..plain() }));
    assert_eq!((tokens.len(), steps, summary.finish), (0, 0, Finish::Length));
}

/// The largest number there is is as good as one that suffices.
#[test]
fn no_number_is_too_large() {
    let engine = engine(masked("families/llama_gqa", None, false));
    let ask = |ahead, steps| Request {
        prompt: (1..20).collect(),
        max_tokens: 12,
        denoising: Some(Denoising { block: Some(4), ahead, rule: Rule::Fixed { steps }, ..Denoising::default() }),
        ..Request::default()
    };
    let (enough, ..) = collect(&submit(&engine, ask(None, 12)));
    for (ahead, steps) in [(Some(usize::MAX), 12), (None, usize::MAX)] {
        let (tokens, ..) = collect(&submit(&engine, ask(ahead, steps)));
        assert_eq!(tokens, enough, "{ahead:?} {steps}");
    }
    assert_eq!(enough.len(), 12);
}

#[test]
fn stop_strings_and_cancelling() {
    let engine = engine(masked("families/llama_gqa", Some(8), false));
    let ask = |stop: Vec<String>| Request {
        prompt: (1..20).collect(),
        max_tokens: 40,
        stop,
        denoising: Some(Denoising { rule: Rule::Fixed { steps: 40 }, ..Denoising::default() }),
        sampling: Sampling { temperature: 1.0, ..Sampling::default() },
        ..Request::default()
    };
    let (_, free, all_steps, _) = collect(&submit(&engine, ask(Vec::new())));
    let middle: String = free.chars().skip(12).take(2).collect();
    let at = free.find(&middle).expect("it is there");
    let (_, text, steps, summary) = collect(&submit(&engine, ask(vec![middle.clone()])));
    assert_eq!((text.as_str(), summary.finish), (&free[..at], Finish::StopString(middle)));
    assert!(steps < all_steps);
    // Breaks after the first step.
    let (send, receive) = channel();
    let mut seen = 0;
    let listener = Box::new(move |message| {
        seen += usize::from(matches!(message, Message::Event(Event::Step(_))));
        let _ = send.send(message);
        if seen > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    engine.submit(ask(Vec::new()), listener).expect("taken");
    let last = receive.iter().last().expect("messages");
    assert!(matches!(last, Message::End(Ok(Summary { finish: Finish::Cancelled, .. }))), "{last:?}");
}
