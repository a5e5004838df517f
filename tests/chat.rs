//! Chat templates with the features of published ones, run on a small model's folder.
#![cfg(feature = "engine")]

mod common;

use std::{fs, path::Path, process::Command};

use candle_core::quantized::{GgmlDType, gguf_file::Value};
use serde_json::{Value as Json, json};
use streamtrace::{Error, Message, Tracer, tasks::RulerConfig};
use tempfile::TempDir;

#[path = "gguf/writer.rs"]
#[allow(dead_code)]
mod writer;

/// Returns a model with this `tokenizer_config.json`.
fn model(config: Json) -> TempDir {
    let folder = common::random_model(json!({ "model_type": "llama" }));
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

fn prompt(folder: &Path, messages: &[Message]) -> Result<String, Error> {
    common::load(folder)?.chat_prompt(messages)
}

/// Returns the prompt that a template writes for messages.
fn said(template: &str, messages: &[Message]) -> Result<String, Error> {
    let tokens = json!({ "bos_token": "<s>", "eos_token": { "content": "</s>", "special": true }, "chat_template": template });
    prompt(model(tokens).path(), messages)
}

fn conversation() -> [Message; 4] {
    [
        Message::system("Be brief."),
        Message::user("Hi!"),
        Message::assistant("  Hello. "),
        Message::user("Who? <b>\n"),
    ]
}

/// Methods and marks of published templates that Jinja's engine lacks.
#[test]
fn texts_and_lists_have_pythons_methods() {
    for (template, expected) in [
        ("{{ 'a</think>b</think>c'.rsplit('</think>', 1)[-1] }}", "c"),
        ("{{ 'a b c'.rsplit() | join('|') }}", "a|b|c"),
        ("{{ 'k=v=w'.partition('=') | join('|') }}{{ 'k'.partition('=') | length }}", "k|=|v=w3"),
        ("{{ 'k=v=w'.rpartition('=')[0] }}", "k=v"),
        ("{{ '<s>x'.removeprefix('<s>') }}{{ 'x</s>'.removesuffix('</s>').removesuffix('y') }}", "xx"),
        ("{{ ' x '.strip() }}{{ 'x'.startswith('x') }}", "xTrue"),
        (
            "{% set xs = [] %}{% for m in messages %}{% set _ = xs.append(m.role) %}{% endfor %}{{ xs[1:] | join(' ') }} {{ xs | length }}",
            "user assistant user 4",
        ),
        (
            "{% set ns = namespace(xs=['a']) %}{% for m in messages %}{{ ns.xs.append(m['role'][0]) or '' }}{% endfor %}{{ ns.xs | join }}",
            "asuau",
        ),
        ("{%generation%}x{%endgeneration%}{%-generation-%} y {%- endgeneration -%} z", "xyz"),
        ("{% if 'generation' == 'generation' %}generation{% endif %}", "generation"),
    ] {
        assert_eq!(said(template, &conversation()).unwrap(), expected, "{template}");
    }
    let wrong = said("{{ 'a'.partition('') }}", &conversation()).unwrap_err().to_string();
    assert!(wrong.contains("an empty separator"), "{wrong}");
}

#[test]
fn roles_in_turn() {
    let template = "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}\
                    {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";
    assert_eq!(
        said(template, &conversation()).unwrap(),
        "<|system|>\nBe brief.</s>\n<|user|>\nHi!</s>\n<|assistant|>\n  Hello. </s>\n<|user|>\nWho? <b>\n</s>\n<|assistant|>\n"
    );
}

#[test]
fn blocks_leave_no_lines_and_namespaces_outlive_loops() {
    let template = "{{ bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim + ' ' %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- set seen = namespace(n=0, last=none) %}
{% for message in rest %}
    {% set seen.n = seen.n + 1 %}
    {% if message.role == 'user' %}
        {% set seen.last = loop.index0 %}
    {% endif %}
[{{ loop.index }}{% if loop.first %}!{% endif %}{% if not loop.last %},{% endif %}] {{ message.content.strip() }}
{% endfor %}
{{ system }}{{ seen.n }} {{ seen.last }}
";
    assert_eq!(
        said(template, &conversation()).unwrap(),
        "<s>[1!,] Hi!\n[2,] Hello.\n[3] Who? <b>\nBe brief. 3 2"
    );
}

#[test]
fn methods_of_python_and_its_json() {
    let template = "{%- for m in messages -%}
        {%- if m.content is string and m.content.startswith('H') -%}
            {{- m.content.split('i')[-1] + '|' + m.role.upper() + '|' -}}
        {%- elif loop.index0 > 2 -%}
            {{- m.content | tojson }}|{{ m | tojson -}}
            {%- break -%}
        {%- endif -%}
    {%- endfor -%}{{- ' ' + ({'a': [1, none], 'b': true} | tojson) -}}";
    assert_eq!(
        said(template, &conversation()).unwrap(),
        r#"!|USER|"Who? <b>\n"|{"content": "Who? <b>\n", "role": "user"} {"a": [1, null], "b": true}"#
    );
}

#[test]
fn marks_of_what_is_trained_on_are_left_out() {
    let template = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{%- endgeneration %}\
                    {% else %}{{ m.role }};{% endif %}{% endfor %}";
    assert_eq!(said(template, &conversation()).unwrap(), "system;user;  Hello. user;");
}

#[test]
fn tools_are_none_and_dates_are_today() {
    let template = "{% if tools is not none %}tools{% endif %}{% if not date_string is defined %}\
                    {% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}";
    let today = || {
        let output = Command::new("date").args(["+%d %b %Y"]).env("LC_ALL", "C").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    // The date may change in between.
    let (before, found, after) = (today(), said(template, &[]).unwrap(), today());
    assert!(found == before || found == after, "{found:?} is not {after:?}");
}

#[test]
fn what_a_template_refuses_is_said_in_its_words() {
    let template = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
                    {{ raise_exception('Roles must alternate user/assistant') }}{% endif %}{{ m.content }}{% endfor %}";
    let error = said(template, &conversation()).unwrap_err();
    assert!(matches!(error, Error::Prompt { .. }), "{error}");
    assert!(error.to_string().contains("it refuses: Roles must alternate user/assistant;"), "{error}");
    assert_eq!(said(template, &[Message::user("a"), Message::assistant("b")]).unwrap(), "ab");
}

#[track_caller]
fn assert_broken(folder: &Path, words: &[&str]) {
    let tracer = common::load(folder).unwrap();
    let error = tracer.chat_prompt(&conversation()).unwrap_err().to_string();
    words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is not in: {error}"));
    assert_eq!(tracer.trace("w1 w2").unwrap().n_tokens(), 2);
}

/// The model still traces plain text.
#[test]
fn broken_templates_are_refused_when_they_are_asked_for() {
    for template in [
        "{% for m in messages %}",
        "{{ messages | nothing }}",
        "{{ nothing() }}",
        "{{ messages[0].role.nothing() }}",
    ] {
        let folder = model(json!({ "chat_template": template }));
        assert_broken(
            folder.path(),
            &["tokenizer_config.json", "a chat template", "write the prompt as plain text"],
        );
    }
    let endless = "{% for a in range(90000) %}{% for b in range(90000) %}{{ b }}{% endfor %}{% endfor %}";
    assert_broken(model(json!({ "chat_template": endless })).path(), &["a chat template", "fuel"]);
    assert_broken(model(json!({ "bos_token": "<s>" })).path(), &["a chat template", "none", "a base model"]);
    assert_broken(
        common::random_model(json!({ "model_type": "llama" })).path(),
        &["a chat template", "none", "a base model"],
    );
}

/// It also says which tokens start and end a prompt: without it, plain text would be read as another text.
#[test]
fn a_damaged_tokenizer_config_is_refused_at_once() {
    let folder = model(json!({ "chat_template": "{{ messages }}" }));
    let path = folder.path().join("tokenizer_config.json");
    fs::write(&path, &fs::read(&path).unwrap()[..9]).unwrap();
    let error = common::load(folder.path()).err().unwrap().to_string();
    for words in ["tokenizer_config.json", "expected JSON", "EOF"] {
        assert!(error.contains(words), "{words:?} is not in: {error}");
    }
}

#[test]
fn the_template_is_found_where_it_may_be() {
    let of = |name: &str| json!({ "name": name, "template": name });
    let folder = model(json!({ "chat_template": [of("tool_use"), of("default"), of("rag")] }));
    assert_eq!(prompt(folder.path(), &[]).unwrap(), "default");
    fs::write(folder.path().join("chat_template.jinja"), "{{ eos_token }}its own file").unwrap();
    assert_eq!(prompt(folder.path(), &[]).unwrap(), "its own file");

    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/needle-6m");
    let mut writer = writer::Writer::of_folder("qwen3", &bundled, GgmlDType::Q8_0);
    writer.set("tokenizer.chat_template", Value::String("{{ messages[0].content }}{{ eos_token }}".into()));
    let path = folder.path().join("model.gguf");
    writer.write(&path);
    assert_eq!(prompt(&path, &conversation()).unwrap(), "Be brief.<|endoftext|>");
}

#[test]
fn a_start_token_of_the_template_is_not_doubled() {
    let folder =
        model(json!({ "bos_token": "w7", "chat_template": "{{ bos_token }} {{ messages[0].content }}" }));
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let start = json!({ "SpecialToken": { "id": "w7", "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    tokenizer["post_processor"] = json!({ "type": "TemplateProcessing", "single": [start, text("A")], "pair": [start, text("A"), text("B")],
        "special_tokens": { "w7": { "id": "w7", "ids": [7], "tokens": ["w7"] } } });
    fs::write(&path, tokenizer.to_string()).unwrap();
    let tracer = common::load(folder.path()).unwrap();
    let prompt = tracer.chat_prompt(&[Message::user("w1 w2")]).unwrap();
    assert_eq!(tracer.trace(&prompt).unwrap().tokens().unwrap(), [7, 1, 2]);
    assert_eq!(tracer.trace("w1 w2").unwrap().tokens().unwrap(), [7, 1, 2]);
    assert_eq!(tracer.trace("w7").unwrap().tokens().unwrap(), [7]);
}

#[test]
fn the_command_line_asks_by_the_template() {
    let folder =
        model(json!({ "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}" }));
    let trace = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
        command
            .args(["trace", "--json", "--device", "cpu", "--prompt", "w1 w2", "--model"])
            .arg(folder.path())
            .args(arguments);
        let output = command.output().unwrap();
        serde_json::from_slice::<Json>(&output.stdout).unwrap()["n_tokens"].as_u64().unwrap()
    };
    assert_eq!((trace(&[]), trace(&["--chat"])), (2, 4));
}

#[test]
fn a_template_gets_arguments() {
    let template = "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %} quick{% endif %}\
                    {% if tools %} {{ tools[0].name }}{% endif %}{% if add_generation_prompt %} >{% endif %}";
    let folder = model(json!({ "chat_template": template }));
    let tracer = common::load(folder.path()).unwrap();
    let said = |tracer: &Tracer| tracer.chat_prompt(&[Message::user("w1")]).unwrap();
    assert_eq!(said(&tracer), "w1 >");
    let quick = tracer.template_argument("enable_thinking", false);
    assert_eq!(said(&quick), "w1 quick >");
    assert_eq!(said(&quick.template_argument("enable_thinking", true)), "w1 >");
    let with_tools = quick.template_argument("tools", json!([{ "name": "search" }]));
    assert_eq!(said(&with_tools.template_argument("add_generation_prompt", false)), "w1 quick search");
    let frame = quick.chat_frame().unwrap();
    assert_eq!(frame.after, " quick >");
    let error = tracer.template_argument("messages", 3).chat_prompt(&[Message::user("w1")]).unwrap_err();
    assert!(error.to_string().contains("template argument messages: expected another name"), "{error}");
}

/// The command line gives a whole conversation and arguments, and says what a user may not expect.
#[test]
fn the_command_line_gives_conversations_and_arguments() {
    let template =
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if short %}w1{% endif %}";
    let folder = model(json!({ "chat_template": template }));
    let tokenizer = folder.path().join("tokenizer.json");
    let mut json: Json = serde_json::from_slice(&fs::read(&tokenizer).unwrap()).unwrap();
    json["added_tokens"] = json!([{ "id": 9, "content": "w9", "special": true, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false }]);
    fs::write(tokenizer, json.to_string()).unwrap();
    let conversation = folder.path().join("conversation.json");
    fs::write(
        &conversation,
        r#"[{"role": "system", "content": "w2"}, {"role": "user", "content": "w3 w9"}]"#,
    )
    .unwrap();
    let trace = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
        command.args(["trace", "--json", "--device", "cpu", "--model"]).arg(folder.path());
        let output = command.arg("--messages").arg(&conversation).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (serde_json::from_slice::<Json>(&output.stdout).expect(&said)["n_tokens"].as_u64().unwrap(), said)
    };
    let (n_tokens, said) = trace(&[]);
    assert_eq!(n_tokens, 5);
    assert!(said.contains("a message (user) has the special token w9: the model reads it as one"), "{said}");
    let (n_tokens, said) = trace(&["--chat", "--template-arg", "short=True", "--template-arg", "shrt=1"]);
    assert_eq!(n_tokens, 6);
    assert!(
        said.contains("the model's chat template does not know shrt") && !said.contains("know short"),
        "{said}"
    );
}

