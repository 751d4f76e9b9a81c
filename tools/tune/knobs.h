/*
 * The knobs: what of a configuration is tried, under which key of the board file it is written, and
 * its values. One table (knobs.c), one entry each: a knob more is a line there, a field of struct
 * plx_tune_setup, and its use where measuring opens the device or the scheduler (rig.c, speed.c).
 *
 * A space is the knobs with the values that are allowed in this run; a point picks one of each.
 */
#ifndef PLX_TOOLS_TUNE_KNOBS_H
#define PLX_TOOLS_TUNE_KNOBS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "fw/base/diag.h"

#define PLX_TUNE_KNOBS      10u /* entries of the table */
#define PLX_TUNE_VALUES     8u  /* values of a knob at most */
#define PLX_TUNE_TEXT_BYTES 256u

/* What a point sets. Units as in the board file (fw/limits.def). */
struct plx_tune_setup {
	uint32_t weights;       /* index of the format in the knob's values; 0: the file as given */
	uint32_t kv_type;       /* enum plx_kv_type */
	uint32_t sparse_mass;   /* thousandths of the attention that is read; 0: not so chosen */
	uint32_t sparse_chunks; /* of 64 positions that are read; 0: not so chosen */
	uint32_t draft_tokens;  /* ids that drafts are looked up in; 0: none */
	uint32_t step_tokens;   /* tokens of a step */
	uint32_t step_seqs;     /* sequences of a step */
	uint32_t steps_in_flight; /* given to the device before the first is done */
	uint32_t block_tokens;    /* tokens of a KV block */
	uint32_t slice_us;        /* longest turn of a stage on its lcore */
};

enum plx_tune_knob_flag {
	PLX_KNOB_ACCURACY = 1 << 0, /* changes what the model says */
	PLX_KNOB_ORDERED = 1 << 1,  /* its values stand in an order that neighbours share */
};

struct plx_tune_value {
	const char *text; /* as in the board file, or a weight format's name */
	uint32_t value;
};

struct plx_tune_knob {
	const char *name;
	const char *key; /* of the board file: "limits.step_tokens" */
	size_t off;      /* of its uint32_t in struct plx_tune_setup */
	uint32_t flags;  /* enum plx_tune_knob_flag */
	uint32_t usual;  /* index of polluxd's default; weights: of the file as given */
	uint32_t n;
	struct plx_tune_value value[PLX_TUNE_VALUES];
	const char *help;
};

extern const struct plx_tune_knob plx_tune_knobs[PLX_TUNE_KNOBS];

struct plx_tune_space {
	uint32_t n[PLX_TUNE_KNOBS];                     /* values allowed, at least 1 */
	uint8_t value[PLX_TUNE_KNOBS][PLX_TUNE_VALUES]; /* [n]: indices into the knob's values */
};

/* Indices into the knobs' values, whether the space allows them or not. */
struct plx_tune_point {
	uint8_t v[PLX_TUNE_KNOBS];
};

/* plx_tune_space_all - every value of every knob. */
void plx_tune_space_all(struct plx_tune_space *s);

/*
 * plx_tune_space_limit - "NAME=V1,V2": allow these values alone.
 * Errors: INVAL; d lists the knobs, or the values.
 */
int plx_tune_space_limit(struct plx_tune_space *s, const char *text, struct plx_diag *d);

/* plx_tune_space_drop - a value is not allowed; no effect where it is the last one. */
void plx_tune_space_drop(struct plx_tune_space *s, uint32_t knob, uint32_t value);

/* plx_tune_space_grid - how many points it has. */
uint64_t plx_tune_space_grid(const struct plx_tune_space *s);

/* plx_tune_point_usual - polluxd's defaults with the file as given. */
void plx_tune_point_usual(struct plx_tune_point *p);

/*
 * plx_tune_point_parse - "kv=q8,drafts=0": knobs not named keep what p has.
 * @n_bytes  of the text, which need not end in NUL.
 * Errors: INVAL, as above.
 */
int plx_tune_point_parse(struct plx_tune_point *p, const char *text, size_t n_bytes,
                         struct plx_diag *d);

/* plx_tune_point_print - all knobs, "weights=given,kv=f16,...". */
void plx_tune_point_print(const struct plx_tune_point *p, char buf[PLX_TUNE_TEXT_BYTES]);

/* plx_tune_point_short - only what differs from polluxd's defaults, with ' ' between, or
 * "defaults"; the weights always. */
void plx_tune_point_short(const struct plx_tune_point *p, char buf[PLX_TUNE_TEXT_BYTES]);

/* plx_tune_point_setup - the fields it sets. */
void plx_tune_point_setup(const struct plx_tune_point *p, struct plx_tune_setup *out);

/* plx_tune_point_accuracy - the same point with every other knob at its usual value: points that
 * are then equal say the same text. */
struct plx_tune_point plx_tune_point_accuracy(const struct plx_tune_point *p);

bool plx_tune_point_same(const struct plx_tune_point *a, const struct plx_tune_point *b);

/* plx_tune_knob_find - index of a knob, or -1. */
int plx_tune_knob_find(const char *name, size_t n_bytes);

/* plx_tune_knobs_hash - of names, keys and values: journals of another table don't fit. */
uint64_t plx_tune_knobs_hash(void);

/* plx_tune_knobs_help - the table for --help. */
void plx_tune_knobs_help(FILE *f);

#endif
