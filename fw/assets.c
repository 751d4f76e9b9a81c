/* Opens the model file once, and everything that is read out of it. */
#include "fw/assets.h"

#include <string.h>

#include "fw/base/err.h"
#include "fw/base/log.h"

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
	return err;
}

void plx_assets_log(const struct plx_assets *a)
{
	char line[256];

	plx_model_describe(a->model, line, sizeof(line));
	plx_log(PLX_LOG_INFO, "model: %s", line);
	if (a->chat != NULL)
		plx_log(PLX_LOG_INFO, "chat template: %s", plx_chat_name(a->chat));
	else
		plx_log(PLX_LOG_WARN, "chat template: the file has none; messages will be refused, "
		                      "plain prompts served; --chat-template NAME sets one");
}

void plx_assets_close(struct plx_assets *a)
{
	plx_chat_free(a->chat);
	plx_tok_free(a->tok);
	plx_model_close(a->model);
	memset(a, 0, sizeof(*a));
}
