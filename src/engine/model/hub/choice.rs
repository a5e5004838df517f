//! Which files of a repository are the model that a name means.

use super::name::{Name, What};
use crate::{
    engine::model::{parts::Part, weights},
    error::Error,
};

/// A model among the files of a repository.
#[derive(Debug, PartialEq)]
pub enum Choice {
    /// A folder with `config.json`, `tokenizer.json` and safetensors.
    Folder,
    /// A GGUF file, or its parts; the first is the model's path.
    Gguf(Vec<String>),
}

/// Most files that an error lists.
const MOST_LISTED: usize = 12;

/// Returns the model that `name` means among the `files` of its repository.
///
/// # Errors
/// [`Error::Model`] where there is none, or more than one; it lists what there is.
pub fn choose(name: &Name, files: &[String]) -> Result<Choice, Error> {
    let ggufs = ggufs(files);
    match &name.what {
        What::File(file) if files.contains(file) => parts(name, file, files).map(Choice::Gguf),
        What::File(file) => Err(Error::model(
            &name.id,
            format!("the file {file}"),
            listed(&ggufs),
            "ask for one that is there; the repository may have renamed it",
        )),
        What::Quantised(wanted) => {
            let fitting: Vec<&str> = ggufs.iter().copied().filter(|file| fits(file, wanted)).collect();
            // Q8_0 means model-Q8_0.gguf where model-extra-Q8_0.gguf is there too.
            let shortest = fitting.iter().map(|file| file.len()).min();
            match &fitting.iter().filter(|file| Some(file.len()) == shortest).collect::<Vec<_>>()[..] {
                [file] => parts(name, file, files).map(Choice::Gguf),
                [] => Err(Error::model(
                    &name.id,
                    format!("a GGUF file of {wanted}"),
                    listed(&ggufs),
                    example(name, &ggufs).unwrap_or("choose a repository with GGUF files".into()),
                )),
                [first, ..] => Err(Error::model(
                    &name.id,
                    format!("one GGUF file of {wanted}"),
                    listed(&fitting),
                    format!("ask for one by its path: {}/{first}", name.id),
                )),
            }
        }
        What::Model if weights::are_among(files) => Ok(Choice::Folder),
        What::Model => match &ggufs[..] {
            [file] => parts(name, file, files).map(Choice::Gguf),
            [] => Err(without_weights(name, files)),
            _ => Err(Error::model(
                &name.id,
                "safetensors, or one GGUF file",
                listed(&ggufs),
                example(name, &ggufs).unwrap_or_default(),
            )),
        },
    }
}

/// Returns the GGUF files of models, of those in parts the first.
fn ggufs(files: &[String]) -> Vec<&str> {
    let is_model = |file: &&str| {
        let last = file.rsplit('/').next().unwrap_or(file);
        let is_first = Part::parse(file).is_none_or(|part| part.number == 1);
        last.ends_with(".gguf") && !last.starts_with("mmproj") && !last.contains("imatrix") && is_first
    };
    files.iter().map(String::as_str).filter(is_model).collect()
}

/// Returns a file and the other parts of the same model, the first part first.
fn parts(name: &Name, file: &str, files: &[String]) -> Result<Vec<String>, Error> {
    let all = Part::parse(file).map_or(vec![file.to_string()], Part::all);
    match all.iter().find(|part| !files.contains(part)) {
        None => Ok(all),
        Some(missing) => Err(Error::model(
            &name.id,
            format!("all {} parts of {file}", all.len()),
            format!("no {missing}"),
            "choose another file of this model",
        )),
    }
}

/// Whether the name of a file ends with a quantisation, or a folder on its path is named so.
fn fits(file: &str, wanted: &str) -> bool {
    let (stem, wanted) = (stem(file).to_lowercase(), wanted.to_lowercase());
    stem.split('/').any(|part| {
        let before = part.strip_suffix(&wanted);
        before.is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_']))
    })
}

/// Returns what stands before `.gguf`, and before the numbers of parts.
fn stem(file: &str) -> &str {
    Part::parse(file).map_or(file.strip_suffix(".gguf").unwrap_or(file), |part| part.stem)
}

