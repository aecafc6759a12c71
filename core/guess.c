/* guess.c - the distance of two words, and who is nearest. */
#include "guess.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

static unsigned least_of(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* How many letters must be added, dropped, changed, or swapped with their neighbour, to make one word of the other. */
static unsigned word_distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
    unsigned rows[3][GUESS_NAME_MAX + 1]; /* two before, before, and this row of the matrix */
    unsigned *before_last = rows[0];
    unsigned *last = rows[1];
    unsigned *row = rows[2];
    assert(a_len <= GUESS_NAME_MAX && b_len <= GUESS_NAME_MAX);
    for (unsigned j = 0; j <= b_len; j++) last[j] = j;
    for (unsigned i = 1; i <= a_len; i++) {
        row[0] = i;
        for (unsigned j = 1; j <= b_len; j++) {
            unsigned change = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            row[j] = least_of(change, least_of(last[j], row[j - 1]) + 1);
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped) row[j] = least_of(row[j], before_last[j - 2] + 1);
        }
        unsigned *spare = before_last;
        before_last = last;
        last = row;
        row = spare;
    }
    return last[b_len];
}

void guess_begin(guess *g, const char *given, size_t given_len)
{
    *g = (guess){.given = given, .given_len = given_len};
    /* A third of the letters wrong is a slip, more is another word. */
    g->distance = 1 + (unsigned)(given_len > GUESS_NAME_MAX ? GUESS_NAME_MAX : given_len) / 3;
}

void guess_consider(guess *g, const char *word, size_t len)
{
    if (g->given_len == 0 || g->given_len > GUESS_NAME_MAX || len > GUESS_NAME_MAX) return;
    unsigned distance = word_distance(g->given, g->given_len, word, len);
    /* The beginning of a name counts as near: "--max" for "--max-connections". */
    bool begins = g->given_len >= 3 && g->given_len < len && memcmp(g->given, word, g->given_len) == 0;
    if (begins) distance = 1;
    if (distance < g->distance) {
        g->best = word;
        g->best_len = len;
        g->distance = distance;
    }
}
