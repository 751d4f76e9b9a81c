/*
 * The device contract: how the dataplane talks to whatever runs the model.
 *
 * Objects: a device (CPU, one GPU, a group, an FPGA card), the model it holds (loaded once) and
 * queues, one for each stage that submits. No verb blocks, sleeps or allocates after queue_open.
 *
 * A queue owns an arena of step records. The caller takes a free one, fills it, submits its index
 * and gets the index back from poll with the results written into the same record. Records hold
 * offsets, never pointers, so that the arena may be shared with another process or a GPU.
 *
 * Sequences occupy slots on the device. Block tables, the sampler and the ids that the repeat
 * penalty looks at live there; a step carries deltas that change them, applied in order before the
 * step's tokens run. Steps of one queue run and complete in the order of submission; each accepted
 * step completes exactly once, as OK, FAULT, TIMEOUT, CANCELLED or LOST.
 *
 * Numerics: a token's hidden state depends on model, token ids and positions alone. Devices whose
 * info.numeric_kind is equal give equal bits.
 */
#ifndef PLX_ACCEL_ACCEL_H
#define PLX_ACCEL_ACCEL_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"

struct plx_model; /* accel/model/model.h */
struct plx_dev;
struct plx_queue;

#define PLX_ACCEL_ABI       2u
#define PLX_DEV_NAME_BYTES  32
#define PLX_DEV_PATH_BYTES  256
#define PLX_NUMERIC_BYTES   64
#define PLX_MAX_DRAFT       15 /* draft tokens one sequence may carry in a step */
#define PLX_MAX_TOP         20 /* alternatives reported beside a sampled token */
#define PLX_OBSERVE_QUERIES 16 /* tokens whose attention PLX_SEQF_OBSERVE sums up */
#define PLX_PENALTY_WINDOW  64 /* the repeat penalty looks at this many ids at most */

/* What a device can do; a step that asks for anything else is refused with UNSUPPORTED. */
enum plx_dev_cap {
	PLX_CAP_LAST = 1 << 0,     /* PLX_TOK_LAST: feed back what the slot sampled last */
	PLX_CAP_DRAFT = 1 << 1,    /* verify chains of drafts */
	PLX_CAP_TREE = 1 << 2,     /* verify trees of drafts, as limits.tree_branches says */
	PLX_CAP_EMBED = 1 << 3,    /* tokens given as embedding rows */
	PLX_CAP_HIDDEN = 1 << 4,   /* return final hidden rows */
	PLX_CAP_LOGPROBS = 1 << 5, /* log-probabilities and top-n */
	PLX_CAP_MASK = 1 << 6,     /* vocabulary masks (grammars) */
	PLX_CAP_ADAPTER = 1 << 7,  /* low-rank adapters */
	PLX_CAP_WORKERS = 1 << 8,  /* lends work to lcores through worker() */
	PLX_CAP_EXPORT = 1 << 9,   /* mem_export gives a dma-buf */
	PLX_CAP_COPY = 1 << 10,    /* copy_blocks */
	PLX_CAP_SHIFT = 1 << 11,   /* PLX_DELTA_SHIFT: positions move down */
	PLX_CAP_EXPERTS = 1 << 12, /* models with experts */
	PLX_CAP_EVICT = 1 << 14,   /* PLX_SEQF_OBSERVE and PLX_DELTA_KEEP */
	PLX_CAP_SCORE = 1 << 13,   /* PLX_TOKF_SCORE: log-probabilities of given ids */
	PLX_CAP_SPARSE = 1 << 16,  /* PLX_SEQF_SPARSE, where the limits set it up */
	PLX_CAP_EARLY = 1 << 17,   /* PLX_SEQF_EARLY, where the limits set it up */
};

struct plx_dev_info {
	char name[PLX_DEV_NAME_BYTES];
	char numeric_kind[PLX_NUMERIC_BYTES]; /* equal text: equal bits, of dense attention */
	char sparse_kind[PLX_NUMERIC_BYTES];  /* how sparse attention chooses; "": there is none */
	uint32_t caps;                        /* enum plx_dev_cap */
	uint32_t n_workers_max;               /* lcores that worker() can use beside poll() */
	uint64_t mem_total_bytes;
	uint64_t mem_used_bytes;
	uint64_t kv_layout_hash; /* equal: KV blocks can be copied as they are; 0 before load */
	uint32_t block_bytes;    /* one KV block over all layers; 0 before load */
	uint32_t n_vocab;        /* 0 before load */
};

