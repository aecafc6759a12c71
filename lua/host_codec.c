/* host_codec.c - the module portico.codec: what protocols do to every byte, and Lua would be slow at (SHA-1, base64, the
 * mask of WebSocket), and randomness. */
#include "host_internal.h"

#include "lua_steps.h"
#include "os.h"

#include <string.h>

/* ---- SHA-1 (FIPS 180-4, section 6.1) ---- */

enum { SHA1_BLOCK = 64, SHA1_BYTES = 20 };

static uint32_t rotate(uint32_t value, unsigned bits)
{
    return value << bits | value >> (32 - bits);
}

static void sha1_block(uint32_t hash[5], const uint8_t *block)
{
    static const uint32_t constants[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    uint32_t w[80];
    for (size_t t = 0; t < 16; t++) {
        const uint8_t *at = block + t * 4;
        w[t] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    }
    for (size_t t = 16; t < 80; t++) w[t] = rotate(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
    uint32_t a = hash[0], b = hash[1], c = hash[2], d = hash[3], e = hash[4];
    for (size_t t = 0; t < 80; t++) {
        uint32_t f = t < 20 ? (b & c) | (~b & d) : t >= 40 && t < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        uint32_t next = rotate(a, 5) + f + e + constants[t / 20] + w[t];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    hash[0] += a;
    hash[1] += b;
    hash[2] += c;
    hash[3] += d;
    hash[4] += e;
}

/* raises when the budget is over */
static void sha1(uint8_t out[SHA1_BYTES], const uint8_t *data, size_t len)
{
    uint32_t hash[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t last[2 * SHA1_BLOCK] = {0};
    size_t whole = len - len % SHA1_BLOCK, rest = len - whole;
    size_t last_len = rest + 9 <= SHA1_BLOCK ? SHA1_BLOCK : 2 * SHA1_BLOCK;
    uint64_t bits = (uint64_t)len * 8;
    for (size_t at = 0; at < whole; at += SHA1_BLOCK) {
        LUA_STEP();
        sha1_block(hash, data + at);
    }
    memcpy(last, data + whole, rest);
    last[rest] = 0x80;
    for (size_t i = 0; i < 8; i++) last[last_len - 1 - i] = (uint8_t)(bits >> (8 * i));
    for (size_t at = 0; at < last_len; at += SHA1_BLOCK) sha1_block(hash, last + at);
    for (size_t i = 0; i < SHA1_BYTES; i++) out[i] = (uint8_t)(hash[i / 4] >> (24 - 8 * (i % 4)));
}

/* codec.sha1(bytes) */
static int codec_sha1(lua_State *L)
{
    size_t len;
    const char *data = luaL_checklstring(L, 1, &len);
    uint8_t out[SHA1_BYTES];
    sha1(out, (const uint8_t *)data, len);
    lua_pushlstring(L, (const char *)out, sizeof(out));
    return 1;
}

/* ---- Base64 (RFC 4648, section 4) ---- */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* codec.base64(bytes) */
static int codec_base64(lua_State *L)
{
    size_t len;
    const uint8_t *data = (const uint8_t *)luaL_checklstring(L, 1, &len);
    luaL_Buffer out;
    char *to = luaL_buffinitsize(L, &out, (len + 2) / 3 * 4);
    size_t count = 0;
    for (size_t at = 0; at < len; at += 3) {
        LUA_STEP();
        size_t have = len - at < 3 ? len - at : 3;
        uint32_t bits = (uint32_t)data[at] << 16;
        if (have > 1) bits |= (uint32_t)data[at + 1] << 8;
        if (have > 2) bits |= data[at + 2];
        to[count++] = digits[bits >> 18];
        to[count++] = digits[bits >> 12 & 63];
        to[count++] = have > 1 ? digits[bits >> 6 & 63] : '=';
        to[count++] = have > 2 ? digits[bits & 63] : '=';
    }
    luaL_pushresultsize(&out, count);
    return 1;
}

/* The value of a digit, or -1. */
static int digit_value(char c)
{
    const char *found = c == '\0' ? NULL : strchr(digits, c);
    return found == NULL ? -1 : (int)(found - digits);
}

static int push_nil(lua_State *L)
{
    lua_pushnil(L);
    return 1;
}

/* codec.unbase64(text): nil unless it is what codec.base64() makes of some bytes. */
static int codec_unbase64(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    if (len % 4 != 0) return push_nil(L);
    size_t padding = len == 0 || text[len - 1] != '=' ? 0 : text[len - 2] == '=' ? 2 : 1;
    luaL_Buffer out;
    char *to = luaL_buffinitsize(L, &out, len / 4 * 3);
    size_t count = 0;
    uint32_t bits = 0;
    for (size_t at = 0; at < len; at++) {
        int value = at >= len - padding ? 0 : digit_value(text[at]);
        if (value < 0) return push_nil(L);
        bits = bits << 6 | (uint32_t)value;
        if (at % 4 != 3) continue;
        LUA_STEP();
        for (int shift = 16; shift >= 0; shift -= 8) to[count++] = (char)(bits >> shift & 255);
        if (at == len - 1 && padding != 0 && (bits & ((1U << 8 * padding) - 1)) != 0)
            return push_nil(L); /* bits left over */
        bits = 0;
    }
    luaL_pushresultsize(&out, count - padding);
    return 1;
}

/* ---- Others ---- */

/* codec.mask(bytes, key): each byte combined by exclusive or with one of the four of the key, in turn (RFC 6455, section
 * 5.3). */
static int codec_mask(lua_State *L)
{
    enum { STEP_BYTES = 32768 }; /* a multiple of 8; so many at full speed */
    size_t len, key_len;
    const char *data = luaL_checklstring(L, 1, &len);
    const char *key = luaL_checklstring(L, 2, &key_len);
    luaL_argcheck(L, key_len == 4, 2, "a key of 4 bytes expected");
    luaL_Buffer out;
    char *to = luaL_buffinitsize(L, &out, len);
    uint64_t twice;
    memcpy(&twice, key, 4);
    memcpy((char *)&twice + 4, key, 4);
    size_t at = 0;
    while (at + 8 <= len) {
        size_t end = len - at > STEP_BYTES ? at + STEP_BYTES : len;
        LUA_STEP();
        for (; at + 8 <= end; at += 8) {
            uint64_t eight;
            memcpy(&eight, data + at, 8);
            eight ^= twice;
            memcpy(to + at, &eight, 8);
        }
    }
    for (; at < len; at++) to[at] = (char)(data[at] ^ key[at % 4]);
    luaL_pushresultsize(&out, len);
    return 1;
}

/* codec.random(count): bytes that nobody can guess */
static int codec_random(lua_State *L)
{
    lua_Integer count = luaL_checkinteger(L, 1);
    luaL_argcheck(L, count >= 0 && count <= 65536, 1, "a number of bytes from 0 to 65536 expected");
    luaL_Buffer out;
    os_random(luaL_buffinitsize(L, &out, (size_t)count), (size_t)count);
    luaL_pushresultsize(&out, (size_t)count);
    return 1;
}

int host_codec_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"sha1", codec_sha1}, {"base64", codec_base64}, {"unbase64", codec_unbase64},
                                         {"mask", codec_mask}, {"random", codec_random}, {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}
