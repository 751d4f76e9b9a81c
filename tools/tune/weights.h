/*
 * The model in the formats that the knob "weights" names: made on demand by what plx-model makes
 * them with (tools/gguf/requant.h), in the work folder, and kept there for the next run.
 */
#ifndef PLX_TOOLS_TUNE_WEIGHTS_H
#define PLX_TOOLS_TUNE_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "fw/base/diag.h"

#define PLX_WEIGHTS_PATH 4096u

struct plx_weights {
	const char *given;  /* the file that is tuned */
	const char *source; /* what formats are made from: the reference, or the same file */
	uint64_t source_hash;
	const char *folder;
	uint32_t n_threads;
	bool quiet;
};

/*
 * plx_weights_file - the path of a format, made where it is not there yet.
 *
 * @format  index of the knob's value; 0: the file as given.
 *
 * Errors: as plx_requant (a full disk: IO, and no half file stays), CANCELLED.
 */
int plx_weights_file(const struct plx_weights *w, uint32_t format, char path[PLX_WEIGHTS_PATH],
                     struct plx_diag *d);

/* plx_weights_larger - whether a format takes as many bits as the source's main one, or more: then
 * it gains nothing and loses something. @weight_bits: of the source, a weight on average. */
bool plx_weights_larger(uint32_t format, double weight_bits);

#endif
