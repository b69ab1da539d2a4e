/* check.h - the whole test framework: a condition that does not hold ends the program with its place and text. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: CHECK(%s)\n", __FILE__, __LINE__, #condition);    \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

/* Seeded, the same on every machine (xorshift64*, Marsaglia 2003 / Vigna 2016). The state must not be 0. */
static inline uint32_t check_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)(*state * 0x2545F4914F6CDD1Du >> 32);
}

#endif
