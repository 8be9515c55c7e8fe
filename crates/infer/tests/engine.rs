//! The engine: what runs beside a request does not show in its answer, and nothing is left behind.

mod common;

use common::{MODELS, QUANTISED, WHOLE, endless, model, prompt};
use recast_infer::engine::{Limits, Listener, Message, Refused, Request, Summary};
use recast_infer::samplers::{Event, Finish};
use recast_infer::{Engine, Generator, InferError, Options, Sampling, Snapshot};
use recast_models::ModelState;
use recast_models::param::values;
use std::ops::ControlFlow;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

fn engine(name: &str, limits: Limits) -> Engine {
    let model = model(name);
    let tokenizer = endless(model.config.vocabulary.min(90));
    Engine::start(Arc::new(model), Arc::new(tokenizer), limits).expect("starts")
}

/// What came of a request.
#[derive(Default)]
struct Answer {
    tokens: Vec<u32>,
    text: String,
    summary: Option<Summary>,
}

fn submit(engine: &Engine, request: Request) -> (recast_infer::engine::Handle, Receiver<Message>) {
    let (send, receive) = channel();
    let listener = Box::new(move |message| match send.send(message) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    });
    (engine.submit(request, listener).expect("taken"), receive)
}

fn collect(messages: &Receiver<Message>) -> Answer {
    let mut answer = Answer::default();
    for message in messages {
        match message {
            Message::Event(Event::Fixed { token, .. }) => answer.tokens.push(token),
            Message::Event(Event::Text(text)) => answer.text.push_str(&text),
            Message::Event(Event::Done(_) | Event::Step(_)) | Message::Prompt(_) => {}
            Message::End(result) => {
                answer.summary = Some(result.expect("no error"));
                break;
            }
        }
    }
    answer
}

fn ask(engine: &Engine, request: Request) -> Answer {
    collect(&submit(engine, request).1)
}

