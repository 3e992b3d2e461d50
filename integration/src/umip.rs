//! The optional peer: umip's `mip6d`, as home agent and as mobile node, with `radvd` for the router advertisements it needs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::dissect::icmpv6;
use crate::expect::SOON;
use crate::failure::{Failure, Outcome, While, ensure};
use crate::node::Node;
use crate::process::{Daemon, wait_until};
use crate::scenario::Lab;
use crate::topology::HOME;

/// Whether binding updates and acknowledgements go under ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    None,
    Esp,
}

impl Protection {
    /// The lines of `mip6d.conf` that say so.
    fn lines(self) -> &'static str {
        match self {
            Self::None => "UseMnHaIPsec disabled;\n",
            Self::Esp => {
                "UseMnHaIPsec enabled;\nIPsecPolicySet { HomeAgentAddress 2001:db8:2000::1; \
                 HomeAddress 2001:db8:2000::10/64; IPsecPolicy HomeRegBinding UseESP 1 2; }\n"
            }
        }
    }
}

/// `mip6d` with its `radvd`.
pub(crate) struct Umip<'lab> {
    radvd: Daemon<'lab>,
    mip6d: Daemon<'lab>,
}

impl Umip<'_> {
    /// Ends both.
    pub(crate) fn end(mut self) -> Outcome {
        self.mip6d.terminate_anyhow()?;
        self.radvd.terminate_anyhow()
    }
}

/// What `radvd` tells on the home link: without the router's own address umip refuses every binding update.
const HOME_LINK_ADVERTISEMENTS: &str = "interface eth0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvHomeAgentFlag on; AdvHomeAgentInfo on;\n\
         HomeAgentLifetime 1800; HomeAgentPreference 10; AdvIntervalOpt on;\n\
         prefix 2001:db8:2000::1/64 { AdvRouterAddr on; AdvOnLink on; AdvAutonomous on; }; };\n";

/// Lets `ha` advertise the home link, as a mobile node that comes home needs it; beside our home agent, which does not.
pub(crate) fn advertise_home_link(lab: &Lab) -> Outcome<Radvd<'_>> {
    start_radvd(lab, &lab.net.ha, HOME_LINK_ADVERTISEMENTS).map(Radvd)
}

/// `radvd` alone.
pub(crate) struct Radvd<'lab>(Daemon<'lab>);

impl Radvd<'_> {
    pub(crate) fn end(mut self) -> Outcome {
        self.0.terminate_anyhow()
    }
}

/// Starts it as home agent on the home link, with nothing but what `kagemusha policy export` writes for this policy of the host, and waits
/// until it listens.
pub(crate) fn start_home_agent<'lab>(lab: &'lab Lab, policy: &str) -> Outcome<Umip<'lab>> {
    let file = lab.policy("exported.toml", policy)?;
    start_home_agent_from_export(lab, &file)
}

/// The same for a file.
pub(crate) fn start_home_agent_from_export<'lab>(lab: &'lab Lab, policy: &Path) -> Outcome<Umip<'lab>> {
    let export = |to: &[&str]| -> Outcome<String> {
        let mut command = Command::new(&lab.kagemusha);
        command.args(["policy", "export"]).arg(policy).args(to).stdin(std::process::Stdio::null());
        let output = command.output().during(|| "kagemusha policy export".into())?;
        ensure(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let script = write(lab, "exported.sh", &export(&["--to", "ip-xfrm", "--with-keys"])?)?;
    let script = script.display().to_string();
    let loaded = lab.net.ha.command("sh", &[&script]);
    loaded.map_err(|_| Failure::new("the exported security associations and policies do not load"))?;
    home_agent(lab, &export(&["--to", "mip6d"])?)
}

fn home_agent<'lab>(lab: &'lab Lab, protection: &str) -> Outcome<Umip<'lab>> {
    let ha = &lab.net.ha;
    let protected = protection.contains("UseMnHaIPsec enabled;");
    for scope in ["all", "eth0"] {
        ha.sysctl(&format!("conf/{scope}/proxy_ndp"), "1")?;
    }
    let radvd = start_radvd(lab, ha, HOME_LINK_ADVERTISEMENTS)?;
    let configuration = format!("NodeConfig HA;\nInterface \"eth0\";\nHaMaxBindingLife 600;\n{protection}");
    let mut mip6d = start_mip6d(lab, ha, "umip-home-agent", &configuration)?;
    wait_until("umip listens for mobility headers", SOON, || {
        mip6d.must_run()?;
        let listens = ha.read("/proc/thread-self/net/raw6")?.contains(":0087 ");
        let policies = ha.command("ip", &["xfrm", "policy"])?;
        // Of this priority are its own for registrations.
        Ok(listens && (!protected || policies.contains("dir out priority 2 ")))
    })?;
    // It learns its own home link from an advertisement, and answers with status 132 before.
    lab.watch(HOME)?.must_see("a router advertisement of the home agent", Duration::from_secs(10), |packet| {
        packet.is_icmpv6(icmpv6::ROUTER_ADVERTISEMENT)
    })?;
    Ok(Umip { radvd, mip6d })
}

