//! Names of models on the hub, as people write them and as browsers copy them.

use std::path::Path;

use crate::{
    engine::model::{parts::Part, weights},
    error::Error,
};

/// A model's name on the hub.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// `owner/name`
    pub id: String,
    pub revision: String,
    pub what: What,
}

/// What of a repository is meant.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The model in it.
    Model,
    /// A GGUF file, by its path in the repository.
    File(String),
    /// The GGUF file of a quantisation, such as Q8_0.
    Quantised(String),
}

/// The hub's own hosts.
const HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];

impl Name {
    /// Reads `owner/name`, `owner/name:Q8_0` or `owner/name/file.gguf`, each with `@revision` or without, or a link
    /// to one at the hub or at the server `endpoint`; `None` for other texts.
    ///
    /// # Errors
    /// [`Error::Model`] for a link to something else.
    pub fn parse(model: &Path, endpoint: &str) -> Result<Option<Self>, Error> {
        let Some(text) = model.to_str() else { return Ok(None) };
        let link = text.trim().split_once("://");
        let rest = link.map_or(text.trim(), |(_, rest)| rest);
        let own = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
        let inside = HOSTS.iter().chain([&own]).find_map(|host| rest.strip_prefix(*host)?.strip_prefix('/'));
        match (link, inside) {
            (_, Some(inside)) => {
                Self::of_link(inside).map_or_else(|| Err(no_model(text)), |name| Ok(Some(name)))
            }
            (Some(("hf", rest)), None) => Ok(Self::of_text(rest)),
            (Some(_), None) => Err(no_model(text)),
            (None, None) => Ok(Self::of_text(text)),
        }
    }

    /// Reads what follows the host in a link.
    fn of_link(inside: &str) -> Option<Self> {
        let path = inside.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let parts: Vec<&str> = path.split('/').collect();
        let [owner, name, "tree" | "blob" | "resolve" | "raw", revision, ref file @ ..] = parts[..] else {
            return (parts.len() == 2).then(|| Self::of_text(path)).flatten();
        };
        let name = Self::of_text(&format!("{owner}/{name}@{}", revision.replace("%2F", "/")))?;
        let file = file.join("/").replace("%20", " ");
        let is_file = file.ends_with(".gguf") && weights::is_inside(&file);
        Some(if is_file { Name { what: What::File(file), ..name } } else { name })
    }

    fn of_text(text: &str) -> Option<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (name, quantised) = match name.split_once(':') {
            Some((name, quantised)) => (name, Some(quantised)),
            None => (name, None),
        };
        let parts: Vec<&str> = name.split('/').collect();
        if !parts.iter().copied().chain(quantised).chain(revision.split('/')).all(is_word) {
            return None;
        }
        let (id, what) = match (&parts[..], quantised) {
            ([owner, name], Some(quantised)) => {
                (format!("{owner}/{name}"), What::Quantised(quantised.into()))
            }
            ([owner, name], None) => (format!("{owner}/{name}"), What::Model),
            ([owner, name, file @ ..], None) if file.last()?.ends_with(".gguf") => {
                (format!("{owner}/{name}"), What::File(file.join("/")))
            }
            _ => return None,
        };
        Some(Name { id, revision: revision.into(), what })
    }

    /// Returns the name for traces of the model that was found as `file` of the repository, or as all of it.
    pub fn title(&self, file: Option<&str>) -> String {
        let file = file.unwrap_or(&self.id);
        let stem = Part::parse(file).map_or(file, |part| part.stem);
        let last = stem.rsplit('/').next().unwrap_or(stem);
        last.strip_suffix(".gguf").unwrap_or(last).into()
    }
}

