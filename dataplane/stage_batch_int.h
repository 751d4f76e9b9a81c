/*
 * The batch stage's parts, for its own files: sizes from the board file (stage_batch_conf.c),
 * requests as jobs (stage_batch_job.c), figures (stage_batch_report.c).
 *
 * Owner: the batch stage.  Thread: its lcore; the first two functions at start.  No allocation.
 */
#ifndef PLX_DATAPLANE_STAGE_BATCH_INT_H
#define PLX_DATAPLANE_STAGE_BATCH_INT_H

#include "dataplane/batch/compress.h"
#include "dataplane/stage_batch.h"

/* The scheduler of one device, and the drafter whose device has these limits. */
struct plx_sched_conf plx_batch_sched_conf(const struct plx_config *cfg,
                                           const struct plx_batch_model *model);
struct plx_dmodel_conf plx_batch_dmodel_conf(const struct plx_dev_limits *l,
                                             enum plx_draft_kind kind);

/*
 * plx_batch_check - whether the request can run here at all.
 * Errors: DEVICE_LOST, NO_MODEL, BAD_REQUEST; *why says what, static text.
 */
int plx_batch_check(const struct plx_stage_batch *s, const struct plx_req *r, const char **why);

/* The target of each mechanism of compression that the request allows. */
/* plx_batch_sparse_kind - the numeric kind of a request's ids on a device of this kind: sparse
 * attention is one of its own. plx_batch_share - what its queries read, as DONE says it. */
uint32_t plx_batch_sparse_kind(const struct plx_stage_batch *s, const struct plx_req *r,
                               uint32_t kind);
struct plx_msg_done_sparse plx_batch_share(const struct plx_step_share *h);

struct plx_compress_goal plx_batch_goal(const struct plx_req_compress *c);

/* The request as a job; ids point into it. The second: its prompt is scored first, and what is
 * asked of the answer comes afterwards. */
struct plx_sched_job plx_batch_job(const struct plx_stage_batch *s, const struct plx_req *r);
struct plx_sched_job plx_batch_score_job(const struct plx_stage_batch *s, const struct plx_req *r);

/* What DONE calls the arithmetic of a request that device dev ran last: of a prompt that was pruned
 * also by how many layers it was scored. */
uint32_t plx_batch_kind(const struct plx_stage_batch *s, const struct plx_req *r, uint32_t dev);

/* What the client of a resumed request has, n_samples of them in the stage's memory; NULL: it
 * begins. */
const struct plx_sched_have *plx_batch_have(struct plx_stage_batch *s, const struct plx_req *r);

/* Microseconds until a refused client may try again, 10 s at most. What the scheduler knows is
 * better than the guess from the load: 0 there is 0 here. */
uint32_t plx_batch_retry_us(uint64_t ns);

/* The load for io and the gauges; the counters; whether steps could not be filled for want of room
 * towards tok. Each O(devices). */
void plx_batch_publish_load(struct plx_stage_batch *s);
void plx_batch_publish_counts(struct plx_stage_batch *s);
void plx_batch_say_regime(struct plx_stage_batch *s);

#endif
