/*
 * The smallest program on the Pollux client library: asks one question and prints the answer as it
 * comes. Build it with nothing but the installed library:
 *
 *   cc -o ask ask.c $(pkg-config --cflags --libs pollux-client)
 *   ./ask HOST PORT KEYFILE "What is the capital of France?"      (KEYFILE "-": no keys)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pollux/client.h>

static bool on_event(void *arg, const struct plx_client_event *ev)
{
	(void)arg;
	if (ev->type == PLX_CLIENT_EV_TOKENS) {
		fwrite(ev->tokens.text, 1, ev->tokens.text_bytes, stdout);
		fflush(stdout);
	}
	return true; /* false would cancel */
}

int main(int argc, char **argv)
{
	struct plx_client_config cfg;
	struct plx_client_request req;
	struct plx_diag d = {0};
	struct plx_client *c;

	if (argc != 5) {
		fputs("usage: ask HOST PORT KEYFILE PROMPT\n", stderr);
		return 2;
	}
	plx_client_config_init(&cfg);
	cfg.host = argv[1];
	cfg.port = (uint16_t)atoi(argv[2]);
	cfg.insecure = strcmp(argv[3], "-") == 0;
	if (!cfg.insecure && plx_client_key_read(&cfg, argv[3], &d))
		goto fail;
	if (plx_client_open(&c, &cfg, &d))
		goto fail;

	struct plx_client_message message = {
	    .role = PLX_CLIENT_USER, .text = argv[4], .n_bytes = strlen(argv[4])};

	plx_client_request_init(&req);
	req.messages = &message;
	req.n_messages = 1;
	int err = plx_client_ask(c, &req, on_event, NULL, &d);

	putchar('\n');
	plx_client_close(c);
	if (!err)
		return 0;
fail:
	fprintf(stderr, "ask: %s\n", d.text);
	return 1;
}