/// Starts it as mobile node in `host`, which gets its care-of addresses by router advertisements of `core`.
pub(crate) fn start_mobile_node(lab: &Lab, protection: Protection) -> Outcome<Umip<'_>> {
    let net = &lab.net;
    if protection == Protection::Esp {
        add_associations(lab, &net.host)?;
    }
    net.host.ip("addr flush dev eth0 scope global\nroute flush default")?;
    let mut configuration = String::new();
    for (interface, prefix) in [("eth1", "2001:db8:3000::/64"), ("eth2", "2001:db8:4000::/64")] {
        let _ = writeln!(
            configuration,
            "interface {interface} {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvIntervalOpt on;\n\
             prefix {prefix} {{ AdvOnLink on; AdvAutonomous on; AdvRouterAddr on; }}; }};"
        );
    }
    let radvd = start_radvd(lab, &net.core, &configuration)?;
    let mip6d = restart_mobile_node(lab, protection)?;
    Ok(Umip { radvd, mip6d })
}

impl<'lab> Umip<'lab> {
    /// Kills the mobile node and starts it again: it has forgotten its sequence number and begins with a random one.
    pub(crate) fn restart_mobile_node(&mut self, lab: &'lab Lab, protection: Protection) -> Outcome {
        self.mip6d.terminate_anyhow()?;
        self.mip6d = restart_mobile_node(lab, protection)?;
        Ok(())
    }
}

fn restart_mobile_node(lab: &Lab, protection: Protection) -> Outcome<Daemon<'_>> {
    let configuration = format!(
        "NodeConfig MN;\nDoRouteOptimizationCN disabled;\nDoRouteOptimizationMN disabled;\nUseCnBuAck disabled;\n\
         MnMaxHaBindingLife 16;\nMnRouterProbes 1;\nInterface \"eth0\";\n\
         MnHomeLink \"eth0\" {{ HomeAgentAddress 2001:db8:2000::1; HomeAddress 2001:db8:2000::10/64; }}\n{}",
        protection.lines()
    );
    start_mip6d(lab, &lab.net.host, "umip-mobile-node", &configuration)
}

fn start_mip6d<'lab>(lab: &'lab Lab, node: &'lab Node, name: &str, configuration: &str) -> Outcome<Daemon<'lab>> {
    let program = lab.mip6d.as_ref().ok_or_else(|| Failure::new("KAGEMUSHA_MIP6D is not set"))?;
    let file = write(lab, &format!("{name}.conf"), configuration)?;
    let mut command = Command::new(program);
    // -d 10 keeps it in the foreground and lets it tell everything.
    command.arg("-c").arg(file).args(["-d", "10"]);
    Daemon::start(node, name, &lab.directory, command)
}

/// Starts `radvd` in `node`.
pub(crate) fn start_radvd<'lab>(lab: &'lab Lab, node: &'lab Node, configuration: &str) -> Outcome<Daemon<'lab>> {
    let file = write(lab, &format!("radvd-{}.conf", node.name()), configuration)?;
    let mut command = Command::new("radvd");
    command.args(["-n", "-m", "stderr", "-u", "root", "-p", "/run/radvd.pid", "-C"]).arg(file);
    Daemon::start(node, &format!("radvd-{}", node.name()), &lab.directory, command)
}

fn write(lab: &Lab, name: &str, text: &str) -> Outcome<PathBuf> {
    let file = lab.directory.join(name);
    std::fs::write(&file, text).during(|| file.display().to_string())?;
    Ok(file)
}

/// Its administrator makes the security associations by hand; here with the keys that our side's policy has.
fn add_associations(lab: &Lab, node: &Node) -> Outcome {
    let key = |name: &str| -> Outcome<String> {
        let file = lab.directory.join("keys").join(name);
        Ok(std::fs::read_to_string(&file).during(|| file.display().to_string())?.trim().to_owned())
    };
    let (home, agent) = ("2001:db8:2000::10", "2001:db8:2000::1");
    let mut batch = String::new();
    for (source, destination, spi, reqid, name) in
        [(home, agent, 0x3e8, 1, "vm1-to-ha"), (agent, home, 0x3e9, 2, "vm1-to-guest")]
    {
        let _ = writeln!(
            batch,
            "xfrm state add src {source} dst {destination} proto esp spi {spi:#x} reqid {reqid} mode transport \
             enc cbc(aes) 0x{} auth-trunc hmac(sha256) 0x{} 128",
            key(&format!("{name}.enc"))?,
            key(&format!("{name}.auth"))?
        );
    }
    node.ip(&batch)
}
