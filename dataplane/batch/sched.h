/*
 * The scheduler: which requests run, and what each step is made of. Pure logic: no DPDK, no clock,
 * no memory of its own beyond what init takes; what it has to say goes through a struct
 * plx_sched_sink.
 *
 * Policy. A step takes one decode token of each sequence that may go on, then prompt chunks, then
 * starts what waits. Prompts, running or waiting, go in the order of queue.h: priority with age,
 * fair shares of sessions, least slack; without objectives that is order of arrival, running ones
 * first. A request starts when a step has room for it, with all of its samples, and when the KV
 * blocks for what it knows are there; more are taken as it goes, and who finds none makes others
 * leave (preempt.h). The first that finds no slots or blocks makes those behind it wait, so that
 * none starves behind smaller ones (one whose tenant is at its share is passed over). One whose
 * first token can't come as wanted any more goes behind those that still can.
 *
 * Pace. Steps are to last equally long, so that tokens come evenly. With prompts a step lasts
 *
 *   max(1.05 * alone, min(1.6 * usual, objective / margin))
 *
 *   alone      what its decodes take by themselves (cost.h)
 *   usual      the mean of alone over a million steps, of what prompts needed for their objectives
 *              instead where that is more; after 10,000 of them a step counts for at most 15 %
 *              from the mean, so that an hour in which the device is slower makes steps no longer
 *   objective  the strictest time between tokens of those that run; margin: 99 of 100 steps meet it
 *
 * and takes as many prompt tokens as fit, 8 in any case. Where nobody named an objective it lasts 2
 * * usual; where nothing decodes, as long as the objective allows. A new sequence starts only while
 * decodes alone would take at most 0.9 of the objective; what runs goes on in any case. Until times
 * were measured, a step takes at most 512 prompt tokens. Of the record an eighth is kept for
 * prompts while any waits. Two steps in flight need no more care: each of them is as long as this
 * says, and a sequence is in both.
 *
 * Drafts (draft.h). While they are expected to pay, by the chances that drafters give and by what
 * steps take, steps go one at a time: each is filled when the one before came back, so that all ids
 * are known behind which is to be drafted. What the device idles meanwhile is measured and counted
 * against drafting. Otherwise steps are what they are without drafts. Drafts take blocks only where
 * there are plenty, and no time that others' objectives need. While a prompt runs there are none:
 * steps that they make longer would leave the prompt its least chunk alone.
 *
 * Chances of look-up are judged whether drafts run or not, so nothing is run only to find out. A
 * drafter that takes time is asked where that is expected to pay, and the step waits for it; where
 * it is not, it is asked beside the steps as seldom as takes 0.4 % of their time. What a step with
 * drafts brought is compared with what it would have taken without: what is lost by that is taken
 * from an account that steps without drafts fill by 0.5 % of their time, and while that is
 * overdrawn nothing is drafted; a drafter that has to catch up with a sequence first is asked only
 * if the account has what that takes. Each sequence has a purse beside it: half of its share of a
 * step's time at first, 0.5 % of that share for each step without drafts, and what its own drafts
 * won, by what the cost model says that a place takes. It has no more drafts than its purse pays
 * for if all are wrong, so what others won is not lost by it. While steps with drafts are new, and
 * the model knows nothing of them, it has at most three. So a device or a text about which all
 * estimates are wrong costs no more than that: tests/test_draft.c holds it to 1/50.
 *
 * Waiting for company: with wait_ns set, an idle device starts only when the batch is full
 * (step_seqs requests or step_tokens tokens wait) or the oldest waited wait_ns. It is 0 by default:
 * with batching by iterations whoever comes later joins the next step, so that waiting gains
 * nothing but one step's weights read once less, and costs every lone request its wait.
 *
 * Admission. The first token is expected when the device has run the steps in flight and, at the
 * pace above, all prompt tokens that stand ahead of it and its own, or when slots and blocks are
 * free: as answers end at the rate of late, and as many blocks come free as they hold less what the
 * others grow by. What a request takes to start is counted, not what it may come to need: blocks
 * are taken as it goes. (A tenant's share is counted by what its requests may need, so that it is
 * never exceeded.) The median ratio of truth to expectation is followed, a step of 2 % up or down a
 * request (the first 25 larger), and multiplies what ACCEPT says; stats.ttft_err counts how far
 * that was off. Refused at once: what would come after its objective (60 s where it has none), as
 * KV_PRESSURE where memory is why, and what would make one already admitted, among the next 64
 * behind it, miss its own. It is told to come again after twice the time by which it was late,
 * since others come meanwhile: in the simulator three in four are let in then at 95 % of capacity,
 * one in two at 200 %.
 *
 * Beyond the context. A request that allows it (job.beyond) goes on where its context is full: the
 * oldest tokens leave (shift.h), and final says how many. Its prompt may be as long as max_prompt
 * says; its blocks are its own from then on and are never found by others, nor after a preemption:
 * what left and came back is run again from where the context was full first. Others are refused as
 * TOO_LARGE or end as CONTEXT.
 *
 * Samples of one request share the prompt's full blocks: sample 0 runs them, the others wait until
 * they are in a step, then run what is left of the prompt themselves.
 *
 * Invariants: every admitted key gets exactly one sink.final; a slot and its blocks are free only
 * when no step in flight names them; plx_kv's sum holds.
 *
 * Owner: the batch stage.  Thread: one.  Cost: O(sequences + tokens given) a step, no allocation.
 * Source: Yu et al., "Orca", OSDI 2022 (iterations); Agrawal et al., "Sarathi-Serve",
 *         arXiv:2403.02310 (chunks beside decodes); Zhong et al., "DistServe", arXiv:2401.09670
 *         (goodput under both objectives); queue.h, cost.h.
 */
