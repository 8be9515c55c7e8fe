//! Generation against the full forward pass, on tiny models of every mixer.

mod common;

use common::{MODELS, endless, largest_difference, model, prompt};
use recast_infer::samplers::{Event, Finish};
use recast_infer::{Generation, Generator, Options, Sampling, prefill, speed};
use recast_models::Model;
use recast_models::param::values;
use recast_text::Tokenizer;
use std::ops::ControlFlow;

fn options(sampling: Sampling, max_tokens: usize) -> Options {
    Options { sampling, max_tokens, ..Options::default() }
}

fn quiet(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn generate(model: &Model, tokenizer: &Tokenizer, options: Options, prompt: &[u32]) -> Generation {
    Generator::new(model, tokenizer, options).expect("options").generate(prompt, &mut quiet).expect("generates")
}

#[test]
fn greedy_is_the_argmax_of_the_full_forward_pass_at_every_step() {
    for name in MODELS {
        let model = model(name);
        let tokenizer = endless(model.config.vocabulary);
        let mut tokens = prompt(&model, 23);
        let written = generate(&model, &tokenizer, options(Sampling::greedy(), 20), &tokens);
        assert_eq!((written.tokens.len(), &written.finish), (20, &Finish::Length), "{name}");
        for (step, &token) in written.tokens.iter().enumerate() {
            let hidden = model.hidden(&tokens, 1, None, None).expect("forward");
            let logits = values(model.logits(hidden));
            let last = &logits[logits.len() - model.config.vocabulary..];
            let largest = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // Rounding differs between the two ways; a near tie may fall either way.
            assert!(largest - last[token as usize] < 1e-4, "{name}, step {step}");
            let sum: f64 = last.iter().map(|x| f64::from(x - largest).exp()).sum();
            let expected = f64::from(last[token as usize] - largest) - sum.ln();
            assert!((f64::from(written.log_probabilities[step]) - expected).abs() < 1e-3, "{name}, step {step}");
            tokens.push(token);
        }
    }
}

#[test]
fn a_prompt_in_chunks_is_the_prompt() {
    for name in MODELS {
        let model = model(name);
        let tokens = prompt(&model, 75);
        let whole = values(model.hidden(&tokens, 1, None, None).expect("forward"));
        let whole = &whole[whole.len() - model.config.hidden..];
        for chunk in [1, 7, 64, 75, 1000] {
            let mut state = model.new_state();
            let last = values(prefill(&model, &mut [&mut state], &tokens, chunk).expect("prefill"));
            assert_eq!(state.position, 75);
            let far = largest_difference(&last, whole);
            assert!(far < 1e-3, "{name}, chunks of {chunk}: {far:e}");
        }
    }
}

#[test]
fn a_seed_is_a_text() {
    let model = model("released/rwkv7_hybrid");
    let tokenizer = endless(model.config.vocabulary);
    let with = |seed| {
        let sampling = Sampling { temperature: 2.0, seed, ..Sampling::default() };
        generate(&model, &tokenizer, options(sampling, 30), &prompt(&model, 5)).tokens
    };
    assert_eq!(with(3), with(3));
    assert_ne!(with(3), with(4));
}

#[test]
fn events_spell_the_result() {
    let model = model("families/llama_gqa");
    let tokenizer = endless(model.config.vocabulary);
    let sampling = Sampling { temperature: 3.0, ..Sampling::default() };
    let generator = Generator::new(&model, &tokenizer, options(sampling, 200)).expect("options");
    let mut events = Vec::new();
    let written = generator
        .generate(&prompt(&model, 3), &mut |event| {
            events.push(event);
            ControlFlow::Continue(())
        })
        .expect("generates");
    let mut text = String::new();
    let mut tokens = Vec::new();
    for event in &events {
        match event {
            Event::Text(piece) => text.push_str(piece),
            Event::Fixed { index, token, .. } => {
                assert_eq!(*index, tokens.len());
                tokens.push(*token);
            }
            Event::Done(finish) => assert_eq!(finish, &written.finish),
            Event::Step(step) => panic!("not a denoising sampler: {step:?}"),
        }
    }
    assert_eq!((&text, &tokens), (&written.text, &written.tokens));
    assert_eq!(text, tokenizer.decode(&tokens, true));
    assert!(matches!(events.last(), Some(Event::Done(Finish::Length))));
}

#[test]
fn stop_strings_end_a_text_across_tokens() {
    let model = model("families/llama_gqa");
    let tokenizer = endless(model.config.vocabulary);
    let sampling = Sampling { temperature: 1.5, ..Sampling::default() };
    let run = |stop: &[&str]| {
        let stop = stop.iter().map(|s| (*s).to_string()).collect();
        let options = Options { stop, ..options(sampling.clone(), 60) };
        generate(&model, &tokenizer, options, &prompt(&model, 9))
    };
    let free = run(&[]);
    // A token is a letter at most, so three letters are three tokens or more.
    let middle: String = free.text.chars().skip(20).take(3).collect();
    let at = free.text.find(&middle).expect("it is there");
    let stopped = run(&["not there", &middle]);
    assert_eq!(stopped.text, free.text[..at]);
    assert_eq!(stopped.finish, Finish::StopString(middle.clone()));
    assert!(stopped.tokens.len() < free.tokens.len());
    // What begins like a stop string at the very end is text.
    let tail: String = free.text.chars().skip(free.text.chars().count() - 2).collect();
    let held = run(&[&format!("{tail}?")]);
    assert_eq!((held.text, held.finish), (free.text, Finish::Length));
}

#[test]
fn an_end_token_ends_and_is_not_shown() {
    let model = model("families/llama_gqa");
    let endless = endless(model.config.vocabulary);
    let free = generate(&model, &endless, options(Sampling { temperature: 1.5, ..Sampling::default() }, 40), &[1]);
    let known = |t: &&u32| (**t as usize) < endless.vocab_size();
    let end = *free.tokens.iter().skip(7).find(known).expect("one that has a name");
    let first = free.tokens.iter().position(|t| *t == end).expect("it is there");
    let tokenizer = endless.clone().with_special_tokens(None, vec![end]).expect("in the vocabulary");
    let ended = generate(&model, &tokenizer, options(Sampling { temperature: 1.5, ..Sampling::default() }, 40), &[1]);
    assert_eq!((ended.tokens.as_slice(), ended.finish), (&free.tokens[..=first], Finish::EndToken(end)));
    assert_eq!(ended.text, endless.decode(&free.tokens[..first], true));
}

#[test]
fn listeners_may_end_it_and_states_go_on() {
    let model = model("released/rwkv7_hybrid");
    let tokenizer = endless(model.config.vocabulary);
    let tokens = prompt(&model, 6);
    let free = generate(&model, &tokenizer, options(Sampling::greedy(), 12), &tokens);
    let generator = Generator::new(&model, &tokenizer, options(Sampling::greedy(), 12)).expect("options");
    let mut state = model.new_state();
    let mut stop_at = |event| match event {
        Event::Fixed { index: 4, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let begun = generator.resume(&mut state, &tokens, &mut stop_at).expect("generates");
    assert_eq!((begun.tokens.as_slice(), begun.finish), (&free.tokens[..5], Finish::Cancelled));
    let rest = generator.resume(&mut state, &free.tokens[4..5], &mut quiet).expect("generates");
    assert_eq!(rest.tokens[..7], free.tokens[5..]);
}

#[test]
fn a_batch_is_its_rows() {
    for name in MODELS {
        let model = model(name);
        let tokenizer = endless(model.config.vocabulary);
        let all = prompt(&model, 40);
        let prompts = [&all[..9], &all[3..8], &all[20..40], &all[10..11]];
        let first = generate(&model, &tokenizer, options(Sampling::greedy(), 15), prompts[0]);
        // Ends some rows before others.
        let known = |t: &&u32| (**t as usize) < tokenizer.vocab_size();
        let end = first.tokens.iter().skip(4).find(known).copied().unwrap_or(0);
        let tokenizer = tokenizer.with_special_tokens(None, vec![end]).expect("in the vocabulary");
        let generator = Generator::new(&model, &tokenizer, options(Sampling::greedy(), 15)).expect("options");
        let batch = generator.generate_batch(&prompts).expect("generates");
        for (prompt, row) in prompts.iter().zip(batch) {
            let alone = generator.generate(prompt, &mut quiet).expect("generates");
            assert_eq!((row.tokens, row.text, row.finish), (alone.tokens, alone.text, alone.finish), "{name}");
        }
    }
}

#[test]
fn bad_input_is_an_error() {
    let model = model("families/llama_gqa");
    let tokenizer = endless(model.config.vocabulary);
    let generator = Generator::new(&model, &tokenizer, options(Sampling::greedy(), 3)).expect("options");
    assert!(generator.generate(&[], &mut quiet).is_err());
    assert!(generator.generate(&[1, 1 << 20], &mut quiet).is_err());
    assert!(Generator::new(&model, &tokenizer, options(Sampling { top_k: Some(0), ..Sampling::default() }, 3)).is_err());
    assert!(Generator::new(&model, &tokenizer, Options { chunk: 0, ..Options::default() }).is_err());
    let nothing = generate(&model, &tokenizer, options(Sampling::greedy(), 0), &[1]);
    assert_eq!((nothing.tokens.len(), nothing.finish), (0, Finish::Length));
}

#[test]
fn speed_is_measured_at_the_lengths_asked() {
    let model = model("released/rwkv7_hybrid");
    let found = speed::decode_speed(&model, &[8, 90], 5).expect("measures");
    assert_eq!(found.iter().map(|s| s.context).collect::<Vec<_>>(), [8, 90]);
    assert!(found.iter().all(|s| s.tokens_per_second > 0.0 && s.prefill_tokens_per_second > 0.0));
    assert!(found[0].state_bytes < found[1].state_bytes);
    assert!(speed::decode_speed(&model, &[8, 8], 5).is_err());
    assert!(speed::decode_speed(&model, &[8], 0).is_err());
}
