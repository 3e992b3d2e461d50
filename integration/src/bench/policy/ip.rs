//! The same objects in the words of iproute2.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kagemusha::ipsec::{
    Action, Direction, EspMode, Level, Mode, SecretKey, SecurityAssociation, SecurityPolicy, Template,
    TemplateProtocol, Transform, UpperLayer,
};
use kagemusha::kernel_state::KernelState;

use crate::failure::{Outcome, ensure};
use crate::node::Node;

/// Lines for `ip -batch` that make the associations and policies of a state.
pub(super) fn batch(state: &KernelState) -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = state.associations.values().try_for_each(|sa| association(&mut text, sa));
    let _ = state.policies.values().try_for_each(|policy| self::policy(&mut text, policy));
    text
}

fn hexadecimal(key: &SecretKey) -> String {
    key.expose().iter().fold("0x".to_owned(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

fn association(text: &mut String, sa: &SecurityAssociation) -> std::fmt::Result {
    let Transform::Esp(esp) = &sa.transform else { return Ok(()) };
    let mode = match esp.mode {
        EspMode::Transport => "transport",
        EspMode::Tunnel => "tunnel",
    };
    write!(
        text,
        "xfrm state add src {} dst {} proto esp spi {:#x} reqid {} mode {mode} replay-window {} enc {} {}",
        sa.key.source,
        sa.key.destination,
        sa.key.spi,
        esp.reqid,
        esp.replay_window,
        esp.encryption.0.kernel_name(),
        hexadecimal(&esp.encryption.1),
    )?;
    if let Some((algorithm, key)) = &esp.integrity {
        write!(text, " auth-trunc {} {} {}", algorithm.kernel_name(), hexadecimal(key), algorithm.icv_bits())?;
    }
    if esp.mode == EspMode::Transport {
        write!(text, " sel src {} dst {}", sa.key.source, sa.key.destination)?;
    }
    text.write_char('\n')
}

fn policy(text: &mut String, policy: &SecurityPolicy) -> std::fmt::Result {
    let selector = &policy.key.selector;
    let direction = match policy.key.direction {
        Direction::In => "in",
        Direction::Out => "out",
        Direction::Forward => "fwd",
    };
    write!(text, "xfrm policy add src {} dst {}", selector.source, selector.destination)?;
    match selector.upper_layer {
        UpperLayer::Any => {}
        UpperLayer::Protocol(number) => write!(text, " proto {number}")?,
        UpperLayer::MobilityHeader(kind) => write!(text, " proto 135 type {kind}")?,
        UpperLayer::Icmpv6(kind) => write!(text, " proto ipv6-icmp type {kind}")?,
    }
    let action = if policy.action == Action::Block { "block" } else { "allow" };
    write!(text, " dir {direction} action {action} priority {}", policy.key.priority)?;
    policy.templates.iter().try_for_each(|one| template(text, one))?;
    text.write_char('\n')
}

fn template(text: &mut String, template: &Template) -> std::fmt::Result {
    let protocol = match template.protocol {
        TemplateProtocol::Esp => "esp",
        TemplateProtocol::HomeAddressOption => "hao",
        TemplateProtocol::Type2RoutingHeader => "route2",
    };
    let mode = match template.mode {
        Mode::Transport => "transport",
        Mode::Tunnel => "tunnel",
        Mode::RouteOptimization => "ro",
    };
    let level = if template.level == Level::Use { "use" } else { "required" };
    write!(
        text,
        " tmpl src {} dst {} proto {protocol} reqid {} mode {mode} level {level}",
        template.source, template.destination, template.reqid
    )
}

/// Runs the batch; the time from the start of the program to its end.
pub(super) fn install(node: &Node, batch: &str) -> Outcome<Duration> {
    let started = Instant::now();
    node.ip(batch)?;
    Ok(started.elapsed())
}

/// The time of `ip xfrm state` and `ip xfrm policy`, whose output goes nowhere.
pub(super) fn dump(node: &Node) -> Outcome<Duration> {
    let started = Instant::now();
    for table in ["state", "policy"] {
        let mut command = Command::new("ip");
        command.args(["xfrm", table]).stdin(Stdio::null()).stdout(Stdio::null());
        let status = node.spawn(command)?.wait()?;
        ensure(status.success(), || format!("ip xfrm {table}: {status}"))?;
    }
    Ok(started.elapsed())
}

/// Empties both tables.
pub(super) fn flush(node: &Node) -> Outcome {
    node.ip("xfrm state flush\nxfrm policy flush")
}