#ifndef PLX_DATAPLANE_BATCH_SCHED_H
#define PLX_DATAPLANE_BATCH_SCHED_H

#include "dataplane/batch/compress.h"
#include "dataplane/batch/cost.h"
#include "dataplane/batch/draft_ahead.h"
#include "dataplane/batch/draft_lookup.h"
#include "dataplane/batch/queue.h"
#include "dataplane/batch/seq.h"

#define PLX_SCHED_MAX_SAMPLES 64
#define PLX_SCHED_PRIORITIES  16
#define PLX_SCHED_TENANTS     256
#define PLX_SCHED_MAX_EOG     16
#define PLX_SCHED_MAX_STEPS   16
#define PLX_SCHED_ERR_BINS    5
#define PLX_SCHED_DRAFT_SEQS  64u /* with more running nothing is drafted */

struct plx_sched_conf {
	uint32_t n_keys;  /* requests: keys are 0 .. n_keys-1 */
	uint32_t n_slots; /* at most 65,535 */
	uint32_t n_blocks;
	uint32_t block_tokens;
	uint32_t ctx_tokens; /* prompt and answer together */
	bool can_evict;      /* the device has PLX_CAP_EVICT */
	bool can_shift;      /* the device has PLX_CAP_SHIFT: `beyond` has a meaning */
	uint32_t max_prompt; /* ids of a prompt */
	uint32_t max_new;    /* ids of an answer */
	uint32_t step_tokens;
	uint32_t step_seqs;
	uint32_t steps_in_flight;
	uint32_t window; /* ids a sample may make before the first plx_sched_window */
	uint64_t pause_ns;
	uint64_t ttft_slo_ns; /* objective of a request that names none; 0: none */
	uint64_t itl_slo_ns;  /* likewise, from one token to the next */
	uint64_t wait_ns;     /* an idle device waits so long for a first step to fill; 0: not */
	bool prefix_cache;
	uint32_t n_host_blocks; /* second level of the cache; 0: none */
	uint32_t step_copies;   /* blocks copied before a step at most; 0: any number */
	uint32_t draft_ids;     /* of each sequence that look-up indexes; 0: none drafts */
	uint32_t
	    tree_branches;  /* as the device's limits say, which then has PLX_CAP_TREE; 0: chains */
	uint32_t ahead_ids; /* places of the lookahead drafter's trajectory; 0: there is none */
	uint64_t secret;
	int32_t eog[PLX_SCHED_MAX_EOG]; /* ids that end an answer */
	uint32_t n_eog;
};

