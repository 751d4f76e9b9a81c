/*
 * A second device in a test or benchmark that drafts for a scheduler: draft_model.h with its steps.
 */
#ifndef PLX_TESTS_LIB_DRAFTDEV_H
#define PLX_TESTS_LIB_DRAFTDEV_H

#include "dataplane/batch/draft_model.h"
#include "dataplane/batch/sched.h"
#include "tests/lib/devkit.h"

struct draftdev {
	struct devkit kit;
	struct plx_arena arena;
	struct plx_dmodel m;
	uint32_t free_step[8];
	uint32_t n_free;
	uint64_t step_ns; /* each step is said to take so long; 0: what it took */
	int fail;         /* the next step that comes back is said to have ended so */
};

/* draftdev_open - with a model file; kind is MODEL or LAYERS. */
void draftdev_open(struct draftdev *d, const char *model_path, const struct plx_dev_limits *lim);
/* draftdev_open_model - with an open model, which draftdev_close closes. */
void draftdev_open_model(struct draftdev *d, struct plx_model *m, const struct plx_dev_limits *lim,
                         enum plx_draft_kind kind);
void draftdev_close(struct draftdev *d);

/* draftdev_turn - give what there is to give, and wait for a step; false: there was nothing. */
bool draftdev_turn(struct draftdev *d);

#endif
