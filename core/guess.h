/* guess.h - which of the known names a misspelt one may have meant. */
#ifndef PORTICO_GUESS_H
#define PORTICO_GUESS_H

#include <stddef.h>

enum { GUESS_NAME_MAX = 32 }; /* longer names are nobody's slip */

typedef struct guess {
    const char *given;
    size_t given_len;
    const char *best; /* NULL: nothing is near enough */
    size_t best_len;
    unsigned distance; /* of the best; before there is one, what is too far */
} guess;

void guess_begin(guess *g, const char *given, size_t given_len);
/* Considers one of the known names. given and word stay the caller's, and must stay while best is used. */
void guess_consider(guess *g, const char *word, size_t len);

#endif