fn idle(engine: &Engine) {
    let started = Instant::now();
    while !engine.is_idle() {
        assert!(started.elapsed() < Duration::from_secs(60), "the engine does not come to rest");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Takes a slot and holds the loop up, until what it returns is dropped.
fn hold(engine: &Engine) -> Sender<()> {
    let (go, wait) = channel::<()>();
    let listener: Listener = Box::new(move |_| {
        let _ = wait.recv();
        ControlFlow::Continue(())
    });
    engine.submit(Request { prompt: vec![1], max_tokens: 1, ..Request::default() }, listener).expect("taken");
    go
}

/// How it ended.
fn end(messages: &Receiver<Message>) -> Result<Summary, InferError> {
    loop {
        if let Message::End(result) = messages.recv_timeout(Duration::from_secs(60)).expect("an end") {
            return result;
        }
    }
}

/// A request that follows from its number: lengths, seeds, temperatures and penalties of all kinds.
fn numbered(engine: &Engine, i: usize) -> Request {
    let sampling = Sampling {
        temperature: [0.0, 0.8, 1.5][i % 3],
        top_k: (i % 4 == 1).then_some(20),
        frequency_penalty: if i % 5 == 2 { 0.5 } else { 0.0 },
        seed: i as u64,
        ..Sampling::default()
    };
    let all = prompt(engine.model(), 260);
    let start = i * 7 % 60;
    Request { prompt: all[start..start + 1 + i * 13 % 190].to_vec(), sampling, max_tokens: 1 + i * 5 % 23, ..Request::default() }
}

#[test]
fn a_thousand_requests_each_get_the_answer_they_get_alone() {
    for name in MODELS {
        let limits = Limits { slots: 12, queue: 1000, chunk: 64, ..Limits::default() };
        let engine = engine(name, limits);
        let count = 1000;
        let mut running = Vec::new();
        for i in 0..count {
            running.push((i, submit(&engine, numbered(&engine, i))));
            // Some leave: at once, in the middle, or by hanging up.
            if i % 7 == 3 {
                running.last().expect("pushed").1.0.cancel();
            }
            if i % 11 == 5 {
                let (_, (_, receiver)) = running.pop().expect("pushed");
                drop(receiver);
            }
            if i % 50 == 49 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let (mut whole, mut cut) = (Vec::new(), 0);
        for (i, (_, messages)) in running {
            let answer = collect(&messages);
            match answer.summary.as_ref().expect("ends").finish {
                Finish::Cancelled => cut += 1,
                _ => whole.push((i, answer)),
            }
        }
        idle(&engine);
        let stats = engine.stats();
        assert_eq!((stats.running, stats.waiting, stats.state_bytes), (0, 0, 0), "{name}: something is left");
        assert_eq!(stats.completed + stats.cancelled, count as u64, "{name}");
        assert!(cut > 0 && whole.len() > count / 2, "{name}: {cut} cancelled, {} whole", whole.len());
        // Alone, and without the beginnings that others have read.
        let cold = self::engine(name, Limits { slots: 1, prefix_bytes: 0, chunk: 64, ..Limits::default() });
        for (i, answer) in &whole {
            let request = numbered(&engine, *i);
            let wanted = request.max_tokens;
            let alone = ask(&cold, request);
            assert_eq!(answer.tokens, alone.tokens, "{name}: request {i}");
            assert_eq!((answer.tokens.len(), &answer.text), (wanted, &alone.text), "{name}: request {i}");
        }
    }
}

#[test]
fn an_answer_is_what_the_generator_writes() {
    for name in MODELS {
        let engine = engine(name, Limits::default());
        for i in 0..6 {
            let request = numbered(&engine, i);
            let options = Options { sampling: request.sampling.clone(), max_tokens: request.max_tokens, ..Options::default() };
            let generator = Generator::new(engine.model(), engine.tokenizer(), options).expect("options");
            let written = generator.generate(&request.prompt, &mut |_| ControlFlow::Continue(())).expect("generates");
            let answer = ask(&engine, request);
            assert_eq!((answer.tokens, answer.text), (written.tokens, written.text), "{name}: request {i}");
        }
    }
}

#[test]
fn a_state_goes_on_where_it_was() {
    for name in MODELS.iter().chain([&QUANTISED]) {
        let engine = engine(name, Limits::default());
        let tokens = prompt(engine.model(), 30);
        let request = |prompt: &[u32], max_tokens| Request {
            prompt: prompt.to_vec(),
            sampling: Sampling::greedy(),
            max_tokens,
            keep_state: true,
            ..Request::default()
        };
        let whole = ask(&engine, request(&tokens, 12));
        let first = ask(&engine, request(&tokens, 5));
        let state = first.summary.expect("ends").state.expect("kept");
        assert_eq!(state.tokens.len(), tokens.len() + 4, "{name}: all but the last written");
        let rest: Vec<Answer> =
            (0..2).map(|_| ask(&engine, Request { state: Some(state.clone()), ..request(&whole.tokens[4..5], 7) })).collect();
        for rest in &rest {
            assert_eq!(rest.tokens, whole.tokens[5..], "{name}: twice from one state");
        }
        // Through a file, and into another model's hands.
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.safetensors");
        state.save(engine.model(), &path).expect("saved");
        let loaded = Snapshot::load(engine.model(), &path).expect("loaded");
        let rest = ask(&engine, Request { state: Some(Arc::new(loaded)), ..request(&whole.tokens[4..5], 7) });
        assert_eq!(rest.tokens, whole.tokens[5..], "{name}: from a file");
        let other = model(if *name == MODELS[0] { MODELS[1] } else { MODELS[0] });
        let refused = Snapshot::load(&other, &path).expect_err("refused").to_string();
        assert!(refused.contains("another model"), "{refused}");
        // Damaged in any place: an error or a state, no panic.
        let bytes = std::fs::read(&path).expect("read");
        for cut in (0..bytes.len()).step_by(bytes.len() / 200 + 1) {
            std::fs::write(&path, &bytes[..cut]).expect("written");
            assert!(Snapshot::load(engine.model(), &path).is_err(), "{name}: cut at {cut}");
            let mut damaged = bytes.clone();
            damaged[cut] ^= 0x55;
            std::fs::write(&path, &damaged).expect("written");
            if let Ok(state) = Snapshot::load(engine.model(), &path) {
                // Absurd numbers may end in an error.
                let (_, messages) = submit(&engine, Request { state: Some(Arc::new(state)), ..request(&[1], 2) });
                assert!(messages.iter().any(|m| matches!(m, Message::End(_))));
            }
        }
    }
}

/// A state goes on in the same model held in f32, and the other way.
#[test]
fn a_state_of_a_model_held_otherwise_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let [quantised, whole] = [QUANTISED, WHOLE].map(model);
    for (from, to) in [(&quantised, &whole), (&whole, &quantised)] {
        let tokens = prompt(from, 100);
        let mut state = from.new_state();
        from.hidden(&tokens, 1, Some(&mut [&mut state]), None).expect("forward");
        Snapshot { tokens: tokens.clone(), state }.save(from, &path).expect("saved");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let ordinary = folder.path().join("ordinary");
            std::fs::write(&ordinary, "").expect("written");
            let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode();
            assert_eq!(mode(&path), mode(&ordinary), "others may read a saved state where they may read files");
        }
        let mut found = Snapshot::load(to, &path).expect("loaded").state;
        let mut like = to.new_state();
        to.hidden(&tokens, 1, Some(&mut [&mut like]), None).expect("forward");
        assert_eq!(found.bytes(), like.bytes());
        let next = |state: &mut ModelState| values(to.logits(to.hidden(&[1], 1, Some(&mut [state]), None).expect("forward")));
        let (found, expected) = (next(&mut found), next(&mut like));
        let length = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
        let error = length(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / length(&mut expected.iter().copied());
        assert!(error > 0.0 && error < 0.03, "relative error {error}");
    }
}

/// Every prompt read on from every place in it, against reading it whole.
#[test]
fn a_kept_beginning_changes_nothing() {
    for name in MODELS.iter().chain([&QUANTISED]) {
        let warm = engine(name, Limits { chunk: 32, prefix_bytes: 64 << 20, ..Limits::default() });
        let cold = engine(name, Limits { chunk: 32, prefix_bytes: 0, ..Limits::default() });
        // Of the larger one fewer, of every length; a single token's query is not rounded as those of several are.
        let (prompts, least) = if *name == QUANTISED { (31, 2) } else { (200, 1) };
        for p in 0..prompts {
            let all: Vec<u32> =
                prompt(warm.model(), 300).into_iter().map(|t| (t * 7 + p * 5) % warm.model().config.vocabulary as u32).collect();
            let tokens = &all[p as usize % 50..][..18 + p as usize % 31];
            let request = |tokens: &[u32], max_tokens| Request {
                prompt: tokens.to_vec(),
                sampling: Sampling { seed: u64::from(p), ..Sampling::default() },
                max_tokens,
                ..Request::default()
            };
            let expected = ask(&cold, request(tokens, 6)).tokens;
            for split in 16..=tokens.len() - least {
                ask(&warm, request(&tokens[..split], 0));
                let answer = ask(&warm, request(tokens, 6));
                let reused = answer.summary.expect("ends").reused_tokens;
                assert!(reused >= split, "{name}: {reused} of {split} tokens reused");
                assert_eq!(answer.tokens, expected, "{name}: prompt {p} split at {split}");
            }
        }
        let stats = warm.stats();
        assert!(stats.prefix_hits > 0 && stats.prefix_bytes <= 64 << 20 && stats.prefix_entries > 0, "{name}: {stats:?}");
        assert_eq!(cold.stats().prefix_hits, 0);
    }
}

/// A chat of ten turns reads each turn once.
#[test]
fn a_next_turn_starts_where_the_last_one_ended() {
    let engine = engine("released/rwkv7_hybrid", Limits::default());
    let mut tokens = Vec::new();
    for turn in 0..10 {
        tokens.extend(prompt(engine.model(), 40).iter().map(|t| (t + turn) % engine.model().config.vocabulary as u32));
        let before = engine.stats().prompt_tokens;
        let request = Request { prompt: tokens.clone(), sampling: Sampling::greedy(), max_tokens: 10, ..Request::default() };
        tokens.extend(ask(&engine, request).tokens);
        idle(&engine);
        let read = engine.stats().prompt_tokens - before;
        // The turn, and the last token written before it, which was not read.
        assert_eq!(read, 40 + u64::from(turn > 0), "turn {turn}");
    }
    assert_eq!(engine.stats().prefix_hits, 9);
}

#[test]
fn what_can_never_run_is_refused_and_the_rest_waits() {
    let limits = Limits { slots: 1, queue: 2, state_bytes: 200_000, ..Limits::default() };
    let engine = engine("families/llama_gqa", limits);
    let quiet = || Box::new(|_| ControlFlow::Continue(()));
    let long = |max_tokens| Request { prompt: vec![1], max_tokens, ..Request::default() };
    let refused = |request| engine.submit(request, quiet()).expect_err("refused");
    assert!(matches!(refused(long(1 << 20)), Refused::TooLarge { .. }));
    assert!(matches!(refused(Request::default()), Refused::Invalid(_)));
    assert!(matches!(refused(Request { prompt: vec![u32::MAX], ..long(1) }), Refused::Invalid(_)));
    let hot = Sampling { temperature: -1.0, ..Sampling::default() };
    assert!(matches!(refused(Request { sampling: hot, ..long(1) }), Refused::Invalid(_)));
    let taken: Vec<_> = (0..3).map(|_| submit(&engine, long(60))).collect();
    assert!(matches!(refused(long(1)), Refused::QueueFull { .. }));
    engine.drain();
    assert_eq!(refused(long(1)), Refused::Stopping);
    for (_, messages) in &taken {
        assert_eq!(collect(messages).tokens.len(), 60, "what was taken runs to its end");
    }
    idle(&engine);
    assert_eq!(engine.stats().refused, 6);
    // Dropped with work in hand: it ends, and says so.
    let other = self::engine("families/llama_gqa", Limits::default());
    let (_, messages) = submit(&other, long(2000));
    drop(other);
    assert_eq!(collect(&messages).summary.expect("ends").finish, Finish::Cancelled);
}

/// As a server does whose last request outlives it.
#[test]
fn a_listener_may_hold_the_last_handle() {
    for _ in 0..20 {
        let engine = Arc::new(engine("families/llama_gqa", Limits::default()));
        let (send, receive) = channel();
        let held = engine.clone();
        let listener = move |message| {
            let _ = (&held, send.send(matches!(message, Message::End(_))));
            ControlFlow::Continue(())
        };
        engine.submit(Request { prompt: vec![1, 2], max_tokens: 3, ..Request::default() }, Box::new(listener)).expect("taken");
        drop(engine);
        // The channel closes when the listener is gone.
        let mut ended = false;
        while let Ok(end) = receive.recv_timeout(Duration::from_secs(30)) {
            ended |= end;
        }
        assert!(ended && receive.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected));
    }
}

#[test]
fn a_prompt_is_scored_as_the_model_scores_it() {
    let engine = engine("released/rwkv7_hybrid", Limits { chunk: 16, ..Limits::default() });
    let tokens = prompt(engine.model(), 50);
    let (_, messages) =
        submit(&engine, Request { prompt: tokens.clone(), score_prompt: true, alternatives: 3, ..Request::default() });
    let Ok(Message::Prompt(scored)) = messages.recv() else { panic!("the prompt comes first") };
    assert_eq!(collect(&messages).summary.expect("ends").finish, Finish::Length);
    let model = engine.model();
    let logits = recast_models::param::values(model.logits(model.hidden(&tokens, 1, None, None).expect("forward")));
    assert_eq!(scored.len(), tokens.len());
    assert_eq!((scored[0].token, scored[0].log_probability), (tokens[0], None));
    for (place, scored) in scored.iter().enumerate().skip(1) {
        let row = &logits[(place - 1) * model.config.vocabulary..][..model.config.vocabulary];
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let normaliser = row.iter().map(|x| (x - largest).exp()).sum::<f32>().ln() + largest;
        let expected = row[tokens[place] as usize] - normaliser;
        assert!((scored.log_probability.expect("scored") - expected).abs() < 1e-3, "place {place}");
        assert_eq!(scored.alternatives.len(), 3);
        assert!((scored.alternatives[0].log_probability - (largest - normaliser)).abs() < 1e-3);
    }
}

/// One that is read while another is, is not behind all of it.
#[test]
fn a_short_prompt_does_not_wait_for_a_long_one() {
    let engine = engine("families/llama_gqa", Limits { slots: 8, chunk: 16, ..Limits::default() });
    let (send, ends) = channel();
    let ask = |name: &'static str, prompt: &[u32]| {
        let send = send.clone();
        let listener: Listener = Box::new(move |message| {
            if let Message::End(result) = message {
                let _ = send.send((name, result.is_ok()));
            }
            ControlFlow::Continue(())
        });
        engine.submit(Request { prompt: prompt.to_vec(), max_tokens: 1, ..Request::default() }, listener).expect("taken");
    };
    let tokens = prompt(engine.model(), 2000);
    let go = hold(&engine);
    ask("long", &tokens);
    ask("short", &tokens[1..9]);
    // Three answers to one prompt.
    (0..3).for_each(|_| ask("again", &tokens[2..302]));
    drop(go);
    let order: Vec<(&str, bool)> = ends.iter().take(5).collect();
    assert_eq!(order, [("short", true), ("again", true), ("again", true), ("again", true), ("long", true)]);
    idle(&engine);
    // The one that held the loop up had a token; the answers to one prompt read it once.
    let stats = engine.stats();
    assert_eq!(stats.prompt_tokens, 1 + 2000 + 8 + 300);
    // Of 125 chunks and 19 the states farther on are kept farther apart.
    assert!((60..100).contains(&stats.prefix_entries), "{} states", stats.prefix_entries);
}

