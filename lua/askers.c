/* askers.c - see askers.h. */
#include "askers.h"

#include <stddef.h>
#include <string.h>

void askers_add(askers *a, asker_answer *answer, void *context)
{
    if (answer == NULL) return;
    for (size_t i = 0; i < ASKERS_MAX; i++) {
        if (a->all[i].answer != NULL) continue;
        a->all[i].answer = answer;
        a->all[i].context = context;
        return;
    }
    answer(context, false, "too many ask at a time");
}

void askers_move(askers *to, askers *from)
{
    askers moved = *from;
    memset(from, 0, sizeof *from);
    for (size_t i = 0; i < ASKERS_MAX; i++) askers_add(to, moved.all[i].answer, moved.all[i].context);
}

void askers_tell(askers *a, bool ok, const char *text)
{
    for (size_t i = 0; i < ASKERS_MAX; i++) {
        asker_answer *answer = a->all[i].answer;
        void *context = a->all[i].context;
        a->all[i].answer = NULL;
        if (answer != NULL) answer(context, ok, text);
    }
}
