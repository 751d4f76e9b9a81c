/* Any bytes as plx-key's key file: refused or parsed, and what parsed survives a round trip. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fw/base/check.h"
#include "tools/client/client.h"
#include "tools/key/keyfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	int fd = memfd_create("keys", MFD_CLOEXEC);
	struct plx_client_config cfg;
	struct plx_keyfile_entry e;
	struct plx_keyfile f;
	char path[64], line[PLX_KEYFILE_LINE_BYTES];

	PLX_CHECK(fd >= 0 && fchmod(fd, 0600) == 0);
	PLX_CHECK(write(fd, data, n_bytes) == (ssize_t)n_bytes);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	plx_client_config_init(&cfg);
	plx_client_key_read(&cfg, path, NULL);
	if (!plx_keyfile_load(&f, path, false, NULL)) {
		for (uint32_t i = 0; i < f.n_entries; i++) {
			e = f.entry[i];
			PLX_CHECK(plx_keyfile_format(&e, line) == strlen(line));
			PLX_CHECK(plx_keyfile_find(&f, e.id) == &f.entry[i]);
		}
		plx_keyfile_free(&f);
	}
	close(fd);
	return 0;
}
