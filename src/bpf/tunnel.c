// SPDX-License-Identifier: MIT OR GPL-2.0
//
// The eBPF tier of the tunnel engine: IPv6 in IPv6 (RFC 2473) in the kernel, for what is ordinary. Whatever is not
// ordinary goes on as if this were not there, and userland decides: errors, unknown guests, extension headers, neighbour
// discovery, mobility headers, everything during a hand-over. So no rule has to be here that a packet could profit from
// not meeting: each check below only ever takes a packet out of the short way.
//
// Four programs, two for each role. The map `guests` is the daemon's; its layout is src/tunnel/accelerated.rs.

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) type *name

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*store_bytes)(struct __sk_buff *, __u32 offset, const void *from, __u32 length, __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*pull_data)(struct __sk_buff *, __u32 length) = (void *)BPF_FUNC_skb_pull_data;
static long (*adjust_room)(struct __sk_buff *, __s32 difference, __u32 mode, __u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*change_head)(struct __sk_buff *, __u32 length, __u64 flags) = (void *)BPF_FUNC_skb_change_head;
static long (*redirect)(__u32 interface, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*redirect_neighbour)(__u32 interface, void *parameters, int length, __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

char _license[] SEC("license") = "Dual MIT/GPL";

enum { ETHERNET = 14, IPV6 = 40 };
enum { TCP = 6, UDP = 17, IN_IPV6 = 41, ICMPV6 = 58 };
enum { PACKET_TOO_BIG = 2, ECHO_REQUEST = 128, ECHO_REPLY = 129 };
enum { NOT_ECT = 0, ECT_1 = 1, CE = 3 };
enum { FAMILY_IPV6 = 10 };
enum { OUTER_HOP_LIMIT = 64, MINIMUM_MTU = 1280 };

// Why a packet was left to userland; the order is that of `Left` in src/tunnel/accelerated.rs.
enum left {
	NO_GUEST,
	MALFORMED,
	ADDRESSES,
	PROTOCOL,
	HOP_LIMIT,
	TOO_BIG,
	CONGESTION,
	NO_ROOM,
	LEFT_COUNT,
};

struct home_address {
	__u64 words[2];
};

// One guest: its tunnel while the binding holds, and where packets go. Octets as on the wire, numbers as the host has them.
struct guest {
	__u64 near[2];        // outer source: the care-of address, or the home agent
	__u64 far[2];         // outer destination
	__u64 router[2];      // the neighbour that outer packets are handed to
	__u8 mac[6];          // the guest's, zero at a home agent
	__u8 router_mac[6];   // the router's that the guest sees, zero at a home agent
	__u16 mtu;            // largest inner packet into the tunnel
	__u16 link_mtu;       // largest packet out of the tunnel
	__u32 uplink;         // index of the interface towards the other end
	__u32 port;           // index of the interface that gets what comes out of the tunnel
	__u32 side;           // BPF_F_INGRESS: as if that had received it; 0: that sends it
	__u32 slot;           // its place in `counters`
};

struct counters {
	__u64 into_packets, into_octets, out_packets, out_octets;
	__u64 lost;           // taken apart already when it could not go on
	__u64 left[LEFT_COUNT];
};

struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 65536);
	UINT(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, struct home_address);
	TYPE(value, struct guest);
} guests SEC(".maps");

// Slot 0 is nobody's.
struct {
	UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	UINT(max_entries, 64);
	TYPE(key, __u32);
	TYPE(value, struct counters);
} counters SEC(".maps");

struct packet {           // an IPv6 header
	__u8 first[4];
	__u8 length[2];
	__u8 next_header;
	__u8 hop_limit;
	__u64 source[2];
	__u64 destination[2];
} __attribute__((packed));

INLINE struct counters *counters_of(__u32 slot)
{
	return map_lookup(&counters, &slot);
}

INLINE int leave(__u32 slot, enum left why)
{
	struct counters *mine = counters_of(slot);
	if (mine)
		mine->left[why]++;
	return TC_ACT_UNSPEC;
}

INLINE int lose(__u32 slot)
{
	struct counters *mine = counters_of(slot);
	if (mine)
		mine->lost++;
	return TC_ACT_SHOT;
}

INLINE int equal(const __u64 *a, const __u64 *b)
{
	return a[0] == b[0] && a[1] == b[1];
}

INLINE __u8 traffic_class(const struct packet *packet)
{
	return packet->first[0] << 4 | packet->first[1] >> 4;
}

