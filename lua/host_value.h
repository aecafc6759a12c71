/* host_value.h - plain values on their way from one Lua state to another, as bytes.
 *
 * Plain are nil, booleans, integers, floats, strings, and tables of those without metatable, as keys, too. What is
 * shared between two places, or refers to itself, is so in the copy. Strings of more than HOST_VALUE_SHORT bytes that
 * are one object are written once, so the bytes are at most a few times what the value takes in Lua.
 *
 * The bytes are for this process only: in its byte order, and read without distrust.
 */
#ifndef PORTICO_HOST_VALUE_H
#define PORTICO_HOST_VALUE_H

#include <lua.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HOST_VALUE_DEPTH_MAX = 200, /* tables in tables */
    HOST_VALUE_SHORT = 40
};

typedef struct host_value {
    uint8_t *bytes; /* mem_alloc()ed; NULL: no value */
    size_t len;
    size_t size; /* allocated */
} host_value;

/* Copies the value at index. No metamethod is called.
 *
 * root    how the value is called in messages: "state", "argument 2".
 * v       is written over. The caller frees it.
 * result  false: it cannot be copied, v is empty, and a text is pushed that says which field is the reason and why:
 *         "state.list[3].cb: a function cannot be copied".
 * raises  only for want of memory for that text; v is empty then, so nothing is left behind in any case.
 * thread  the one of L. */
bool host_value_encode(lua_State *L, int index, const char *root, host_value *v);

/* The same for what a handler asks for: it also raises, v being empty, when the handler's budget is over on the way. What is
 * moved to the next version of the script is not ended like that. */
bool host_value_encode_in_budget(lua_State *L, int index, const char *root, host_value *v);

/* Pushes the value. v stays as it is, and may be read by many threads at once. Raises for want of memory, and when a handler's
 * budget is over; the caller still owns v then. thread: the one of L. */
void host_value_decode(lua_State *L, const host_value *v);

/* The same as a lua_CFunction, for protected calls, and in no budget: its argument is the host_value, as a light userdata. */
int host_value_push(lua_State *L);

/* Any thread. An empty one is fine; afterwards it is. */
void host_value_free(host_value *v);

#endif