/// Whether a text can be a part of a name; one of a path cannot lead out of a folder then.
pub fn is_word(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with('.')
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn no_model(link: &str) -> Error {
    Error::model(
        link,
        "a link to a model of the hub, such as https://huggingface.co/Qwen/Qwen3-0.6B",
        "another one",
        "give the model's name, with HF_ENDPOINT for another server, or the path of its folder or file",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<(String, String, What)> {
        let name = Name::parse(Path::new(text), "http://127.0.0.1:99").unwrap()?;
        Some((name.id, name.revision, name.what))
    }

    #[test]
    fn names_and_links_mean_the_same() {
        let whole = |revision: &str| Some(("a/b.c".to_string(), revision.to_string(), What::Model));
        for text in [
            "a/b.c",
            "hf://a/b.c",
            "hf.co/a/b.c",
            "huggingface.co/a/b.c/",
            "https://huggingface.co/a/b.c",
            "https://huggingface.co/a/b.c?library=transformers#use",
            "https://hf.co/a/b.c/tree/main",
            "https://www.huggingface.co/a/b.c/blob/main/config.json",
            "http://127.0.0.1:99/a/b.c/resolve/main/model.safetensors?download=true",
        ] {
            assert_eq!(parsed(text), whole("main"), "{text}");
        }
        assert_eq!(parsed("a/b.c@v1/x"), whole("v1/x"));
        assert_eq!(parsed("https://huggingface.co/a/b.c/tree/refs%2Fpr%2F1"), whole("refs/pr/1"));
        let file = |file: &str| Some(("a/b".to_string(), "main".to_string(), What::File(file.into())));
        assert_eq!(parsed("a/b/c/d.gguf"), file("c/d.gguf"));
        assert_eq!(
            parsed("https://huggingface.co/a/b/resolve/main/c/d.gguf?download=true"),
            file("c/d.gguf")
        );
        let quantised = Some(("a/b".to_string(), "v1".to_string(), What::Quantised("Q8_0".into())));
        assert_eq!(parsed("hf.co/a/b:Q8_0@v1"), quantised.clone());
        assert_eq!(parsed("a/b:Q8_0@v1"), quantised);
    }

    #[test]
    fn other_texts_are_none() {
        for text in
            ["a", "a/b/c", "a/../c.gguf", "/a/b", "a b/c", "a/b@", "a/b:", "./a/b", "a/b@../x", "C:\\a\\b"]
        {
            assert_eq!(parsed(text), None, "{text}");
        }
        for text in
            ["https://example.org/a/b", "https://huggingface.co/a", "https://huggingface.co/datasets/a/b"]
        {
            let said = Name::parse(Path::new(text), "http://127.0.0.1:99").unwrap_err().to_string();
            assert!(said.contains("a link to a model of the hub"), "{said}");
        }
        assert_eq!(parsed("https://huggingface.co/a/b/blob/main/../../c.gguf").unwrap().2, What::Model);
    }

    #[test]
    fn a_title_is_the_last_word() {
        let name = Name::parse(Path::new("a/b"), "").unwrap().unwrap();
        assert_eq!(name.title(None), "b");
        assert_eq!(name.title(Some("Q8_0/c-Q8_0-00001-of-00002.gguf")), "c-Q8_0");
        assert_eq!(name.title(Some("c.Q8_0.gguf")), "c.Q8_0");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is written, its folder and its file lie in the cache.
        #[test]
        fn hostile_names_lead_nowhere_else(
            host in prop::sample::select(vec!["", "hf://", "hf.co/", "https://huggingface.co/", "http://127.0.0.1:99/"]),
            text in "[aé./:@%2F ?#~\\\\-]{0,24}(/(tree|blob)/)?[a./@%-]{0,12}(.gguf)?",
        ) {
            let text = format!("{host}{text}");
            if let Ok(Some(name)) = Name::parse(Path::new(&text), "http://127.0.0.1:99") {
                let file = if let What::File(file) = &name.what { file } else { "a" };
                prop_assert!([&name.id, &name.revision, file].iter().all(|part| weights::is_inside(part)), "{name:?}");
                prop_assert!(name.id.split('/').count() == 2 && !name.title(Some(file)).contains('/'));
            }
        }
    }
}
