#include "message.h"

static char filler[1 << 16];

void message_prepare(void)
{
    uint64_t x = 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < sizeof filler; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        filler[i] = options.framing == FRAMING_RAW ? (char)(x >> 24) : (char)(33 + (x >> 24) % 90);
    }
}

void message_fill(char *message, unsigned seed)
{
    if (options.framing == FRAMING_FIXED) {
        memcpy(message, options.request_is, options.size);
        return;
    }
    for (size_t i = 0; i < options.size; i++) message[i] = filler[(seed * 251u + i) % sizeof filler];
    if (options.framing == FRAMING_LINE) message[options.size - 1] = '\n';
}
