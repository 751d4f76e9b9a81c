/* Opens the model file once, and everything that is read out of it. */
#include "fw/assets.h"

#include <string.h>

#include "accel/model/layers.h"
#include "fw/base/err.h"
#include "fw/base/log.h"

static bool same_piece(const struct plx_tok *a, const struct plx_tok *b, int32_t id)
{
	uint32_t na, nb;
	const uint8_t *pa = plx_tok_piece(a, id, &na), *pb = plx_tok_piece(b, id, &nb);

	return na == nb && (na == 0 || memcmp(pa, pb, na) == 0) &&
	       plx_tok_type(a, id) == plx_tok_type(b, id) &&
	       plx_tok_is_eog(a, id) == plx_tok_is_eog(b, id);
}

/* Each id has to mean the same in both: a draft is an id. */
static int same_vocabulary(const struct plx_assets *a, const char *path, struct plx_diag *d)
{
	struct plx_tok *tok = NULL;
	int err = plx_tok_open(&tok, a->draft->gguf, d);
	uint32_t n = plx_tok_n_vocab(a->tok), n_draft = err == 0 ? plx_tok_n_vocab(tok) : 0;

	if (err == 0 && (n_draft != n || a->draft->n_vocab != a->model->n_vocab))
		err = plx_diag_set(d, PLX_E_INVAL,
		                   "%s can't draft for this model: it has %u ids, the model %u; "
		                   "give a model of the same vocabulary",
		                   path, n_draft, n);
	for (uint32_t id = 0; err == 0 && id < n; id++)
		if (!same_piece(a->tok, tok, (int32_t)id))
			err = plx_diag_set(d, PLX_E_INVAL,
			                   "%s can't draft for this model: id %u is another token "
			                   "there; give a model of the same vocabulary",
			                   path, id);
	plx_tok_free(tok);
	return err;
}

/* What the device that drafts, if there is one, runs. */
static int open_draft(struct plx_assets *a, const struct plx_config *cfg, struct plx_diag *d)
{
	const struct plx_cfg_dev *dev = NULL;
	int err;

	for (uint32_t i = 0; i < cfg->n_stages; i++)
		if (cfg->stage[i].kind == PLX_STAGE_ACCEL &&
		    cfg->dev[cfg->stage[i].device_idx].role == PLX_CFG_DRAFT)
			dev = &cfg->dev[cfg->stage[i].device_idx];
	if (dev == NULL)
		return PLX_E_OK;
	if (dev->model[0] == '\0') {
		err = plx_model_without(a->model, dev->skip_layers, &a->draft, d);
	} else {
		err = plx_model_open(dev->model, &a->draft, d);
		if (err == 0)
			err = same_vocabulary(a, dev->model, d);
	}
	if (err != 0)
		plx_diag_at(d, cfg->board_path, dev->line);
	return err;
}

int plx_assets_open(struct plx_assets *a, const struct plx_config *cfg, struct plx_diag *d)
{
	memset(a, 0, sizeof(*a));
	int err = plx_model_open(cfg->model_path, &a->model, d);

	if (err == 0)
		err = plx_tok_open(&a->tok, a->model->gguf, d);
	if (err != 0)
		return err;
	err = plx_chat_open(a->model->gguf, cfg->chat_template, &a->chat, d);
	if (err == PLX_E_NOT_FOUND && cfg->chat_template[0] == '\0') {
		d->text[0] = '\0';
		err = PLX_E_OK;
	}
	return err != 0 ? err : open_draft(a, cfg, d);
}

void plx_assets_log(const struct plx_assets *a)
{
	char line[256];

	plx_model_describe(a->model, line, sizeof(line));
	plx_log(PLX_LOG_INFO, "model: %s", line);
	if (a->draft != NULL) {
		plx_model_describe(a->draft, line, sizeof(line));
		plx_log(PLX_LOG_INFO, "drafts by: %s", line);
	}
	if (a->chat != NULL)
		plx_log(PLX_LOG_INFO, "chat template: %s", plx_chat_name(a->chat));
	else
		plx_log(PLX_LOG_WARN, "chat template: the file has none; messages will be refused, "
		                      "plain prompts served; --chat-template NAME sets one");
}

void plx_assets_close(struct plx_assets *a)
{
	plx_model_close(a->draft);
	plx_chat_free(a->chat);
	plx_tok_free(a->tok);
	plx_model_close(a->model);
	memset(a, 0, sizeof(*a));
}
