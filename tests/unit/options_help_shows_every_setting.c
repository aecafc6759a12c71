/* Goal: the help text is whole, fits a terminal, and shows the defaults that are in force. Method: the text is made and
 * searched. */
#include "check.h"
#include "options.h"

#define BACKENDS "io_uring epoll"

static const char *const names[] = {
    "--listen URI",
    "--address-file FILE",
    "--workers N",
    "--backend NAME",
    "--max-connections N",
    "--log-level LEVEL",
    "--log-format FORMAT",
    "-q, --quiet",
    "--drain-timeout SECONDS",
    "--lua-memory SIZE",
    "--shared-memory SIZE",
    "--callback-budget SECONDS",
    "--load-budget SECONDS",
    "--idle-timeout SECONDS",
    "--first-byte-timeout SECONDS",
    "--write-timeout SECONDS",
    "--check",
    "-V, --version",
    "--verbose",
    "-h, --help",
};

static void every_option_is_shown(void)
{
    char text[OPTIONS_HELP_BYTES];
    check(options_help(text, sizeof text, BACKENDS) == text);
    check(strlen(text) < sizeof text - 1);
    for (size_t i = 0; i < array_count(names); i++) {
        if (strstr(text, names[i]) == NULL) fail("%s is missing", names[i]);
    }
    check(strstr(text, "tcp://127.0.0.1:7777") != NULL);
    check(strstr(text, "Exit codes") != NULL);
    check(strstr(text, "Signals") != NULL);
}

static void defaults_and_choices_are_shown(void)
{
    char text[OPTIONS_HELP_BYTES];
    options_help(text, sizeof text, BACKENDS);
    check(strstr(text, "Default: 64M.") != NULL);
    check(strstr(text, "Default: 0.1.") != NULL);
    check(strstr(text, "2x two per processor") != NULL);
    check(strstr(text, "One of: auto, io_uring or epoll.") != NULL);
}

static void lines_fit_a_terminal(void)
{
    char text[OPTIONS_HELP_BYTES];
    options_help(text, sizeof text, BACKENDS);
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        if (strlen(line) > 100) fail("%u columns: %s", (unsigned)strlen(line), line);
        check(line[strlen(line) - 1] != ' ');
    }
}

static void a_short_buffer_cuts_the_text(void)
{
    char text[64];
    memset(text, 'x', sizeof text);
    options_help(text, 10, BACKENDS);
    check_str(text, "Usage: po");
    check_eq(text[10], 'x');
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(every_option_is_shown);
    check_run(defaults_and_choices_are_shown);
    check_run(lines_fit_a_terminal);
    check_run(a_short_buffer_cuts_the_text);
    return check_end();
}