/* How KV is kept; each a numeric kind and a layout of its own. */
enum plx_kv_type {
	PLX_KV_F16 = 0,
	PLX_KV_Q8, /* 8 bits: half of f16's memory */
	PLX_KV_Q4, /* K in 5 and V in 4 bits: a third */
	PLX_KV_N_TYPES,
};

/* Sizes fixed at load; every table on the device is allocated from them. */
struct plx_dev_limits {
	uint32_t n_slots;         /* sequences on the device at once */
	uint32_t n_blocks;        /* KV blocks in its pool */
	uint32_t block_tokens;    /* tokens a block; a power of two, 16..256 */
	uint32_t max_seq_blocks;  /* blocks one sequence may own (context limit) */
	uint32_t max_step_tokens; /* tokens in one step */
	uint32_t max_step_seqs;   /* sequences in one step, at most n_slots */
	uint32_t steps_in_flight; /* step records in a queue, at least 2 */
	uint32_t n_threads;       /* CPU: lcores that will compute (poll and workers together) */
	uint32_t n_host_blocks;   /* blocks in host memory, to copy to and from; 0: none */
	uint32_t kv_type;         /* enum plx_kv_type */
	/* CPU: weights of experts in memory at once, the rest is read from a file as it is needed;
	 * 0: all. Beside them what every token reads, shared experts included, is in memory. */
	uint64_t expert_mem_bytes;

	/*
	 * Sparse attention, for sequences that ask for it (PLX_SEQF_SPARSE). A token attends to the
	 * first 64 positions, the last 64 to 127, and of the chunks of 64 in between to those that
	 *   - together with these hold `mass` of 1,000 parts of the attention, estimated from each
	 *     page's mean key, the largest first; and
	 *   - are the `chunks` whose keys may score highest, by their bounds.
	 * Tokens of a prompt (PLX_DELTA_SPARSE says how far) choose together, PLX_SPARSE_POOL at a
	 * time: by the mean of their queries, and for `chunks` by each page's mean key as well.
	 * Which they are depends on the ids up to the token, or the last one that chooses with it,
	 * and on positions alone. 0, 0 and no own: none of it, and blocks without what it needs.
	 */
	uint32_t sparse_mass;   /* 0..1000: of a sequence that PLX_DELTA_SPARSE says nothing of */
	uint32_t sparse_chunks; /* 0..65535, likewise */
	uint32_t sparse_from;   /* tokens at lower positions attend to all */
	uint32_t sparse_own;    /* not 0: set up, though only sequences say how much they read */

	/* Branches beside each sequence's first that the trees of drafts of one step may have
	 * together, at most 64; 0: no trees. Each takes two KV blocks that are not in the pool. */
	uint32_t tree_branches;

	/* Layers that sequences with PLX_SEQF_EARLY run through; 0: there are none such, and as
	 * many as the model has or more are all. */
	uint32_t early_layers;
};
#define PLX_MAX_TREE_BRANCHES 64u

#define PLX_SPARSE_POOL 16u /* positions of a prompt that choose together, from multiples of it */
#define PLX_SPARSE_TAIL 64u /* a prompt's last ones: each chooses for itself, as in decode */

/* plx_sparse_pooled - how many of a prompt's n tokens choose together: what a question at its end
 * looks for may be a single key, which no mean shows. */
static inline uint32_t plx_sparse_pooled(uint32_t n)
{
	return n > PLX_SPARSE_TAIL ? (n - PLX_SPARSE_TAIL) / PLX_SPARSE_POOL * PLX_SPARSE_POOL : 0;
}

/* plx_limits_sparse - whether they set sparse attention up. */
static inline bool plx_limits_sparse(const struct plx_dev_limits *l)
{
	return l->sparse_mass > 0 || l->sparse_chunks > 0 || l->sparse_own > 0;
}

/* A token's source in a step. */
#define PLX_TOK_LAST     (-1)                /* the id this slot sampled last */
#define PLX_TOK_EMBED(r) (-2 - (int32_t)(r)) /* row r of the step's embedding rows */

