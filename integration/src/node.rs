//! A node of the lab: one thread that lives in a network namespace (and a mount namespace) of its own.
//!
//! Everything a node does, it does on that thread: programs started there are born inside the namespaces. The namespaces
//! have no names, so there is nothing to clean up: they go when the thread and the programs have gone.
//!
//! A node may be in another machine, where an agent does what is asked of it. Then it runs programs, and no code of the lab.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::agent::Agent;
use crate::failure::{Failure, Outcome, While, ensure};

type Job = Box<dyn FnOnce() + Send>;

/// See the module.
pub(crate) struct Node {
    name: String,
    place: Place,
}

enum Place {
    Here { jobs: Option<mpsc::Sender<Job>>, namespace: File, thread: Option<JoinHandle<()>> },
    Away(Arc<Agent>),
}

impl Node {
    /// A new network namespace, with nothing but `lo`, which is down.
    pub(crate) fn new(name: &str) -> Outcome<Self> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let (ready, born) = mpsc::channel::<Outcome<File>>();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let namespace = enter_own_namespaces();
            let usable = namespace.is_ok();
            if ready.send(namespace).is_ok() && usable {
                while let Ok(job) = receiver.recv() {
                    job();
                }
            }
        })?;
        let namespace = born
            .recv()
            .map_err(|_| Failure::new("its thread ended"))
            .and_then(|namespace| namespace)
            .during(|| format!("making the namespace of {name}"))?;
        let place = Place::Here { jobs: Some(jobs), namespace, thread: Some(thread) };
        Ok(Self { name: name.to_owned(), place })
    }

    /// A new one in another machine, with the cards that join the machines.
    pub(crate) fn away(name: &str, agent: &Arc<Agent>) -> Outcome<Self> {
        agent.make_node(name).during(|| format!("making {name} in the other machine"))?;
        Ok(Self { name: name.to_owned(), place: Place::Away(Arc::clone(agent)) })
    }

    /// The agent that does what is asked of a node in another machine.
    pub(crate) fn agent(&self) -> Option<&Arc<Agent>> {
        match &self.place {
            Place::Here { .. } => None,
            Place::Away(agent) => Some(agent),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A path by which other programs can name this network namespace, as long as the node lives.
    pub(crate) fn namespace_path(&self) -> Outcome<PathBuf> {
        match &self.place {
            Place::Here { namespace, .. } => {
                Ok(PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())))
            }
            Place::Away(_) => Err(Failure::new(format!("{} is in another machine", self.name))),
        }
    }

    /// Runs `job` inside and waits for its result.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
        let (answer, result) = mpsc::channel();
        let job = Box::new(move || {
            // A failed send only means that nobody waits any more.
            let _ = answer.send(job());
        });
        let Place::Here { jobs, .. } = &self.place else {
            return Err(Failure::new(format!(
                "{} is in another machine: the lab's own code does not run there",
                self.name
            )));
        };
        jobs.as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .and_then(|()| result.recv().ok())
            .ok_or_else(|| Failure::new(format!("the thread of {} ended", self.name)))
    }

    /// Starts a program inside.
    pub(crate) fn spawn(&self, mut command: Command) -> Outcome<std::process::Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(move || command.spawn())?.during(|| format!("{}: starting {program}", self.name))
    }

    /// Runs a program inside to its end; fails unless it exits with 0. Returns what it printed.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Outcome<String> {
        let output = self.try_command(program, arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure(output.status.success(), || {
            let error = String::from_utf8_lossy(&output.stderr);
            format!("{}: `{program} {}` failed: {}{text}", self.name, arguments.join(" "), error.trim_end())
        })?;
        Ok(text)
    }

    /// Runs a program inside to its end, whatever its exit status.
    pub(crate) fn try_command(&self, program: &str, arguments: &[&str]) -> Outcome<Output> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        if let Some(agent) = self.agent() {
            return agent.run(&command, "").during(|| self.name.clone());
        }
        // The node's thread only starts the program, so that others can use the node while it runs.
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(self.spawn(command)?.wait_with_output()?)
    }

    /// Runs `ip` commands inside, one a line, and stops at the first that fails.
    pub(crate) fn ip(&self, batch: &str) -> Outcome {
        let mut command = Command::new("ip");
        command.args(["-6", "-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = if let Some(agent) = self.agent() {
            agent.run(&command, &format!("{batch}\n")).during(|| self.name.clone())?
        } else {
            let mut child = self.spawn(command)?;
            if let Some(mut input) = child.stdin.take() {
                input.write_all(batch.as_bytes())?;
                input.write_all(b"\n")?;
            }
            child.wait_with_output()?
        };
        ensure(output.status.success(), || {
            // Keys belong into no message.
            let batch = if batch.contains(" enc ") { "security associations" } else { batch };
            format!("{}: ip: {}in:\n{batch}", self.name, String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Sets `/proc/sys/net/ipv6/<key>`.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> Outcome {
        let (path, value) = (Path::new("/proc/sys/net/ipv6").join(key), value.to_owned());
        if let Some(agent) = self.agent() {
            return agent.write(&path, &value).during(|| self.name.clone());
        }
        self.run(move || std::fs::write(&path, value).during(|| path.display().to_string()))?
    }

    /// The text of a file as a program inside sees it.
    pub(crate) fn read(&self, path: &str) -> Outcome<String> {
        if let Some(agent) = self.agent() {
            let text = agent.read(Path::new(path)).during(|| self.name.clone())?;
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        let path = path.to_owned();
        self.run(move || std::fs::read_to_string(&path).during(|| path.clone()))?
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Place::Here { jobs, thread, .. } = &mut self.place else { return };
        *jobs = None;
        if let Some(thread) = thread.take() {
            // The thread has nothing to report any more.
            let _ = thread.join();
        }
    }
}

/// Gives the calling thread a network namespace, and a mount namespace in which `/run` and `/var/lib` are empty and
/// `/sys` shows that network namespace. Thus two daemons on one machine are as far apart as on two.
fn enter_own_namespaces() -> Outcome<File> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).during(|| "namespaces need root".into())?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for directory in ["/run", "/var/lib"] {
        mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
            .during(|| format!("an empty {directory}"))?;
    }
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).during(|| "mounting /sys".into())?;
    Ok(File::open("/proc/thread-self/ns/net")?)
}
