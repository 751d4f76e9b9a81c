/* Where tests find the real model: $PLX_TEST_MODEL, or where the Makefile puts it. */
#ifndef PLX_TESTS_LIB_MODEL_PATH_H
#define PLX_TESTS_LIB_MODEL_PATH_H

/* plx_test_model - its path, or NULL where there is none. */
const char *plx_test_model(void);

#endif
