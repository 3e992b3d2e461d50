//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "random-packets", readme: include_str!("README.md"), peer: Peer::None, well_formed: false, run };

use crate::craft::{Noise, frame, ipv6, send_frames, send_packet};

/// Packets per direction and kind.
const PACKETS: usize = 300;

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::PLAIN_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::PLAIN_HOST)?;
    let (last, _) = registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.cn, GUEST)?;

    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let seed = crate::scenario::seed()?.unwrap_or(seed);
    lab.step(&format!("noise of seed {seed} (KAGEMUSHA_LAB_SEED)"));
    let mut noise = Noise::new(seed);
    for destination in [CARE_OF, HOME_AGENT, GUEST] {
        for _ in 0..PACKETS {
            let (next_header, payload) = noisy_payload(&mut noise);
            let source = [FAR, HOME_AGENT, CARE_OF, GUEST][noise.below(4)];
            send_packet(&net.far, destination, ipv6(source, destination, next_header, &payload))?;
        }
    }
    lab.step("noise from the guest");
    let router = [0x02, 0x4b, 0x47, 0x4d, 0x53, 0x01];
    let frames = (0..PACKETS).map(|_| noisy_frame(&mut noise, router)).collect();
    send_frames(&net.guest, "eth0", frames)?;

    lab.step("nothing has changed");
    lab.ping(&net.cn, GUEST)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    net.move_host()?;
    let mut foreign2 = lab.watch(FOREIGN2)?.clone();
    let (sequence, _) = registration(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, 0, SOON)?;
    ensure(follows(sequence, last), || format!("sequence number {sequence} follows {last}"))?;
    lab.ping(&net.cn, GUEST)?;
    lab.end([mobile_node, home_agent])
}

/// A mobility header, a destination option or routing header before one, or a tunnelled packet; the more or less random.
fn noisy_payload(noise: &mut Noise) -> (u8, Vec<u8>) {
    let length = noise.below(120);
    let mut payload = noise.bytes(length);
    match noise.below(4) {
        0 => (135, payload),
        1 => {
            // A mobility header of a known type with a length that fits, or nearly.
            let octets = u8::try_from(payload.len() / 8).unwrap_or_default().wrapping_sub(1);
            let header = [59, octets, u8::try_from(noise.below(9)).unwrap_or_default(), 0];
            payload.iter_mut().zip(header).for_each(|(to, from)| *to = from);
            (135, payload)
        }
        2 => (41, payload),
        _ => {
            let (source, destination) =
                if noise.below(2) == 0 { (GUEST, CORRESPONDENT) } else { (CORRESPONDENT, GUEST) };
            (41, ipv6(source, destination, u8::try_from(noise.below(256)).unwrap_or_default(), &payload))
        }
    }
}

/// Random octets as a frame, or in an IPv6 packet of the guest's own or of any address.
fn noisy_frame(noise: &mut Noise, router: [u8; 6]) -> Vec<u8> {
    let length = noise.below(200);
    let payload = noise.bytes(length);
    let mac = [0x52, 0x54, 0, 0, 0, 0x10];
    match noise.below(4) {
        // An EtherType of noise, too.
        0 => [&router[..], &mac, &noise.bytes(2), &payload].concat(),
        1 => frame(router, mac, &payload),
        2 => frame([0x33, 0x33, 0, 0, 0, 1], mac, &ipv6(GUEST, "ff02::1".parse().unwrap_or(FAR), 58, &payload)),
        _ => {
            frame(router, mac, &ipv6(FAR, CORRESPONDENT, u8::try_from(noise.below(256)).unwrap_or_default(), &payload))
        }
    }
}
