/*
 * tok, batch and accel over real rings, with a fake device below and a fake io above that knows
 * what each answer has to be. One at a time; all in one thread unless a test says otherwise.
 */
#ifndef PLX_TESTS_LIB_STAGESRIG_H
#define PLX_TESTS_LIB_STAGESRIG_H

#include "dataplane/stage_accel.h"
#include "dataplane/stage_batch.h"
#include "dataplane/stage_tok.h"
#include "tests/lib/fake_device.h"
#include "tests/lib/tiny_vocab.h"

#define SRIG_WORDS   10u /* of the vocabulary */
#define SRIG_REQS    16u
#define SRIG_SAMPLES 3u
#define SRIG_IOS     2u
#define SRIG_NEW     40u
#define SRIG_TEXT    4096u

/* What the fake io knows of a request, by its place in the pool. */
struct srig_client {
	bool open;
	uint32_t n_accepts, n_finals;
	uint32_t n_ids[SRIG_SAMPLES];
	int32_t id[SRIG_SAMPLES][SRIG_NEW];
	float logprob[SRIG_SAMPLES][SRIG_NEW];
	uint32_t n_text[SRIG_SAMPLES];
	char text[SRIG_SAMPLES][SRIG_TEXT];
	bool last[SRIG_SAMPLES];
	bool note_due[SRIG_SAMPLES]; /* a window notice found the ring full: again at the next poll
	                              */
	struct plx_result res;
	uint64_t seed;
	uint32_t max_new;
	char stop[8];
};

struct srig {
	struct plx_config cfg;
	struct plx_arena arena;
	struct plx_links links;
	struct plx_tok *tok;
	struct plx_fake *fake;
	struct plx_queue *queue;
	struct plx_page page[3];
	struct plx_stage_tok st;
	struct plx_stage_batch sb;
	struct plx_stage_accel sa;
	struct srig_client client[SRIG_REQS];
	bool deaf;    /* io takes no events */
	bool no_acks; /* io sends no windows */
	uint32_t n_finals;
	uint32_t n_kind[4];
};

struct srig_ask {
	uint32_t flags;
	const char *text;
	const uint32_t *ids;
	uint32_t n_ids;
	const char *stop;
	uint16_t n_samples;
	uint16_t best_of; /* 0: without the option */
	uint32_t max_new;
	uint8_t n_logprobs;
	uint64_t seed;
	uint64_t deadline_ns;
	uint32_t model_id;
	uint32_t io;
	uint64_t req_id;
	uint64_t continued; /* req_id that it goes on from; 0: none */
	uint32_t continued_sample;
	const uint32_t *had; /* ids of sample 0 that the client has */
	uint32_t n_had;
	uint32_t tenant;
	bool share_prefix;
};

#define SRIG_SESSION 1u /* of every request */

extern struct srig srig;

/* srig_open, srig_close - a test's setup and teardown. */
int srig_open(void **state);
int srig_close(void **state);

/* srig_make - a request that is not pushed yet; NULL: the pool is empty. */
struct plx_req *srig_make(const struct srig_ask *a);
struct srig_client *srig_ask(const struct srig_ask *a);
struct srig_client *srig_ask_and_run(const struct srig_ask *a);

/* srig_turn - the fake io and each stage once; returns what they did. srig_io_poll - the io alone.
 */
uint32_t srig_turn(void);
uint32_t srig_io_poll(void);

/* srig_run_out - until nothing is left; then nothing may be missing. */
void srig_run_out(void);

/* srig_counted - a counter over tok and batch. */
uint64_t srig_counted(enum plx_metric m);

/* srig_check - ids and text of a sample whose prompt was ids[n]; text is cut at the stop string. */
void srig_check(const struct srig_client *c, const int32_t *ids, uint32_t n, uint32_t sample);

/* srig_encode - the ids of a text, BOS first; returns how many. */
uint32_t srig_encode(const char *text, int32_t *ids);

/* srig_stands_alone - the first word is at that place, and no broken character before it. */
bool srig_stands_alone(const int32_t *ids, uint32_t at);

/* srig_no_eog - no answer ends by itself. */
void srig_no_eog(void);

#endif