/* Where a sample goes on from, or that it is over. */
struct plx_sched_have {
	const int32_t *ids; /* [n] generated before */
	uint32_t n;
	uint8_t end; /* enum plx_seq_end; not NONE: over, with these */
	/* Of a request that was moved here (move.h): */
	uint32_t window;            /* may make ids below this index; 0: n and the configured */
	uint32_t from_dev;          /* whose blocks from's are */
	const struct plx_seq *from; /* kept there with its blocks; NULL: run everything again */
};

/* What a request asks for. */
struct plx_sched_job {
	const int32_t *ids; /* prompt [n_ids]; must stay until the request starts or is final */
	uint32_t n_ids;
	uint32_t max_new; /* 0: as many as the limits allow */
	uint32_t n_samples;
	uint32_t n_top;
	uint32_t flags; /* enum plx_seq_flag */
	uint32_t tenant;
	bool share_prefix;      /* finds and shows prefixes of others that share, of no one else */
	uint32_t tenant_blocks; /* share of the pool; 0: no limit */
	uint32_t session;       /* whose fair share this is taken from */
	uint32_t weight;        /* of that share; 0 counts as 1 */
	uint8_t priority;       /* 0..15, larger first */
	bool ignore_eos;
	bool held;            /* nobody reads along: its samples never wait for a window */
	bool no_drafts;       /* nothing is drafted for it */
	bool beyond;          /* oldest tokens may leave the context, rather than that it ends */
	uint64_t deadline_ns; /* 0: none */
	uint64_t ttft_slo_ns; /* first token after arrival; 0: the configured one */
	uint64_t itl_slo_ns;  /* from one token to the next; 0: the configured one */
	struct plx_sampler sampler;
	/*
	 * What its samples said already [n_samples], elsewhere or before a break; NULL: nothing. It
	 * is prefilled with the prompt and not given to the sink again, the next id has index n.
	 * Must stay as ids must.
	 */
	const struct plx_sched_have *have;
	/*
	 * Of a request that was admitted elsewhere (move.h): when it came, and when its first id;
	 * it is not refused for what rests on estimates. 0: it is new.
	 */
	uint64_t since_ns, first_ns;
	bool one_id; /* each sample makes one id, then waits to go on elsewhere */
	/*
	 * Out [n_ids]; NULL: it answers. The prompt is scored instead: score[i] is the natural
	 * logarithm of how likely ids[i] is behind those before it in its window (windows of
	 * PLX_SCHED_SCORE_SPAN, one behind the other, so that it takes no more memory than one);
	 * [0] is not written. It shares no blocks, samples nothing and ends as PLX_SCHED_SCORED.
	 * One sample; the device must have PLX_CAP_SCORE. With PLX_SEQF_EARLY in flags it runs in
	 * steps of its own kind, which take turns with the others. Must stay as ids must.
	 */
	float *score;
	/*
	 * Its prompt's KV is thinned out when it was run (compress_kv.h): what its last tokens
	 * attend to least goes, and its blocks come free. evict_late: only where memory is short,
	 * rather than that somebody is preempted. One sample, and the device has PLX_CAP_EVICT;
	 * else nothing goes. Such a request shares no blocks, and its context does not move
	 * (beyond).
	 */
	bool evict, evict_late;
	struct plx_compress_goal evict_goal;
	uint32_t sparse_mass, sparse_chunks; /* with PLX_SEQF_SPARSE: PLX_DELTA_SPARSE's */
};

#define PLX_SCHED_SCORE_SPAN 512u /* tokens, or the context if that is smaller */

enum plx_sched_final_kind {
	PLX_SCHED_DONE = 1,
	PLX_SCHED_REJECT,
	PLX_SCHED_CANCELLED,
	PLX_SCHED_SCORED, /* job.score is there; nobody was told anything */
};

