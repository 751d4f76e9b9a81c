/*
 * The journal: every measurement, appended as it is taken, so that a run that was interrupted goes
 * on where it stood.
 *
 * A text file. The first line names what was measured, each further line is a measurement; each
 * ends with a check sum of what stands before it in the line:
 *
 *   plx-tune 1 model=8f.. reference=.. text=.. machine=.. load=.. knobs=.. #XXH3-64
 *   a weights=q4_k,kv=f16,.. n=1023 ln_ppl=0.0123 .. #XXH3-64
 *   s weights=q4_k,kv=f16,.. block=3 rate=61.2 .. #XXH3-64
 *
 * Figures are written with all their digits, so that a run that goes on comes to the very same as
 * one that was never interrupted. A line is written by one write(2). A last line that is torn (a
 * crash, a full disk) is dropped when the journal is opened; anything else that is wrong is an
 * error that names the line.
 */
#ifndef PLX_TOOLS_TUNE_JOURNAL_H
#define PLX_TOOLS_TUNE_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"
#include "tools/tune/knobs.h"

#define PLX_JOURNAL_MAX     2048u    /* measurements */
#define PLX_JOURNAL_BYTES   1048576u /* of a file */
#define PLX_JOURNAL_FIGURES 8u

/* What the measurements hold for. Two runs whose keys are equal may share them. */
struct plx_journal_key {
	uint64_t model;     /* hash of the file that is tuned */
	uint64_t reference; /* of the one that accuracy is held against */
	uint64_t text;      /* of the token ids */
	uint64_t machine;   /* of CPU, arithmetic and threads */
	uint64_t load;      /* of batch, prompts, answers, tokens of the text, clock */
	uint64_t knobs;     /* of the table of knobs */
};

enum plx_journal_kind {
	PLX_JOURNAL_ACCURACY, /* n, ln_ppl, ln_ppl_sd, kl, kl_sd, top, seconds */
	PLX_JOURNAL_SPEED,    /* block, rate, p50_ms, p99_ms, first_ms, memory_mib, seconds */
	PLX_JOURNAL_CHECK,    /* the same, of the comparison at the end */
	PLX_JOURNAL_N_KINDS,
};

struct plx_journal_rec {
	enum plx_journal_kind kind;
	struct plx_tune_point point;
	double v[PLX_JOURNAL_FIGURES]; /* as the kind's list above; others 0 */
};

struct plx_journal {
	int fd; /* -1: none open */
	char path[4096];
	uint64_t bytes; /* of complete lines */
	uint32_t n;
	struct plx_journal_rec rec[PLX_JOURNAL_MAX];
};

/*
 * plx_journal_parse - lines from memory.
 *
 * @key    what they must hold for.
 * @bytes  out: how many bytes are complete lines; what follows is a torn line, or nothing.
 *
 * Errors: FORMAT (line), INVAL (of another model, text, ...: which), LIMIT (too long).
 */
int plx_journal_parse(struct plx_journal *j, const char *name, const char *text, size_t n_bytes,
                      const struct plx_journal_key *key, struct plx_diag *d);

/* plx_journal_head, plx_journal_line - the text of a line, its newline included; returns how long.
 */
#define PLX_JOURNAL_LINE_BYTES 768u
size_t plx_journal_head(const struct plx_journal_key *key, char buf[PLX_JOURNAL_LINE_BYTES]);
size_t plx_journal_line(const struct plx_journal_rec *r, char buf[PLX_JOURNAL_LINE_BYTES]);

/*
 * plx_journal_open - read what is there, cut off a torn line, and be ready to append; makes the
 * file where there is none.
 *
 * @restart  begin anew whatever is there.
 *
 * Errors: as plx_journal_parse; IO; EXISTS (another run has it open).
 */
int plx_journal_open(struct plx_journal *j, const char *path, const struct plx_journal_key *key,
                     bool restart, struct plx_diag *d);

/*
 * plx_journal_add - append a measurement; it is on the disk when this returns.
 * Errors: IO (a full disk: what was written before stays good), LIMIT.
 */
int plx_journal_add(struct plx_journal *j, const struct plx_journal_rec *r, struct plx_diag *d);

void plx_journal_close(struct plx_journal *j);

#endif
