/*
 * The appliance's key file as plx-key edits it: lines are kept as they are, comments too; entries
 * are parsed strictly, by the rules of dataplane/keytab.h.
 */
#ifndef PLX_TOOLS_KEY_KEYFILE_H
#define PLX_TOOLS_KEY_KEYFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fw/base/diag.h"

#define PLX_KEYFILE_KEY_BYTES    32
#define PLX_KEYFILE_TENANT_BYTES 32 /* with its terminator */
#define PLX_KEYFILE_LINE_BYTES   512
#define PLX_KEYFILE_MAX          4096 /* entries, as the appliance takes */
#define PLX_KEYFILE_BYTES        (1u << 20)

/* One client's entry; a number of -1 is left out and means the appliance's own limit. */
struct plx_keyfile_entry {
	uint64_t id;
	uint8_t key[PLX_KEYFILE_KEY_BYTES];
	char tenant[PLX_KEYFILE_TENANT_BYTES];
	int64_t sessions;   /* open at once */
	int64_t requests;   /* in flight in one session */
	int64_t kv_percent; /* 1..100: the tenant's share of KV memory */
	int64_t priority;   /* 0..15: the highest a request may ask for */
	bool share_prefix;  /* in one prefix cache with all keys that say so */
	uint32_t line;      /* in the file, 1.. */
};

struct plx_keyfile {
	char *text; /* the file as it was read, NUL-terminated */
	size_t n_bytes;
	uint32_t n_entries;
	struct plx_keyfile_entry *entry; /* [n_entries] in order of lines */
};

/* plx_keyfile_entry_init - nothing set but the tenant "default". */
void plx_keyfile_entry_init(struct plx_keyfile_entry *e);

/* plx_keyfile_set - set one field from `name`, `value`. Errors: INVAL, with the remedy in d. */
int plx_keyfile_set(struct plx_keyfile_entry *e, const char *name, const char *value,
                    struct plx_diag *d);

/* plx_keyfile_format - the entry's line with its newline; returns its length. */
size_t plx_keyfile_format(const struct plx_keyfile_entry *e, char line[PLX_KEYFILE_LINE_BYTES]);

/* plx_keyfile_format_client - the line of the client's own key file: id and key alone. */
size_t plx_keyfile_format_client(const struct plx_keyfile_entry *e,
                                 char line[PLX_KEYFILE_LINE_BYTES]);

/*
 * plx_keyfile_load - read and check a file.
 *
 * @may_lack  a file that does not exist counts as empty.
 *
 * Errors: IO, AUTH (others may read it), FORMAT, EXISTS (an id twice), LIMIT; d has file and line.
 */
int plx_keyfile_load(struct plx_keyfile *f, const char *path, bool may_lack, struct plx_diag *d);
/* plx_keyfile_free - wipe and free; a zeroed struct is accepted. */
void plx_keyfile_free(struct plx_keyfile *f);

const struct plx_keyfile_entry *plx_keyfile_find(const struct plx_keyfile *f, uint64_t id);

/* plx_keyfile_append - write the file anew with a line behind it. Whoever reads it sees the old or
 * the new file, never half; mode 0600. Errors: IO. */
int plx_keyfile_append(const struct plx_keyfile *f, const char *path, const char *line,
                       struct plx_diag *d);
/* plx_keyfile_remove - the same without a line (1..). */
int plx_keyfile_remove(const struct plx_keyfile *f, const char *path, uint32_t line,
                       struct plx_diag *d);

/* plx_keyfile_create - a new file of mode 0600 with this text. Errors: EXISTS, IO. */
int plx_keyfile_create(const char *path, const char *text, struct plx_diag *d);

/* plx_keyfile_lock - hold path's folder until the descriptor is closed, so that two plx-key don't
 * lose each other's change. Returns the descriptor, or IO. */
int plx_keyfile_lock(const char *path, struct plx_diag *d);

#endif
