/*
 * What a request has been answered and the client has not acknowledged: tokens of each sample, and
 * the final message.
 *
 * Tokens arrive as events, are kept as records in cells out of one bounded store, and leave as
 * TOKENS messages of one or more records. Which records make a message is decided when it is first
 * sent and never changed, so that a repeated message is the same message. Cells are freed as the
 * client acknowledges.
 */
#ifndef PLX_DATAPLANE_ANSWER_H
#define PLX_DATAPLANE_ANSWER_H

#include "dataplane/request.h"
#include "dataplane/wire/loss.h"

#define PLX_CELL_BYTES  124u
#define PLX_FINAL_BYTES 892u
#define PLX_TOKENS_ROOM (PLX_DGRAM_MIN_BYTES - PLX_SEAL_BYTES) /* payload of a TOKENS packet */

/* A piece of a record; next is an index + 1 into the store. */
struct plx_cell {
	uint32_t next;
	uint8_t data[PLX_CELL_BYTES];
};
static_assert(sizeof(struct plx_cell) == 128, "two cache lines");

struct plx_cells {
	struct plx_cell *cell; /* [n] */
	uint32_t n;
	uint32_t free; /* index + 1 */
	uint32_t n_free;
};

/* plx_cells_init - all n cells free; memory is the caller's. */
void plx_cells_init(struct plx_cells *s, struct plx_cell *cell, uint32_t n);

/* One sample's tokens. Heads are cell indices + 1; 0: none. */
struct plx_stream {
	uint32_t oldest;    /* record not acknowledged */
	uint32_t newest;    /* record stored last */
	uint32_t unsent;    /* first record never sent */
	uint32_t resend;    /* message to be sent again next */
	uint32_t end_idx;   /* ids stored */
	uint32_t acked_idx; /* ids acknowledged */
	uint32_t n_msgs;    /* messages sent, not counting repeats */
	bool ended;         /* the LAST record is stored */
	bool end_acked;
	uint64_t since_ns; /* when unsent came to wait */
	uint64_t retx_pkt; /* packet number of the last repeat; 0: none */
	struct plx_retx timer;
};

enum plx_leg {
	PLX_LEG_NONE, /* nothing to say yet */
	PLX_LEG_OPEN, /* said, not acknowledged */
	PLX_LEG_ACKED,
};

/* The answer of one request in flight or unacknowledged. Owner: its session. */
struct plx_answer {
	struct plx_answer *next, *prev; /* the session's live list, or its free list by next */
	uint64_t req_id;
	uint32_t slot; /* of the session's window */
	uint8_t prio;
	uint8_t accept;     /* enum plx_leg */
	uint8_t final;      /* enum plx_leg */
	uint8_t final_type; /* PLX_T_DONE, PLX_T_REJECT, PLX_T_CANCELLED */
	uint16_t final_bytes;
	uint16_t n_streams;
	bool logprobs;
	bool note_due; /* batch is still to be told how far the client has read */
	bool overrun;  /* the store was full: tokens were dropped, the request is being cancelled */
	struct plx_retx accept_timer, final_timer;
	uint64_t accept_pkt, final_pkt; /* packet numbers of their last repeats; 0: none */
	uint64_t whole_ns;              /* when the request was whole */
	uint64_t first_token_ns;        /* first TOKENS given to the port */
	uint64_t ended_ns;              /* final stored */
	uint64_t progress_ns;           /* last acknowledgement of tokens */
	uint64_t wait_ns;               /* events' time from tok to the port, summed */
	struct plx_msg_accept accept_msg;
	uint8_t final_msg[PLX_FINAL_BYTES];
	struct plx_stream stream[]; /* [lim.n_samples] */
};

/* plx_answer_bytes - size of one with n_samples streams, 64-byte aligned. */
static inline size_t plx_answer_bytes(uint32_t n_samples)
{
	return (sizeof(struct plx_answer) + n_samples * sizeof(struct plx_stream) + 63) &
	       ~(size_t)63;
}

/*
 * plx_stream_put - keep a TOKENS event.
 *
 * Errors: FULL: no cells (nothing is stored); FORMAT: it does not continue the stream.
 */
int plx_stream_put(struct plx_cells *c, struct plx_stream *s, const struct plx_ev *ev,
                   bool logprobs, uint64_t now_ns);

/* A TOKENS message ready to be sealed. */
struct plx_stream_msg {
	uint32_t bytes; /* of payload */
	uint16_t n_recs;
	bool retx; /* it was sent before */
	bool last; /* it carries the sample's end */
};

/*
 * plx_stream_make - encode the next message to send: the one to repeat, else as many unsent records
 * as fit a packet.
 *
 * @p  out [PLX_TOKENS_ROOM] payload.
 *
 * Returns false when there is nothing to send. The caller sends it and calls plx_stream_sent;
 * without that the same message comes again.
 */
bool plx_stream_make(const struct plx_cells *c, const struct plx_stream *s, uint16_t sample,
                     bool logprobs, uint8_t *p, struct plx_stream_msg *m);

/* plx_stream_sent - the message that make gave has gone. */
void plx_stream_sent(struct plx_cells *c, struct plx_stream *s, const struct plx_stream_msg *m);

/*
 * plx_stream_ack - the client has the ids below next_idx and, with end, the sample's end.
 *
 * Returns whether that was news.
 */
bool plx_stream_ack(struct plx_cells *c, struct plx_stream *s, uint32_t next_idx, bool end);

/* plx_stream_rewind - send everything that was sent and not acknowledged again. */
static inline void plx_stream_rewind(struct plx_stream *s)
{
	s->resend = s->oldest != s->unsent ? s->oldest : 0;
}

/* plx_stream_clear - free what is stored. */
void plx_stream_clear(struct plx_cells *c, struct plx_stream *s);

/* plx_stream_sent_unacked - something was sent that the client has not acknowledged. */
static inline bool plx_stream_sent_unacked(const struct plx_stream *s)
{
	return s->oldest != 0 && s->oldest != s->unsent;
}

/* plx_answer_settled - the final message and every token are acknowledged: it can be forgotten. */
bool plx_answer_settled(const struct plx_answer *a);

#endif
