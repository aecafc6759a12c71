/* ctl.c - "portico ctl": finds the server, asks it, prints the answer. */
#include "ctl.h"

#include "base.h"
#include "control.h"
#include "file.h"
#include "guess.h"
#include "mem.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_DONE = 0, EXIT_NOT_DONE = 1, EXIT_WRONG_USAGE = 2 };

enum { LIST_BYTES = 65536 }; /* of what is said about several servers */

/* For a reload, which takes as long as the script takes to load; --load-budget is 5 s where nobody says otherwise. */
#define ANSWER_NS (INT64_C(120) * 1000000000)

static const char help[] = "help";
static const char list[] = "list";

static const struct {
    const char *name;
    const char *meaning;
} commands[] = {
    {CTL_RELOAD, "Load the script again; wait until it is in force, or refused and why."},
    {CTL_ROLLBACK, "Go back to the version before, while a new one is on probation."},
    {CTL_GENERATIONS, "Show the versions of the script that are alive."},
    {CTL_STOP, "Stop: send what is queued, then end. A second time: end at once."},
    {CTL_DUMP, "Write counters to the server's log."},
    {list, "Show the servers of this user that can be asked."},
    {help, "Print this."},
};

/* ---- Words ---- */

typedef struct asked {
    const char *command;
    const char *where; /* NULL: to be found */
    unsigned long pid; /* 0: any */
} asked;

/* word: in quotes behind it; NULL: none. */
static int wrong_usage(const char *what, const char *word)
{
    const char *quote = word != NULL ? "'" : "";
    fprintf(stderr, "portico ctl: %s%s%s%s%s: see portico ctl help\n", what, word != NULL ? " " : "", quote,
            word != NULL ? word : "", quote);
    return EXIT_WRONG_USAGE;
}

static int unknown_command(const char *word)
{
    guess g;
    guess_begin(&g, word, strlen(word));
    for (size_t i = 0; i < array_count(commands); i++) {
        guess_consider(&g, commands[i].name, strlen(commands[i].name));
    }
    if (g.best == NULL) return wrong_usage("unknown command", word);
    fprintf(stderr, "portico ctl: unknown command '%s': did you mean '%s'?\n", word, g.best);
    return EXIT_WRONG_USAGE;
}

static bool is_command(const char *word)
{
    for (size_t i = 0; i < array_count(commands); i++) {
        if (strcmp(commands[i].name, word) == 0) return true;
    }
    return false;
}

/* Takes "--name VALUE" or "--name=VALUE" at words[*next], which moves behind it. False: it is not that option. *value is
 * empty when it is missing. */
static bool take_value(const char **value, const char *name, int *next, int count, char *const *words)
{
    const char *word = words[*next];
    size_t len = strlen(name);
    if (strncmp(word, name, len) != 0 || (word[len] != '\0' && word[len] != '=')) return false;
    (*next)++;
    *value = word[len] == '=' ? word + len + 1 : *next < count ? words[(*next)++] : "";
    return true;
}

static bool read_pid(unsigned long *pid, const char *value)
{
    char *end;
    if (value[0] < '1' || value[0] > '9') return false;
    *pid = strtoul(value, &end, 10);
    return *end == '\0';
}

/* One word or one option with its value. Returns EXIT_DONE, or EXIT_WRONG_USAGE after having said what is wrong. */
static int read_word(asked *a, int *next, int count, char *const *words)
{
    const char *value;
    if (take_value(&value, "--pid", next, count, words)) {
        return read_pid(&a->pid, value) ? EXIT_DONE : wrong_usage("--pid takes the number of a process, not", value);
    }
    if (take_value(&value, "--control", next, count, words)) {
        a->where = value;
        return value[0] != '\0' ? EXIT_DONE
                                : wrong_usage("--control needs a value, the place of a server's channel", NULL);
    }
    const char *word = words[(*next)++];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) word = help;
    if (word[0] == '-') return wrong_usage("unknown option", word);
    if (!is_command(word)) return unknown_command(word);
    if (a->command != NULL) return wrong_usage("one command at a time, not also", word);
    a->command = word;
    return EXIT_DONE;
}

