/*
 * A run: open what is measured, go on where the journal stands, search, compare, report.
 */
#ifndef PLX_TOOLS_TUNE_TUNE_H
#define PLX_TOOLS_TUNE_TUNE_H

#include "tools/tune/accuracy.h"
#include "tools/tune/board.h"
#include "tools/tune/journal.h"
#include "tools/tune/options.h"
#include "tools/tune/result.h"
#include "tools/tune/search.h"
#include "tools/tune/speed.h"
#include "tools/tune/weights.h"

/* What is measured, and with what. */
struct plx_tune {
	const struct plx_tune_options *o;
	struct plx_tune_space space; /* what the options allow and the source can give */
	struct plx_board board;      /* of --board; n_threads 0: none */
	struct plx_weights weights;
	struct plx_speed_load load;
	struct plx_journal journal;
	struct plx_accuracy_ref ref;
	int32_t *ids; /* of the text */
	uint32_t n_ids;
	uint32_t n_places; /* of them that accuracy is taken on */
	uint32_t n_ctx;    /* of the model */
	uint32_t n_threads;
	uint32_t pool_tokens; /* of a KV pool, for the figure memory */
	double before_s;      /* what earlier runs took, by the journal */
	uint64_t start_ns;
	char machine[128]; /* for a person */
	struct plx_search search;
	struct plx_result result;
};

/*
 * plx_tune_open - text, models, journal, reference. (measure.c)
 * Errors: what the files' readers say; INVAL (a text that is too short, a vocabulary that differs,
 * a journal of something else).
 */
int plx_tune_open(struct plx_tune *t, const struct plx_tune_options *o, struct plx_diag *d);
void plx_tune_close(struct plx_tune *t);

/* plx_tune_same_as - values that this run leaves out since another comes to the same under its load
 * (plx_speed_effect) become that one. (measure.c) */
void plx_tune_same_as(const struct plx_tune *t, struct plx_tune_point *p);

/* plx_tune_elapsed - seconds of all runs together. */
double plx_tune_elapsed(const struct plx_tune *t);

/*
 * plx_tune_accuracy - of a point, from the journal or by measuring it (then the journal has it).
 * (measure.c)
 */
int plx_tune_accuracy(struct plx_tune *t, const struct plx_tune_point *p,
                      struct plx_journal_rec *out, struct plx_diag *d);

/* plx_tune_speed - measure a point now, into the journal as that kind and block. (measure.c) */
int plx_tune_speed(struct plx_tune *t, const struct plx_tune_point *p, enum plx_journal_kind kind,
                   uint32_t block, struct plx_journal_rec *out, struct plx_diag *d);

/* plx_tune_file - the model's file of a point. (measure.c) */
int plx_tune_file(const struct plx_tune *t, const struct plx_tune_point *p,
                  char path[PLX_WEIGHTS_PATH], struct plx_diag *d);

/* plx_tune_find - search, then compare with the presets: fills t->result. (tune.c) */
int plx_tune_find(struct plx_tune *t, struct plx_diag *d);

/*
 * plx_tune_report - the table, the pictures, the choice and its board file. (report.c)
 * Errors: IO, EXISTS; NOT_FOUND (nothing holds the budgets; d names the nearest).
 */
int plx_tune_report(struct plx_tune *t, struct plx_diag *d);

#endif
