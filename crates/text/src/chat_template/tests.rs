//! Published templates, with results written down by hand.

use serde_json::json;

use super::*;

const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const LLAMA3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

const MISTRAL: &str = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";

const QWEN25: &str = r#"{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"#;

fn talk() -> Vec<Message> {
    vec![Message::new("user", "Hi <b> & 'you'"), Message::new("assistant", "Hello."), Message::new("user", "Bye\n")]
}

fn render(source: &str, messages: &[Message], prompt: bool) -> Result<String> {
    ChatTemplate::new(source.into(), "<s>", "</s>")?.render(messages, prompt, None)
}

#[test]
fn smollm2_adds_its_system_turn() {
    let head = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n";
    let body = "<|im_start|>user\nHi <b> & 'you'<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye\n<|im_end|>\n";
    assert_eq!(render(SMOLLM2, &talk(), false).unwrap(), format!("{head}{body}"));
    assert_eq!(render(SMOLLM2, &talk(), true).unwrap(), format!("{head}{body}<|im_start|>assistant\n"));
    let own = [Message::new("system", "Be brief."), Message::new("user", "Hi")];
    assert_eq!(
        render(SMOLLM2, &own, false).unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    );
}

#[test]
fn llama3_trims_and_begins() {
    assert_eq!(
        render(LLAMA3, &talk(), true).unwrap(),
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi <b> & 'you'<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

#[test]
fn mistral_refuses_in_its_own_words() {
    assert_eq!(render(MISTRAL, &talk(), true).unwrap(), "<s>[INST] Hi <b> & 'you' [/INST]Hello.</s>[INST] Bye\n [/INST]");
    let twice = [Message::new("user", "a"), Message::new("user", "b")];
    let message = render(MISTRAL, &twice, false).unwrap_err().to_string();
    assert!(message.contains("must alternate"), "{message}");
}

#[test]
fn qwen_with_tools() {
    let template = ChatTemplate::new(QWEN25.into(), "", "<|im_end|>").unwrap();
    let tools = json!([{"type": "function", "function": {"name": "add", "parameters": {"b": "<int>", "a": 1}}}]);
    let mut call = Message::new("assistant", "");
    call.extra.insert(
        "tool_calls".into(),
        json!([{"type": "function", "function": {"name": "add", "arguments": {"x": 1, "y": [2.5, null, true, "\u{e9}'"]}}}]),
    );
    let talk = [Message::new("user", "1+2?"), call, Message::new("tool", "3"), Message::new("tool", "4")];
    let expected = concat!(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n\n# Tools\n\n",
        "You may call one or more functions to assist with the user query.\n\n",
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n",
        "{\"type\": \"function\", \"function\": {\"name\": \"add\", \"parameters\": {\"b\": \"<int>\", \"a\": 1}}}\n</tools>\n\n",
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n",
        "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n",
        "<|im_start|>user\n1+2?<|im_end|>\n",
        "<|im_start|>assistant\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"x\": 1, \"y\": [2.5, null, true, \"\u{e9}'\"]}}\n</tool_call><|im_end|>\n",
        "<|im_start|>user\n<tool_response>\n3\n</tool_response>\n<tool_response>\n4\n</tool_response><|im_end|>\n",
        "<|im_start|>assistant\n",
    );
    assert_eq!(template.render(&talk, true, Some(&tools)).unwrap(), expected);
    assert_eq!(
        template.render(&[Message::new("user", "Hi")], false, None).unwrap(),
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    );
}

#[test]
fn python_and_transformers_additions_work() {
    let source = concat!(
        "{%- set state = namespace(n=0) -%}\n",
        "{%- for m in messages -%}\n",
        "  {%- if m.role == 'skip' -%}{%- continue -%}{%- endif -%}\n",
        "  {%- if m.role == 'stop' -%}{%- break -%}{%- endif -%}\n",
        "  {%- set state.n = state.n + 1 -%}\n",
        "  {% generation %}{{ m['content'].strip().split('</think>')[-1].upper() }}{% endgeneration %}\n",
        "{%- endfor -%}\n",
        " {{ state.n }} {{ messages[-1].get('name', 'none') }} {{ strftime_now('%Y')|length }}",
        " {{ {'a': [1]}|tojson(indent=2) }} {{ messages[::-1][0].role }} {{ tools is none }}",
    );
    let talk = [
        Message::new("user", " a</think>bc "),
        Message::new("skip", "x"),
        Message::new("user", "d"),
        Message::new("stop", "y"),
        Message::new("user", "e"),
    ];
    assert_eq!(render(source, &talk, false).unwrap(), "BCD2 none 4 {\n  \"a\": [\n    1\n  ]\n} user True");
}

#[test]
fn named_templates_are_chosen_by_use() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "bos_token": {"content": "<B>"}, "eos_token": "<E>",
        "chat_template": [{"name": "default", "template": "{{ bos_token }}plain"}, {"name": "tool_use", "template": "tools{{ eos_token }}"}],
    });
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let template = ChatTemplate::from_dir(folder.path()).unwrap().unwrap();
    assert_eq!(template.render(&[], false, None).unwrap(), "<B>plain");
    assert_eq!(template.render(&[], false, Some(&json!([]))).unwrap(), "tools<E>");
    std::fs::write(folder.path().join(FILE), "file").unwrap();
    assert_eq!(ChatTemplate::from_dir(folder.path()).unwrap().unwrap().render(&[], false, None).unwrap(), "file");
    assert!(ChatTemplate::from_dir(tempfile::tempdir().unwrap().path()).unwrap().is_none());
}

#[test]
fn a_base_models_folder_has_no_template_and_a_wrong_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for wrong in [json!({"chat_template": 5}), json!({"chat_template": [{"name": "x"}]})] {
        std::fs::write(folder.path().join("tokenizer_config.json"), wrong.to_string()).unwrap();
        assert!(ChatTemplate::from_dir(folder.path()).is_err());
    }
}

#[test]
fn broken_and_endless_templates_are_errors() {
    let message = render("{% for m in %}", &[], false).unwrap_err().to_string();
    assert!(message.contains("does not parse"), "{message}");
    let endless = "{% for a in range(90000) %}{% for b in range(90000) %}{% if a %}{% endif %}{% endfor %}{% endfor %}";
    assert!(render(endless, &[], false).is_err());
}

#[test]
fn contents_are_read_in_each_of_openais_forms() {
    let read =
        |content: serde_json::Value| serde_json::from_value::<Message>(json!({"role": "user", "content": content, "name": "n"}));
    assert_eq!(read(json!("a")).unwrap().content, "a");
    assert_eq!(read(json!(null)).unwrap().content, "");
    assert_eq!(read(json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])).unwrap().content, "ab");
    assert_eq!(read(json!("a")).unwrap().extra["name"], "n");
    assert!(read(json!([{"type": "image_url"}])).is_err());
    assert!(read(json!(5)).is_err());
}
