//! The tokens at both ends of a prompt, as `tokenizer_config.json` asks for them. `transformers` reads them there;
//! many a `tokenizer.json` does not have them.

use serde_json::{Value, json};
use tokenizers::{PostProcessorWrapper, Tokenizer};

/// Classes of `transformers` whose `tokenizer_config.json` decides, whatever `tokenizer.json` does: with a start
/// token and without an end token if nothing is said.
const DECIDING: [&str; 6] = [
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "CodeLlamaTokenizer",
    "CodeLlamaTokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
];

/// Parts of a post-processor that put tokens around a text.
const TEMPLATES: [&str; 3] = ["TemplateProcessing", "BertProcessing", "RobertaProcessing"];

/// Makes `tokenizer` put the start and end tokens around a text that `config`, a `tokenizer_config.json`, asks for:
/// `add_bos_token` with `bos_token`, `add_eos_token` with `eos_token`. Tokens that the vocabulary lacks are left
/// out.
///
/// # Errors
/// What the crate says of a post-processor that it cannot make.
pub fn apply(tokenizer: &mut Tokenizer, config: &Value) -> tokenizers::Result<()> {
    let decides = config["tokenizer_class"].as_str().is_some_and(|class| DECIDING.contains(&class));
    let wanted = |name: &str, default: bool| match (&config[name], decides) {
        (Value::Bool(true), _) => Some(true),
        (Value::Bool(false), true) => Some(false),
        (_, decides) => decides.then_some(default),
    };
    let token = |name: &str| {
        let token = config[name].as_str().or(config[name]["content"].as_str())?;
        Some((token.to_string(), tokenizer.token_to_id(token)?))
    };
    let (start, end) = (token("bos_token"), token("eos_token"));
    let around = tokenizer.encode("", true)?.get_ids().to_vec();
    let starts = start.as_ref().is_some_and(|(_, id)| around.first() == Some(id));
    let ends = end.as_ref().is_some_and(|(_, id)| around[usize::from(starts)..].last() == Some(id));
    let starts_then = start.is_some() && wanted("add_bos_token", true).unwrap_or(starts);
    let ends_then = end.is_some() && wanted("add_eos_token", false).unwrap_or(ends);
    // Another token than these two is none that the configuration knows of: it stays.
    if (starts, ends) == (starts_then, ends_then) || around.len() != usize::from(starts) + usize::from(ends) {
        return Ok(());
    }
    let around = [start.filter(|_| starts_then), end.filter(|_| ends_then)];
    let processor = post_processor(tokenizer.get_post_processor(), around)?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}

/// Returns `old` with other tokens around a text: one before it, one after it.
fn post_processor(
    old: Option<&PostProcessorWrapper>,
    around: [Option<(String, u32)>; 2],
) -> tokenizers::Result<PostProcessorWrapper> {
    let old = serde_json::to_value(old)?;
    let parts = match old["processors"].as_array() {
        Some(parts) => parts.clone(),
        None => vec![old],
    };
    let kept =
        parts.into_iter().filter(|part| part["type"].as_str().is_some_and(|kind| !TEMPLATES.contains(&kind)));
    let special = |token: &Option<(String, u32)>| {
        token.as_ref().map(|(token, _)| json!({ "SpecialToken": { "id": token, "type_id": 0 } }))
    };
    let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
    let [start, end] = around.each_ref().map(special);
    let single: Vec<Value> = start.into_iter().chain([text("A")]).chain(end).collect();
    let names = around
        .iter()
        .flatten()
        .map(|(token, id)| (token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] })));
    let template = json!({
        "type": "TemplateProcessing",
        "single": single,
        "pair": [text("A"), text("B")],
        "special_tokens": names.collect::<serde_json::Map<_, _>>(),
    });
    let parts: Vec<Value> = kept.chain([template]).collect();
    Ok(serde_json::from_value(json!({ "type": "Sequence", "processors": parts }))?)
}
