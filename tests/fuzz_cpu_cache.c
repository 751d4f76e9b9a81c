/* Any bytes as a weights cache: refused, or the very weights that the plan's file holds. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fw/base/check.h"
#include "tests/lib/cachekit.h"

#define DATA_BYTES 3000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	static uint8_t want[DATA_BYTES], got[DATA_BYTES];
	struct plx_cache_plan plan = plx_t_cache_plan(DATA_BYTES);
	int fd = memfd_create("cache", MFD_CLOEXEC);
	struct plx_cache c;
	uint64_t size;

	plx_t_cache_fill(want, sizeof(want));
	uint8_t *file = plx_t_cache_file(&plan, want, &size);
	bool whole = n_bytes == size && memcmp(file, data, size) == 0;

	free(file);
	PLX_CHECK(fd >= 0 && write(fd, data, n_bytes) == (ssize_t)n_bytes);
	int err = plx_cache_open_fd(&c, fd, &plan, NULL);

	PLX_CHECK(!whole || err == 0);
	if (err != 0) {
		close(fd);
		return 0;
	}
	PLX_CHECK(n_bytes == size);
	PLX_CHECK(plx_cache_read(&c, 0, got) != 0 || memcmp(got, want, sizeof(got)) == 0);
	plx_cache_close(&c);
	return 0;
}
