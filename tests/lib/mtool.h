/*
 * plx-model's commands inside a test, on files in a folder of the test's own. The test's program
 * links tools/model (tests.mk).
 */
#ifndef PLX_TESTS_LIB_MTOOL_H
#define PLX_TESTS_LIB_MTOOL_H

#include <stdbool.h>
#include <stddef.h>

#include "fw/base/diag.h"

/* mtool_begin - make the folder. mtool_end - remove it with what is in it. */
void mtool_begin(void);
void mtool_end(void);

/* mtool_setup, mtool_teardown - the same as a test's or a group's. */
int mtool_setup(void **state);
int mtool_teardown(void **state);

/* mtool_path - "folder/name" in a static buffer, one of eight. */
const char *mtool_path(const char *name);

/*
 * mtool - run a command line, given as words ending in NULL, without the program's name.
 *
 * Returns the exit code that plx-model would end with; *d has the message. Standard output goes to
 * mtool_path("stdout").
 */
int mtool(struct plx_diag *d, const char *word, ...);

/* mtool_said - standard output of the last run, as a string to be freed. */
char *mtool_said(void);

/* mtool_read, mtool_write - a whole file; read returns memory to be freed. */
void *mtool_read(const char *path, size_t *n);
void mtool_write(const char *path, const void *p, size_t n);

/* mtool_copy - every file of a folder into another, which is made. */
void mtool_copy(const char *from, const char *to);

/* mtool_edit - in a file of the folder, what stands there as `from` for the first time becomes
 * `to`; it is a mistake of the test where nothing does. */
void mtool_edit(const char *name, const char *from, const char *to);

/* mtool_same - whether two files hold the same bytes. mtool_files - how many are in the folder. */
bool mtool_same(const char *a, const char *b);
unsigned mtool_files(void);

#endif
