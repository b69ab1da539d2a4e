/* tr_status.h - the one enum of return codes. Every tr_* function that can fail returns one of these. */
#ifndef TR_STATUS_H
#define TR_STATUS_H

enum tr_status {
    TR_OK = 0,
    TR_ENOMEM,        /* allocation failed */
    TR_EINVAL,        /* argument out of its documented range */
    TR_ENONFINITE,    /* float samples hold NaN or infinity */
    TR_EFULL,         /* bounded queue or table has no room */
    TR_ECLOSED,       /* object was ended or closed */
    TR_ECANCELLED,    /* the cancel flag was set */
    TR_ELOAD,         /* model file could not be loaded */
    TR_EENGINE,       /* the inference engine failed; see its own code */
    TR_EEXCEPTION,    /* a C++ exception was caught at the shim */
    TR_EOS            /* an operating-system call failed: thread, pipe */
};

#endif