struct plx_sched_final {
	uint8_t kind;  /* enum plx_sched_final_kind */
	uint8_t cause; /* CANCELLED: what plx_sched_cancel gave, or PLX_SCHED_SLOW */
	int32_t err;   /* REJECT */
	uint32_t cached_tokens;
	uint64_t queue_ns, prefill_ns, decode_ns;
	uint8_t device;                        /* fleet.h: which ran it last */
	bool kind_changed;                     /* fleet.h: ids are of more than one numeric kind */
	uint8_t end[PLX_SCHED_MAX_SAMPLES];    /* enum plx_seq_end of each sample */
	uint32_t n_out[PLX_SCHED_MAX_SAMPLES]; /* ids given to the sink */
	/* Tokens that had left the context when the last of them was made. */
	uint32_t n_left[PLX_SCHED_MAX_SAMPLES];
	uint32_t n_evicted;          /* tokens of the prompt whose KV went */
	float evict_loss;            /* share of the attention that they had */
	struct plx_step_share share; /* with PLX_SEQF_SPARSE: of all its steps here */
};

/* The cause with which a client that reads too slowly is cancelled; enum plx_cancel_cause. */
#define PLX_SCHED_SLOW 2

/* Where results go. Called from within the scheduler's functions; must not call back into it. */
struct plx_sched_sink {
	void *ctx;
	/* One id of a sample; end is not NONE where it is the last. top has n_top entries. */
	void (*token)(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
	              float logprob, const struct plx_top *top, uint32_t n_top,
	              enum plx_seq_end end, uint64_t device_ns);
	/* A sample ended without a further id. */
	void (*end)(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
	            uint64_t device_ns);
	/* The request ended; its key is free. */
	void (*final)(void *ctx, uint32_t key, const struct plx_sched_final *f);
};

struct plx_sched_ent {
	uint8_t state; /* enum plx_ent_state */
	uint8_t priority;
	bool late;       /* missed its first token's objective already: behind the others */
	uint16_t n_live; /* samples that run */
	uint16_t leader; /* sample that runs the shared prompt */
	uint32_t flow;   /* its session's share */
	double fair_start;
	int64_t rank;
	int64_t keep;         /* place in the order of those that hold memory (preempt.h) */
	uint64_t serial;      /* of its start */
	uint64_t due_ns;      /* first token; 0: no objective */
	uint64_t itl_ns;      /* between tokens; 0: no objective */
	uint64_t raw_ns;      /* estimate of the first token before correction; 0: none */
	uint64_t said_ns;     /* what ACCEPT said */
	bool by_place;        /* slots or blocks, not the device, decide when it comes */
	uint32_t need_blocks; /* for all samples, nothing cached */
	uint32_t shared_end;  /* positions of sample 0 that the other samples share */
	uint64_t shared_step; /* step that runs the last of them; the others come after it */
	uint32_t max_new;     /* after the limits */
	uint32_t max_blocks;  /* of one sample */
	uint32_t tenant_held; /* blocks counted against the tenant */
	bool by_context;
	bool beyond;   /* asked for, and can be */
	bool imported; /* it started with blocks of another device */
	uint64_t admit_ns, start_ns, first_ns;
	struct plx_sched_job job;
	struct plx_sched_final out;
	uint16_t slot[PLX_SCHED_MAX_SAMPLES];
};

/* Figures of the whole; read-only for others. */
struct plx_sched_load {
	uint32_t queued_tokens;  /* prompt tokens not given to the device, of all requests */
	uint32_t waiting_tokens; /* of requests that have not started */
	uint32_t n_waiting;      /* requests */
	uint32_t n_running;      /* sequences */
	uint64_t step_ns;        /* smoothed */
	uint64_t tok_ns;         /* smoothed time a prompt token takes */
};

