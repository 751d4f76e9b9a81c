/*
 * Whose KV goes after prefill: the tokens of a prompt that its last ones attend to least.
 *
 * seen[p] is what the device summed up of the attention to place p (PLX_SEQF_OBSERVE). A token is
 * worth the most that was seen of it and its PLX_EVICT_NEAR neighbours on either side, so that what
 * stands together stays together. The first PLX_EVICT_SINKS tokens and the last
 * PLX_OBSERVE_QUERIES stay in any case; of the others the least worth go, until the goal is met.
 *
 *   loss = sum of seen over what went / sum of seen over all
 *
 * Owner: the caller; nothing is kept.  Thread: any.  Cost: O(n), no allocation.
 * Source: Li et al., "SnapKV", arXiv:2404.14469 (the last window's attention, pooled); Zhang et
 * al., "H2O", arXiv:2306.14048 (heavy hitters); Xiao et al., arXiv:2309.17453 (sinks). There each
 *         head keeps tokens of its own; here all of them keep the same, since blocks hold all
 * heads.
 */
#ifndef PLX_DATAPLANE_BATCH_COMPRESS_KV_H
#define PLX_DATAPLANE_BATCH_COMPRESS_KV_H

#include "dataplane/batch/compress.h"

#define PLX_EVICT_SINKS 4u
#define PLX_EVICT_NEAR  3u

/*
 * plx_evict_choose - which of n places stay.
 *
 * @seen  in [n], at least 0.
 * @keep  out [(n + 63) / 64] bits: those that stay.
 *
 * Returns how many stay.
 */
uint32_t plx_evict_choose(const float *seen, uint32_t n, const struct plx_compress_goal *goal,
                          uint64_t *keep, struct plx_compress_result *out);

#endif
