/*
 * A simulated device: takes filled step records and says how long each would have run on an H100
 * with Llama 3 8B in BF16, and what it would have sampled. No arithmetic is done and no time
 * passes; the caller owns the clock.
 *
 *   t = (launch + linear + attention + sequences * per_seq) * noise * slow
 *
 *   linear     (w^4 + c^4)^(1/4), w = weight bytes / bandwidth, c = tokens * FLOP / compute:
 *              whichever of memory and arithmetic is the limit, with a soft knee where they meet
 *   attention  decodes:  KV bytes of all positions before / bandwidth
 *              chunks:   the larger of KV bytes / bandwidth and 4 * n_embd FLOP a layer for each
 *                        pair of positions / compute
 *
 * What it samples is the request's own text, whatever the batch; after its last id it samples EOS.
 * Which request a slot holds it learns from the sampler's seed, which is the request's index.
 *
 * Not modelled: the steps of compute by tile and wave size, paging's cost in attention, the
 * prefill-to-decode switch of some kernels. They are the same for every scheduler.
 */
#ifndef PLX_TESTS_SIM_DEVICE_H
#define PLX_TESTS_SIM_DEVICE_H

#include "accel/accel.h"
#include "tests/sim/trace.h"

struct sim_curve {
	double weight_bytes; /* read once a step */
	double read_bps;     /* bytes a second that kernels reach */
	double linear_flop;  /* of one token, all matrices but the head */
	double linear_flops; /* a second that kernels reach */
	double attn_flop;    /* of one pair of positions, all layers */
	double attn_flops;
	double kv_bytes; /* of one position, all layers */
	double launch_ns;
	double per_seq_ns;
	double noise;      /* sigma of a step's factor */
	double slow;       /* factor in the slow spell */
	double pool_bytes; /* left for KV blocks */
};

/* sim_h100 - the curve; device.c says where each figure comes from. */
struct sim_curve sim_h100(void);

struct sim_dev {
	struct sim_curve curve;
	const struct sim_trace *trace;
	struct sim_rng rng;
	uint64_t slow_from_ns, slow_to_ns;
	uint32_t *slot_req; /* [n_slots] */
	uint32_t n_slots;
	uint64_t busy_ns;
	double ns_by_part[3]; /* launch and sequences, linear, attention */
};

void sim_dev_open(struct sim_dev *d, const struct sim_trace *t, uint32_t n_slots, uint64_t seed);
void sim_dev_close(struct sim_dev *d);

/* What a step is made of. */
struct sim_load {
	uint32_t n_decode, n_chunks, n_prefill; /* sequences, sequences, tokens */
	uint64_t n_context;                     /* positions that decodes look back at */
	double chunk_pairs;                     /* pairs of positions in chunks */
	uint64_t chunk_context;
};

void sim_load_of(struct plx_step *st, struct sim_load *out);

/* sim_dev_ns - time of a load without noise. */
double sim_dev_ns(struct sim_dev *d, const struct sim_load *l);

/*
 * sim_dev_run - run a step that begins at start_ns: writes its outputs, status, start and end.
 * Steps must come in the order in which they run.
 */
void sim_dev_run(struct sim_dev *d, struct plx_step *st, uint64_t start_ns);

#endif