/* What happened, for counters; only grows. */
struct plx_sched_stats {
	uint64_t steps, prefill_tokens, decode_tokens, cached_tokens;
	uint64_t late_tokens, paused, faulted, room_waits;
	uint64_t shifts, left_tokens;          /* of contexts; tokens that left them */
	uint64_t evicted_tokens;               /* of prompts, whose KV went */
	uint64_t scored_tokens;                /* of prompts that were scored */
	uint64_t preempted, recomputed_tokens; /* sequences; what they had to run again */
	uint64_t short_of;                     /* times that a block was not there */
	uint64_t late_starts; /* requests whose first token could not come as wanted any more */
	uint64_t full, pressed,
	    unmeetable; /* refused: QUEUE_FULL, KV_PRESSURE, DEADLINE_UNMEETABLE */
	/* Estimates of the first token against the truth: |estimate / truth - 1| up to 0.1, 0.25,
	 * 0.5, 1 and beyond; later: of all these, those that came after it. */
	uint64_t ttft_err[PLX_SCHED_ERR_BINS], ttft_later;
	/* Steps against the cost model: |measured / expected - 1| up to 0.05, 0.1, 0.25, 0.5 and
	 * beyond. */
	uint64_t step_err[PLX_SCHED_ERR_BINS];
};

/* A step in flight: what it was expected to take. */
struct plx_sched_sent {
	struct plx_cost_work work;
	double expect_ns;
	bool known; /* the cost model had seen enough to say so */
	bool early; /* it runs few layers: the cost model learns nothing of it */
};

/* The sequences that run, as of the last fill or result. */
struct plx_sched_view {
	struct plx_cost_work work; /* a step of all that decode */
	uint32_t n_seq;            /* all that run */
	uint64_t itl_ns;           /* the strictest objective; 0: none */
};

/* What the scheduler knows of time. */
struct plx_sched_pace {
	double usual_ns;     /* a step of decodes alone, with what objectives need, on average */
	uint32_t n_usual;    /* steps that this is the mean of */
	double out_ns;       /* steps in flight are expected to take */
	double truth[2];     /* median of true time to the first token / its raw estimate: where the
	                        device bounds it, where slots or blocks do */
	uint64_t n_truth[2]; /* first tokens that it is of */
	double answer;       /* smoothed ids of an answer */
	double ttft_err;     /* smoothed |estimate / truth - 1| */
	uint64_t out_since;  /* the first step in flight runs since then */
};

/* Who drafts, and what is known of drafting (sched_draft.c). */
struct plx_sched_draft {
	struct plx_drafter by[PLX_DRAFTERS];
	uint32_t n_by; /* 0: nobody */
	struct plx_lookup lookup;
	struct plx_ahead ahead;
	struct plx_draft *plan;        /* [n_slots] for the step that is filled */
	struct plx_draft_share *share; /* [n_slots] candidates */
	uint32_t *slot;                /* [n_slots] theirs */
	uint32_t n_share;
	uint32_t next;      /* index in run at which ids are learnt next */
	bool out;           /* a step with drafts is in flight */
	bool decided, pays; /* with what has come back so far: drafts pay */
	bool waited;        /* no step was given for the sake of drafts */
	uint64_t out_id;    /* the last step with drafts */
	uint64_t waited_id; /* the last step that came after a wait */
	uint64_t last_end_ns;
	double gap_ns;     /* the device idles so long while the batcher learns of its step */
	uint64_t waits;    /* steps that were given late for the sake of drafts */
	bool asking;       /* no step until those asked have guessed */
	bool asked;        /* somebody was, for the step that comes next */
	bool came_late;    /* the step sent last came after asking */
	bool opened;       /* the account */
	double plain_ns;   /* what the step sent last would take without drafts; 0: not judged */
	uint32_t n_plain;  /* ids that it would bring */
	double credit_ns;  /* what drafting won or lost, forgotten beyond a bound */
	double advance_ns; /* of it, what those that are asked now take to catch up */
	double seen_ns[PLX_SCHED_DRAFT_SEQS + 1]; /* steps without drafts of so many, smoothed */
	uint8_t pure[PLX_SCHED_MAX_STEPS]; /* by step id: decodes of a step of nothing else; 0 */
	double probe_ns;  /* what may be spent on finding out whether a drafter is right */
	uint64_t probes;  /* times that it was */
	uint64_t n_given; /* steps with drafts */
	uint64_t drafted[PLX_DRAFTERS], accepted[PLX_DRAFTERS];
	uint64_t branches; /* of trees, beside each one's first */
};

