/*
 * The CPU device's inside, shared by the cpu_*.c files. The contract is accel.h.
 *
 * One queue a device. The queue's entries (steps and block copies) run one at a time, in order,
 * each as a sequence of phases (phase.h). Whoever finishes the last item of a phase is alone with
 * the device until it opens the next one: it moves the pass on, completes the entry and begins the
 * next. Fields below say who may touch them: "runner" is that lcore, "owner" is the lcore that
 * submits, polls and resets.
 */
#ifndef PLX_ACCEL_CPU_H
#define PLX_ACCEL_CPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "accel/accel.h"
#include "accel/forward.h"
#include "accel/sampler.h"
#include "accel/step.h"
#include "accel/phase.h"
#include "fw/base/arena.h"

#define PLX_CPU_CAPS                                                                               \
	(PLX_CAP_LAST | PLX_CAP_DRAFT | PLX_CAP_LOGPROBS | PLX_CAP_WORKERS | PLX_CAP_COPY |        \
	 PLX_CAP_SHIFT | PLX_CAP_EXPERTS | PLX_CAP_SCORE | PLX_CAP_EVICT | PLX_CAP_SPARSE |        \
	 PLX_CAP_TREE | PLX_CAP_EARLY)

#define PLX_CPU_COPY_ENTRIES 64u   /* block copies (calls) waiting at once */
#define PLX_CPU_COPY_PAIRS   4096u /* blocks in them */

#define PLX_CPU_HEAD_ROWS     64u   /* most rows of a head group */
#define PLX_CPU_CHOOSE_BUDGET 4096u /* logits of one item of sampling: 16 us on Zen 4 */

struct plx_cpu_slot {
	uint32_t *table; /* [max_seq_blocks] */
	bool failed;     /* gave a NaN; stays so until the slot is set anew */
	uint32_t n_left; /* tokens that left the context: positions count without them */
	uint32_t n_gone; /* of them, those that KEEP let go: the others keep their positions */
	uint32_t *where; /* as struct plx_fwd_seq's; NULL where no layer has a window */
	uint32_t n_where;
	struct plx_fwd_choice sparse;
	struct plx_slot_sampler sampler;
};

enum plx_cpu_entry_kind {
	PLX_CPU_STEP = 1,
	PLX_CPU_COPY = 2,
};

struct plx_cpu;

struct plx_cpu_entry {
	enum plx_cpu_entry_kind kind;
	uint32_t step_idx;   /* STEP */
	uint32_t first_pair; /* COPY: counts from the first pair ever, modulo PLX_CPU_COPY_PAIRS */
	uint32_t n_pair;     /* COPY */
	struct plx_cpu *src; /* COPY: whose blocks */
};

struct plx_cpu_queue {
	struct plx_queue base; /* first */
	struct plx_cpu *cpu;
	uint8_t *records;
	bool *busy_step; /* owner: [steps_in_flight] submitted and not yet returned */
	struct plx_cpu_entry *entry;
	uint32_t n_entry; /* power of two */
	struct plx_block_copy pair[PLX_CPU_COPY_PAIRS];
	struct plx_step_checker check; /* owner */
	uint32_t n_pair;               /* owner: pairs ever queued */
	uint32_t n_pair_done;          /* owner: pairs whose entry was collected */
	uint64_t n_collected;          /* owner: entries returned by poll */
	_Atomic uint64_t n_submitted;  /* owner writes */
	_Atomic uint64_t n_completed;  /* runner writes */
};

/* What the entry that runs is doing. */
enum plx_cpu_state {
	PLX_CPU_IDLE,
	PLX_CPU_BODY,   /* ops of the pass, HEAD included */
	PLX_CPU_SAMPLE, /* one item a row of the head group, again until all rows are chosen */
	PLX_CPU_COPY_FIRST,
	PLX_CPU_COPYING,
};

/* Time spent in items, for benchmarks; each lane writes its own. */
struct plx_cpu_stats {
	_Alignas(64) uint64_t op_ns[PLX_FWD_N_OPS];
	uint64_t sample_ns;
	uint64_t n_items;
	uint64_t item_max_ns;
};

