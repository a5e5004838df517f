//! RULER's wording, as in the bundled model's training text. Every piece starts with a space or ends a line,
//! so that a tokenizer cuts it the same way everywhere.

/// The kind of a needle's key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Number,
    Uuid,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Word => "word",
            Kind::Number => "number",
            Kind::Uuid => "uuid",
        }
    }
}

/// The end of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub question: String,
    /// RULER's answer prefix: the beginning of the answer, which the prompt ends with.
    pub prefix: String,
    /// The rest of the answer, which a model has to write.
    pub answer: String,
}

pub(super) fn needle(kind: Kind, key: &str, value: &str) -> String {
    format!(" One of the special magic {}s for {key} is: {value}.", kind.name())
}

pub(super) fn niah_intro(kind: Kind, n_asked: usize) -> String {
    let kind = kind.name();
    match n_asked {
        1 => format!(
            "A special magic {kind} is hidden within the following text. Make sure to memorize it. \
             I will quiz you about the {kind} afterwards.\n"
        ),
        _ => format!(
            "Some special magic {kind}s are hidden within the following text. Make sure to memorize it. \
             I will quiz you about the {kind}s afterwards.\n"
        ),
    }
}

/// Writes the question for all values of the keys.
pub(super) fn niah_question(kind: Kind, keys: &[String], values: &[String]) -> Question {
    let kind = kind.name();
    let keys = list(keys);
    let answer = format!(" {}.", values.join(", "));
    match values {
        [_] => Question {
            question: format!(" What is the special magic {kind} for {keys} mentioned in the provided text?"),
            prefix: format!(" The special magic {kind} for {keys} mentioned in the provided text is"),
            answer,
        },
        _ => Question {
            question: format!(
                " What are all the special magic {kind}s for {keys} mentioned in the provided text?"
            ),
            prefix: format!(" The special magic {kind}s for {keys} mentioned in the provided text are"),
            answer,
        },
    }
}

/// Joins keys: "a", "a, and b", "a, b, and c".
fn list(keys: &[String]) -> String {
    match keys {
        [] => String::new(),
        [key] => key.clone(),
        [first @ .., last] => format!("{}, and {last}", first.join(", ")),
    }
}

pub(super) const VT_INTRO: &str =
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n";

/// Writes the assignments of a chain, in order.
pub(super) fn vt_lines(names: &[String], value: &str) -> Vec<String> {
    let first = names.first().map(|name| format!(" VAR {name} = {value}."));
    let others = names.windows(2).map(|pair| format!(" VAR {} = VAR {}.", pair[1], pair[0]));
    first.into_iter().chain(others).collect()
}

pub(super) fn vt_question(names: &[String], value: &str) -> Question {
    Question {
        question: format!(
            " Question: Find all variables that are assigned the value {value} in the text above."
        ),
        prefix: format!(
            " Answer: According to the chain(s) of variable assignment in the text above, {} variables are \
             assigned the value {value}, they are:",
            names.len()
        ),
        answer: format!(" {}.", names.join(" ")),
    }
}

pub(super) const CWE_INTRO: &str = "Below is a numbered list of words. In these words, some appear more \
                                    often than others. Memorize the ones that appear most often.\n";
pub(super) const CWE_QUESTION: &str = "\nQuestion: What are the 10 most common words in the above list?";
pub(super) const CWE_PREFIX: &str = " Answer: The top 10 words that appear most often in the list are:";

pub(super) const FWE_INTRO: &str = "Read the following coded text and track the frequency of each coded \
                                    word. Find the three most frequently appeared coded words.";
pub(super) const FWE_QUESTION: &str = "\nQuestion: Do not provide any explanation. Please ignore the dots \
                                       '....'. What are the three most frequently appeared words in the \
                                       above coded text?";
pub(super) const FWE_PREFIX: &str =
    " Answer: According to the coded text above, the three most frequently appeared words are:";

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn golden() -> Value {
        serde_json::from_str(include_str!("../golden/wording.json")).unwrap()
    }

    fn strings(value: &Value) -> Vec<String> {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn assert_asks(found: Question, expected: &Value) {
        assert_eq!([found.question, found.prefix, found.answer].as_slice(), strings(expected));
    }

    #[test]
    fn needles_and_introductions_are_those_of_training() {
        let golden = golden();
        for case in golden["needles"].as_array().unwrap() {
            let key = case["key"].as_str().unwrap();
            let value = case["value"].as_str().unwrap();
            assert_eq!(needle(Kind::Number, key, value), case["text"].as_str().unwrap());
        }
        assert_eq!(
            [niah_intro(Kind::Number, 1), niah_intro(Kind::Number, 4), VT_INTRO.into()].as_slice(),
            strings(&golden["intros"])
        );
        assert_eq!(crate::tasks::prose::NOISE, golden["noise"].as_str().unwrap());
    }

    #[test]
    fn questions_are_those_of_training() {
        for case in golden()["niah_questions"].as_array().unwrap() {
            let values: Vec<String> = case["values"].as_array().unwrap().iter().flat_map(strings).collect();
            assert_asks(niah_question(Kind::Number, &strings(&case["keys"]), &values), &case["pieces"]);
        }
        let golden = golden();
        let names = strings(&golden["vt"]["names"]);
        let value = golden["vt"]["value"].as_str().unwrap();
        assert_eq!(vt_lines(&names, value), strings(&golden["vt"]["lines"]));
        assert_asks(vt_question(&names, value), &golden["vt"]["pieces"]);
    }

    #[test]
    fn uuids_are_worded_as_in_ruler() {
        let asked = niah_question(Kind::Uuid, &["k".into()], &["v".into()]);
        assert_eq!(needle(Kind::Uuid, "k", "v"), " One of the special magic uuids for k is: v.");
        assert_eq!(asked.question, " What is the special magic uuid for k mentioned in the provided text?");
        assert_eq!(asked.prefix, " The special magic uuid for k mentioned in the provided text is");
        assert!(niah_intro(Kind::Uuid, 1).ends_with("quiz you about the uuid afterwards.\n"));
    }
}
