/*
 * The packet: its 32-byte header, the message types, and what both ends agree on.
 *
 * Every wire struct is laid out with natural alignment and little-endian fields, so that on the
 * machines we build for its bytes are the wire's bytes; static asserts pin size and offsets.
 * A decoder never trusts a length: it checks against the bytes it was given before it reads.
 */
#ifndef PLX_DATAPLANE_WIRE_PROTO_H
#define PLX_DATAPLANE_WIRE_PROTO_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/err.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire structs are little-endian");

#define PLX_WIRE_PORT       7709
#define PLX_WIRE_MAGIC      0x5850u /* "PX" */
#define PLX_WIRE_VERSION    1u
#define PLX_HDR_BYTES       32u
#define PLX_TAG_BYTES       16u
#define PLX_SEAL_BYTES      (PLX_HDR_BYTES + PLX_TAG_BYTES) /* what a sealed packet adds */
#define PLX_DGRAM_MIN_BYTES 1200u                           /* every path carries this */
#define PLX_DGRAM_MAX_BYTES 9216u /* largest datagram we ever send or take */
#define PLX_PAYLOAD_MAX     (PLX_DGRAM_MAX_BYTES - PLX_SEAL_BYTES)

/* Types below 16 travel unsealed and belong to the handshake; RESET too, since no key is known. */
enum plx_wire_type {
	PLX_T_HELLO = 1,
	PLX_T_RETRY = 2,
	PLX_T_HELLO_ACK = 3,
	PLX_T_VERSION_NEG = 4,
	PLX_T_RESET = 5,

	PLX_T_REQ = 16, /* client to appliance; may be fragmented */
	PLX_T_CANCEL = 17,
	PLX_T_TOK_ACK = 18,
	PLX_T_ACK = 19,   /* both ways */
	PLX_T_PING = 20,  /* both ways; also the path MTU probe */
	PLX_T_CLOSE = 21, /* both ways */
	PLX_T_PATH_RESPONSE = 22,

	PLX_T_ACCEPT = 32, /* appliance to client */
	PLX_T_REJECT = 33,
	PLX_T_CREDIT = 34,
	PLX_T_TOKENS = 35,
	PLX_T_DONE = 36,
	PLX_T_CANCELLED = 37,
	PLX_T_PONG = 38, /* both ways */
	PLX_T_DRAIN = 39,
	PLX_T_MODELS = 40, /* may be fragmented */
	PLX_T_PATH_CHALLENGE = 41,
	PLX_T_VECTORS = 42, /* result of an embed request; may be fragmented */
};

enum plx_wire_flag {
	PLX_F_ACK_REQ = 1, /* please acknowledge soon */
	PLX_F_RETX = 2,    /* these bytes were sent before under another pkt_num */
};

/* Who sends a type: used by plx_hdr_check to refuse a type from the wrong side. */
enum plx_wire_side { PLX_SIDE_CLIENT, PLX_SIDE_APPLIANCE };

/* The header, byte for byte. */
struct plx_hdr {
	uint16_t magic;
	uint8_t version;
	uint8_t type;        /* enum plx_wire_type */
	uint32_t session_id; /* the receiver's name for the session */
	uint64_t pkt_num;    /* per direction; never reused, not even for a retransmit */
	uint64_t req_id;     /* 0 where the message is about no request */
	uint16_t frag_idx;
	uint16_t frag_count; /* 1.. */
	uint16_t payload_bytes;
	uint8_t prio_flags; /* low 4 bits priority (0 lowest), high 4 bits enum plx_wire_flag */
	uint8_t epoch;      /* low 4 bits: key epoch modulo 16; high 4 bits 0 */
};
static_assert(sizeof(struct plx_hdr) == PLX_HDR_BYTES, "wire layout");
static_assert(offsetof(struct plx_hdr, session_id) == 4, "wire layout");
static_assert(offsetof(struct plx_hdr, pkt_num) == 8, "wire layout");
static_assert(offsetof(struct plx_hdr, req_id) == 16, "wire layout");
static_assert(offsetof(struct plx_hdr, frag_idx) == 24, "wire layout");
static_assert(offsetof(struct plx_hdr, frag_count) == 26, "wire layout");
static_assert(offsetof(struct plx_hdr, payload_bytes) == 28, "wire layout");
static_assert(offsetof(struct plx_hdr, prio_flags) == 30, "wire layout");
static_assert(offsetof(struct plx_hdr, epoch) == 31, "wire layout");

static inline uint8_t plx_hdr_prio(const struct plx_hdr *h)
{
	return h->prio_flags & 15u;
}

static inline uint8_t plx_hdr_flags(const struct plx_hdr *h)
{
	return (uint8_t)(h->prio_flags >> 4);
}

static inline uint8_t plx_hdr_pack_prio(uint8_t prio, uint8_t flags)
{
	return (uint8_t)(((uint32_t)flags << 4) | (prio & 15u));
}

/* plx_type_sealed - whether packets of this type carry a sealed payload and a tag. */
static inline bool plx_type_sealed(uint8_t type)
{
	return type >= 16;
}

/* plx_type_name - "REQ" for PLX_T_REQ; "?" for a type that does not exist. */
const char *plx_type_name(uint8_t type);

/* plx_hdr_encode - write h's 32 bytes to p, magic and version as h has them. */
void plx_hdr_encode(uint8_t *p, const struct plx_hdr *h);

