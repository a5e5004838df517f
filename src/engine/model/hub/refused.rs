//! What to tell a user whom the hub does not give a model.

use super::{
    download::Fault,
    name::Name,
    server::{Failure, Server},
};
use crate::error::Error;

/// The error for a repository, or its `file`, that the server does not give.
pub fn by(server: &Server, name: &Name, file: Option<&str>, why: Failure) -> Error {
    let (endpoint, id) = (&server.endpoint, &name.id);
    let of = |found: String, fix: String| {
        let expected = match file {
            Some(file) => format!("the file {file}"),
            None => "a folder or file of that name, or a model of the hub".into(),
        };
        Error::model(id, expected, found, fix)
    };
    let (status, code) = match why {
        Failure::Broken(why) => {
            let fix = "check the network and try again: what was downloaded is kept; or give the path of a model folder";
            return of(format!("{endpoint} cannot be asked: {why}"), fix.into());
        }
        Failure::Strange(how) => {
            let found = format!("{endpoint}, which does not answer as a hub: {how}");
            return of(
                found,
                "use another network or server (HF_ENDPOINT), or give the path of a model folder".into(),
            );
        }
        Failure::Refused { status, code } => (status, code.unwrap_or_default()),
    };
    match (status, code.as_str()) {
        (_, "GatedRepo") | (401 | 403, _) => {
            let (found, fix) = closed(server, id, code == "GatedRepo");
            of(found, fix)
        }
        (404, "RevisionNotFound") => of(
            format!("the model at {endpoint}, but no revision {}", name.revision),
            format!("choose a branch, tag or commit of {endpoint}/{id}"),
        ),
        (404, _) if file.is_some() => of(
            format!("none at {endpoint} at revision {}", name.revision),
            "the server lists the file but does not have it: use another server (HF_ENDPOINT)".into(),
        ),
        (404 | 410, _) => of(
            format!("none with a revision {} at {endpoint}", name.revision),
            "check the name and the revision".into(),
        ),
        (429, _) => of(
            format!("{endpoint}, which takes no more requests for now (status 429)"),
            "wait some minutes; what was downloaded is kept".into(),
        ),
        (500.., _) => of(
            format!("{endpoint}, which has a fault of its own (status {status})"),
            "try again later, or use another server (HF_ENDPOINT); what was downloaded is kept".into(),
        ),
        _ => of(
            format!("{endpoint}, which answers with status {status} {code}"),
            "check the name, the revision and HF_ENDPOINT".into(),
        ),
    }
}

/// Returns what is found, and what helps, where a model is not given to everybody; `is_there` if it is known to exist.
fn closed(server: &Server, id: &str, is_there: bool) -> (String, String) {
    let endpoint = &server.endpoint;
    let terms = format!("accept the model's terms at {endpoint}/{id}");
    let fix = match (&server.token, is_there) {
        (None, true) => format!("{terms}; then set HF_TOKEN to a token of yours"),
        (None, false) => format!("check the name; {terms}; then set HF_TOKEN to a token of yours"),
        (Some(_), true) => format!("{terms} as the user whose token is used"),
        (Some(_), false) => format!(
            "check the name, that the token in HF_TOKEN or of `hf auth login` is valid, and that its user may read \
             {endpoint}/{id}"
        ),
    };
    let or_none = if is_there { "" } else { ", or none" };
    (format!("one that {endpoint} does not give to everybody{or_none}"), fix)
}

/// The error for a file that did not come as it should.
pub fn download(server: &Server, name: &Name, file: &str, fault: Fault) -> Error {
    match fault {
        Fault::Server(why) => by(server, name, Some(file), why),
        Fault::Here(why) => why,
        Fault::Damaged(found) => Error::model(
            &name.id,
            format!("the file {file} as {} describes it", server.endpoint),
            found,
            "the server or a proxy before it changes the file: use another network or server (HF_ENDPOINT)",
        ),
    }
}

/// The error for a repository without a file that a model needs.
pub fn without(name: &Name, missing: &str) -> Error {
    let fix = match missing {
        "tokenizer.json" => format!(
            "make one in Python: AutoTokenizer.from_pretrained(\"{}\").save_pretrained(FOLDER), and put it into a \
             folder with the model's other files",
            name.id
        ),
        _ => "choose a repository with a whole model".into(),
    };
    Error::model(&name.id, format!("a {missing} in the repository"), "none", fix)
}