struct plx_sched {
	struct plx_sched_conf conf;
	struct plx_sched_sink sink;
	struct plx_kv kv;
	struct plx_prefix prefix;
	struct plx_tier tier;
	struct plx_shift shift;
	struct plx_sched_load load;
	struct plx_sched_stats stats;
	struct plx_cost cost;
	struct plx_sched_view view;
	struct plx_sched_pace pace;
	struct plx_sched_draft draft;
	struct plx_order wait;    /* requests that have not started; tokens: not cached */
	struct plx_order prefill; /* those whose prompt is not all given; tokens: what is left */
	struct plx_fair fair;
	struct plx_sched_sent sent[PLX_SCHED_MAX_STEPS]; /* by step id */
	struct plx_sched_ent *ent;                       /* [n_keys] */
	struct plx_seq *seq; /* [n_slots]; the index is the device's slot */
	uint32_t *run;       /* [n_slots] slots that are not free, in order of start */
	uint32_t n_run;
	uint32_t n_away;      /* of them preempted and not gone on */
	uint32_t n_kept;      /* of them over here and going on elsewhere */
	uint32_t hungry;      /* slot that found no block, the first in the order; PLX_KV_NONE */
	uint32_t head;        /* slot that is first in the order, while any is away */
	uint64_t coming;      /* blocks that are free when the steps in flight of some came back */
	uint64_t asked;       /* blocks that were not there, in this turn */
	uint64_t last_serial; /* of starts */
	uint32_t *free_slot;  /* [n_slots] stack */
	uint32_t n_free_slots;
	uint32_t first_decode; /* index in run at which the next step's decodes begin */
	bool had_prompt;       /* the last step ran prompt tokens */
	bool had_early;        /* the last step ran sequences with PLX_SEQF_EARLY */
	uint32_t n_steps_out;  /* steps in flight */
	uint32_t promised;     /* sink records that steps in flight can still bring */
	uint64_t next_step_id;
	bool need_reset; /* a fault left blocks in quarantine: nothing new starts */
	bool lost;       /* the device is gone until reset: no steps */
	uint32_t tenant_held[PLX_SCHED_TENANTS];  /* that running requests may need */
	uint32_t tenant_waits[PLX_SCHED_TENANTS]; /* that waiting ones may need */
	/* move.h; NULL: blocks of other devices can't be copied, what a failed step ran ends. */
	void *move_ctx;
	uint32_t import_from; /* bit d: device d's blocks can be copied */
	void (*import)(void *ctx, uint32_t from_dev, const struct plx_block_copy *pairs,
	               uint32_t n);
	void (*lost_request)(void *ctx, uint32_t key);
};

/* plx_sched_bytes - what init takes from the arena. */
size_t plx_sched_bytes(const struct plx_sched_conf *c);

/* plx_sched_init.  Errors: NOMEM, INVAL (a conf that can't work: d says which). */
int plx_sched_init(struct plx_sched *s, struct plx_arena *a, const struct plx_sched_conf *c,
                   const struct plx_sched_sink *sink, struct plx_diag *d);

/*
 * plx_sched_set_copy - how blocks are copied; before anything is added. Without it none are.
 *
 * @copy  called from within plx_sched_fill, before what it returns counts on the copies: give them
 *        to the device behind all earlier steps and before that one (plx_queue_copy_blocks).
 */
void plx_sched_set_copy(struct plx_sched *s, void *ctx,
                        void (*copy)(void *ctx, const struct plx_block_copy *pairs, uint32_t n));

/*
 * plx_sched_add_drafter - one more that guesses; before anything is added. The device must have
 * PLX_CAP_DRAFT. For each sequence the one that promises most is taken.
 * Errors: LIMIT (there are PLX_DRAFTERS already).
 */
int plx_sched_add_drafter(struct plx_sched *s, const struct plx_drafter *by);

/* What admission tells the client. */
struct plx_sched_admit {
	uint32_t queue_position; /* requests ahead that have not started */
	uint32_t cached_tokens;  /* prompt tokens found in the prefix cache now */
	uint64_t est_ttft_ns;
	uint64_t retry_ns; /* on error: it could be admitted after so long; 0: not as it is */
	const char *why;   /* on error: for a person */
};

