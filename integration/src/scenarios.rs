//! All scenarios, in the order in which they run.

use crate::scenario::Scenario;

#[path = "../scenarios/the-lab-itself/scenario.rs"]
mod the_lab_itself;

/// See the module.
pub(crate) const ALL: &[&Scenario] = &[&the_lab_itself::SCENARIO];

/// Those whose name contains `filter`.
pub(crate) fn matching(filter: Option<&str>) -> Vec<&'static Scenario> {
    ALL.iter().copied().filter(|scenario| filter.is_none_or(|filter| scenario.name.contains(filter))).collect()
}

/// The one of that name.
pub(crate) fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().copied().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_directory_is_a_scenario_and_every_scenario_has_a_directory() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let directories: BTreeSet<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().join("scenario.rs").exists())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        let names: BTreeSet<String> = ALL.iter().map(|scenario| scenario.name.to_owned()).collect();
        assert_eq!(directories, names);
    }

    #[test]
    fn every_readme_begins_with_name_and_title() {
        for scenario in ALL {
            let wanted = format!("# {}: ", scenario.name);
            assert!(scenario.readme.starts_with(&wanted), "{}: README.md must start with {wanted:?}", scenario.name);
        }
    }
}
