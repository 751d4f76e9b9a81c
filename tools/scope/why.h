/*
 * Why a token came when it came: its time by part, each beside what is usual for it here, what the
 * kernel did to the lcore meanwhile, and the verdict in one sentence.
 *
 * A token's time begins when the token before it was done on the device (the first one's: when the
 * request's first fragment came) and ends when it was sent. The parts follow each other without
 * gap, so that they add up. Usual is the median of the same part over all tokens that are known,
 * first ones and later ones apart.
 */
#ifndef PLX_TOOLS_SCOPE_WHY_H
#define PLX_TOOLS_SCOPE_WHY_H

#include "tools/scope/text.h"
#include "tools/scope/thief.h"
#include "tools/scope/tokens.h"

enum plx_why_part {
	PLX_WHY_RECEIVE,  /* first fragment to last (first token only, as the next three) */
	PLX_WHY_TOK_WAIT, /* in the ring to tok */
	PLX_WHY_ENCODE,   /* text to ids */
	PLX_WHY_ADMIT,    /* in the ring to batch */
	PLX_WHY_SCHEDULE, /* until a step with it was given to the device */
	PLX_WHY_DEV_WAIT, /* that step waited for the device */
	PLX_WHY_DEVICE,   /* and ran */
	PLX_WHY_COLLECT,  /* until accel and batch took it up */
	PLX_WHY_TEXT,     /* until tok had made text of it */
	PLX_WHY_IO_WAIT,  /* in the ring to io */
	PLX_WHY_SEND,     /* waited for company, or for a packet buffer */
	PLX_WHY_PARTS
};

/* What it is blamed on. */
enum plx_why_cause {
	PLX_WHY_USUAL,      /* nothing: it was not late */
	PLX_WHY_TASK,       /* another task had the core */
	PLX_WHY_INTERRUPT,  /* hard or soft */
	PLX_WHY_FAULT,      /* page fault */
	PLX_WHY_SYSCALL,    /* a call of the thread's own */
	PLX_WHY_SLOW,       /* the device took longer for a usual step */
	PLX_WHY_LARGE_STEP, /* the device had a larger step */
	PLX_WHY_QUEUE,      /* other steps ran first */
	PLX_WHY_FULL,       /* a stage could not hand on */
	PLX_WHY_LCORE,      /* a turn of a stage took long; who took the core is not recorded */
	PLX_WHY_STAGE,      /* the stage came to it late, and nothing says why */
	PLX_WHY_CAUSES
};

struct plx_why {
	uint64_t ns[PLX_WHY_PARTS]; /* 0 where a part is not known: the next one has it */
	uint64_t usual_ns[PLX_WHY_PARTS];
	uint64_t at_ns[PLX_WHY_PARTS + 1]; /* where each begins, and the end */
	uint64_t total_ns, usual_total_ns;
	uint32_t page[PLX_WHY_PARTS]; /* stage that had it; UINT32_MAX: not known */
	enum plx_why_part part;       /* most over what is usual */
	enum plx_why_cause cause;
	const struct plx_thief *thief; /* with TASK, INTERRUPT, FAULT, SYSCALL: the longest */
	uint64_t thief_ns;             /* all of its kind and name within the part */
	char verdict[320];
};

/* What verdicts are made from. */
struct plx_why_in {
	const struct plx_snap *snap;
	const struct plx_tokens *tokens;
	const struct plx_thief *thief; /* [n_thieves], any order */
	uint32_t n_thieves;
	bool watched; /* thieves were recorded: that there is none means something */
};

/* plx_why_token - explain one token. */
void plx_why_token(struct plx_why *w, const struct plx_why_in *in, const struct plx_token_times *t);

/* plx_why_print - the table and the verdict. */
void plx_why_print(struct plx_text *out, const struct plx_why *w, const struct plx_why_in *in,
                   const struct plx_token_times *t);

/*
 * plx_why_latest - of a request's tokens (all requests': session and req_id 0) the one most over
 * what is usual; NULL: none is known.
 */
const struct plx_token_times *plx_why_latest(const struct plx_why_in *in, uint32_t session,
                                             uint64_t req_id);

const char *plx_why_part_name(enum plx_why_part p);
const char *plx_why_cause_name(enum plx_why_cause c);
const char *plx_thief_name(uint32_t kind);

#endif
