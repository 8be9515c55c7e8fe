//! What a plan says: figures that can be counted by hand, and estimates that move the right way.

use burn::tensor::Device;
use recast_models::param::count;
use recast_models::rope::Scaling;
use recast_models::{Diffusion, Model};
use recast_train::plan::{Plan, StagePlan};
use recast_train::recipe;
use std::path::Path;

fn model(name: &str) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/train").join(name);
    Model::open(&path, &Device::flex()).expect("golden model")
}

/// Stages of one plan, which tries the machine's speed once.
fn plan(stages: &[(&str, &str, &str)]) -> (Plan, Model, Model) {
    let stages: String = stages
        .iter()
        .map(|(name, objective, more)| {
            format!("[[stages]]\nname = \"{name}\"\nobjective = \"{objective}\"\ntokens = 64000\ncontext = 64\nbatch = 4\nlearning_rate = 1e-3\n{more}\n")
        })
        .collect();
    let text = format!(
        "name = \"plan\"\n[teacher]\npath = \"embedded\"\n[student]\nmixer = {{ kind = \"rwkv7\" }}\n\
         [text]\ntrain = [\"embedded\"]\n[validation]\ntokens = 1000\n{stages}"
    );
    let recipe = recipe::load_text(&text, &[]).expect("a recipe");
    let (teacher, student) = (model("teacher"), model("student"));
    (Plan::new(&recipe, Some(&teacher), &student).expect("a plan"), teacher, student)
}

#[test]
fn operations_are_those_of_the_models() {
    let (plan, teacher, student) = plan(&[
        ("align", "output-alignment", "train = [\"self_attn\"]"),
        ("distil", "logit-kl", ""),
        ("recomputed", "logit-kl", "recompute = true"),
        ("extend", "next-token", ""),
    ]);
    let table = |model: &Model| model.config.vocabulary * model.config.hidden;
    let body = |model: &Model| count(&model.parameters()) - table(model) * if model.config.tied { 1 } else { 2 };
    let products = |model: &Model| (body(model) + table(model)) as f64;
    let flops: Vec<f64> = plan.stages.iter().map(|stage| stage.flops_per_token).collect();
    assert_eq!(flops[0], 2.0 * body(&teacher) as f64 + 6.0 * plan.mixer_parameters as f64);
    assert_eq!(flops[1], 2.0 * products(&teacher) + 6.0 * products(&student));
    assert!((flops[2] - flops[1] - 2.0 * products(&student)).abs() < 1e-6 * flops[2], "one more forward pass");
    assert_eq!(flops[3], 6.0 * products(&student));
    let [align, distil, recomputed, _] = &plan.stages[..] else { panic!("four stages") };
    assert_eq!((align.trainable, distil.trainable), (plan.mixer_parameters, plan.parameters));
    assert_eq!((distil.steps, distil.tokens, distil.tokens_per_step), (250, 64_000, 256));
    assert!(recomputed.bytes < distil.bytes && recomputed.seconds > distil.seconds);
    assert!(align.bytes < distil.bytes);
}

#[test]
fn time_follows_tokens_and_measurements() {
    let (plan, ..) = plan(&[
        ("a", "logit-kl", "validate_every = 0"),
        ("b", "logit-kl", "validate_every = 50"),
        ("c", "logit-kl", "validate_every = 25"),
        ("d", "logit-kl", "micro_batch = 1"),
    ]);
    let seconds = |stage: usize| plan.stages[stage].seconds;
    // One measurement ends each; b has four before it, c nine.
    let (four, nine) = (seconds(1) - seconds(0), seconds(2) - seconds(0));
    assert!(four > 0.0 && (nine / four - 9.0 / 4.0).abs() < 1e-6, "{four} s for four, {nine} s for nine");
    assert!(plan.stages[3].bytes < plan.stages[0].bytes, "a quarter of the activations");
    let whole = |of: fn(&StagePlan) -> f64| plan.stages.iter().map(of).sum::<f64>();
    assert!((plan.seconds - whole(|s| s.seconds)).abs() < 1e-9);
    assert_eq!(plan.bytes, plan.stages[0].bytes);
    assert!(plan.gflops > 0.0 && plan.seconds_per_value > 0.0);
}

