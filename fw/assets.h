/* What polluxd serves: the model file, its tokenizer and its chat template. */
#ifndef PLX_FW_ASSETS_H
#define PLX_FW_ASSETS_H

#include "accel/model/chat.h"
#include "accel/model/model.h"
#include "accel/model/tokenizer.h"
#include "fw/base/config.h"
#include "fw/base/diag.h"

struct plx_assets {
	struct plx_model *model;
	struct plx_tok *tok;
	struct plx_chat *chat;   /* NULL: the file has no template; chats are refused */
	struct plx_model *draft; /* what the draft device runs; NULL: there is none */
};

/*
 * plx_assets_open - open cfg->model_path and make tokenizer and chat template from it.
 *
 * A file without any chat template serves plain prompts; one whose template is not recognised is
 * refused, since guessing would answer wrongly. The model of a device that drafts is opened too,
 * and refused where its ids are not the model's.
 *
 * Owner:  the caller; plx_assets_close, also after an error.
 * Errors: as plx_model_open, plx_tok_open and plx_chat_open; INVAL: another vocabulary, and d says
 *         which id differs, or how many there are.
 */
int plx_assets_open(struct plx_assets *a, const struct plx_config *cfg, struct plx_diag *d);

/* plx_assets_log - say what was found. */
void plx_assets_log(const struct plx_assets *a);

/* plx_assets_close - free; a zeroed struct is accepted. */
void plx_assets_close(struct plx_assets *a);

#endif