enum plx_tok_flag {
	PLX_TOKF_LOGITS = 1 << 0, /* sample after this token */
	PLX_TOKF_HIDDEN = 1 << 1, /* return its final hidden row */
	/*
	 * Say how likely a given id is after this token: pos[1] is the id, and pos[2] is, when the
	 * step came back, the bits of its log-probability (f32, natural logarithm, of the model's
	 * distribution before any sampling option). Nothing is sampled in a sequence that has any.
	 */
	PLX_TOKF_SCORE = 1 << 2,
	/*
	 * With PLX_TOKF_LOGITS: say what was sampled after this token even if it is a draft that
	 * was not accepted. pos[1] is that id when the step came back. Needs PLX_CAP_TREE.
	 */
	PLX_TOKF_SAMPLED = 1 << 3,
};

/* One token to run. Tokens of one sequence are contiguous and in order of position. */
struct plx_step_tok {
	int32_t id;      /* vocabulary id, PLX_TOK_LAST or PLX_TOK_EMBED(row) */
	uint32_t pos[3]; /* position; text uses pos[0], images all three; PLX_TOKF_SCORE */
	int32_t parent;  /* draft: index in the step of the token before it; -1: the one before */
	uint32_t flags;  /* enum plx_tok_flag */
};
static_assert(sizeof(struct plx_step_tok) == 24, "step records are a shared ABI");

enum plx_seq_flag {
	PLX_SEQF_DETERMINISTIC = 1 << 0, /* equal bits whatever else the step runs */
	/*
	 * Say what its last tokens of this step, PLX_OBSERVE_QUERIES at most, attend to: the
	 * record's obs[p] is the sum over them, over heads and over layers (the device says which:
	 * at least a third) of the softmax of q k, for each place p up to the last token's. Of one
	 * sequence in a step at most.
	 */
	PLX_SEQF_OBSERVE = 1 << 1,
	PLX_SEQF_SPARSE = 1 << 2, /* attention as PLX_DELTA_SPARSE or the limits say; always or
	                           * never in the life of a sequence and of blocks it shares */
	/*
	 * Its tokens run through the limits' first early_layers layers alone, and then through the
	 * output head as if these were all: a guess at log-probabilities for little. Of a step's
	 * sequences all or none; always or never in the life of a sequence, whose blocks nobody
	 * shares.
	 */
	PLX_SEQF_EARLY = 1 << 6,
};

/*
 * One sequence's share of a step. With n_draft > 0 the last 1 + n_draft tokens all carry
 * PLX_TOKF_LOGITS: the committed one and the drafts after it.
 *
 * Drafts may form a tree: each names its parent, the committed token or an earlier draft, and
 * stands one position behind it. A draft whose parent is not the token before it begins a branch;
 * its parent is then an ancestor of the token before it (order of depth first). Each row is
 * computed as if its ancestors alone stood before it, with the bits that a chain of them would
 * give. From the committed token on, what a row samples is taken, and then its row: that of the
 * child that is this id, the first of equal ones; where there is none the step's ids end. KV
 * behind the committed token is afterwards that of the drafts taken.
 */
struct plx_step_seq {
	uint32_t slot;
	uint32_t first_tok; /* index of its first token in the step */
	uint32_t n_tok;     /* at least 1 */
	uint32_t n_draft;   /* 0..PLX_MAX_DRAFT */
	uint32_t adapter;   /* 0: none */
	uint32_t mask_off;  /* offset of a vocabulary bit mask in the record; 0: none */
	uint32_t n_top;     /* alternatives wanted, 0..PLX_MAX_TOP */
	uint32_t flags;     /* enum plx_seq_flag */
};
static_assert(sizeof(struct plx_step_seq) == 32, "step records are a shared ABI");

/*
 * How a slot samples. Order: repeat penalty, top_k, top_p, min_p, temperature, draw; the draw is
 * Philox4x32-10 of (seed, sample, position of the new token, draw index). Ties go to the lowest id.
 */
struct plx_sampler {
	float temperature;    /* 0: greedy (after the repeat penalty) */
	float top_p;          /* 1: off */
	float min_p;          /* 0: off */
	float repeat_penalty; /* 1: off */
	uint32_t top_k;       /* 0: off */
	uint32_t sample;      /* which of a request's n answers */
	uint64_t seed;
	uint32_t n_recent; /* ids in recent[], oldest first: the tokens before the first one the
	                    * slot will run, so that a cached prefix is penalised as well */
	uint32_t penalty_window; /* how many of the last ids count, at most PLX_PENALTY_WINDOW */
	int32_t recent[PLX_PENALTY_WINDOW];
};
static_assert(sizeof(struct plx_sampler) == 40 + 4 * PLX_PENALTY_WINDOW, "shared ABI");