#[test]
fn what_belongs_together_is_taken_together() {
    let engine = engine("families/llama_gqa", Limits { slots: 2, queue: 3, ..Limits::default() });
    let quiet = || -> Listener { Box::new(|_| ControlFlow::Continue(())) };
    let request = || Request { prompt: vec![1], max_tokens: 1, ..Request::default() };
    let batch = |count: usize| -> Vec<(Request, Listener)> { (0..count).map(|_| (request(), quiet())).collect() };
    let go = hold(&engine);
    // One slot and three places are left, whether the one that holds the loop up is seated yet or not.
    assert!(matches!(engine.submit_all(batch(5)), Err(Refused::QueueFull { .. })));
    let mut wrong = batch(2);
    wrong.push((Request::default(), quiet()));
    assert!(matches!(engine.submit_all(wrong), Err(Refused::Invalid(_))));
    assert_eq!(engine.stats().refused, 8, "all of a batch or none");
    assert_eq!(engine.submit_all(batch(4)).expect("taken").len(), 4);
    drop(go);
    idle(&engine);
    assert_eq!(engine.stats().completed, 5);
}

#[test]
fn what_one_has_asked_is_not_found_by_another() {
    let engine = engine("released/rwkv7_hybrid", Limits::default());
    let tokens = prompt(engine.model(), 40);
    let reused = |owner| {
        let answer = ask(&engine, Request { prompt: tokens.clone(), max_tokens: 1, owner, ..Request::default() });
        idle(&engine);
        answer.summary.expect("ends").reused_tokens
    };
    assert_eq!([reused(1), reused(2), reused(1), reused(0)], [0, 0, 40, 0]);
}