/// Names files, the first ones of many.
fn listed(files: &[&str]) -> String {
    let more = match files.len().saturating_sub(MOST_LISTED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let first: Vec<&str> = files.iter().take(MOST_LISTED).copied().collect();
    if first.is_empty() { "no GGUF file".into() } else { format!("{}{more}", first.join(", ")) }
}

/// Returns how to ask for the first of several files.
fn example(name: &Name, ggufs: &[&str]) -> Option<String> {
    let first = ggufs.first()?;
    let last = stem(first).rsplit(['-', '.', '/']).next()?;
    Some(format!("ask for one, such as {}:{last} or {}/{first}", name.id, name.id))
}

fn without_weights(name: &Name, files: &[String]) -> Error {
    let expected = "model.safetensors, or shards of it, or a GGUF file";
    let has = |ending: &str| files.iter().any(|file| file.ends_with(ending));
    let (found, fix) = if has("adapter_config.json") {
        (
            "an adapter alone",
            "merge it into its model in Python, by merge_and_unload() of peft, and save that",
        )
    } else if has(".bin") || has(".pth") || has(".pt") {
        (
            "weights as PyTorch pickles them",
            "convert them in Python: AutoModelForCausalLM.from_pretrained(NAME).save_pretrained(FOLDER)",
        )
    } else {
        ("no file of that kind", "choose a model with safetensors or GGUF files")
    };
    Error::model(&name.id, expected, found, fix)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn chosen(name: &str, files: &[&str]) -> Result<Choice, String> {
        let name = Name::parse(Path::new(name), "").unwrap().unwrap();
        let files: Vec<String> = files.iter().map(|file| file.to_string()).collect();
        choose(&name, &files).map_err(|why| why.to_string())
    }

    fn gguf(files: &[&str]) -> Result<Choice, String> {
        Ok(Choice::Gguf(files.iter().map(|file| file.to_string()).collect()))
    }

    #[test]
    fn a_quantisation_is_found_as_it_is_written() {
        let files = [
            "x-Q4_K_M.gguf",
            "x-Q8_0.gguf",
            "x.f16.gguf",
            "x-UD-Q4_K_XL.gguf",
            "mmproj-x-f16.gguf",
            "x-IQ8_0.gguf",
            "BF16/x-00001-of-00002.gguf",
            "BF16/x-00002-of-00002.gguf",
        ];
        for (wanted, found) in [
            ("Q8_0", vec!["x-Q8_0.gguf"]),
            ("q4_k_m", vec!["x-Q4_K_M.gguf"]),
            ("F16", vec!["x.f16.gguf"]),
            ("Q4_K_XL", vec!["x-UD-Q4_K_XL.gguf"]),
            ("bf16", vec!["BF16/x-00001-of-00002.gguf", "BF16/x-00002-of-00002.gguf"]),
        ] {
            assert_eq!(chosen(&format!("a/b:{wanted}"), &files), gguf(&found), "{wanted}");
        }
        let said = chosen("a/b:Q5_0", &files).unwrap_err();
        assert!(
            said.contains("a GGUF file of Q5_0, found x-Q4_K_M.gguf, x-Q8_0.gguf")
                && said.contains("a/b:Q4_K_M"),
            "{said}"
        );
        let said = chosen("a/b:Q8_0", &["x-Q8_0.gguf", "y-Q8_0.gguf"]).unwrap_err();
        assert!(said.contains("one GGUF file of Q8_0, found x-Q8_0.gguf, y-Q8_0.gguf"), "{said}");
        let said = chosen("a/b:BF16", &files[..7]).unwrap_err();
        assert!(said.contains("all 2 parts of BF16/x-00001-of-00002.gguf, found no BF16/x-00002"), "{said}");
    }

    #[test]
    fn a_repository_is_its_safetensors_or_its_only_gguf() {
        assert_eq!(chosen("a/b", &["model.safetensors", "x.gguf"]), Ok(Choice::Folder));
        assert_eq!(chosen("a/b", &["model-00001-of-00001.safetensors"]), Ok(Choice::Folder));
        assert_eq!(chosen("a/b", &["x.gguf", "mmproj-F16.gguf"]), gguf(&["x.gguf"]));
        let parts = ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"];
        assert_eq!(chosen("a/b", &parts), gguf(&parts));
        assert_eq!(chosen("a/b/x-00002-of-00002.gguf", &parts), gguf(&parts));
        for (files, said) in [
            (
                &["x.gguf", "y-Q8_0.gguf"][..],
                "safetensors, or one GGUF file, found x.gguf, y-Q8_0.gguf; ask for one",
            ),
            (&["pytorch_model.bin"], "weights as PyTorch pickles them"),
            (&["adapter_config.json", "adapter_model.safetensors"], "an adapter alone"),
            (&["README.md"], "no file of that kind"),
        ] {
            let error = chosen("a/b", files).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let said = chosen("a/b/old.gguf", &["new.gguf"]).unwrap_err();
        assert!(said.contains("the file old.gguf, found new.gguf; ask for one that is there"), "{said}");
    }
}
