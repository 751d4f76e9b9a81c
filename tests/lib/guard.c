/* Operands flush against pages of no rights. */
#include "tests/lib/guard.h"

#include <string.h>
#include <sys/mman.h>

#include "fw/base/check.h"

#define PAGE 4096u

void plx_t_guard_open(struct plx_t_guard *g, size_t bytes)
{
	size_t room = (bytes + PAGE - 1) / PAGE * PAGE;
	uint8_t *p = mmap(NULL, room + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	PLX_CHECK(p != MAP_FAILED && mprotect(p + PAGE, room, PROT_READ | PROT_WRITE) == 0);
	*g = (struct plx_t_guard){p + PAGE, room, p + PAGE, 0};
}

void plx_t_guard_close(struct plx_t_guard *g)
{
	munmap(g->data - PAGE, g->room + 2 * PAGE);
}

void *plx_t_guard_put(struct plx_t_guard *g, bool at_end, const void *from, size_t bytes)
{
	PLX_CHECK(bytes <= g->room);
	uint8_t *at = g->data + (at_end ? g->room - bytes : 0);

	g->n_slack = g->room - bytes < PAGE ? g->room - bytes : PAGE;
	g->slack = at_end ? at - g->n_slack : at + bytes;
	memset(g->slack, 0xff, g->n_slack);
	if (from != NULL)
		memcpy(at, from, bytes);
	else
		memset(at, 0xff, bytes);
	return at;
}

bool plx_t_guard_intact(const struct plx_t_guard *g)
{
	for (size_t i = 0; i < g->n_slack; i++)
		if (g->slack[i] != 0xff)
			return false;
	return true;
}