enum plx_delta_kind {
	PLX_DELTA_SLOT_SET = 1,   /* take the slot: empty block table, sampler as given */
	PLX_DELTA_SLOT_CLEAR = 2, /* give the slot back */
	PLX_DELTA_BLOCK = 3,      /* block table[index] = block */
	/*
	 * Tokens left the context: `block` blocks that stood before entry `index` are no longer in
	 * the table, which has n_blocks entries from now on. Those from `index` on were told, by
	 * BLOCK deltas before this one; their tokens were run `block` blocks further up, and their
	 * K is rotated back by block * block_tokens positions, rounded as it is stored, before the
	 * step's tokens run. The slot's next position falls likewise. Sampling goes on counting:
	 * the draw's position and the recent ids are those of a sequence that lost nothing.
	 *
	 * The device writes those blocks: nobody else may read them under their old positions, so
	 * shared ones are copied first (copy_blocks). Once a step and slot at most.
	 */
	PLX_DELTA_SHIFT = 4,
	/*
	 * Tokens leave the KV, and those behind them move down: of the first `index` places, behind
	 * which nothing is wanted, those whose bit in the record's keep[] is set stay, at least
	 * one, in their order. The table has n_blocks entries from now on, as many as they need;
	 * rows are moved before the step's tokens run, and nobody may hold or write the other
	 * blocks before the step came back. The slot's next place falls by as many as left, but
	 * tokens keep their positions: what is run at place p from now on is rotated by p and all
	 * that left. Sampling goes on as for SHIFT. Once a step at most.
	 */
	PLX_DELTA_KEEP = 5,
	/*
	 * How the slot's sparse attention chooses: mass is `block`, 0 to 1,000 (1,000 reads all),
	 * chunks is n_blocks, up to 65,535. Tokens at positions below `index`, a multiple of
	 * PLX_SPARSE_POOL, choose PLX_SPARSE_POOL together: a step that runs any of them begins
	 * and ends at a multiple of it, or beyond. SHIFT moves `index` down as it does tokens,
	 * KEEP makes it 0. Between SLOT_SET and the slot's first token.
	 */
	PLX_DELTA_SPARSE = 7,
};

struct plx_step_delta {
	uint32_t kind; /* enum plx_delta_kind */
	uint32_t slot;
	uint32_t index; /* BLOCK: which entry; SHIFT: the first that moved; KEEP: places before */
	uint32_t block; /* BLOCK: pool index; SHIFT: by how many blocks, at least 1 */
	union {
		uint32_t sampler_off; /* SLOT_SET: offset of a struct plx_sampler in the record */
		uint32_t n_blocks;    /* SHIFT, KEEP: entries of the table; SPARSE: chunks */
	};
};
static_assert(sizeof(struct plx_step_delta) == 20, "step records are a shared ABI");

struct plx_top {
	int32_t id;
	float
	    logprob; /* natural logarithm, of the model's distribution before any sampling option */
};

/* What one sequence got from a step, parallel to the step's sequences. */
struct plx_step_out {
	int32_t status;      /* 0 or enum plx_err; FAULT where this sequence alone went NaN */
	uint32_t n_out;      /* ids sampled: 0 (prefill chunk), 1, or n_accepted + 1 */
	uint32_t n_accepted; /* drafts that were accepted */
	uint32_t top_off;    /* offset of [n_out][n_top] struct plx_top in the record; 0: none */
	int32_t id[PLX_MAX_DRAFT + 1];
	float logprob[PLX_MAX_DRAFT + 1]; /* of id[], same distribution as plx_top's */
};
static_assert(sizeof(struct plx_step_out) == 16 + 8 * (PLX_MAX_DRAFT + 1), "shared ABI");

/*
 * What a sequence's queries left out in a step (PLX_SEQF_SPARSE), over heads and over all layers
 * but the last; n is 0 where none chose. A query's share is the part it reads of the attention that
 * lies before its own chunk of 64, as the choice estimated it.
 */