INLINE __u32 length_of(const struct packet *packet)
{
	return IPV6 + (packet->length[0] << 8 | packet->length[1]);
}

// Unicast that routers carry. All of ::/64 is left out: it holds the unspecified, the loopback and the IPv4-mapped ones.
INLINE int routable(const __u64 *address)
{
	const __u8 *octets = (const __u8 *)address;
	if (address[0] == 0 || octets[0] == 0xff)
		return 0;
	return !(octets[0] == 0xfe && (octets[1] & 0xc0) == 0x80);
}

// The headers are within reach, `depth` octets in all.
INLINE int reach(struct __sk_buff *skb, __u32 depth)
{
	if ((__u64)skb->data + depth <= (__u64)skb->data_end)
		return 1;
	return skb->len >= depth && pull_data(skb, depth) == 0;
}

// Whether userland would carry a packet like this without further thought: a whole TCP, UDP or echo packet right behind the
// IPv6 header. `segment` is then the longest packet that it is or will be cut into.
INLINE int ordinary(struct __sk_buff *skb, const struct packet *inner, const void *end, __u32 *segment)
{
	const __u8 *upper = (const void *)(inner + 1);
	__u32 header = IPV6;
	if ((const void *)(upper + 8) > end)
		return 0;
	*segment = length_of(inner);
	switch (inner->next_header) {
	case TCP:
		if ((const void *)(upper + 20) > end)
			return 0;
		header += (upper[12] >> 4) * 4;
		break;
	case UDP:
		header += 8;
		break;
	case ICMPV6:
		return !skb->gso_size && (upper[0] == ECHO_REQUEST || upper[0] == ECHO_REPLY);
	default:
		return 0;
	}
	if (skb->gso_size)
		*segment = header + skb->gso_size;
	return 1;
}

INLINE __u64 host_order(__u64 big)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return __builtin_bswap64(big);
#else
	return big;
#endif
}

INLINE __u64 mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash << 29 | hash >> 35;
}

// The same as in src/tunnel/ingress.rs (RFC 6438 §3).
INLINE __u32 flow_label(const struct packet *inner)
{
	__u64 hash = 0;
	__u32 label = (inner->first[1] & 0x0f) << 16 | inner->first[2] << 8 | inner->first[3];
	hash = mix(hash, host_order(inner->source[0]));
	hash = mix(hash, host_order(inner->source[1]));
	hash = mix(hash, host_order(inner->destination[0]));
	hash = mix(hash, host_order(inner->destination[1]));
	hash = mix(hash, label);
	label = (hash ^ hash >> 20 ^ hash >> 40) & 0xfffff;
	return label ? label : 1;
}

