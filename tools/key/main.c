/* plx-key: makes, shows, lists and removes the entries of an appliance's key file. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>

#include "fw/base/err.h"
#include "tools/key/keyfile.h"

enum { EXIT_USAGE = 2 };

struct args {
	struct plx_keyfile_entry e;
	const char *file;
	const char *client;
	bool has_id;
};

static void usage(FILE *f)
{
	fputs(
	    "usage: plx-key new --id ID [--tenant NAME] [--sessions N] [--requests N]\n"
	    "                   [--kv-percent N] [--priority N] [--share-prefix]\n"
	    "                   [--file KEYS] [--client FILE]\n"
	    "       plx-key show-client --id ID --file KEYS [--client FILE]\n"
	    "       plx-key list --file KEYS\n"
	    "       plx-key remove --id ID --file KEYS\n"
	    "\n"
	    "new          make a random key; its entry goes behind KEYS, or to standard output\n"
	    "show-client  the id and key that the client is given, as plx-ask --key reads it\n"
	    "list         entries without their keys\n"
	    "remove       take an entry out; then `kill -HUP` polluxd, which ends its sessions\n"
	    "\n"
	    "  --id ID          1 to 16 hex digits, not 0\n"
	    "  --tenant NAME    keys of one tenant share KV memory and prefix cache (default)\n"
	    "  --sessions N     open sessions of this key; without: the appliance's limit\n"
	    "  --requests N     requests in flight in one session\n"
	    "  --kv-percent N   the tenant's share of KV memory, 1 to 100\n"
	    "  --priority N     highest priority a request may ask for, 0 to 15\n"
	    "  --share-prefix   share the prefix cache with other tenants' keys that do; each can\n"
	    "                   tell from its times that another sent the same beginning\n"
	    "  --file KEYS      the appliance's key file; made with mode 600, replaced as a whole\n"
	    "  --client FILE    write the client's key file there; it must not exist\n"
	    "\n"
	    "Exit codes: 0 done, 1 not done, 2 wrong command line.\n",
	    f);
}

static int fail(const struct plx_diag *d)
{
	fprintf(stderr, "plx-key: %s\n", d->text);
	return EXIT_FAILURE;
}

static const struct option options[] = {{"id", 1, NULL, 'i'},
                                        {"tenant", 1, NULL, 't'},
                                        {"sessions", 1, NULL, 's'},
                                        {"requests", 1, NULL, 'r'},
                                        {"kv-percent", 1, NULL, 'k'},
                                        {"priority", 1, NULL, 'p'},
                                        {"share-prefix", 0, NULL, 'x'},
                                        {"file", 1, NULL, 'f'},
                                        {"client", 1, NULL, 'c'},
                                        {"help", 0, NULL, 'h'},
                                        {NULL, 0, NULL, 0}};

static const char *field_of(int opt)
{
	switch (opt) {
	case 'i':
		return "id";
	case 't':
		return "tenant";
	case 's':
		return "sessions";
	case 'r':
		return "requests";
	case 'k':
		return "kv_percent";
	case 'x':
		return "share_prefix";
	default:
		return "priority";
	}
}

/* 0, or the exit code to leave with (-1: leave with 0). */
static int parse(struct args *a, int argc, char **argv)
{
	struct plx_diag d = {0};
	int opt;

	plx_keyfile_entry_init(&a->e);
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'h') {
			usage(stdout);
			return -1;
		}
		if (opt == '?')
			return EXIT_USAGE;
		if (opt == 'f') {
			a->file = optarg;
		} else if (opt == 'c') {
			a->client = optarg;
		} else if (plx_keyfile_set(&a->e, field_of(opt), optarg ? optarg : "yes", &d)) {
			fail(&d);
			return EXIT_USAGE;
		}
		a->has_id |= opt == 'i';
	}
	if (optind != argc - 1) {
		usage(stderr);
		return EXIT_USAGE;
	}
	return 0;
}

static int write_client(const struct args *a, const struct plx_keyfile_entry *e, struct plx_diag *d)
{
	char line[PLX_KEYFILE_LINE_BYTES];
	int err = 0;

	plx_keyfile_format_client(e, line);
	if (a->client)
		err = plx_keyfile_create(a->client, line, d);
	else
		fputs(line, stdout);
	sodium_memzero(line, sizeof(line));
	return err;
}

static int add_to_file(const struct args *a, const char *line, struct plx_diag *d)
{
	struct plx_keyfile f = {0};
	int lock = plx_keyfile_lock(a->file, d);

	if (lock < 0)
		return lock;
	int err = plx_keyfile_load(&f, a->file, true, d);

	if (!err && plx_keyfile_find(&f, a->e.id))
		err = plx_diag_set(d, PLX_E_EXISTS,
		                   "%s:%u: id %llx is there already; give another, or remove it "
		                   "first",
		                   a->file, plx_keyfile_find(&f, a->e.id)->line,
		                   (unsigned long long)a->e.id);
	if (!err)
		err = plx_keyfile_append(&f, a->file, line, d);
	plx_keyfile_free(&f);
	close(lock);
	return err;
}