#define PLX_SHARE_ONE 65536u
struct plx_step_share {
	uint64_t n;      /* queries that chose, those that did together counted one by one */
	uint64_t sum;    /* of their shares, in 1 / PLX_SHARE_ONE */
	uint64_t chunks; /* that dense attention would have read for them */
	uint64_t read;
	uint32_t least; /* share */
	uint32_t zero;
};
static_assert(sizeof(struct plx_step_share) == 40, "step records are a shared ABI");

/*
 * A step record. The queue writes the offsets once; the caller fills what is marked "caller" and
 * leaves the rest; the device writes what is marked "device" before poll returns the record.
 */
struct plx_step {
	uint32_t abi_version;  /* PLX_ACCEL_ABI */
	uint32_t record_bytes; /* whole record */
	uint64_t id;           /* caller: grows by one a step */
	uint64_t generation;   /* device generation at submit; written by submit */
	uint32_t n_tok;        /* caller */
	uint32_t n_seq;        /* caller */
	uint32_t n_delta;      /* caller */
	uint32_t n_sampler;    /* caller: samplers used, indexed from sampler_off */
	uint32_t tok_off;      /* struct plx_step_tok[max_step_tokens] */
	uint32_t seq_off;      /* struct plx_step_seq[max_step_seqs] */
	uint32_t delta_off;    /* struct plx_step_delta[max_deltas] */
	uint32_t sampler_off;  /* struct plx_sampler[max_step_seqs] */
	uint32_t out_off;      /* struct plx_step_out[max_step_seqs] */
	uint32_t max_deltas;
	uint32_t cancel;    /* caller, any time, atomically: drop the step where it stands */
	int32_t status;     /* device: 0, FAULT, TIMEOUT, CANCELLED or LOST */
	uint64_t start_ns;  /* device: when its first work began, plx_clock_ns() */
	uint64_t end_ns;    /* device: when its results were complete */
	uint32_t obs_off;   /* float[max_seq_blocks * block_tokens], device: PLX_SEQF_OBSERVE */
	uint32_t keep_off;  /* uint64_t bits, as many, caller: PLX_DELTA_KEEP */
	uint32_t share_off; /* struct plx_step_share[max_step_seqs], device, where it has
	                     * PLX_CAP_SPARSE and the limits set it up */
	uint32_t zero;
};
static_assert(sizeof(struct plx_step) == 104, "step records are a shared ABI");

/* The arrays of a record. */
static inline struct plx_step_tok *plx_step_toks(struct plx_step *s)
{
	return (struct plx_step_tok *)(void *)((char *)s + s->tok_off);
}
static inline struct plx_step_seq *plx_step_seqs(struct plx_step *s)
{
	return (struct plx_step_seq *)(void *)((char *)s + s->seq_off);
}
static inline struct plx_step_delta *plx_step_deltas(struct plx_step *s)
{
	return (struct plx_step_delta *)(void *)((char *)s + s->delta_off);
}
static inline struct plx_sampler *plx_step_samplers(struct plx_step *s)
{
	return (struct plx_sampler *)(void *)((char *)s + s->sampler_off);
}
static inline struct plx_step_out *plx_step_outs(struct plx_step *s)
{
	return (struct plx_step_out *)(void *)((char *)s + s->out_off);
}

static inline float *plx_step_obs(struct plx_step *s)
{
	return (float *)(void *)((char *)s + s->obs_off);
}
static inline uint64_t *plx_step_keep(struct plx_step *s)
{
	return (uint64_t *)(void *)((char *)s + s->keep_off);
}
static inline struct plx_step_share *plx_step_shares(struct plx_step *s)
{
	return (struct plx_step_share *)(void *)((char *)s + s->share_off);
}

struct plx_load_progress {
	uint64_t done_bytes;
	uint64_t total_bytes;
	const char *what; /* "weights", "KV pool" ...; static text */
	char note[256];   /* when done: where the weights came from, where the time went */
};

struct plx_block_copy {
	uint32_t src; /* block of the source queue's device */
	uint32_t dst; /* block of the destination queue's device */
};

/* How the experts of a device's model were used since it was loaded, over all layers. */
struct plx_dev_experts {
	uint64_t tokens;  /* served, each by every expert that it chose */
	uint64_t passes;  /* over an expert's weights, for all its tokens of a step */
	uint64_t busiest; /* tokens of the expert that had most of them, each step anew */
	/* Where experts are read from a file, else all zero: */
	uint64_t hits;       /* passes whose weights were in memory when the layer began */
	uint64_t misses;     /* and were not */
	uint64_t ahead;      /* experts read on a guess */
	uint64_t ahead_used; /* that came true */
	uint64_t read_bytes;
	uint64_t wait_ns; /* that steps waited for them */
	/* Of tokens: by experts that had at least twice the mean of their layer's since the start.
	 */
	uint64_t hot;
};

