//! Which scenarios run on which kernels.

use crate::failure::{Failure, Outcome, ensure};
use crate::job::Task;
use crate::kernel::choice::Choice;
use crate::run::Options;
use crate::scenarios;

/// What shall run where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) kernel: Choice,
    /// The kernel of the machine that umip has for itself.
    pub(crate) umip: Option<Choice>,
    /// The scenarios; none for another task.
    pub(crate) names: Vec<String>,
}

impl Wish {
    /// A name for a column and a directory.
    pub(crate) fn label(&self) -> String {
        match &self.umip {
            Some(umip) => format!("{}+umip-on-{}", self.kernel.label(), umip.label()),
            None => self.kernel.label(),
        }
    }
}

/// What a task is to run on, as the user says it and otherwise as people have it: everything on one kernel, what is for every kernel on the others
/// too, and umip in a machine of its own with a kernel that its home agent works on.
pub(crate) fn wishes(task: &Task, named: bool, options: &Options, has_umip: bool) -> Outcome<Vec<Wish>> {
    if let Some(Choice::File(path)) = &options.kernel {
        // Before anything that takes long.
        ensure(path.is_file(), || {
            format!("--kernel {}: there is no such file; 6.1, 6.12 and newest are downloaded", path.display())
        })?;
    }
    let Task::Scenarios(all) = task else {
        let kernel = options.kernel.clone().unwrap_or_default();
        ensure(kernel != Choice::All, || "--kernel all is for `cargo lab test`".into())?;
        return Ok(vec![Wish { kernel, umip: None, names: vec![] }]);
    };
    let umip = match options.umip_kernel.as_str() {
        "same" => None,
        name => Some(name.parse::<Choice>().map_err(|why| Failure::new(format!("--umip-kernel: {why}")))?),
    };
    if let Some(umip @ (Choice::All | Choice::Running)) = &umip {
        return Err(Failure::new(format!("--umip-kernel {umip}: it is one kernel in a machine of its own")));
    }
    let with_umip = |name: &&String| scenarios::named(name).is_some_and(|one| one.peer.umip_node().is_some());
    if has_umip && named && options.kernel.is_none() && all.iter().all(|name| with_umip(&name)) {
        // Which side of umip works on which kernel.
        let alone = Choice::All.each().into_iter().map(|kernel| (kernel, None));
        let parts = umip.map(|umip| (Choice::default(), Some(umip))).into_iter().chain(alone);
        return Ok(parts.map(|(kernel, umip)| Wish { kernel, umip, names: all.clone() }).collect());
    }
    let mut wishes = vec![];
    for (number, kernel) in options.kernel.clone().unwrap_or_default().each().into_iter().enumerate() {
        let here = |name: &&String| number == 0 || named || scenarios::is_core(name);
        let names: Vec<String> = all.iter().filter(here).cloned().collect();
        let apart = has_umip && umip.is_some() && kernel != Choice::Running;
        let (others, own): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| apart && with_umip(&name));
        let parts = [(None, own), (umip.clone(), others)];
        let parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
        wishes.extend(parts.map(|(umip, names)| Wish { kernel: kernel.clone(), umip, names }));
    }
    Ok(wishes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str], named: bool, kernel: Option<&str>, umip_kernel: &str, has_umip: bool) -> Vec<String> {
        let kernel = kernel.map(|name| name.parse().unwrap());
        let options = Options { kernel, umip_kernel: umip_kernel.into(), ..Options::default() };
        let task = Task::Scenarios(names.iter().map(|name| (*name).to_owned()).collect());
        let wishes = wishes(&task, named, &options, has_umip).unwrap();
        wishes.iter().map(|wish| format!("{}: {}", wish.label(), wish.names.join(" "))).collect()
    }

    #[test]
    fn everything_on_one_kernel_and_the_core_on_the_others() {
        let names = ["register-esp", "reload"];
        let expected = ["6.12: register-esp reload", "6.1: register-esp", "newest: register-esp"];
        assert_eq!(found(&names, false, Some("all"), "6.1", false), expected);
        assert_eq!(
            found(&["reload"], true, Some("all"), "6.1", false),
            ["6.12: reload", "6.1: reload", "newest: reload"]
        );
        assert_eq!(found(&names, false, None, "6.1", false), ["6.12: register-esp reload"]);
    }

    #[test]
    fn umip_has_a_machine_of_its_own() {
        let names = ["register-esp", "umip-home-agent"];
        let apart = ["6.12: register-esp", "6.12+umip-on-6.1: umip-home-agent"];
        assert_eq!(found(&names, false, None, "6.1", true), apart);
        assert_eq!(found(&names, false, None, "same", true), ["6.12: register-esp umip-home-agent"]);
        assert_eq!(
            found(&names, false, None, "6.1", false),
            ["6.12: register-esp umip-home-agent"],
            "skipped, and told"
        );
        let everywhere = [
            "6.12+umip-on-6.1: umip-home-agent",
            "6.12: umip-home-agent",
            "6.1: umip-home-agent",
            "newest: umip-home-agent",
        ];
        assert_eq!(found(&["umip-home-agent"], true, None, "6.1", true), everywhere);
        assert_eq!(found(&["umip-home-agent"], true, Some("6.1"), "same", true), ["6.1: umip-home-agent"]);
    }

    #[test]
    fn a_file_that_is_not_there_is_told_first() {
        let options = Options { kernel: Some("/nonexistent".parse().unwrap()), ..Options::default() };
        let why = wishes(&Task::Demo, false, &options, false).unwrap_err().to_string();
        assert!(why.contains("/nonexistent") && why.contains("6.12"), "{why}");
    }
}