static int cmd_new(struct args *a, struct plx_diag *d)
{
	char line[PLX_KEYFILE_LINE_BYTES];
	int err = 0;

	randombytes_buf(a->e.key, sizeof(a->e.key));
	plx_keyfile_format(&a->e, line);
	if (a->client)
		err = write_client(a, &a->e, d);
	if (!err && a->file) {
		err = add_to_file(a, line, d);
		if (err && a->client)
			unlink(a->client);
	} else if (!err) {
		fputs(line, stdout);
	}
	sodium_memzero(line, sizeof(line));
	if (err)
		return err;
	if (a->file)
		printf("key %llx of tenant %s added to %s; `kill -HUP` a running polluxd\n",
		       (unsigned long long)a->e.id, a->e.tenant, a->file);
	return 0;
}

static const struct plx_keyfile_entry *need(const struct args *a, const struct plx_keyfile *f,
                                            struct plx_diag *d)
{
	const struct plx_keyfile_entry *e = plx_keyfile_find(f, a->e.id);

	if (!e)
		plx_diag_set(d, PLX_E_NOT_FOUND,
		             "%s: no key has id %llx; `plx-key list` shows them", a->file,
		             (unsigned long long)a->e.id);
	return e;
}

static int cmd_show(const struct args *a, const struct plx_keyfile *f, struct plx_diag *d)
{
	const struct plx_keyfile_entry *e = need(a, f, d);

	return e ? write_client(a, e, d) : PLX_E_NOT_FOUND;
}

static int cmd_remove(const struct args *a, const struct plx_keyfile *f, struct plx_diag *d)
{
	const struct plx_keyfile_entry *e = need(a, f, d);
	int err = e ? plx_keyfile_remove(f, a->file, e->line, d) : PLX_E_NOT_FOUND;

	if (!err)
		printf("key %llx removed from %s; `kill -HUP` a running polluxd\n",
		       (unsigned long long)a->e.id, a->file);
	return err;
}

static void print_number(int64_t v)
{
	if (v < 0)
		printf(" %10s", "-");
	else
		printf(" %10lld", (long long)v);
}

static int cmd_list(const struct plx_keyfile *f)
{
	printf("%-16s %-20s %10s %10s %10s %10s %12s\n", "id", "tenant", "sessions", "requests",
	       "kv_percent", "priority", "share_prefix");
	for (uint32_t i = 0; i < f->n_entries; i++) {
		const struct plx_keyfile_entry *e = &f->entry[i];

		printf("%-16llx %-20s", (unsigned long long)e->id, e->tenant);
		print_number(e->sessions);
		print_number(e->requests);
		print_number(e->kv_percent);
		print_number(e->priority);
		printf(" %12s\n", e->share_prefix ? "yes" : "no");
	}
	return 0;
}

/* The commands that work on a file that is there. */
static int on_file(const struct args *a, const char *cmd, struct plx_diag *d)
{
	struct plx_keyfile f = {0};
	int lock = plx_keyfile_lock(a->file, d);

	if (lock < 0)
		return lock;
	int err = plx_keyfile_load(&f, a->file, false, d);

	if (!err)
		err = !strcmp(cmd, "list")     ? cmd_list(&f)
		      : !strcmp(cmd, "remove") ? cmd_remove(a, &f, d)
		                               : cmd_show(a, &f, d);
	plx_keyfile_free(&f);
	close(lock);
	return err;
}

int main(int argc, char **argv)
{
	struct args a = {0};
	struct plx_diag d = {0};
	int rc = parse(&a, argc, argv), err;

	if (rc)
		return rc < 0 ? EXIT_SUCCESS : rc;
	const char *cmd = argv[optind];
	bool is_new = !strcmp(cmd, "new"), is_list = !strcmp(cmd, "list");

	if (!is_new && !is_list && strcmp(cmd, "remove") && strcmp(cmd, "show-client")) {
		usage(stderr);
		return EXIT_USAGE;
	}
	if ((!is_list && !a.has_id) || (!is_new && !a.file)) {
		fprintf(stderr, "plx-key: %s needs %s\n", cmd,
		        a.has_id || is_list ? "--file" : "--id");
		return EXIT_USAGE;
	}
	if (sodium_init() < 0)
		return EXIT_FAILURE;
	err = is_new ? cmd_new(&a, &d) : on_file(&a, cmd, &d);
	sodium_memzero(&a, sizeof(a));
	return err ? fail(&d) : EXIT_SUCCESS;
}