/* An item as it ran. */
struct plx_cpu_event {
	uint64_t begin_ns;
	uint64_t end_ns;
	uint32_t phase; /* phases are counted from the device's opening on */
	uint32_t op;    /* enum plx_fwd_op; PLX_FWD_N_OPS: choosing tokens, or a copy */
};

/* A lane's events, for benchmarks: what does not fit is not kept. */
struct plx_cpu_trace {
	struct plx_cpu_event *event;
	uint32_t n_event;
	uint32_t max_event;
};

struct plx_cpu_load; /* cpu_load.c */
struct plx_experts;  /* experts.h */

struct plx_cpu {
	struct plx_dev base; /* first */
	struct plx_dev_conf conf;
	const struct plx_kernels *k;
	const struct plx_model *m;
	struct plx_dev_limits lim;
	struct plx_cpu_load *load; /* from load_begin on */
	_Atomic bool loaded;       /* owner */
	struct plx_arena weights;
	struct plx_arena kv;
	struct plx_arena host;        /* KV blocks from n_blocks on */
	struct plx_arena work;        /* activations, slots, queue */
	struct plx_arena expert_pool; /* experts that were read from their file; else empty */
	struct plx_experts *experts;  /* NULL: all are in weights */
	struct plx_fwd fwd;           /* runner; items read it */
	struct plx_cpu_slot *slot;
	struct plx_cpu_queue *queue; /* NULL until opened */
	struct plx_cpu_queue *spare; /* its memory */
	uint8_t *scratch;            /* [head rows][scratch_bytes] for sampling */
	uint64_t scratch_bytes;
	struct plx_choosing *choosing; /* [head rows]: an item has its own */
	_Atomic uint32_t n_choosing;   /* rows of the head group that are not chosen yet */
	struct plx_choice *choice;     /* runner and items: [max_step_tokens] by row */
	uint32_t *row_seq;             /* runner: [max_step_tokens] sequence of each row */
	struct plx_cpu_stats *stats;   /* [n_threads] */
	struct plx_cpu_trace *trace;   /* [n_threads] while a benchmark looks on, else NULL */
	uint64_t generation;

	struct plx_phase phase;
	_Atomic uint32_t running; /* 1 while an entry runs; owner 0 -> 1, runner 1 -> 0 */
	_Atomic uint32_t abort;   /* owner: complete everything as LOST */
	enum plx_cpu_state state; /* runner */
	uint64_t n_started;       /* runner: entries begun */
	uint32_t n_phase;         /* runner: phases begun */
	_Atomic uint32_t waiting; /* the step waits for weights: runner 0 -> 1, owner 1 -> 0 */
	uint64_t wait_from_ns;    /* runner: since when */
	struct plx_cpu_entry cur; /* runner */
	struct plx_step *step;    /* runner: of a STEP entry */
};

/* ---- cpu_tables.c ---- */

/* plx_cpu_table_bytes - what plx_cpu_tables_make takes from the work arena. */
uint64_t plx_cpu_table_bytes(const struct plx_dev_limits *l, const struct plx_model *m);

/* plx_cpu_tables_make - slots, the queue and sampling's scratch, by c->lim. Loading's owner. */
void plx_cpu_tables_make(struct plx_cpu *c);

/* ---- cpu_load.c ---- */
int plx_cpu_load_begin(struct plx_dev *dev, const struct plx_model *model,
                       const struct plx_dev_limits *limits, struct plx_diag *d);
int plx_cpu_load_poll(struct plx_dev *dev, uint32_t budget_us, struct plx_load_progress *out,
                      struct plx_diag *d);
/* plx_cpu_load_help - worker() while loading: items of the open phase for about budget_us. */
int plx_cpu_load_help(struct plx_cpu *c, uint32_t lane, uint32_t budget_us);
/* plx_cpu_unload - free what loading took, finished or not. */
void plx_cpu_unload(struct plx_cpu *c);

