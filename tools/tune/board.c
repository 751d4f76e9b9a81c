/* Board files as YAML documents: keys are looked up and replaced, the rest is emitted as it was. */
#include "tools/tune/board.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "fw/base/err.h"
#include "tools/gguf/out.h"

#define MAX_FILE    1048576u
#define POOL        16384u /* tokens: fw/limits.def's n_kv_blocks times block_tokens */
#define BLOCK       32u
#define SPARSE_FROM 2048u
#define SLOTS       32u
#define SAMPLES     8u
#define PATH_BYTES  255u /* of a path in a board file */
#define ABOUT       255u

/* ---- documents ---- */

static int load(yaml_document_t *doc, const char *path, struct plx_diag *d)
{
	yaml_parser_t parser;
	FILE *f = fopen(path, "r");
	int err = 0;

	if (!f)
		return plx_diag_set(d, PLX_E_IO, "%s: can't read it: %s", path, strerror(errno));
	if (!yaml_parser_initialize(&parser)) {
		fclose(f);
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %s", path);
	}
	yaml_parser_set_input_file(&parser, f);
	if (!yaml_parser_load(&parser, doc)) {
		err = plx_diag_set(d, PLX_E_FORMAT, "%s:%zu: this is no YAML: %s", path,
		                   parser.problem_mark.line + 1,
		                   parser.problem ? parser.problem : "unreadable");
	} else {
		const yaml_node_t *root = yaml_document_get_root_node(doc);

		if (!root || root->type != YAML_MAPPING_NODE) {
			err = plx_diag_set(d, PLX_E_FORMAT, "%s: this is no board file", path);
			yaml_document_delete(doc);
		}
	}
	yaml_parser_delete(&parser);
	fclose(f);
	return err;
}

static const char *text_of(yaml_document_t *doc, int node)
{
	const yaml_node_t *n = yaml_document_get_node(doc, node);

	return n && n->type == YAML_SCALAR_NODE ? (const char *)n->data.scalar.value : "";
}

/* The pair of a key of a mapping, or NULL. */
static yaml_node_pair_t *pair_of(yaml_document_t *doc, int map, const char *key, size_t len)
{
	const yaml_node_t *m = yaml_document_get_node(doc, map);

	if (!m || m->type != YAML_MAPPING_NODE)
		return NULL;
	for (yaml_node_pair_t *p = m->data.mapping.pairs.start; p < m->data.mapping.pairs.top;
	     p++) {
		const char *k = text_of(doc, p->key);

		if (strlen(k) == len && memcmp(k, key, len) == 0)
			return p;
	}
	return NULL;
}

/* "limits.step_tokens" or "kv_type"; "" where it is not there. */
static const char *get(yaml_document_t *doc, const char *key)
{
	const char *dot = strchr(key, '.');
	yaml_node_pair_t *p = pair_of(doc, 1, key, dot ? (size_t)(dot - key) : strlen(key));

	if (p && dot)
		p = pair_of(doc, p->value, dot + 1, strlen(dot + 1));
	return p ? text_of(doc, p->value) : "";
}

static int scalar(yaml_document_t *doc, const char *text)
{
	return yaml_document_add_scalar(doc, NULL, (const yaml_char_t *)text, (int)strlen(text),
	                                YAML_ANY_SCALAR_STYLE);
}

static bool put(yaml_document_t *doc, int map, const char *key, size_t len, int value)
{
	yaml_node_pair_t *p = pair_of(doc, map, key, len);
	char name[64];

	if (p && value) {
		p->value = value;
		return true;
	}
	snprintf(name, sizeof name, "%.*s", (int)len, key);
	int k = value ? scalar(doc, name) : 0;

	return k && yaml_document_append_mapping_pair(doc, map, k, value);
}

/* Sets "limits.step_tokens" or "kv_type". */
static bool set(yaml_document_t *doc, const char *key, const char *text)
{
	const char *dot = strchr(key, '.');
	size_t len = dot ? (size_t)(dot - key) : strlen(key);
	int value = scalar(doc, text);

	if (!dot)
		return put(doc, 1, key, len, value);
	yaml_node_pair_t *p = pair_of(doc, 1, key, len);
	int map = p ? p->value : 0;
	const yaml_node_t *n = yaml_document_get_node(doc, map);

	if (!n || n->type != YAML_MAPPING_NODE) {
		map = yaml_document_add_mapping(doc, NULL, YAML_BLOCK_MAPPING_STYLE);
		if (!map || !put(doc, 1, key, len, map))
			return false;
	}
	return put(doc, map, dot + 1, strlen(dot + 1), value);
}

/* ---- reading ---- */

static uint32_t number(yaml_document_t *doc, const char *key, uint32_t usual)
{
	const char *text = get(doc, key);

	return *text ? (uint32_t)strtoul(text, NULL, 0) : usual;
}

/* Lcores of the first device: its accel stage's and its workers'. */
static uint32_t count_threads(yaml_document_t *doc)
{
	const yaml_node_pair_t *p = pair_of(doc, 1, "stages", 6),
			       *devs = pair_of(doc, 1, "devices", 7);
	const yaml_node_t *list = p ? yaml_document_get_node(doc, p->value) : NULL;
	const yaml_node_t *dev = devs ? yaml_document_get_node(doc, devs->value) : NULL;
	const char *name = "";
	uint32_t n = 0;

	if (!list || list->type != YAML_SEQUENCE_NODE || !dev || dev->type != YAML_SEQUENCE_NODE)
		return 1;
	if (dev->data.sequence.items.start < dev->data.sequence.items.top) {
		p = pair_of(doc, *dev->data.sequence.items.start, "name", 4);
		name = p ? text_of(doc, p->value) : "";
	}
	for (int *i = list->data.sequence.items.start; i < list->data.sequence.items.top; i++) {
		const yaml_node_pair_t *kind = pair_of(doc, *i, "kind", 4);
		const yaml_node_pair_t *of = pair_of(doc, *i, "device", 6);
		const char *k = kind ? text_of(doc, kind->value) : "";

		n += (strcmp(k, "accel") == 0 || strcmp(k, "worker") == 0) && of &&
		     strcmp(text_of(doc, of->value), name) == 0;
	}
	return n ? n : 1;
}

