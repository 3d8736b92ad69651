/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz.h - how a fuzz target runs with any compiler. A target defines LLVMFuzzerTestOneInput (which
 * aborts when something is wrong) and a small corpus, and includes fuzz_main.h last. With clang and
 * -Dfuzz=true libFuzzer drives it; else main() does: PROGRAM [SECONDS [SEED]] mutates the corpus
 * with a seeded generator, PROGRAM FILE... runs files, as libFuzzer writes them on a crash.
 */
#ifndef ACCEL_TESTS_FUZZ_FUZZ_H
#define ACCEL_TESTS_FUZZ_FUZZ_H

#include "common/base.h"
#include "common/str.h"

#define FUZZ_INPUT_BYTES 65536u /* of one input, as libFuzzer's own -max_len for a large corpus */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Appends the i-th input of the built-in corpus; false: there are only i. */
bool fuzz_corpus(size_t i, struct str *out);

/* Runs the seeded mutator for so many seconds; returns the number of inputs tried. */
uint64_t fuzz_run(unsigned seconds, uint64_t seed);
int fuzz_main(int argc, char **argv);

#endif