/* What sparse attention left out since the device was loaded, in chunks of 64 positions and heads.
 */
struct plx_dev_sparse {
	uint64_t tokens; /* that chose, alone or together, over all layers and heads */
	uint64_t chunks; /* that dense attention would have read for them */
	uint64_t read;
};

/*
 * What a device implements. Callers use the plx_dev_* and plx_queue_* functions below, which add
 * the argument checks that are the same for all.
 */
struct plx_dev_ops {
	int (*info)(struct plx_dev *dev, struct plx_dev_info *out);
	int (*load_begin)(struct plx_dev *dev, const struct plx_model *model,
	                  const struct plx_dev_limits *limits, struct plx_diag *d);
	int (*load_poll)(struct plx_dev *dev, uint32_t budget_us, struct plx_load_progress *out,
	                 struct plx_diag *d);
	int (*mem_alloc)(struct plx_dev *dev, size_t bytes, void **out);
	int (*mem_register)(struct plx_dev *dev, void *host, size_t bytes);
	int (*mem_export)(struct plx_dev *dev, void *mem, size_t bytes, int *dmabuf_fd);
	int (*queue_open)(struct plx_dev *dev, struct plx_queue **out, struct plx_diag *d);
	struct plx_step *(*queue_step)(struct plx_queue *q, uint32_t step_idx);
	int (*submit)(struct plx_queue *q, uint32_t step_idx);
	int (*poll)(struct plx_queue *q, uint32_t budget_us, uint32_t *done_idx, uint32_t max_done);
	int (*worker)(struct plx_dev *dev, uint32_t worker_idx, uint32_t budget_us);
	int (*copy_blocks)(struct plx_queue *dst, struct plx_queue *src,
	                   const struct plx_block_copy *pairs, uint32_t n);
	int (*reset)(struct plx_dev *dev);
	void (*close)(struct plx_dev *dev);
	int (*experts)(struct plx_dev *dev, struct plx_dev_experts *out); /* NULL: runs none */
	int (*sparse)(struct plx_dev *dev, struct plx_dev_sparse *out);   /* NULL: has none */
};

/* First member of every device's own struct, and of every queue's. */
struct plx_dev {
	const struct plx_dev_ops *ops;
};
struct plx_queue {
	struct plx_dev *dev;
};

/* What the board file says about a device. */
struct plx_dev_conf {
	char name[PLX_DEV_NAME_BYTES];
	char kind[16]; /* "cpu"; later "cuda", "fpga" */
	char isa[16];  /* CPU: "auto", "scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "amx" */
	uint32_t index; /* which card of its kind */
	/* CPU: repacked weights are kept in a file of this name and ".plx" behind it; "": in none
	 */
	char cache_base[PLX_DEV_PATH_BYTES];
	uint64_t cpus[16];  /* CPU: bit map of the CPUs whose lcores will compute; zero: unknown */
	uint32_t owner_cpu; /* CPU: the one of them whose lcore polls */
};

/*
 * plx_dev_open - open a device by its kind.
 *
 * Owner:  the caller closes it. One thread opens, loads and closes.
 * Errors: UNSUPPORTED (a kind this build lacks), NOT_FOUND, NOMEM; d says which and what to do.
 */
int plx_dev_open(const struct plx_dev_conf *conf, struct plx_dev **out, struct plx_diag *d);

/* plx_dev_kind_caps - what devices of a kind can do (enum plx_dev_cap), before one is open; 0: a
 * kind that this build lacks. */
uint32_t plx_dev_kind_caps(const char *kind);

/* plx_dev_info_get - what the device is and can do now. Thread: any. */
int plx_dev_info_get(struct plx_dev *dev, struct plx_dev_info *out);

/*
 * plx_dev_experts_get - what each step added up to; tokens / passes is how many shared a pass, and
 * busiest / tokens times the number of experts how uneven they were (1: not at all).
 *
 * Thread: any.  Cost: nine loads.
 * Errors: UNSUPPORTED (no experts here).
 */
