//! Explicit congestion notification through the tunnel (RFC 6040).

/// Not ECN-capable transport.
pub const NOT_ECT: u8 = 0;
/// ECN-capable transport, 1.
pub const ECT_1: u8 = 1;
/// ECN-capable transport, 0.
pub const ECT_0: u8 = 2;
/// Congestion experienced.
pub const CE: u8 = 3;

const MASK: u8 = 3;

/// The traffic class of the outer header in normal mode: ECN (RFC 6040 §4.1) and DSCP (RFC 2473 §6.4) are those of
/// the inner one. The exit must combine as [`leave`] does; Linux's ip6_tunnel does.
pub fn enter(inner: u8) -> u8 {
    inner
}

/// The traffic class of the inner packet when it leaves the tunnel: its own DSCP, and the ECN field of RFC 6040 §4.2.
/// `None`: the packet must be dropped, because congestion was marked and its transport cannot be told.
pub fn leave(inner: u8, outer: u8) -> Option<u8> {
    let ecn = match (inner & MASK, outer & MASK) {
        (NOT_ECT, CE) => return None,
        (NOT_ECT, _) => NOT_ECT,
        (CE, _) | (_, CE) => CE,
        (_, ECT_1) => ECT_1,
        (inner, _) => inner,
    };
    Some(inner & !MASK | ecn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole of RFC 6040 §4.2, figure 4: rows are the inner field, columns the outer one.
    #[test]
    fn the_table_of_the_rfc() {
        let columns = [NOT_ECT, ECT_0, ECT_1, CE];
        let rows = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE); 4]),
        ];
        for (inner, row) in rows {
            for (outer, expected) in columns.iter().zip(row) {
                assert_eq!(leave(0xb8 | inner, 0x40 | outer), expected.map(|ecn| 0xb8 | ecn), "{inner} {outer}");
            }
        }
    }

    #[test]
    fn what_enters_leaves_unchanged() {
        for class in 0..=255 {
            assert_eq!(leave(class, enter(class)), Some(class));
        }
    }
}