/* ---- cpu_queue.c ---- */
int plx_cpu_queue_open(struct plx_dev *dev, struct plx_queue **out, struct plx_diag *d);
struct plx_step *plx_cpu_queue_step(struct plx_queue *q, uint32_t step_idx);
int plx_cpu_submit(struct plx_queue *q, uint32_t step_idx);
int plx_cpu_poll(struct plx_queue *q, uint32_t budget_us, uint32_t *done_idx, uint32_t max_done);
int plx_cpu_worker(struct plx_dev *dev, uint32_t worker_idx, uint32_t budget_us);
int plx_cpu_copy_blocks(struct plx_queue *dst, struct plx_queue *src,
                        const struct plx_block_copy *pairs, uint32_t n);
int plx_cpu_reset(struct plx_dev *dev);

/* ---- cpu_run.c ---- */

#define PLX_CPU_AHEAD_FIRST 4096u          /* fetched when a phase has nothing more to claim */
#define PLX_CPU_AHEAD_STEP  512u           /* fetched between two looks at the phase */
#define PLX_CPU_AHEAD_BYTES (128u * 1024u) /* fetched in a phase */
#define PLX_CPU_PATIENCE    16u            /* waits before a lane takes another's last units */

/* A waiting lane; zero at first. */
struct plx_cpu_wait {
	const char *at; /* how far it has fetched, and from where */
	uint32_t bytes;
	uint32_t n_wait; /* since it last found something */
};

/*
 * plx_cpu_run_items - claim items and compute them until none is left or the deadline has passed;
 * open what follows when the phase's last one was among them.
 *
 * @deadline_ns  at least one item is done, however late it is.
 * @now_ns       in and out: the time, so that it is read once an item.
 *
 * Returns false when there was nothing to claim.
 */
bool plx_cpu_run_items(struct plx_cpu *c, uint32_t lane, struct plx_cpu_wait *w,
                       uint64_t deadline_ns, uint64_t *now_ns);

/*
 * plx_cpu_run_wait - be idle for a moment: bring weights that this lane will read next into its
 * cache. Thread: any.  Cost: 50 to 200 ns.
 */
void plx_cpu_run_wait(struct plx_cpu *c, uint32_t lane, struct plx_cpu_wait *w);

/*
 * plx_cpu_run_resume - where the step waits for weights, go on with it if they have come, or if it
 * is to end. Thread: the owner.
 *
 * Returns true while it waits still.
 */
bool plx_cpu_run_resume(struct plx_cpu *c, uint64_t deadline_ns, uint64_t *now_ns);

/* plx_cpu_run_start - begin the next entry. Thread: the owner, after it took running from 0 to 1.
 */
void plx_cpu_run_start(struct plx_cpu *c);

/* ---- cpu_step.c ---- */

/* plx_cpu_step_begin - apply the deltas and lay the tokens out; false when there is nothing to run
 * (no tokens, or cancelled already). */
bool plx_cpu_step_begin(struct plx_cpu *c, struct plx_step *s);

/* plx_cpu_step_sample_begin - be about to choose for each row of the head group. Thread: runner. */
void plx_cpu_step_sample_begin(struct plx_cpu *c);

/* plx_cpu_step_sample - go on with row i of the head group. Thread: any, one a row at a time. */
void plx_cpu_step_sample(struct plx_cpu *c, uint32_t i);

/* plx_cpu_step_finish - accept drafts, fill the outs and the slots. */
void plx_cpu_step_finish(struct plx_cpu *c, struct plx_step *s);

/* plx_cpu_step_fail - outs of a step that ended early, with status in each. */
void plx_cpu_step_fail(struct plx_cpu *c, struct plx_step *s, int status);

/* plx_cpu_get_stats - the sum over all lanes. Benchmarks only; not exact while others compute. */
void plx_cpu_get_stats(struct plx_dev *dev, struct plx_cpu_stats *out);

extern const struct plx_dev_ops plx_cpu_ops;

/* plx_cpu_open - a CPU device with the instruction set that conf names. */
int plx_cpu_open(const struct plx_dev_conf *conf, struct plx_dev **out, struct plx_diag *d);

#endif