// Into the tunnel: `link` octets of Ethernet header are in front. At the host of a guest (`of_guest`) the home address is
// the source, and the tunnel is a hop; at the home agent it is the destination, and the kernel has counted the hop.
INLINE int into_tunnel(struct __sk_buff *skb, __u32 link, int of_guest)
{
	if (!reach(skb, link + IPV6 + 20) && !reach(skb, link + IPV6 + 8))
		return leave(0, MALFORMED);
	const __u8 *data = (const void *)(__u64)skb->data;
	const void *end = (const void *)(__u64)skb->data_end;
	const struct packet *inner = (const void *)(data + link);
	if ((const void *)(inner + 1) > end || skb->vlan_present || inner->first[0] >> 4 != 6)
		return leave(0, MALFORMED);
	// What the frame says it is; `protocol` alone would be what the sender's socket says.
	if (link && (data[12] != 0x86 || data[13] != 0xdd))
		return leave(0, MALFORMED);
	struct home_address home = { {
		of_guest ? inner->source[0] : inner->destination[0],
		of_guest ? inner->source[1] : inner->destination[1],
	} };
	const struct guest *guest = map_lookup(&guests, &home);
	if (!guest)
		return leave(0, NO_GUEST);
	__u32 slot = guest->slot;
	if (of_guest) {
		int for_router = 1;
		for (int i = 0; i < 6; i++) {
			if (data[6 + i] != guest->mac[i])
				return leave(slot, ADDRESSES);
			if (data[i] != guest->router_mac[i])
				for_router = 0;
		}
		// A guest that has come from elsewhere still has its neighbours' link-layer addresses of there, and keeps them as
		// long as its connections go on (RFC 4861 §7.3.1). But what a bridge floods to a bound sibling is for that alone. Of
		// the link-layer addresses of siblings nothing is known here: a frame to one of them for somebody elsewhere, which
		// userland drops, goes where it would have gone by the router, under the guest's own addresses.
		struct home_address to = { { inner->destination[0], inner->destination[1] } };
		if (!for_router && (data[0] & 1 || map_lookup(&guests, &to)))
			return leave(slot, ADDRESSES);
	}
	if (!routable(inner->source) || !routable(inner->destination) || equal(inner->source, inner->destination))
		return leave(slot, ADDRESSES);
	if (skb->len != link + length_of(inner))
		return leave(slot, MALFORMED);
	__u32 segment = 0;
	if (!ordinary(skb, inner, end, &segment))
		return leave(slot, PROTOCOL);
	if (of_guest && inner->hop_limit <= 1)
		return leave(slot, HOP_LIMIT);
	if (segment > guest->mtu)
		return leave(slot, TOO_BIG);

	__u32 length = length_of(inner), label = flow_label(inner);
	__u8 class = traffic_class(inner), hop_limit = inner->hop_limit - 1;
	__u32 uplink = guest->uplink;
	// Told, so that the kernel need not look for a route with each packet.
	struct bpf_redir_neigh router = { .nh_family = FAMILY_IPV6 };
	__builtin_memcpy(router.ipv6_nh, guest->router, sizeof(guest->router));
	struct packet outer = {
		.first = { 0x60 | class >> 4, class << 4 | label >> 16, label >> 8, label },
		.length = { length >> 8, length },
		.next_header = IN_IPV6,
		.hop_limit = OUTER_HOP_LIMIT,
		.source = { guest->near[0], guest->near[1] },
		.destination = { guest->far[0], guest->far[1] },
	};
	if (length > 0xffff)
		return leave(slot, TOO_BIG);
	if (adjust_room(skb, IPV6, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6))
		return leave(slot, NO_ROOM);
	if (store_bytes(skb, link, &outer, IPV6, 0))
		return lose(slot);
	if (of_guest && store_bytes(skb, link + IPV6 + __builtin_offsetof(struct packet, hop_limit), &hop_limit, 1, 0))
		return lose(slot);
	// The next step wants an Ethernet header to take off, and puts on that of the next hop.
	if (!link && change_head(skb, ETHERNET, 0))
		return lose(slot);
	struct counters *mine = counters_of(slot);
	if (mine) {
		mine->into_packets++;
		mine->into_octets += length;
	}
	return redirect_neighbour(uplink, &router, sizeof(router), 0);
}

// RFC 6040 §4.2; -1 for what must not be carried.
INLINE int congestion(__u8 inner, __u8 outer)
{
	inner &= 3;
	outer &= 3;
	if (inner == NOT_ECT)
		return outer == CE ? -1 : NOT_ECT;
	if (inner == CE || outer == CE)
		return CE;
	return outer == ECT_1 ? ECT_1 : inner;
}

// A router says that a tunnel packet was too big (RFC 2473 §7.1). The error goes on to the kernel, which learns the path MTU
// from it; here it only ends the short way for packets above the minimum, so that userland sends the next one, is told the
// path MTU by the kernel, answers the sender and gives a new entry.
INLINE int too_big(struct __sk_buff *skb, int to_guest)
{
	enum { DEPTH = ETHERNET + IPV6 + 8 + 2 * IPV6 };
	if (!reach(skb, DEPTH))
		return TC_ACT_UNSPEC;
	const __u8 *data = (const void *)(__u64)skb->data;
	if (data + DEPTH > (const __u8 *)(__u64)skb->data_end || data[ETHERNET + IPV6] != PACKET_TOO_BIG)
		return TC_ACT_UNSPEC;
	const struct packet *outer = (const void *)(data + ETHERNET + IPV6 + 8), *inner = outer + 1;
	struct home_address home = { {
		to_guest ? inner->source[0] : inner->destination[0],
		to_guest ? inner->source[1] : inner->destination[1],
	} };
	struct guest *guest = map_lookup(&guests, &home);
	if (guest && outer->next_header == IN_IPV6 && equal(outer->source, guest->near) && equal(outer->destination, guest->far))
		guest->mtu = MINIMUM_MTU;
	return TC_ACT_UNSPEC;
}

