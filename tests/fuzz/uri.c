/* uri.c - an input is a URI. What is refused is refused in words; what is taken and written is read as the same again. */
#include "fuzz.h"
#include "net_uri.h"

enum { ERROR_BYTES = 160 };

static void check_words(const char *error, io_status status)
{
    fuzz_check(status == IO_INVALID, "status %d", status);
    fuzz_check(memchr(error, '\0', ERROR_BYTES) != NULL && error[0] != '\0', "refused without a word");
}

static void try_uri(const char *text)
{
    net_uri uri, again;
    net_transport transport;
    char error[ERROR_BYTES] = "";
    const char *rest = net_uri_split(&transport, text);
    fuzz_check(rest >= text && rest <= text + strlen(text), "what follows the transport is not in the text");
    io_status status = net_uri_parse(&uri, text, error, sizeof(error));
    if (status != IO_OK) {
        check_words(error, status);
        return;
    }
    fuzz_check(uri.transport == transport, "transport %d, and %d by its beginning", uri.transport, transport);
    char *written = malloc(NET_URI_TEXT_MAX);
    if (written == NULL) abort();
    (void)net_uri_format(&uri, written, NET_URI_TEXT_MAX);
    status = net_uri_parse(&again, written, error, sizeof(error));
    fuzz_check(status == IO_OK, "written as '%s', which is refused: %s", written, error);
    fuzz_check(again.transport == uri.transport && strcmp(again.path, uri.path) == 0 &&
                   memcmp(&again.addr, &uri.addr, sizeof(uri.addr)) == 0,
               "written as '%s', which is another", written);
    free(written);
}

static void try_addr(const char *text)
{
    net_addr addr, again;
    char error[ERROR_BYTES] = "";
    io_status status = net_addr_parse(&addr, text, error, sizeof(error));
    if (status != IO_OK) {
        check_words(error, status);
        return;
    }
    char written[NET_ADDR_TEXT_MAX];
    (void)net_addr_format(&addr, written, sizeof(written));
    status = net_addr_parse(&again, written, error, sizeof(error));
    fuzz_check(status == IO_OK, "written as '%s', which is refused: %s", written, error);
    fuzz_check(net_addr_port(&addr) == net_addr_port(&again), "written as '%s', which is another", written);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size);
    try_uri(text);
    try_addr(text);
    free(text);
    return 0;
}