/// Behind the last stage, where a stage reads longer windows than those that all are judged in.
#[test]
fn time_counts_the_long_windows_that_end_a_run() {
    let stage = |name: &str| {
        format!(
            "[[stages]]\nname = \"{name}\"\nobjective = \"next-token\"\ntokens = 640\ncontext = 64\nbatch = 4\nlearning_rate = 1e-3\n"
        )
    };
    let text = format!(
        "name = \"plan\"\n[teacher]\npath = \"embedded\"\n[student]\nmixer = {{ kind = \"rwkv7\" }}\n\
         [text]\ntrain = [\"embedded\"]\n{}{}",
        stage("one"),
        stage("like-it")
    );
    let (teacher, student) = (model("teacher"), model("student"));
    for (tokens, context, longer) in [(64, 16, true), (63, 16, false), (1000, 64, false)] {
        let sets = [format!("validation.tokens={tokens}"), format!("validation.context={context}")];
        let recipe = recipe::load_text(&text, &sets).expect("a recipe");
        for teacher in [None, Some(&teacher)] {
            let plan = Plan::new(&recipe, teacher, &student).expect("a plan");
            let more = plan.stages[1].seconds - plan.stages[0].seconds;
            assert!(if longer { more > 0.0 } else { more == 0.0 }, "{tokens} tokens, {context} a window: {more} s");
        }
    }
}

#[test]
fn a_teacher_that_denoises_is_not_imitated_under_a_causal_mask() {
    let text = "name = \"plan\"\n[teacher]\npath = \"embedded\"\n[student]\nmixer = { kind = \"rwkv7\" }\n\
                [text]\ntrain = [\"embedded\"]\n[[stages]]\nname = \"align\"\nobjective = \"output-alignment\"\n\
                tokens = 64\ncontext = 16\nbatch = 4\nlearning_rate = 1e-3\n";
    let (mut teacher, student) = (model("teacher"), model("student"));
    for objective in ["output-alignment", "logit-kl"] {
        let sets = [format!("stages.align.objective={objective}")];
        let recipe = recipe::load_text(text, &sets).expect("a recipe");
        // Shifted blocks may have had a next-token loss beside them.
        for (block, shift, fits) in [(None, false, false), (None, true, false), (Some(4), false, false), (Some(4), true, true)] {
            teacher.config.diffusion = Some(Diffusion { mask_token: 0, block, shift, uniform: false });
            let refused = Plan::new(&recipe, Some(&teacher), &student).err().map(|error| error.to_string());
            assert_eq!(refused.is_none(), fits, "{objective}, {block:?}, shift {shift}: {refused:?}");
            assert!(fits || refused.is_some_and(|error| error.contains("the teacher denoises")), "{objective}");
        }
    }
}

/// Positions that depend on the length of the row, which is not that of the text in it.
#[test]
fn padding_that_moves_positions_is_refused() {
    let text = "name = \"plan\"\n[teacher]\npath = \"embedded\"\n[student]\ndiffusion = {}\n\
                [text]\ntrain = [\"embedded\"]\n[[stages]]\nname = \"tune\"\nobjective = \"masked-diffusion\"\n\
                pairs = [\"a.jsonl\"]\ntokens = 64\ncontext = 16\nbatch = 4\nlearning_rate = 1e-3\n";
    let mut student = model("student");
    student.config.diffusion = Some(Diffusion { mask_token: 0, block: None, shift: true, uniform: false });
    for (padding, max_positions, fits) in [("none", 8, false), ("none", 16, true), ("longest", 8, true)] {
        student.config.rope.scaling = Scaling::Dynamic { factor: 2.0, max_positions };
        let recipe = recipe::load_text(text, &[format!("stages.tune.diffusion.padding={padding}")]).expect("a recipe");
        let refused = Plan::new(&recipe, None, &student).err().map(|error| error.to_string());
        assert_eq!(refused.is_none(), fits, "{padding}, {max_positions}: {refused:?}");
        assert!(fits || refused.is_some_and(|error| error.contains("padding = \"longest\"")), "{padding}");
    }
}
