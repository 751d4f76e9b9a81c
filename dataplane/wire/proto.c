/*
 * The packet header: one table says for each type who sends it and whether it may be fragmented;
 * decoding checks against it.
 */
#include "dataplane/wire/proto.h"

#include <string.h>

#define N_TYPES   64u
#define FROM(s)   (1u << (s))
#define FROM_BOTH (FROM(PLX_SIDE_CLIENT) | FROM(PLX_SIDE_APPLIANCE))

struct type_info {
	const char *name;
	uint8_t from; /* FROM bits; 0: no such type */
	bool fragmented;
};

static const struct type_info types[N_TYPES] = {
    [PLX_T_HELLO] = {"HELLO", FROM(PLX_SIDE_CLIENT), false},
    [PLX_T_RETRY] = {"RETRY", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_HELLO_ACK] = {"HELLO_ACK", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_VERSION_NEG] = {"VERSION_NEG", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_RESET] = {"RESET", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_REQ] = {"REQ", FROM(PLX_SIDE_CLIENT), true},
    [PLX_T_CANCEL] = {"CANCEL", FROM(PLX_SIDE_CLIENT), false},
    [PLX_T_TOK_ACK] = {"TOK_ACK", FROM(PLX_SIDE_CLIENT), false},
    [PLX_T_ACK] = {"ACK", FROM_BOTH, false},
    [PLX_T_PING] = {"PING", FROM_BOTH, false},
    [PLX_T_CLOSE] = {"CLOSE", FROM_BOTH, false},
    [PLX_T_PATH_RESPONSE] = {"PATH_RESPONSE", FROM(PLX_SIDE_CLIENT), false},
    [PLX_T_ACCEPT] = {"ACCEPT", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_REJECT] = {"REJECT", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_CREDIT] = {"CREDIT", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_TOKENS] = {"TOKENS", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_DONE] = {"DONE", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_CANCELLED] = {"CANCELLED", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_PONG] = {"PONG", FROM_BOTH, false},
    [PLX_T_DRAIN] = {"DRAIN", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_MODELS] = {"MODELS", FROM(PLX_SIDE_APPLIANCE), true},
    [PLX_T_PATH_CHALLENGE] = {"PATH_CHALLENGE", FROM(PLX_SIDE_APPLIANCE), false},
    [PLX_T_VECTORS] = {"VECTORS", FROM(PLX_SIDE_APPLIANCE), true},
};

static const struct type_info *type_info(uint8_t type)
{
	return type < N_TYPES && types[type].name ? &types[type] : NULL;
}

const char *plx_type_name(uint8_t type)
{
	const struct type_info *t = type_info(type);

	return t ? t->name : "?";
}

void plx_hdr_encode(uint8_t *p, const struct plx_hdr *h)
{
	memcpy(p, h, sizeof(*h));
}

/* The handshake's layouts are the same in every version, but for what a HELLO_ACK chose. */
static bool version_fits(const struct plx_hdr *h)
{
	if (!plx_type_sealed(h->type) && h->type != PLX_T_HELLO_ACK)
		return true;
	return h->version == PLX_WIRE_VERSION;
}

int plx_hdr_decode(struct plx_hdr *h, const uint8_t *p, size_t n_bytes, enum plx_wire_side from)
{
	if (n_bytes < PLX_HDR_BYTES || n_bytes > PLX_DGRAM_MAX_BYTES)
		return PLX_E_FORMAT;
	memcpy(h, p, sizeof(*h));
	const struct type_info *t = type_info(h->type);

	if (h->magic != PLX_WIRE_MAGIC || !t || !(t->from & FROM(from)))
		return PLX_E_FORMAT;
	if (!version_fits(h))
		return PLX_E_UNSUPPORTED;
	size_t want = PLX_HDR_BYTES + (size_t)h->payload_bytes +
	              (plx_type_sealed(h->type) ? PLX_TAG_BYTES : 0);

	if (n_bytes != want || h->frag_count == 0 || h->frag_idx >= h->frag_count)
		return PLX_E_FORMAT;
	if (h->frag_count > 1 && !t->fragmented)
		return PLX_E_FORMAT;
	if ((plx_hdr_flags(h) & ~(PLX_F_ACK_REQ | PLX_F_RETX)) || (h->epoch & 0xf0))
		return PLX_E_FORMAT;
	return 0;
}

struct plx_wire_addr plx_wire_addr_v4(const uint8_t ip[4], uint16_t port)
{
	struct plx_wire_addr a = {.ip = {[10] = 0xff, [11] = 0xff}, .port = port};

	memcpy(a.ip + 12, ip, 4);
	return a;
}

bool plx_wire_addr_equal(const struct plx_wire_addr *a, const struct plx_wire_addr *b)
{
	return a->port == b->port && memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

uint32_t plx_frag_count(uint32_t msg_bytes, uint16_t dgram_bytes)
{
	uint32_t room = dgram_bytes - PLX_SEAL_BYTES;
	uint64_t n = ((uint64_t)msg_bytes + room - 1) / room;

	if (n == 0)
		return 1;
	return n > UINT16_MAX ? 0 : (uint32_t)n;
}

uint16_t plx_frag_bytes(uint32_t msg_bytes, uint16_t dgram_bytes, uint16_t frag_idx)
{
	uint32_t room = dgram_bytes - PLX_SEAL_BYTES;
	uint64_t at = (uint64_t)frag_idx * room;

	if (at >= msg_bytes)
		return 0;
	return (uint16_t)(msg_bytes - at < room ? msg_bytes - at : room);
}