#[test]
fn a_task_is_asked_in_the_template_and_answered_behind_it() {
    let template = "{{ bos_token }}[{{ messages[0].content | trim }}{{ ']\\nmodel:\\n' }}";
    let folder = model(json!({ "bos_token": "w7 ", "chat_template": template }));
    let tracer = common::load(folder.path()).unwrap();
    let frame = tracer.chat_frame().unwrap();
    assert_eq!((frame.before.as_str(), frame.after.as_str()), ("w7 [", "]\nmodel:\n"));
    let task = RulerConfig { n_tokens: 900, chat: Some(frame), ..RulerConfig::default() };
    let prompt = tracer.prompt(&task).unwrap();
    assert!(prompt.text.starts_with("w7 [A special magic number"), "{}", prompt.text);
    assert!(prompt.text.contains("?]\nmodel:\n The special magic number for "), "{}", prompt.text);
    assert_eq!(prompt.n_tokens, tracer.count_tokens(&prompt.text).unwrap());
    assert!((836..=900).contains(&prompt.n_tokens), "{}", prompt.n_tokens);
}

#[test]
fn a_template_that_changes_the_message_frames_nothing() {
    let error =
        |config: Json| common::load(model(config).path()).unwrap().chat_frame().unwrap_err().to_string();
    for (template, times) in [("{{ messages[0].content | upper }}", 0), ("{{ messages[0].content * 2 }}", 2)]
    {
        let error = error(json!({ "chat_template": template }));
        assert!(error.contains(&format!("writes it {times} times; give this model plain text")), "{error}");
    }
    assert!(
        error(json!({})).contains("expected a chat template, found none; it is a base model: give it plain")
    );
}
