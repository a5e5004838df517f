//! The rooms of `src/` and what each may know: the drawing in ARCHITECTURE.md, kept by reading the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Rooms from the ground up, a floor a line: a room imports only from floors below its own.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["atomic_file", "open_file", "words"],
    &["trace"],
    &["protocol", "tasks"],
    &["engine", "analysis"],
    &["start", "study"],
    &["view"],
    &["client"],
];

/// The same inside the engine.
const ENGINE_FLOORS: &[&[&str]] = &[
    &["model", "search", "raster"],
    &["peers"],
    &["device"],
    &["cpu", "cuda", "decoder", "told"],
    &["clock", "ranks"],
    &["run"],
    &["compare", "generate", "together"],
    &["knock_out", "smallest_top_k"],
    &["serve"],
];

/// The folder of `src`, and the loose files that it may have beside rooms.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
const LOOSE: [&str; 5] = ["lib.rs", "error.rs", "atomic_file.rs", "open_file.rs", "start.rs"];

/// An import: the file that has it, and the modules it names, from the crate's root.
#[derive(Clone, Debug, PartialEq)]
struct Import {
    file: PathBuf,
    from: Vec<String>,
    to: Vec<String>,
}

#[test]
fn every_room_imports_from_floors_below() {
    let imports = imports();
    assert!(imports.len() > 500, "only {} imports were read", imports.len());
    let wrong: Vec<String> = imports.iter().filter_map(|import| upward(import, 0, FLOORS)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let inside = imports.iter().filter(|import| import.from[0] == "engine" && import.to[0] == "engine");
    let wrong: Vec<String> = inside.filter_map(|import| upward(import, 1, ENGINE_FLOORS)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_two_modules_of_a_folder_import_each_other_in_a_circle() {
    let mut graphs: BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for Import { from, to, .. } in imports() {
        let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        if let (Some(a), Some(b)) = (from.get(shared), to.get(shared)) {
            let folder = graphs.entry(from[..shared].to_vec()).or_default();
            folder.entry(a.clone()).or_default().insert(b.clone());
        }
    }
    for (folder, graph) in graphs {
        let circle = circle(&graph);
        assert!(circle.is_empty(), "src/{}: {} import each other", folder.join("/"), circle.join(", "));
    }
}

#[test]
fn the_ground_floor_is_tidy() {
    let files =
        fs::read_dir(SOURCE).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let loose: Vec<String> = files.map(|path| path.file_name().unwrap().to_string_lossy().into()).collect();
    assert!(
        loose.iter().all(|file| LOOSE.contains(&file.as_str())),
        "{loose:?}: only {LOOSE:?} lie outside of rooms"
    );
}

#[test]
fn wrong_imports_are_found() {
    let text = "use crate::{\n    error::Error,\n    view::{plot::Figure, Report as Page},\n};\nfn f() { super::super::tasks::score() }\n\
                #[cfg(test)]\nmod tests {\n    use crate::client::Tracer;\n}\n";
    let found = imports_of(Path::new("src/trace/made_up.rs"), &["trace".into(), "made_up".into()], text);
    let to: Vec<String> = found.iter().map(|import| import.to.join("::")).collect();
    assert_eq!(to, ["error::Error", "view::plot::Figure", "view::Report", "tasks::score"]);
    let wrong: Vec<String> = found.iter().filter_map(|import| upward(import, 0, FLOORS)).collect();
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    assert!(
        wrong[0].contains("src/trace/made_up.rs") && wrong[0].contains("view::plot::Figure"),
        "{wrong:?}"
    );
    let graph = |edges: &[(&str, &str)]| {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (a, b) in edges {
            graph.entry(a.to_string()).or_default().insert(b.to_string());
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])), ["b", "c"]);
    assert!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
}

/// Returns a sentence about an import that does not point down, comparing the names at `depth` of both paths.
fn upward(import: &Import, depth: usize, floors: &[&[&str]]) -> Option<String> {
    let floor = |path: &[String]| {
        let room = path.get(depth)?;
        floors.iter().position(|rooms| rooms.contains(&room.as_str()))
    };
    let (from, to) = (import.from.get(depth)?, import.to.get(depth)?);
    if from == to {
        return None;
    }
    let place = format!("{} imports {}", import.file.display(), import.to.join("::"));
    match (floor(&import.from), floor(&import.to)) {
        (Some(above), Some(below)) if below < above => None,
        (Some(_), Some(_)) => Some(format!("{place}: `{from}` must not know `{to}`")),
        (None, _) => Some(format!("{place}: `{from}` stands on no floor")),
        // A name of the room itself, which its mod.rs re-exports.
        (Some(_), None) if depth > 0 => None,
        (Some(_), None) => Some(format!("{place}: `{to}` stands on no floor")),
    }
}

/// Returns the modules that stay when those that import nothing left are taken away, and those that nothing
/// left imports.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut left: BTreeSet<&String> = graph.keys().chain(graph.values().flatten()).collect();
    loop {
        let imports = |a: &String, b: &String| graph.get(a).is_some_and(|to| to.contains(b));
        let kept: BTreeSet<&String> = left
            .iter()
            .copied()
            .filter(|a| left.iter().any(|b| imports(a, b)) && left.iter().any(|b| imports(b, a)))
            .collect();
        if kept.len() == left.len() {
            return kept.into_iter().cloned().collect();
        }
        left = kept;
    }
}

