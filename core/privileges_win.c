/* privileges_win.c - Windows: a process stays who it is. */
#include "privileges.h"

#include <stdio.h>

bool privileges_find(privileges *p, const char *user, const char *group, char *error, size_t error_size)
{
    *p = (privileges){0};
    if (user == NULL && group == NULL) return true;
    snprintf(error, error_size, "%s does not work on Windows: start the server, or its service, as that account",
             user != NULL ? "--user" : "--group");
    return false;
}

bool privileges_assume(const privileges *p)
{
    (void)p;
    return true;
}

bool privileges_resume(const privileges *p)
{
    (void)p;
    return true;
}

bool privileges_drop(const privileges *p, char *error, size_t error_size)
{
    (void)p;
    (void)error;
    (void)error_size;
    return true;
}
