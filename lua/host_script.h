/* host_script.h - from a script's text to its functions, and the values that it gives. Part of host_internal.h, which says what
 * the words mean.
 */
#ifndef PORTICO_HOST_SCRIPT_H
#define PORTICO_HOST_SCRIPT_H

#include "conn.h"
#include "frame.h"
#include "generation.h"

#include <lauxlib.h>
#include <lua.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host host;

/* ---- host_script.c ---- */
/* Loads and runs the script, checks what it defines, and makes the dispatcher. False: it has been logged why not. */
bool host_script_load(host *h);

/* ---- host_load.c: from text to functions ---- */
/* Replaces load, loadfile and dofile. raises */
void host_load_library(lua_State *L);
/* Compiles a text; bytecode is refused. Leaves the function, or an error's message when the result is not LUA_OK. */
int host_load_text(lua_State *L, const char *text, size_t len, const char *chunk_name);
/* The same for a file of a generation's, leaving out a byte order mark and a first line that begins with '#'. raises */
int host_compile(lua_State *L, const generation_file *file, const char *chunk_name);
/* The same for a file that is read now. raises */
int host_load_file(lua_State *L, const char *path);

/* ---- host_sandbox.c: --sandbox ---- */
/* Takes away what the level does not have, when all else is there. raises */
void host_sandbox_apply(lua_State *L);

/* ---- host_frame.c: frames as scripts declare them ---- */
/* Keeps what it needs of the library `string`. raises */
void host_frame_library(lua_State *L);
/* Reads the frame declared by the value at index.
 * result  NULL: the rule is set, and on top of the stack is a host_custom for FRAME_CUSTOM, else nil.
 *         Otherwise what is wrong, as a string on the stack: "frame.size: 1, 2, 3, 4 or 8 expected, got 5". raises */
const char *host_frame_read(lua_State *L, frame_rule *rule, int index);
/* frame_decode() for a connection with FRAME_CUSTOM. raises what the script's function does */
frame_status host_frame_decode(lua_State *L, const conn *c, frame_found *found, const uint8_t *data, size_t len);
/* Pushes what on_message gets behind a message: the values of its header, which stands before data. Returns how many. raises */
int host_frame_push_fields(lua_State *L, const conn *c, const uint8_t *data);
/* With FRAME_CUSTOM: makes of the values from index message to the top a string to be sent, on top. raises */
void host_frame_encode(lua_State *L, const conn *c, int message);
/* Whether messages of the connection are what a script's function makes of any values. */
bool host_frame_encodes(lua_State *L, const conn *c);

/* ---- host_listen.c: what is listened on ---- */
void host_listen_library(lua_State *L); /* raises */
int host_api_listen(lua_State *L);
/* Reads the script's `listen`, at index. NULL, or what is wrong, as a string on the stack. raises */
const char *host_listen_read(lua_State *L, int index);

/* ---- host_settings.c: values that scripts give ---- */
/* The nearest of names (NULL-terminated) to a misspelt one, or NULL when none is near. */
const char *host_nearest(const char *name, const char *const *names);
/* Pushes ": did you mean 'x'?", or, when nothing is near, ": there are x, y". raises */
void host_push_hint(lua_State *L, const char *name, const char *const *names);
/* The name of an option, whose key is at index key, in the table that is argument arg. raises luaL_argerror when it is no string */
const char *host_option_name(lua_State *L, int arg, int key);
/* There is no option of that name; its table is called prefix ("pool.") in what is said. raises luaL_argerror */
void host_option_unknown(lua_State *L, int arg, const char *prefix, const char *name, const char *const *names);
/* Pushes what is wrong with the key at an index: it is no name. Returns it. raises */
const char *host_push_nameless(lua_State *L, int key);
/* Pushes what stands in for a value in "…, got %s": a number itself, of others the type. Returns it. raises */
const char *host_push_found(lua_State *L, int index);
/* Seconds in a number, as ns. raises luaL_argerror for NaN, negative or huge ones. */
int64_t host_check_seconds(lua_State *L, int arg);
/* The same for an option: its value is at index, in the table that is argument arg. raises luaL_argerror, which names it */
int64_t host_option_seconds(lua_State *L, int arg, const char *name, int index);
/* Names of what host_limit_set() knows. */
extern const char *const host_limit_names[];
/* Sets the limit of that name from the value at index. Returns its bit; 0: there is no limit of that name; when the
 * value is wrong, it pushes what is expected, and returns HOST_LIMIT_WRONG. raises */
enum {
    HOST_LIMIT_SEND_HIGH = 8,
    HOST_LIMIT_SEND_LOW = 16,
    HOST_LIMIT_SEND_MAX = 32,
    HOST_LIMIT_WRONG = 64,
    HOST_LIMIT_MESSAGE = 128
};
uint32_t host_limit_set(lua_State *L, conn_limits *limits, const char *name, int index);
/* Makes the queue's marks fit each other: those that were not given follow the ones that were. NULL, or what is wrong.
 * */
const char *host_limits_settle(conn_limits *limits, uint32_t given);
/* Makes the metatable of a kind of userdata, of that name, and puts it under the key into the registry. raises */
void host_metatable(lua_State *L, const char *name, const void *key, const luaL_Reg *methods,
                    const luaL_Reg *metamethods);
/* Has read be asked for every member of such a userdata; its upvalue 1 is the table of methods. raises */
void host_metatable_reads(lua_State *L, const void *key, lua_CFunction read);
/* What is wrong with handlers that are there together, or NULL. */
const char *host_handlers_wrong(uint32_t handlers);
/* What C would not see of the string at index, which is to be an address: a zero byte, and all behind it. NULL: nothing. */
const char *host_uri_wrong(lua_State *L, int index);
/* Pushes nil, message, code, as scripts get it; returns 3. raises */
int host_push_failure(lua_State *L, const char *message, const char *code);

#endif
