#include "tr_flag.h"

/* Compiler builtins and not _Atomic, because the word is a plain int to C++ and Cython. */

bool tr_flag_try_acquire(struct tr_flag *flag) {
    /* acquire: pairs with the release in tr_flag_release(). */
    return __atomic_exchange_n(&flag->_word, 1, __ATOMIC_ACQUIRE) == 0;
}

void tr_flag_release(struct tr_flag *flag) {
    /* release: pairs with the acquire in tr_flag_try_acquire(). */
    __atomic_store_n(&flag->_word, 0, __ATOMIC_RELEASE);
}
