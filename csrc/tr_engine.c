#include "tr_engine.h"

#include <stdlib.h>

void tr_transcript_free(struct tr_transcript *transcript) {
    if (transcript == NULL) return;
    free(transcript->segments);
    free(transcript->tokens);
    free(transcript->text);
    free(transcript);
}
