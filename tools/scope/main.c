/* plx-scope: commands over a polluxd's shared file. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"
#include "tools/scope/commands.h"
#include "tools/scope/export.h"
#include "tools/scope/options.h"
#include "tools/scope/prom.h"

enum { EXIT_USAGE = 2 };

volatile sig_atomic_t plx_scope_stop;

static void on_signal(int sig)
{
	(void)sig;
	plx_scope_stop = 1;
}

static int run_export(const struct plx_scope_options *o, struct plx_diag *d)
{
	static struct plx_export ex;
	static char path[PLX_SHARE_PATH_BYTES], token[PLX_HTTP_TOKEN_BYTES];
	struct plx_serve s = {.answer = plx_export_answer, .ctx = &ex, .stop = &plx_scope_stop};
	uint16_t port = 0;
	int err = plx_scope_path(o, path, d);

	ex.file = path;
	ex.names = o->names;
	if (err == 0 && o->token_file != NULL) {
		err = plx_serve_token(o->token_file, token, d);
		s.token = token;
	}
	if (err == 0)
		err = plx_serve_listen(&s, o->listen, &port, d);
	if (err != 0)
		return err;
	fprintf(stderr, "plx-scope: %s at http://%s/metrics (port %u)\n", path, o->listen, port);
	err = plx_serve_run(&s);
	plx_export_close(&ex);
	return err;
}

static int run_metrics(const struct plx_scope_options *o, struct plx_diag *d)
{
	static char body[65536];
	struct plx_text t;

	(void)o;
	(void)d;
	plx_text_init(&t, body, sizeof(body));
	plx_prom_doc(&t);
	fputs(body, stdout);
	return t.cut ? PLX_E_LIMIT : PLX_E_OK;
}

static const struct {
	const char *name;
	int (*run)(const struct plx_scope_options *o, struct plx_diag *d);
} commands[] = {
    {"export", run_export},       {"metrics", run_metrics},   {"top", plx_scope_top},
    {"list", plx_scope_list},     {"why", plx_scope_why},     {"record", plx_scope_record},
    {"replay", plx_scope_replay}, {"trace", plx_scope_trace},
};

int main(int argc, char **argv)
{
	struct plx_scope_options o;
	struct plx_diag d = {0};
	struct sigaction act = {.sa_handler = on_signal};
	int err = plx_scope_options_parse(&o, argc, argv, &d);

	if (err != 0) {
		fprintf(stderr, "plx-scope: %s\n", d.text);
		return EXIT_USAGE;
	}
	if (o.help) {
		fputs(plx_scope_usage(), stdout);
		return EXIT_SUCCESS;
	}
	(void)sigaction(SIGINT, &act, NULL);
	(void)sigaction(SIGTERM, &act, NULL);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(o.command, commands[i].name) == 0)
			err = commands[i].run(&o, &d);
	if (err != 0)
		fprintf(stderr, "plx-scope: %s\n", d.text[0] != '\0' ? d.text : plx_err_help(err));
	return err != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
