/* tr_flag.h - one-word busy flag: proves that one thread at a time is inside an object.
 * Threads : any. Wait-free; acquiring never blocks, it says no.
 * Memory  : a plain int to its owner, so that C++ and Cython can embed it; zero-filled means free.
 *           Touch it only through these functions.
 * Order   : what a holder did before release() is seen by the thread whose try_acquire() succeeds next. */
#ifndef TR_FLAG_H
#define TR_FLAG_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tr_flag {
    int _word;
};

/* True: the caller now holds the flag. False: somebody else does. */
bool tr_flag_try_acquire(struct tr_flag *flag);

/* Only by the holder. */
void tr_flag_release(struct tr_flag *flag);

#ifdef __cplusplus
}
#endif

#endif