int plx_dev_experts_get(struct plx_dev *dev, struct plx_dev_experts *out);

/*
 * plx_dev_sparse_get - what sequences with sparse attention read, step by step.
 * Thread: any.  Errors: UNSUPPORTED (the limits set up none).
 */
int plx_dev_sparse_get(struct plx_dev *dev, struct plx_dev_sparse *out);

/*
 * plx_dev_load_begin, plx_dev_load_poll - load the model and allocate every table.
 *
 * The model must outlive the device. load_poll works for about budget_us and returns AGAIN until
 * it is done, then 0; out tells progress. Meanwhile other lcores may help by plx_dev_worker.
 * Errors: UNSUPPORTED, NOMEM (with what would fit), LIMIT; after one of load_poll's the device can
 *         only be closed.
 */
int plx_dev_load_begin(struct plx_dev *dev, const struct plx_model *model,
                       const struct plx_dev_limits *limits, struct plx_diag *d);
int plx_dev_load_poll(struct plx_dev *dev, uint32_t budget_us, struct plx_load_progress *out,
                      struct plx_diag *d);

/*
 * plx_queue_open - a queue with limits.steps_in_flight step records. After load only.
 * Owner: the device; closed with it.
 */
int plx_queue_open(struct plx_dev *dev, struct plx_queue **out, struct plx_diag *d);

/* plx_queue_step - record step_idx, 0..steps_in_flight-1; NULL outside. The caller tracks which are
 * free. */
struct plx_step *plx_queue_step(struct plx_queue *q, uint32_t step_idx);

/*
 * plx_queue_submit - hand a filled record to the device.
 *
 * Thread: the queue's one submitter.  Cost: O(n_delta + n_seq) checks, no wait.
 * Errors: AGAIN (full), INVAL (a record whose counts, slots, blocks or offsets are out of range;
 *         nothing was changed), UNSUPPORTED, LOST (the device is gone until reset).
 */
int plx_queue_submit(struct plx_queue *q, uint32_t step_idx);

/*
 * plx_queue_poll - let the device work and collect what completed.
 *
 * @budget_us  a CPU device computes for about this long on the calling lcore; others only look.
 * @done_idx   out: indices of completed records, in order of submission.
 *
 * Returns how many completed (0..max_done), or a negative error.
 */
int plx_queue_poll(struct plx_queue *q, uint32_t budget_us, uint32_t *done_idx, uint32_t max_done);

/*
 * plx_dev_worker - lend the calling lcore to a CPU device for about budget_us.
 *
 * @worker_idx  1..n_threads-1, one lcore each (0 is the lcore that polls).
 *
 * From the return of plx_dev_load_begin on; while the model is loaded it helps with that.
 *
 * Returns 1 when it computed something, 0 when there was nothing to do.
 */
int plx_dev_worker(struct plx_dev *dev, uint32_t worker_idx, uint32_t budget_us);

/*
 * plx_queue_copy_blocks - copy KV blocks, after all steps submitted before on both queues and
 * before those submitted later on dst. The layout hashes must be equal, else UNSUPPORTED.
 *
 * Between queues of two devices: whoever submits on dst calls it, when the steps that filled the
 * source blocks have been collected; it does not wait for what src runs meanwhile, so that answers
 * on one device are not held up by the prompts of another. The source blocks stay unchanged until a
 * step submitted later on dst has completed, in whatever way. Meanwhile src may be reset, and then
 * what is copied is of no use, but not closed.
 *
 * Blocks limits.n_blocks .. n_blocks + n_host_blocks - 1 lie in host memory: they can be copied to
 * and from, but stand in no block table. A block is in at most one pair of a call as dst, and then
 * in none as src: pairs of a call are copied in any order.
 *
 * Errors: AGAIN (full), INVAL (a block out of range), LIMIT (more pairs than it ever takes),
 *         UNSUPPORTED.
 */
int plx_queue_copy_blocks(struct plx_queue *dst, struct plx_queue *src,
                          const struct plx_block_copy *pairs, uint32_t n);

/*
 * plx_dev_reset - begin a new generation: accepted steps complete as LOST, slots are empty.
 * plx_dev_close - free everything; queues go with it. No lcore is in any of these functions.
 */
int plx_dev_reset(struct plx_dev *dev);
void plx_dev_close(struct plx_dev *dev);

#endif