/*
 * plx_hdr_decode - read and check the header of a received datagram.
 *
 * Checks magic, that the type exists and may come from side `from`, that the version is ours
 * (but for HELLO and VERSION_NEG, whose layout is the same in every version), that
 * n_bytes == 32 + payload_bytes (+ 16 if sealed), frag_idx < frag_count, frag_count == 1 for types
 * that are never fragmented, every flag and reserved bit known, and
 * 32 <= n_bytes <= PLX_DGRAM_MAX_BYTES.
 *
 * @p, n_bytes  the datagram as received.
 *
 * Thread: any.  Cost: tens of instructions.
 * Errors: FORMAT; UNSUPPORTED for a well-formed header of another version.
 */
int plx_hdr_decode(struct plx_hdr *h, const uint8_t *p, size_t n_bytes, enum plx_wire_side from);

/* What really runs at the appliance, as HELLO_ACK lists it. A request that needs a bit which is
 * not set gets BAD_REQUEST. */
enum plx_wire_feature {
	PLX_FEAT_TEXT = 1u << 0,
	PLX_FEAT_IDS = 1u << 1,
	PLX_FEAT_MESSAGES = 1u << 2,
	PLX_FEAT_DETERMINISTIC = 1u << 3,
	PLX_FEAT_LOGPROBS = 1u << 4,
	PLX_FEAT_COMPRESSION = 1u << 5, /* texts beyond the context, for requests with COMPRESS */
	PLX_FEAT_STOP = 1u << 6,
	PLX_FEAT_RESUME = 1u << 7,
	PLX_FEAT_CONTINUE = 1u << 8, /* session continuation */
	PLX_FEAT_LOGIT_BIAS = 1u << 9,
	PLX_FEAT_GRAMMAR = 1u << 10,
	PLX_FEAT_IMAGE = 1u << 11,
	PLX_FEAT_EMBED = 1u << 12,
	PLX_FEAT_SAMPLES = 1u << 13, /* n_samples > 1 */
	PLX_FEAT_ADAPTER = 1u << 14,
	PLX_FEAT_GENERATE = 1u << 15,
	PLX_FEAT_NO_STREAM = 1u << 16, /* the stream flag may be left out */
	PLX_FEAT_PRUNE = 1u << 17,     /* COMPRESS option: prompts are pruned */
	PLX_FEAT_EVICT = 1u << 18,     /* COMPRESS option: KV is removed behind a prompt */
	PLX_FEAT_BEST_OF = 1u << 19,   /* BEST_OF option: the likeliest of several samples */
	PLX_FEAT_SPARSE = 1u << 20,    /* SPARSE option: how much attention reads */
};

/*
 * The limits of a session: one value for each thing. The appliance fills this struct once from its
 * configuration; admission, the scheduler and HELLO_ACK all read it.
 */
struct plx_wire_limits {
	uint32_t max_request_bytes; /* whole REQ message */
	uint32_t max_in_flight;     /* requests of one session; first request credit */
	uint32_t max_prompt_tokens;
	uint32_t max_new;          /* tokens of one sample */
	uint32_t token_window;     /* unacknowledged tokens of one request, all samples */
	uint32_t keepalive_ms;     /* a client silent for three of these is gone */
	uint32_t max_ack_delay_us; /* longest a receiver holds an acknowledgement back */
	uint32_t retx_floor_us;    /* floor of every retransmission timeout */
	uint32_t result_ttl_ms;    /* how long unacknowledged results are kept */
	uint32_t reasm_timeout_ms; /* a message not whole after this is given up */
	uint32_t coalesce_us;      /* later tokens may wait this long for company */
	uint16_t max_samples;
	uint16_t max_datagram; /* UDP payload, 1,200..PLX_DGRAM_MAX_BYTES */
	uint16_t max_stops;    /* stop strings of one request */
	uint16_t max_stop_bytes;
	uint8_t max_priority; /* 0..15 */
	uint8_t max_logprobs; /* top-n, 0..20 */
	uint16_t zero;
};
static_assert(sizeof(struct plx_wire_limits) == 56, "wire layout");
static_assert(offsetof(struct plx_wire_limits, max_samples) == 44, "wire layout");

/* A UDP address; IPv4 is stored as IPv4-mapped IPv6, so that equal addresses have equal bytes. */
struct plx_wire_addr {
	uint8_t ip[16];
	uint16_t port; /* host order */
	uint16_t zero;
};
static_assert(sizeof(struct plx_wire_addr) == 20, "hashed as bytes");

/* plx_wire_addr_v4 - address from four IPv4 bytes and a port in host order. */
struct plx_wire_addr plx_wire_addr_v4(const uint8_t ip[4], uint16_t port);

/* plx_wire_addr_equal - same address and port. */
bool plx_wire_addr_equal(const struct plx_wire_addr *a, const struct plx_wire_addr *b);

/*
 * plx_frag_count - fragments that a message of msg_bytes takes in datagrams of dgram_bytes.
 *
 *   ceil(msg_bytes / (dgram_bytes - 48)), at least 1; 0 when it would be more than 65,535.
 */
uint32_t plx_frag_count(uint32_t msg_bytes, uint16_t dgram_bytes);

/* plx_frag_bytes - payload bytes of fragment frag_idx of such a message. */
uint16_t plx_frag_bytes(uint32_t msg_bytes, uint16_t dgram_bytes, uint16_t frag_idx);

#endif