// Out of the tunnel. The same two ends, seen from the other side.
INLINE int out_of_tunnel(struct __sk_buff *skb, int to_guest)
{
	const __u8 *data = (const void *)(__u64)skb->data;
	const void *end = (const void *)(__u64)skb->data_end;
	const struct packet *outer = (const void *)(data + ETHERNET);
	if ((const void *)(outer + 1) > end) {
		if (!reach(skb, ETHERNET + IPV6))
			return TC_ACT_UNSPEC;
		data = (const void *)(__u64)skb->data;
		end = (const void *)(__u64)skb->data_end;
		outer = (const void *)(data + ETHERNET);
		if ((const void *)(outer + 1) > end)
			return TC_ACT_UNSPEC;
	}
	if (skb->vlan_present || data[12] != 0x86 || data[13] != 0xdd || outer->first[0] >> 4 != 6)
		return TC_ACT_UNSPEC;
	if (outer->next_header == ICMPV6)
		return too_big(skb, to_guest);
	if (outer->next_header != IN_IPV6)
		return TC_ACT_UNSPEC;
	if (!reach(skb, ETHERNET + 2 * IPV6 + 20) && !reach(skb, ETHERNET + 2 * IPV6 + 8))
		return leave(0, MALFORMED);
	data = (const void *)(__u64)skb->data;
	end = (const void *)(__u64)skb->data_end;
	outer = (const void *)(data + ETHERNET);
	const struct packet *inner = outer + 1;
	if ((const void *)(inner + 1) > end || inner->first[0] >> 4 != 6)
		return leave(0, MALFORMED);
	struct home_address home = { {
		to_guest ? inner->destination[0] : inner->source[0],
		to_guest ? inner->destination[1] : inner->source[1],
	} };
	const struct guest *guest = map_lookup(&guests, &home);
	if (!guest)
		return leave(0, NO_GUEST);
	__u32 slot = guest->slot, length = length_of(inner);
	if (!equal(outer->source, guest->far) || !equal(outer->destination, guest->near))
		return leave(slot, ADDRESSES);
	if (!routable(inner->source) || !routable(inner->destination) || equal(inner->source, inner->destination))
		return leave(slot, ADDRESSES);
	if (length_of(outer) != IPV6 + length || skb->len != ETHERNET + IPV6 + length)
		return leave(slot, MALFORMED);
	__u32 segment = 0;
	if (!ordinary(skb, inner, end, &segment))
		return leave(slot, PROTOCOL);
	if (segment > guest->link_mtu)
		return leave(slot, TOO_BIG);
	__u8 class = traffic_class(inner);
	int mark = congestion(class, traffic_class(outer));
	if (mark < 0)
		return leave(slot, CONGESTION);

	__u8 first[2] = { inner->first[0], (inner->first[1] & 0xcf) | mark << 4 };
	__u8 changed = mark != (class & 3);
	__u8 ethernet[12];
	__builtin_memcpy(ethernet, guest->mac, 6);
	__builtin_memcpy(ethernet + 6, guest->router_mac, 6);
	__u32 port = guest->port, side = guest->side;
	if (adjust_room(skb, -IPV6, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return leave(slot, NO_ROOM);
	if (changed && store_bytes(skb, ETHERNET, first, 2, 0))
		return lose(slot);
	if (to_guest && store_bytes(skb, 0, ethernet, 12, 0))
		return lose(slot);
	struct counters *mine = counters_of(slot);
	if (mine) {
		mine->out_packets++;
		mine->out_octets += length;
	}
	return redirect(port, side);
}

// Where our TAP sends, and where a guest's own tap receives: frames of guests.
SEC("classifier/guest_to_tunnel")
int guest_to_tunnel(struct __sk_buff *skb)
{
	return into_tunnel(skb, ETHERNET, 1);
}

// Where the uplink receives, at the host of guests.
SEC("classifier/tunnel_to_guest")
int tunnel_to_guest(struct __sk_buff *skb)
{
	return out_of_tunnel(skb, 1);
}

// Where the TUN of a home agent sends: packets for bound home addresses.
SEC("classifier/node_to_tunnel")
int node_to_tunnel(struct __sk_buff *skb)
{
	return into_tunnel(skb, 0, 0);
}

// Where the uplink receives, at a home agent.
SEC("classifier/tunnel_to_node")
int tunnel_to_node(struct __sk_buff *skb)
{
	return out_of_tunnel(skb, 0);
}
