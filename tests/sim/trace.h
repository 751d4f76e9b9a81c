/*
 * The requests of a simulated service: chats of several turns, long documents, and bursts of both.
 *
 * Every text is an endless stream of ids that a hash gives, so that prompts, answers and the next
 * turn's prompt fit together without being stored: a request is two streams and three lengths.
 * Turns arrive at fixed times whatever became of the turn before (an open loop), so every scheduler
 * sees the same requests. README.md lists the distributions and where their shape comes from.
 *
 * Owner: the caller.  Cost: about a microsecond a request.
 */
#ifndef PLX_TESTS_SIM_TRACE_H
#define PLX_TESTS_SIM_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/sim/objectives.h"
#include "tests/sim/rng.h"

#define SIM_N_VOCAB    128256u /* of Llama 3 */
#define SIM_EOS        128001  /* ids of text are below 128,000 */
#define SIM_MAX_PROMPT 32768u
#define SIM_MAX_NEW    4096u

/* Where the ids of a request come from: positions below n_common from one stream, the rest from
 * another. Requests with equal streams share a prefix. */
struct sim_text {
	uint64_t common, own;
	uint32_t n_common;
};

struct sim_req {
	uint64_t at_ns; /* arrival */
	struct sim_text text;
	uint32_t n_prompt;
	uint32_t n_answer; /* the answer ends by itself after so many ids, EOS not counted */
	uint32_t max_new;  /* what the user allows; always more than n_answer */
	uint32_t session;
	uint8_t kind; /* enum sim_kind */
};

/* Times in which arrivals come faster. */
enum sim_weather { SIM_CALM, SIM_CHAT_BURST, SIM_DOC_BURST, SIM_WEATHERS };

struct sim_spell {
	uint64_t end_ns;
	uint8_t weather; /* enum sim_weather */
};

struct sim_trace {
	struct sim_req *req; /* [n_req], in order of arrival */
	uint32_t n_req;
	uint32_t n_kind[SIM_KINDS];
	struct sim_spell *spell; /* [n_spells], in order; the last ends after everything */
	uint32_t n_spells;
	double offered_hz;
};

/*
 * sim_trace_make - n requests at rate_hz on average, the same sessions in the same weather at any
 * rate: only how closely they follow each other differs.
 */
void sim_trace_make(struct sim_trace *t, uint32_t n, double rate_hz, uint64_t seed);
void sim_trace_free(struct sim_trace *t);

/* sim_text_id - id at a position of a text. */
static inline int32_t sim_text_id(const struct sim_text *t, uint32_t pos)
{
	uint64_t stream = pos < t->n_common ? t->common : t->own;

	return (int32_t)(sim_mix(stream + pos * UINT64_C(0x9e3779b97f4a7c15)) % 128000u);
}

#endif
