//! What runs in a guest: services for its peers, and in a QEMU guest the init around them, which answers on the serial line.
//!
//! A guest that is a namespace runs the same services, on threads that live in it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use super::world;
use crate::failure::{Outcome, While, ensure};

/// Returns what it gets, octet by octet.
pub(crate) const ECHO_PORT: u16 = 7;
/// Sends [`pattern`] for ever, one block every so many milliseconds as the client's first octet says.
pub(crate) const STREAM_PORT: u16 = 19;
/// Octets of a block.
pub(crate) const BLOCK: usize = 8192;

/// Names the guest's address (`ADDRESS/LENGTH`) to init: the kernel hands variables it does not know to init's environment.
pub(crate) const VARIABLE: &str = "KAGEMUSHA_LAB_GUEST";
/// What the lab sends on the serial line.
pub(crate) const ASK_WORLD: &str = "world";
/// ... and between which lines the answer is.
pub(crate) const BEGIN: &str = "world-begin";
pub(crate) const END: &str = "world-end";

/// The octet of the stream at `offset`: each place of any 64 KiB differs from its neighbours, so that a lost, repeated
/// or foreign piece cannot look right.
pub(crate) fn pattern(offset: u64) -> u8 {
    let mixed = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u8::try_from(mixed >> 56).unwrap_or_default()
}

/// The running services of one guest. They end with it.
pub(crate) struct Services(Arc<AtomicBool>);

impl Drop for Services {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts the services on threads that inherit the calling thread's network namespace.
pub(crate) fn serve() -> io::Result<Services> {
    let stop = Arc::new(AtomicBool::new(false));
    for (port, service) in [(ECHO_PORT, echo as fn(TcpStream, &AtomicBool) -> io::Result<()>), (STREAM_PORT, stream)] {
        let listener = TcpListener::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::clone(&stop);
        std::thread::Builder::new().name(format!("port {port}")).spawn(move || accept(&listener, service, &stop))?;
    }
    Ok(Services(stop))
}

fn accept(listener: &TcpListener, service: fn(TcpStream, &AtomicBool) -> io::Result<()>, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((connection, _)) => {
                let stop = Arc::clone(stop);
                // An error ends this connection; its peer sees that and complains.
                std::thread::spawn(move || drop(service(connection, &stop)));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn echo(mut connection: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    connection.set_nonblocking(false)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut buffer = [0; 256];
    while !stop.load(Ordering::Relaxed) {
        match connection.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => connection.write_all(buffer.get(..length).unwrap_or_default())?,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn stream(mut connection: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    connection.set_nonblocking(false)?;
    let mut pause = [0];
    connection.read_exact(&mut pause)?;
    // A read that times out is the pause; one that returns is the client's good-bye.
    connection.set_read_timeout(Some(Duration::from_millis(u64::from(pause[0].max(1)))))?;
    let mut offset = 0;
    while !stop.load(Ordering::Relaxed) {
        let block: Vec<u8> = (0..BLOCK as u64).map(|place| pattern(offset + place)).collect();
        connection.write_all(&block)?;
        offset += BLOCK as u64;
        match connection.read(&mut [0]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    Ok(())
}

/// Whether this process is the init of the lab's QEMU guest.
pub(crate) fn is_init() -> bool {
    std::process::id() == 1 && std::env::var_os(VARIABLE).is_some()
}

/// Runs until the machine is switched off.
pub(crate) fn main() -> ExitCode {
    if let Err(failure) = run() {
        println!("guest: {failure}");
    }
    // The end of init would be a panic of the kernel, which hides the message above.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn run() -> Outcome {
    for (kind, directory) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")] {
        match mount(Some(kind), directory, Some(kind), MsFlags::empty(), None::<&str>) {
            Ok(()) | Err(nix::Error::EBUSY) => {}
            Err(error) => return Err(error).during(|| format!("mounting {directory}")),
        }
    }
    busybox(&["ln", "-s", "busybox", "/bin/ip"])?;
    let mut modules: Vec<_> = fs::read_dir("/modules")?.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        busybox(&["insmod", &module.to_string_lossy()])?;
    }
    let address = std::env::var(VARIABLE).unwrap_or_default();
    configure(&address)?;
    let _services = serve()?;
    answer()
}

fn configure(address: &str) -> Outcome {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !fs::exists("/sys/class/net/eth0")? {
        ensure(std::time::Instant::now() < deadline, || "no eth0".into())?;
        std::thread::sleep(Duration::from_millis(20));
    }
    // Routers are looked for until one answers, for the host's daemon may come up later than the guest.
    for (key, value) in [
        ("accept_dad", "0"),
        ("router_solicitations", "30"),
        ("router_solicitation_interval", "1"),
        ("router_solicitation_max_interval", "1"),
    ] {
        fs::write(format!("/proc/sys/net/ipv6/conf/eth0/{key}"), value)?;
    }
    for arguments in [
        &["link", "set", "lo", "up"][..],
        &["link", "set", "eth0", "up"],
        &["-6", "addr", "add", address, "dev", "eth0"],
    ] {
        busybox(&[&["ip"], arguments].concat())?;
    }
    Ok(())
}

fn busybox(arguments: &[&str]) -> Outcome {
    let output = Command::new("/bin/busybox").args(arguments).output().during(|| "busybox".into())?;
    ensure(output.status.success(), || {
        format!("busybox {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim_end())
    })
}

/// Answers on the serial line, whose other end is the lab.
fn answer() -> Outcome {
    let serial = "/dev/ttyS0";
    busybox(&["stty", "-F", serial, "raw", "-echo"])?;
    let mut to_lab = File::options().write(true).open(serial).during(|| serial.into())?;
    let mut from_lab = BufReader::new(File::open(serial).during(|| serial.into())?);
    to_lab.write_all(b"guest-ready\n")?;
    let mut line = String::new();
    while from_lab.read_line(&mut line)? > 0 {
        if line.trim() == ASK_WORLD {
            let seen = world::look().unwrap_or_else(|failure| format!("failed: {failure}"));
            write!(to_lab, "\n{BEGIN}\n{seen}\n{}{END}\n", kernel_log())?;
        }
        line.clear();
    }
    Ok(())
}

/// The kernel's messages, one a line, with `kernel` in front.
fn kernel_log() -> String {
    let Ok(mut log) = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg") else {
        return "kernel log unreadable\n".into();
    };
    let mut text = String::new();
    let mut record = [0; 8192];
    // One read gives one record: priority, number, time, flags; message.
    while let Ok(length) = log.read(&mut record) {
        let record = String::from_utf8_lossy(record.get(..length).unwrap_or_default()).into_owned();
        let message = record.split_once(';').map_or(record.as_str(), |(_, message)| message);
        text.push_str(&format!("kernel {}\n", message.lines().next().unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_tells_a_shifted_stream() {
        let wrong = |shift: u64| (0..1000).filter(|at| pattern(*at) != pattern(at + shift)).count();
        for shift in [1, 2, 1448, 8192, 65536] {
            assert!(wrong(shift) > 900, "shifted by {shift}: only {} octets differ", wrong(shift));
        }
    }
}