static void read_knobs(struct plx_board *b, yaml_document_t *doc)
{
	plx_tune_point_usual(&b->point);
	for (uint32_t k = 1; k < PLX_TUNE_KNOBS; k++) { /* 0: the model's file */
		const struct plx_tune_knob *knob = &plx_tune_knobs[k];
		const char *text = get(doc, knob->key);

		b->odd[k] = *text != '\0';
		for (uint32_t v = 0; v < knob->n; v++)
			if (strcmp(text, knob->value[v].text) == 0) {
				b->point.v[k] = (uint8_t)v;
				b->odd[k] = false;
			}
	}
}

int plx_board_read(struct plx_board *b, const char *path, struct plx_diag *d)
{
	yaml_document_t doc;
	int err = load(&doc, path, d);

	*b = (struct plx_board){.n_threads = 0};
	if (err)
		return err;
	snprintf(b->name, sizeof b->name, "%s", get(&doc, "board"));
	if (b->name[0] == '\0')
		err = plx_diag_set(d, PLX_E_FORMAT,
		                   "%s: this is no board file: the key board is missing", path);
	read_knobs(b, &doc);
	b->n_threads = count_threads(&doc);
	b->sparse_from = number(&doc, "limits.sparse_from", SPARSE_FROM);
	b->pool_tokens = number(&doc, "limits.n_kv_blocks", POOL / BLOCK) *
	                 number(&doc, "limits.block_tokens", BLOCK);
	yaml_document_delete(&doc);
	return err;
}

/* ---- writing ---- */

static bool set_number(yaml_document_t *doc, const char *key, uint32_t v)
{
	char text[16];

	snprintf(text, sizeof text, "%u", v);
	return set(doc, key, text);
}

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/*
 * What else has to follow: a step of more sequences than slots comes to the same and would be
 * refused; answers of one request run in one step; the pool holds as many tokens as before.
 */
static bool set_knobs(yaml_document_t *doc, const struct plx_tune_point *p, uint32_t pool_tokens)
{
	uint32_t slots = number(doc, "limits.n_slots", SLOTS);
	uint32_t samples = number(doc, "limits.n_samples", SAMPLES);
	struct plx_tune_setup s;
	bool ok = true;

	plx_tune_point_setup(p, &s);
	for (uint32_t k = 1; k < PLX_TUNE_KNOBS && ok; k++)
		ok = set(doc, plx_tune_knobs[k].key, plx_tune_knobs[k].value[p->v[k]].text);
	s.step_seqs = least(s.step_seqs, slots);
	ok = ok && set_number(doc, "limits.step_seqs", s.step_seqs);
	if (ok && samples > s.step_seqs)
		ok = set_number(doc, "limits.n_samples", s.step_seqs);
	return ok && set_number(doc, "limits.n_kv_blocks",
	                        (pool_tokens + s.block_tokens - 1) / s.block_tokens);
}

static int emit(yaml_document_t *doc, unsigned char *buf, size_t *len)
{
	yaml_emitter_t e;
	int ok = yaml_emitter_initialize(&e);

	if (!ok) {
		yaml_document_delete(doc);
		return PLX_E_NOMEM;
	}
	yaml_emitter_set_output_string(&e, buf, MAX_FILE, len);
	yaml_emitter_set_unicode(&e, 1);
	yaml_emitter_set_width(&e, 200);
	ok = yaml_emitter_open(&e) && yaml_emitter_dump(&e, doc) && yaml_emitter_close(&e);
	yaml_emitter_delete(&e); /* the document went with dump */
	return ok ? 0 : PLX_E_LIMIT;
}

/* A path as polluxd finds it from wherever the board file lies. */
static int full_path(const char *path, char *out, struct plx_diag *d)
{
	if (!realpath(path, out))
		return plx_diag_set(d, PLX_E_IO, "%s: %s", path, strerror(errno));
	if (strlen(out) > PATH_BYTES)
		return plx_diag_set(
		    d, PLX_E_LIMIT,
		    "%s: a board file takes paths of at most %u bytes; move the model", out,
		    PATH_BYTES);
	return 0;
}

int plx_board_write(const char *path, const char *base, const struct plx_tune_point *p,
                    const char *model_path, const char *about, bool force, struct plx_diag *d)
{
	char model[PATH_MAX], line[ABOUT + 1];
	struct plx_board b;
	yaml_document_t doc;
	size_t len = 0;
	int err = plx_board_read(&b, base, d);

	if (!err)
		err = full_path(model_path, model, d);
	if (!err)
		err = load(&doc, base, d);
	if (err)
		return err;
	unsigned char *buf = malloc(MAX_FILE);

	snprintf(line, sizeof line, "%s", about);
	if (!buf || !set(&doc, "model", model) || !set(&doc, "about", line) ||
	    !set_knobs(&doc, p, b.pool_tokens)) {
		yaml_document_delete(&doc);
		free(buf);
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %s", path);
	}
	err = emit(&doc, buf, &len);
	err = err ? plx_diag_set(d, err, "%s: can't be written as YAML", path)
	          : plx_out_file(path, buf, len, force, d);
	free(buf);
	return err;
}
