/*
 * Reassembly: fragments in any order become one contiguous message, in memory the caller gave.
 *
 * Memory is taken only for an authenticated first fragment (fragment 0), which says the message's
 * bytes; later fragments before it are dropped and come again. Caps: bytes in all, bytes and
 * messages of one session, age. A message of one fragment needs no memory and is never seen here.
 */
#ifndef PLX_DATAPLANE_WIRE_REASM_H
#define PLX_DATAPLANE_WIRE_REASM_H

#include "dataplane/wire/msg.h"

/*
 * Contiguous pieces out of one region: a buddy allocator, smallest piece 2 KiB. Fixed cost, no
 * system call; the region's size is rounded down to a power of two.
 */
#define PLX_PIECE_MIN_BYTES 2048u
#define PLX_PIECE_ORDERS    20u /* up to 1 GiB */
struct plx_pieces {
	uint8_t *base;
	uint32_t n_units; /* of PLX_PIECE_MIN_BYTES, a power of two */
	uint32_t n_free;
	uint32_t *link; /* [2 * n_units] doubly linked free lists: next, prev */
	uint8_t *order; /* [n_units] order + 1 of a piece that starts here; bit 7: free */
	uint32_t head[PLX_PIECE_ORDERS];
};

/* plx_pieces_footprint - bytes of bookkeeping for a region of that size. */
size_t plx_pieces_footprint(size_t region_bytes);
/*
 * plx_pieces_init - region 64-byte aligned, at least 2 KiB; book from plx_pieces_footprint bytes,
 * 8-byte aligned. Errors: INVAL.
 */
int plx_pieces_init(struct plx_pieces *m, void *region, size_t region_bytes, void *book);
/* plx_pieces_take - at least `bytes`, 64-byte aligned, not zeroed; NULL when there is none. */
void *plx_pieces_take(struct plx_pieces *m, uint32_t bytes);
/* plx_pieces_give - give back what take returned. Thread: the owner's, as for take. */
void plx_pieces_give(struct plx_pieces *m, void *piece);

/* One message under way. */
struct plx_reasm_msg {
	uint8_t *buf;  /* the message, then the map of fragments that came */
	uint8_t *seen; /* bit per fragment, behind the message */
	void *owner;   /* the session's plx_reasm_session */
	uint64_t req_id;
	uint64_t first_pkt; /* pkt_num of the fragment 0 that began it */
	uint64_t expires_ns;
	uint32_t msg_bytes;
	uint32_t held_bytes; /* what counts against the caps */
	uint16_t frag_bytes; /* of every fragment but the last */
	uint16_t frag_count;
	uint16_t n_seen;
	uint16_t first_missing;
	uint8_t type;
	uint8_t prio;
	uint16_t zero;
	uint32_t next, prev; /* age list, oldest first; or the free list */
	uint32_t s_next;     /* the session's list */
};

/* A session's share; embed one in each session, zeroed. */
struct plx_reasm_session {
	uint32_t head; /* index + 1 of its first message; 0 none */
	uint32_t n_msgs;
	uint32_t held_bytes;
};

struct plx_reasm_caps {
	uint32_t max_msg_bytes;
	uint32_t session_bytes;
	uint32_t session_msgs;
	uint64_t timeout_ns; /* from the first fragment */
};

struct plx_reasm {
	struct plx_pieces *mem;
	struct plx_reasm_msg *msg; /* [n] */
	uint32_t n;
	uint32_t free;           /* index + 1 */
	uint32_t oldest, newest; /* index + 1 */
	struct plx_reasm_caps caps;
	/* counters */
	uint64_t n_done, n_dup, n_early, n_bad, n_full, n_expired;
};

/* plx_reasm_init - n messages at once, bookkeeping in msg[n], message bytes in mem. */
void plx_reasm_init(struct plx_reasm *r, struct plx_pieces *mem, struct plx_reasm_msg *msg,
                    uint32_t n, const struct plx_reasm_caps *caps);

enum plx_reasm_result {
	PLX_REASM_MORE = 0, /* taken (or a duplicate); acknowledge what plx_reasm_state says */
	PLX_REASM_DONE = 1, /* whole: *out is filled and the memory is the caller's now */
};

/* A whole message: give buf back with plx_pieces_give when done with it. */
struct plx_reasm_whole {
	uint8_t *buf;
	uint32_t msg_bytes;
	uint16_t frag_count;
	uint8_t type, prio;
	uint64_t req_id;
};

/*
 * plx_reasm_known - whether a message is under way already (so that its first fragment is not
 * charged against credit a second time).
 */
bool plx_reasm_known(const struct plx_reasm *r, const struct plx_reasm_session *s, uint8_t type,
                     uint64_t req_id);

/*
 * plx_reasm_add - take one opened fragment of a message with frag_count > 1.
 *
 * @h        its header, already checked by plx_hdr_decode.
 * @payload  its h->payload_bytes of plain text. Fragment 0 begins with u32 message_bytes.
 *
 * Fragments are at least 1,152 bytes but for the last. A newer fragment 0 of another size or count
 * begins the message anew (plx_outbox_restart).
 *
 * Returns PLX_REASM_MORE, PLX_REASM_DONE, or an error: TOO_LARGE (over max_msg_bytes: reject the
 * request), FULL (no memory or over a cap: drop, it comes again), NOT_FOUND (fragment 0 has not
 * come yet: drop), FORMAT (contradicts its fragment 0: drop; the message stays as it was).
 * Cost: O(messages of the session) + a copy of the payload.
 */
int plx_reasm_add(struct plx_reasm *r, struct plx_reasm_session *s, const struct plx_hdr *h,
                  const uint8_t *payload, uint64_t now_ns, struct plx_reasm_whole *out);

/* plx_reasm_state - fill e with what has arrived of a message; NOT_FOUND when none is known. */
int plx_reasm_state(const struct plx_reasm *r, const struct plx_reasm_session *s, uint8_t type,
                    uint64_t req_id, struct plx_msg_ack_entry *e);

/* plx_reasm_drop - forget one message (a CANCEL); NOT_FOUND when none is known. */
int plx_reasm_drop(struct plx_reasm *r, struct plx_reasm_session *s, uint8_t type, uint64_t req_id);
/* plx_reasm_drop_all - forget everything of a session that ends. */
void plx_reasm_drop_all(struct plx_reasm *r, struct plx_reasm_session *s);

/*
 * plx_reasm_expire_next - drop the oldest message if it is over the time limit, and say which it
 * was.
 *
 * The sender may know of fragments that arrived, and will not send those again: the owner has to
 * end what the message was about (the appliance rejects the request).
 *
 * Returns true with gone filled, false when nothing is over the limit.
 */
struct plx_reasm_gone {
	struct plx_reasm_session *session;
	uint64_t req_id;
	uint8_t type;
};
bool plx_reasm_expire_next(struct plx_reasm *r, uint64_t now_ns, struct plx_reasm_gone *gone);

/* plx_reasm_expire - the same for at most max messages that nobody needs to hear of; how many. */
uint32_t plx_reasm_expire(struct plx_reasm *r, uint64_t now_ns, uint32_t max);

/* plx_ack_whole - the ACK entry of a message that arrived whole. */
static inline struct plx_msg_ack_entry plx_ack_whole(uint8_t type, uint64_t req_id,
                                                     uint16_t frag_count)
{
	return (struct plx_msg_ack_entry){
	    .req_id = req_id, .first_missing = frag_count, .type = type};
}

#endif
