//! The rules of the house that no compiler keeps: the arrows between layers, the purity of the core, where `unsafe` is, how RFCs are cited,
//! how long files are, and that nothing panics on purpose.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "tidy_rules/layers.rs"]
mod layers;
#[path = "tidy_rules/source.rs"]
mod source;
#[path = "tidy_rules/text.rs"]
mod text;

use std::path::{Path, PathBuf};

use source::Source;

/// Lines with what is wrong there.
type Wrong = Vec<(usize, String)>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `directory` with one of `extensions`, as path from the root with text, in order.
fn files(directory: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if has_extension(&path, extensions) {
                found.push((from_root(&path), read(&path)));
            }
        }
    }
    found.sort();
    found
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| extensions.contains(&extension))
}

fn from_root(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files at the root itself: the documents and manifests.
fn root_files() -> Vec<(String, String)> {
    let paths = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = paths.filter(|path| has_extension(path, &["md", "toml"])).collect();
    files.sort();
    files.iter().map(|path| (from_root(path), read(path))).collect()
}

/// The sources below `directory`, without the files that are compiled for tests only.
fn sources(directory: &str) -> Vec<Source> {
    let sources: Vec<Source> = files(directory, &["rs"]).iter().map(|(path, text)| Source::new(path, text)).collect();
    assert!(!sources.is_empty(), "{directory} has no sources");
    sources
}

/// Whether `path` is a module of its own that another file declares under `#[cfg(test)]`.
fn is_test_module(path: &str, sources: &[Source]) -> bool {
    sources.iter().any(|source| {
        let directory = match source.path.strip_suffix("/mod.rs").or_else(|| source.path.strip_suffix("/lib.rs")) {
            Some(directory) => directory,
            None => source.path.trim_end_matches(".rs"),
        };
        let is = |name: &String| {
            path == format!("{directory}/{name}.rs") || path.starts_with(&format!("{directory}/{name}/"))
        };
        source.test_modules().iter().any(is)
    })
}

/// Fails with every place, one a line.
fn none(wrong: impl IntoIterator<Item = (String, Wrong)>) {
    let lines = wrong
        .into_iter()
        .flat_map(|(path, wrong)| wrong.into_iter().map(move |(line, what)| format!("{path}:{line}: {what}")));
    let lines: Vec<String> = lines.collect();
    assert!(lines.is_empty(), "{} places are not tidy:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn layers_know_only_those_below_them() {
    none(sources("src").iter().map(|source| (source.path.clone(), layers::arrows(source))));
}

#[test]
fn pure_layers_are_pure() {
    let sources = sources("src");
    let checked = sources.iter().filter(|source| !is_test_module(&source.path, &sources));
    none(checked.map(|source| (source.path.clone(), layers::purity(source))));
}

#[test]
fn unsafe_has_its_place() {
    let all = ["src", "integration/src", "tests"].into_iter().flat_map(sources);
    none(all.map(|source| (source.path.clone(), text::unsafe_code(&source))));
}

#[test]
fn nothing_panics_on_purpose() {
    let sources = sources("src");
    let checked = sources.iter().filter(|source| !is_test_module(&source.path, &sources));
    none(checked.map(|source| (source.path.clone(), text::panics(source))));
}

#[test]
fn files_can_be_read_at_once() {
    let all = ["src", "integration", "tests"].into_iter().flat_map(|directory| files(directory, &["rs"]));
    none(all.map(|(path, text)| (path, text::length(&text))));
}

#[test]
fn rfcs_are_cited_in_one_form() {
    let all = ["src", "integration", "tests", "policies"]
        .into_iter()
        .flat_map(|directory| files(directory, &["rs", "toml", "md"]))
        .chain(root_files());
    // The rules' own tests hold what is not allowed.
    let checked = all.filter(|(path, _)| path != "tests/tidy_rules/text.rs");
    none(checked.map(|(path, text)| (path, text::citations(&text))));
}

#[test]
fn no_machine_is_named() {
    let extensions = ["rs", "toml", "md", "sh", "snap", "txt", "conf", "tcpdump"];
    let all = ["src", "integration", "tests", "policies", ".cargo"]
        .into_iter()
        .flat_map(|directory| files(directory, &extensions))
        .chain(root_files());
    none(all.map(|(path, text)| (path, text::machine_paths(&text))));
}

#[test]
fn test_modules_in_files_of_their_own_are_known() {
    let sources = [
        Source::new("src/policy/mod.rs", "#[cfg(test)]\nmod support;\nmod report;"),
        Source::new("src/policy/report.rs", "#[cfg(test)] mod tests;"),
    ];
    assert!(is_test_module("src/policy/support.rs", &sources));
    assert!(is_test_module("src/policy/report/tests.rs", &sources));
    assert!(!is_test_module("src/policy/report.rs", &sources));
}