/// Returns all imports between modules of the library, without those of tests and of lib.rs, which names
/// everything.
fn imports() -> Vec<Import> {
    let mut files = Vec::new();
    sources(Path::new(SOURCE), &mut files);
    let mut all = Vec::new();
    for path in files {
        let relative = path.strip_prefix(SOURCE).unwrap();
        let mut module: Vec<String> =
            relative.with_extension("").iter().map(|part| part.to_string_lossy().into()).collect();
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        let shown = Path::new("src").join(relative);
        let test_only = module.iter().any(|name| name == "tests" || name == "synthetic");
        if module != ["lib"] && !test_only {
            all.extend(imports_of(&shown, &module, &fs::read_to_string(&path).unwrap()));
        }
    }
    all
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("bin") {
            sources(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// Returns the paths of a file that begin with `crate` or `super`, in `use` lines and in the code, without
/// its tests and comments.
fn imports_of(file: &Path, module: &[String], text: &str) -> Vec<Import> {
    let code: String = without_tests(text)
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            // Not the second `super` of `super::super`.
            if !code[..at].ends_with("::") {
                found.push((at, path_tree(&code[at..])));
            }
        }
    }
    found.sort_by_key(|(at, _)| *at);
    let import = |to: Vec<String>| Import { file: file.into(), from: module.to_vec(), to };
    found
        .into_iter()
        .flat_map(|(_, paths)| paths)
        .map(|path| import(absolute(module, &path)))
        .filter(|i| !i.to.is_empty())
        .collect()
}

/// Returns the text of a file without its `mod tests { … }`, at any depth.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut end = None;
    for line in text.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        if end.is_none() && line.trim_start().starts_with("mod tests {") {
            end = Some(format!("{indent}}}"));
        }
        match &end {
            Some(closing) if line == closing => end = None,
            Some(_) => {}
            None => kept.extend([line, "\n"]),
        }
    }
    kept
}

/// Returns the paths of `a::{b, c::d}`, up to the end of the tree.
fn path_tree(text: &str) -> Vec<Vec<String>> {
    let mut start = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            start.push(rest[..end].to_string());
        }
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(next) if next.starts_with('{') => {
                let branches = branches(&next[1..]);
                let whole = |path: Vec<String>| start.iter().cloned().chain(path).collect();
                return branches.into_iter().flat_map(path_tree).map(whole).collect();
            }
            Some(next) => rest = next,
            None => return vec![start],
        }
    }
}

/// Returns the parts between the commas of a brace that was just opened, up to where it closes.
fn branches(text: &str) -> Vec<&str> {
    let (mut depth, mut first, mut parts) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                parts.push(text[first..at].trim());
                first = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Returns a path as written in a module, from the crate's root.
fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let n_up = path.iter().take_while(|part| *part == "super").count();
    let base = if path[0] == "crate" { &[][..] } else { &module[..module.len().saturating_sub(n_up)] };
    base.iter().chain(&path[n_up.max(1)..]).filter(|part| *part != "self").cloned().collect()
}