#[test]
fn who_leaves_while_waiting_gives_the_place_up() {
    let engine = engine("released/rwkv6_rope_gate2", Limits { slots: 1, queue: 1, ..Limits::default() });
    let request = |max_tokens| Request { prompt: vec![1], max_tokens, ..Request::default() };
    let (long, messages) = submit(&engine, request(1 << 30));
    // It has the slot.
    assert!(messages.recv().is_ok());
    let (second, left) = submit(&engine, request(1));
    second.cancel();
    assert_eq!(end(&left).expect("no error").finish, Finish::Cancelled);
    // There is room for another, which learns in time that it was not answered in time.
    let (_, late) = submit(&engine, Request { deadline: Some(Instant::now() + Duration::from_millis(50)), ..request(1) });
    assert_eq!(end(&late).expect("no error").finish, Finish::Cancelled);
    assert!(engine.stats().running > 0, "the first still writes");
    long.cancel();
    assert_eq!(end(&messages).expect("no error").finish, Finish::Cancelled);
    idle(&engine);
    assert_eq!((engine.stats().cancelled, engine.stats().refused), (3, 0));
}

#[test]
fn a_panic_ends_what_runs_and_waits_and_not_the_engine() {
    let engine = engine("released/rwkv7_hybrid", Limits { slots: 2, chunk: 16, ..Limits::default() });
    let tokens = prompt(engine.model(), 40);
    let request = |max_tokens| Request { prompt: tokens.clone(), max_tokens, sampling: Sampling::greedy(), ..Request::default() };
    let before = ask(&engine, request(5)).tokens;
    idle(&engine);
    let go = hold(&engine);
    let (_, beside) = submit(&engine, request(5000));
    let panics: Listener = Box::new(|_| panic!("a test of what comes of a panic"));
    engine.submit(request(5), panics).expect("taken");
    let (_, waits) = submit(&engine, request(5));
    drop(go);
    for messages in [&beside, &waits] {
        let error = end(messages).expect_err("the panic ends it");
        assert!(matches!(error, InferError::Panicked), "{error}");
    }
    idle(&engine);
    let stats = engine.stats();
    assert_eq!((stats.failed, stats.prefix_entries, stats.state_bytes), (3, 0, 0));
    assert_eq!(ask(&engine, request(5)).tokens, before, "it goes on");
}
