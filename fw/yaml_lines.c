/* Walks libyaml's events with a stack of where it stands, and notes a line for each path. */
#include "fw/yaml_lines.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <yaml.h>

#define MAX_DEPTH 8

struct level {
	bool is_seq;
	bool have_key; /* mapping: a key was read, its value comes next */
	uint32_t index;
	size_t path_len; /* length of the path of this container */
};

struct walk {
	struct plx_yaml_lines *out;
	struct level level[MAX_DEPTH];
	uint32_t depth;
	char path[PLX_YAML_PATH_BYTES];
};

static void note(struct walk *w, size_t line)
{
	struct plx_yaml_lines *l = w->out;

	if (l->n == PLX_YAML_MAX_LINES)
		return;
	memcpy(l->at[l->n].path, w->path, sizeof(w->path));
	l->at[l->n].line = (uint32_t)line + 1;
	l->n++;
}

/* A value begins: in a sequence it has no key, so its path is made here. */
static void value_begins(struct walk *w, size_t line)
{
	if (w->depth == 0)
		return;
	struct level *top = &w->level[w->depth - 1];

	if (top->is_seq) {
		snprintf(w->path + top->path_len, sizeof(w->path) - top->path_len, "[%u]",
		         top->index++);
		note(w, line);
	} else {
		top->have_key = false;
	}
}

static void key_read(struct walk *w, const char *key, size_t line)
{
	struct level *top = &w->level[w->depth - 1];

	snprintf(w->path + top->path_len, sizeof(w->path) - top->path_len, "%s%s",
	         top->path_len > 0 ? "." : "", key);
	top->have_key = true;
	note(w, line);
}

static bool is_key(const struct walk *w)
{
	return w->depth > 0 && !w->level[w->depth - 1].is_seq && !w->level[w->depth - 1].have_key;
}

static bool push(struct walk *w, bool is_seq)
{
	if (w->depth == MAX_DEPTH)
		return false;
	w->level[w->depth++] = (struct level){.is_seq = is_seq, .path_len = strlen(w->path)};
	return true;
}

/* Returns false at the end of what can be followed. */
static bool take(struct walk *w, const yaml_event_t *e)
{
	size_t line = e->start_mark.line;

	switch ((int)e->type) {
	case YAML_SCALAR_EVENT:
		if (is_key(w))
			key_read(w, (const char *)e->data.scalar.value, line);
		else
			value_begins(w, line);
		return true;
	case YAML_ALIAS_EVENT:
		value_begins(w, line);
		return true;
	case YAML_SEQUENCE_START_EVENT:
	case YAML_MAPPING_START_EVENT:
		value_begins(w, line);
		return push(w, e->type == YAML_SEQUENCE_START_EVENT);
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		if (w->depth > 0) {
			w->depth--;
			w->path[w->level[w->depth].path_len] = '\0';
		}
		return true;
	case YAML_STREAM_END_EVENT:
		return false;
	default:
		return true;
	}
}

void plx_yaml_lines_scan(struct plx_yaml_lines *l, const uint8_t *text, size_t n_bytes)
{
	struct walk w = {.out = l};
	yaml_parser_t parser;
	bool more = true;

	l->n = 0;
	if (!yaml_parser_initialize(&parser))
		return;
	yaml_parser_set_input_string(&parser, text, n_bytes);
	while (more) {
		yaml_event_t e;

		if (!yaml_parser_parse(&parser, &e))
			break;
		more = take(&w, &e);
		yaml_event_delete(&e);
	}
	yaml_parser_delete(&parser);
}

uint32_t plx_yaml_lines_find(const struct plx_yaml_lines *l, const char *path)
{
	for (uint32_t i = 0; i < l->n; i++)
		if (strcmp(l->at[i].path, path) == 0)
			return l->at[i].line;
	return 0;
}