/*
 * plx_sched_add - take a request, under a key that is free.
 *
 * Errors (the key stays free, no final): BAD_REQUEST (empty prompt, ids out of range are the
 * caller's check), TOO_LARGE (can never run: prompt, context, pool, slots), KV_PRESSURE (the
 * tenant's share is smaller than it may need, or blocks come free too late), DEADLINE_UNMEETABLE
 * (passed, before the estimated first token, or an objective that can't be met even alone),
 * QUEUE_FULL (too much waits ahead). What rests on estimates is refused only once they rest on
 * measurements.
 *
 * Cost: O(n_ids) for the look-up of cached blocks, O(log n_keys) for the order.
 */
int plx_sched_add(struct plx_sched *s, uint32_t key, const struct plx_sched_job *job,
                  uint64_t now_ns, struct plx_sched_admit *out);

/*
 * plx_sched_retry_ns - when a place that is full now is expected to be free: the next answer's end.
 * For whoever was refused without being looked at; add says it for a request.
 */
uint64_t plx_sched_retry_ns(const struct plx_sched *s);

/*
 * plx_sched_quote - what plx_sched_add would say, with nothing taken or counted. The key is free.
 * Cost: as plx_sched_add.
 */
int plx_sched_quote(struct plx_sched *s, uint32_t key, const struct plx_sched_job *job,
                    uint64_t now_ns, struct plx_sched_admit *out);

/* plx_sched_cancel - end a request now as CANCELLED. No effect on a free key. */
void plx_sched_cancel(struct plx_sched *s, uint32_t key, uint8_t cause, uint64_t now_ns);

/* plx_sched_reject - end a request now as REJECT err. No effect on a free key. */
void plx_sched_reject(struct plx_sched *s, uint32_t key, int err, uint64_t now_ns);

/* plx_sched_stop - a sample is over (stop string). No effect where it is over already. */
void plx_sched_stop(struct plx_sched *s, uint32_t key, uint32_t sample, uint64_t now_ns);

/* plx_sched_window - a sample may make ids below index next. Totals only grow. */
void plx_sched_window(struct plx_sched *s, uint32_t key, uint32_t sample, uint32_t next);

/*
 * plx_sched_tick - end what waited or ran past its deadline, or was paused for too long.
 * Cost: O(sequences + log n_keys a request that ends); call it every millisecond or so.
 */
void plx_sched_tick(struct plx_sched *s, uint64_t now_ns);

/*
 * plx_sched_fill - start what can start and fill a free step record.
 *
 * @room  how many more sink.token and sink.end records the caller can take, a token counting 1 and
 *        one more for each three alternatives. What steps in flight can bring is subtracted here.
 *
 * Returns the tokens in the step; 0: there is nothing to run, the record was not used. Otherwise it
 * must come back through plx_sched_done exactly once.
 */
uint32_t plx_sched_fill(struct plx_sched *s, struct plx_step *step, uint32_t room, uint64_t now_ns);

/*
 * plx_sched_done - a step came back.
 *
 * @status  step->status, or what submit returned: 0; LOST ends every running request, another error
 *          those in the step. They end in REJECT DEVICE_LOST, their blocks are quarantined.
 */
void plx_sched_done(struct plx_sched *s, struct plx_step *step, int status, uint64_t now_ns);

/*
 * plx_sched_wants_reset - nothing is in flight and blocks are in quarantine (or the device is
 * lost): reset the device, then call plx_sched_reset_done.
 */
bool plx_sched_wants_reset(const struct plx_sched *s);
void plx_sched_reset_done(struct plx_sched *s);

/* plx_sched_idle - no request waits or runs and no step is in flight. */
static inline bool plx_sched_idle(const struct plx_sched *s)
{
	return s->load.n_waiting == 0 && s->n_run == 0 && s->n_steps_out == 0;
}

/* plx_sched_check - assert every invariant (tests). Cost: O(everything). */
void plx_sched_check(const struct plx_sched *s);

#endif
