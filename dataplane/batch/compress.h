/*
 * What can be left out of a prompt before it is run: units of low self-information.
 *
 * A unit is a phrase: it ends behind , ; : . ! ? or a line's end, or after PLX_COMPRESS_WORDS
 * words. The self-information of token i is I(i) = -log p(i | what stands before it), from a
 * scoring pass of the model that will answer (sched.h, job.score). Units go in the order of their
 * mean I, lowest first, until the goal is met; a unit that would go past it stays, and the next is
 * tried. What is marked KEEP stays where its unit goes. The first token always stays.
 *
 *   loss = sum of I over what was removed / sum of I over all tokens but the first
 *
 * Marks come from the text (compress_mark.c): words with a digit, words with a capital within a
 * sentence, sentences that ask, and every byte outside the spans that may be touched are KEEP.
 *
 * Owner: the caller; nothing is kept.  Thread: any.  Cost: O(tokens + bytes), no allocation.
 * Source: Li et al., "Compressing Context to Enhance Inference Efficiency of Large Language
 *         Models" (Selective Context), arXiv:2310.06201: phrases by mean self-information; Jiang et
 *         al., "LLMLingua", arXiv:2310.05736: what must not be touched. Phrases end at punctuation
 *         here rather than by a parser.
 */
#ifndef PLX_DATAPLANE_BATCH_COMPRESS_H
#define PLX_DATAPLANE_BATCH_COMPRESS_H

#include <stdbool.h>
#include <stdint.h>

#define PLX_COMPRESS_WORDS 3u

enum plx_compress_mark {
	PLX_MARK_KEEP = 1, /* never removed */
	PLX_MARK_UNIT = 2, /* a unit begins with this token */
};

/* Bytes [first, end) of the text that may be removed. */
struct plx_compress_span {
	uint32_t first, end;
	bool asks; /* its sentences that end in ? stay */
};

/*
 * plx_compress_mark - marks of the tokens of a text.
 *
 * @end    in [n]: where token i ends in text; it begins where the one before ends. Rising.
 * @span   in [n_span] ascending, apart: what may be touched at all.
 * @mark   out [n].
 */
void plx_compress_mark(const char *text, const uint32_t *end, uint32_t n,
                       const struct plx_compress_span *span, uint32_t n_span, uint8_t *mark);

/* plx_compress_keep - tokens that have a byte of [first, end) stay. Cost: O(log n + those). */
void plx_compress_keep(const uint32_t *tok_end, uint32_t n, uint32_t first, uint32_t end,
                       uint8_t *mark);

/*
 * plx_compress_follow - where tokens end in the text that they were made from.
 *
 * Bytes of pieces are followed through the text; a space that a piece has and the text has not (a
 * vocabulary's prefix) is passed over. Returns 1, or 0 where they part: call it for no further
 * token.
 *
 * @at  in, out: bytes of the text that earlier tokens took.
 */
bool plx_compress_follow(const char *text, uint32_t len, uint32_t *at, const uint8_t *piece,
                         uint32_t piece_len);

/* How much may go: at least `target` of the tokens stay, or at most `target` of the sum of I goes.
 */
struct plx_compress_goal {
	bool by_loss;
	float target;
};

struct plx_compress_result {
	uint32_t n_removed;
	float loss; /* 0..1 */
};

/*
 * plx_compress_prune - take units out of ids.
 *
 * @ids      in, out [n]: those that stay move to the front; returns how many.
 * @mark     in [n] enum plx_compress_mark.
 * @logprob  in [n] log p, at most 0; [0] is not looked at. Not a number counts as 0.
 */
uint32_t plx_compress_prune(int32_t *ids, const uint8_t *mark, const float *logprob, uint32_t n,
                            const struct plx_compress_goal *goal, struct plx_compress_result *out);

#endif
