//! `SECURITY.md` promises nothing that no test shows: every test and scenario that its table names is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of all test functions below `directory`, by the text between `#[test]` and the parameters (or `proptest!`'s form of it).
fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let tests = text.split("#[test]").skip(1);
            let names = tests.filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
            found.extend(names.map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn every_test_that_the_table_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    functions(&root.join("src"), &mut tests);
    functions(&root.join("tests"), &mut tests);
    assert!(tests.contains("every_test_that_the_table_names_is_there"));
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("What is promised")).unwrap();
    let mut rows = 0;
    let mut missing = vec![];
    for row in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let shown_by = row.trim_end_matches('|').rsplit(" | ").next().unwrap();
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing shows this: {row}");
        missing.extend(names.into_iter().filter(|name| match name.rsplit_once("::") {
            Some((_, function)) => !tests.contains(function),
            None => !root.join("integration/scenarios").join(name).join("scenario.rs").is_file(),
        }));
        rows += 1;
    }
    assert!(rows > 10, "only {rows} promises were found");
    assert!(missing.is_empty(), "SECURITY.md names tests that are not there: {missing:?}");
}
