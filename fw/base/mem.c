/* Reads /proc/meminfo, and memory.max of each control group from ours up to the root. */
#include "fw/base/mem.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define PATH_BYTES   512
#define LOCK_TRIES   500
#define LOCK_WAIT_US 10000

/* The number behind a key at the beginning of a line; false: there is none. */
static bool find_number(const char *path, const char *key, uint64_t *out)
{
	FILE *f = fopen(path, "re");
	char line[PATH_BYTES];
	unsigned long long v;
	size_t n = strlen(key);
	bool found = false;

	if (f == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), f) != NULL)
		found = strncmp(line, key, n) == 0 && sscanf(line + n, "%llu", &v) == 1;
	fclose(f);
	if (found)
		*out = v;
	return found;
}

/* What one control group leaves: its limit less what is in use and can't be dropped. */
static uint64_t group_leaves(const char *dir)
{
	char path[PATH_BYTES + 32];
	uint64_t max, current, file = 0;

	snprintf(path, sizeof(path), "%s/memory.max", dir);
	if (!find_number(path, "", &max))
		return UINT64_MAX; /* "max", or no such file */
	snprintf(path, sizeof(path), "%s/memory.current", dir);
	if (!find_number(path, "", &current))
		return UINT64_MAX;
	snprintf(path, sizeof(path), "%s/memory.stat", dir);
	(void)find_number(path, "file ", &file);
	uint64_t used = current > file ? current - file : 0;

	return max > used ? max - used : 0;
}

/* Our group's path under root, as /proc/self/cgroup has it ("0::/system.slice/x.service"). */
static bool own_group(const char *proc, const char *root, char out[PATH_BYTES])
{
	char path[PATH_BYTES], line[PATH_BYTES];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s/self/cgroup", proc);
	f = fopen(path, "re");
	if (f == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), f) != NULL)
		found = strncmp(line, "0::/", 4) == 0;
	fclose(f);
	line[strcspn(line, "\n")] = '\0';
	return found && snprintf(out, PATH_BYTES, "%s%s", root, line + 3) < PATH_BYTES;
}

uint64_t plx_mem_available_in(const char *proc, const char *cgroup)
{
	char path[PATH_BYTES];
	uint64_t least = UINT64_MAX, kib;

	snprintf(path, sizeof(path), "%s/meminfo", proc);
	if (find_number(path, "MemAvailable:", &kib))
		least = kib * 1024;
	if (!own_group(proc, cgroup, path))
		return least;
	while (strlen(path) > strlen(cgroup)) {
		uint64_t left = group_leaves(path);

		if (left < least)
			least = left;
		*strrchr(path, '/') = '\0';
	}
	return least;
}

uint64_t plx_mem_available(void)
{
	return plx_mem_available_in("/proc", "/sys/fs/cgroup");
}

int plx_mem_huge_lock(void)
{
	int fd =
	    open("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", O_RDONLY | O_CLOEXEC);

	/* Holders are brief; one that hangs must not keep others from starting. */
	for (int i = 0; fd >= 0 && i < LOCK_TRIES && flock(fd, LOCK_EX | LOCK_NB) != 0; i++)
		usleep(LOCK_WAIT_US);
	return fd;
}
