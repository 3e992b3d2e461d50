//! Two machines that are joined: their network cards by datagrams, a driver in one and an agent in the other by a port.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::machine::Scratch;
use crate::agent::{CARDS, PORT};
use crate::failure::{Outcome, ensure};

/// QEMU makes its sockets when it starts.
const SOCKETS: Duration = Duration::from_secs(30);

/// What joins two machines.
pub(crate) struct Joined(Scratch);

impl Joined {
    pub(crate) fn new() -> Outcome<Self> {
        Scratch::new().map(Self)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Arguments of QEMU for the machine with the agent, which starts first.
    pub(crate) fn there(&self) -> Vec<OsString> {
        let socket = format!("socket,id=peer,path={},server=on,wait=off", self.path("port").display());
        self.arguments(&socket, "there", "here", |card| card.there)
    }

    /// ... and for the one with the driver.
    pub(crate) fn here(&self) -> Vec<OsString> {
        let socket = format!("socket,id=peer,path={}", self.path("port").display());
        self.arguments(&socket, "here", "there", |card| card.here)
    }

    /// Waits until the first machine can be joined.
    pub(crate) fn wait(&self) -> Outcome {
        let deadline = Instant::now() + SOCKETS;
        while !Path::exists(&self.path("port")) {
            ensure(Instant::now() < deadline, || "the other machine's QEMU makes no socket".into())?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn arguments(
        &self,
        socket: &str,
        own: &str,
        other: &str,
        mac: fn(&crate::agent::Card) -> &'static str,
    ) -> Vec<OsString> {
        let mut words = vec![
            "-chardev".to_owned(),
            socket.to_owned(),
            "-device".to_owned(),
            format!("virtserialport,chardev=peer,name={PORT}"),
        ];
        for card in &CARDS {
            let (local, remote) =
                (self.path(&format!("{own}-{}", card.name)), self.path(&format!("{other}-{}", card.name)));
            words.push("-netdev".to_owned());
            words.push(format!(
                "dgram,id={0},local.type=unix,local.path={1},remote.type=unix,remote.path={2}",
                card.name,
                local.display(),
                remote.display()
            ));
            words.push("-device".to_owned());
            words.push(format!("virtio-net-pci,netdev={},mac={},romfile=", card.name, mac(card)));
        }
        words.into_iter().map(OsString::from).collect()
    }
}