/* The same for all of them. */
static int read_words(asked *a, int count, char *const *words)
{
    int code = EXIT_DONE;
    *a = (asked){0};
    for (int next = 0; next < count && code == EXIT_DONE;) code = read_word(a, &next, count, words);
    if (code != EXIT_DONE) return code;
    if (a->command == NULL) return wrong_usage("no command is given", NULL);
    if (a->where != NULL && a->pid != 0) return wrong_usage("either --pid or --control", NULL);
    return EXIT_DONE;
}

/* ---- What is printed ---- */

static int print(const char *text)
{
    if (file_write_stdout(text, strlen(text))) return EXIT_DONE;
    fputs("portico ctl: cannot write to standard output\n", stderr);
    return EXIT_NOT_DONE;
}

static int print_help(void)
{
    char text[4096];
    int len = snprintf(text, sizeof(text),
                       "Usage: portico ctl COMMAND [--pid N | --control PLACE]\n\n"
                       "Asks a running server. Without --pid or --control the only one of this user.\n\nCommands:\n");
    for (size_t i = 0; i < array_count(commands); i++) {
        len += snprintf(text + len, sizeof(text) - (size_t)len, "  %-12s %s\n", commands[i].name, commands[i].meaning);
    }
    snprintf(text + len, sizeof(text) - (size_t)len,
             "\nOptions:\n"
             "  --pid N          The server that is process N.\n"
             "  --control PLACE  The server that was started with the same option.\n\n"
             "Exit codes: 0 done, 1 refused or failed, 2 wrong usage.\n");
    return print(text);
}

/* A line for each server. */
static void list_instances(char *text, size_t size, const control_instance *instances, size_t count)
{
    size_t len = 0;
    text[0] = '\0';
    for (size_t i = 0; i < count && len < size; i++) {
        int wanted = snprintf(text + len, size - len, "%lu %s\n", instances[i].pid, instances[i].where);
        len += wanted > 0 ? (size_t)wanted : 0;
    }
}

/* ---- Finding the server ---- */

static control_instance instances[CONTROL_INSTANCES_MAX];

/* Returns EXIT_DONE and the place, or says why there is none. */
static int find(char place[CONTROL_WHERE_MAX], unsigned long pid)
{
    static char text[LIST_BYTES];
    const control_instance *chosen = NULL;
    size_t count = control_find(instances, CONTROL_INSTANCES_MAX);
    for (size_t i = 0; i < count; i++) {
        if (instances[i].pid == pid || (pid == 0 && count == 1)) chosen = &instances[i];
    }
    if (chosen != NULL) {
        memcpy(place, chosen->where, CONTROL_WHERE_MAX);
        return EXIT_DONE;
    }
    if (pid != 0) {
        fprintf(stderr, "portico ctl: process %lu is no portico of this user that can be asked\n", pid);
        return EXIT_NOT_DONE;
    }
    if (count == 0) {
        fputs("portico ctl: this user runs no portico that can be asked; root reaches another user's with --control\n",
              stderr);
        return EXIT_NOT_DONE;
    }
    list_instances(text, sizeof(text), instances, count);
    fprintf(stderr, "portico ctl: there are %zu servers: say which one with --pid\n%s", count, text);
    return EXIT_WRONG_USAGE;
}

static int print_list(void)
{
    static char text[LIST_BYTES];
    list_instances(text, sizeof(text), instances, control_find(instances, CONTROL_INSTANCES_MAX));
    return print(text);
}

/* ---- Asking ---- */

static int ask(const char *where, const char *command)
{
    char *text = NULL;
    control_result result = control_ask(&text, where, command, ANSWER_NS);
    const char *said = text != NULL ? text : "out of memory";
    size_t len = strlen(said);
    const char *end = len > 0 && said[len - 1] != '\n' ? "\n" : "";
    int code = EXIT_NOT_DONE;
    if (result == CONTROL_DONE) {
        code = print(said);
        if (code == EXIT_DONE) code = print(end);
    } else {
        fprintf(stderr, "portico ctl: %s%s", said, end);
    }
    mem_free(text);
    return code;
}

int ctl_main(int count, char *const *words)
{
    asked a;
    char place[CONTROL_WHERE_MAX];
    int code = read_words(&a, count, words);
    if (code != EXIT_DONE) return code;
    if (strcmp(a.command, help) == 0) return print_help();
    if (strcmp(a.command, list) == 0) return print_list();
    if (a.where != NULL) return ask(a.where, a.command);
    code = find(place, a.pid);
    return code == EXIT_DONE ? ask(place, a.command) : code;
}
