/*
 * A toy appliance on loopback: the protocol without a model, so that the tools can be tried without
 * privileges. Prints its port; TERM ends it, USR1 restarts it, USR2 drains it.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "fw/base/err.h"
#include "tests/lib/peer_sock.h"

static volatile sig_atomic_t stop_asked, restart_asked, drain_asked;

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		restart_asked = 1;
	else if (sig == SIGUSR2)
		drain_asked = 1;
	else
		stop_asked = 1;
}

static const struct option options[] = {{"port", 1, NULL, 'p'},
                                        {"token-us", 1, NULL, 't'},
                                        {"reject", 1, NULL, 'r'},
                                        {NULL, 0, NULL, 0}};

int main(int argc, char **argv)
{
	struct plx_peer_cfg cfg = {.insecure = true, .seed = 1};
	struct sigaction sa = {.sa_handler = on_signal};
	uint16_t port = 0;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'p')
			port = (uint16_t)atoi(optarg);
		else if (opt == 't')
			cfg.token_ns = strtoull(optarg, NULL, 10) * 1000;
		else if (opt == 'r')
			cfg.reject_err = plx_err_from_wire((uint8_t)atoi(optarg));
		else
			return 2;
	}
	int fd = plx_peer_sock_open(&port);

	if (fd < 0)
		return 1;
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGUSR2, &sa, NULL);
	printf("%u\n", port);
	fflush(stdout);
	plx_peer_sock_serve(fd, &cfg, &stop_asked, &restart_asked, &drain_asked);
	return 0;
}
