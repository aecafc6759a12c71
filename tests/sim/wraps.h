/* wraps.h - what the linker puts in place of the program's own functions: tests/CMakeLists.txt has the list. A call of
 * NAME reaches __wrap_NAME; __real_NAME is the function itself.
 */
#ifndef PORTICO_TESTS_SIM_WRAPS_H
#define PORTICO_TESTS_SIM_WRAPS_H

#include "conn.h"
#include "mem.h"
#include "net.h"
#include "os.h"

/* net_sim.c */
io_status __wrap_net_listen(io_socket *socket, const net_addr *addr, int *native);
io_status __wrap_net_open_stream(io_socket *socket, const net_addr *peer, int *native);
io_status __wrap_net_local(net_addr *addr, io_socket socket);
io_status __wrap_net_set_nodelay(io_socket socket, bool on);
io_status __wrap_net_set_keepalive(io_socket socket, unsigned seconds);
void __wrap_net_close(io_socket socket);
io_status __wrap_net_addr_resolve(net_addr *addrs, size_t *count, const char *uri, char *error, size_t error_size);
void sim_net_open(void);

/* os_sim.c */
int64_t __wrap_os_monotonic_ns(void);
int64_t __wrap_os_realtime_ns(void);
void __wrap_os_random(void *bytes, size_t len);
bool __wrap_os_write_stderr(const char *bytes, size_t len);
bool __wrap_os_stderr_is_terminal(void);
void __wrap_os_news_post(os_news news);
os_thread *__wrap_os_thread_start(const char *name, void (*run)(void *argument), void *argument);
void __wrap_os_thread_join(os_thread *thread);
void __wrap_os_thread_interrupt(os_thread *thread, void (*interrupt)(void *argument), void *argument);
int64_t __wrap_os_thread_cpu_ns(os_thread *thread);
os_mutex *__wrap_os_mutex_open(void);
void __wrap_os_mutex_close(os_mutex *mutex);
void __wrap_os_mutex_lock(os_mutex *mutex);
void __wrap_os_mutex_unlock(os_mutex *mutex);
os_cond *__wrap_os_cond_open(void);
void __wrap_os_cond_close(os_cond *cond);
bool __wrap_os_cond_wait(os_cond *cond, os_mutex *mutex, int64_t timeout_ns);
void __wrap_os_cond_signal(os_cond *cond);
void __wrap_os_cond_broadcast(os_cond *cond);
/* Threads, mutexes and conditions that are open. */
int sim_os_open(void);
/* The fiber that news wake: the caller. */
void sim_news_open(void);

/* versions.c */
bool __wrap_file_read_ordinary(char **data, size_t *len, const char *path, bool *missing, char *error,
                               size_t error_size);

/* mem_sim.c */
void *__wrap_mem_alloc(size_t bytes);
void *__real_mem_alloc(size_t bytes);
void *__wrap_mem_zalloc(size_t bytes);
void *__real_mem_zalloc(size_t bytes);
void *__wrap_mem_realloc(void *block, size_t bytes);
void *__real_mem_realloc(void *block, size_t bytes);
char *__wrap_mem_strdup(const char *text);
char *__real_mem_strdup(const char *text);
mem_heap *__wrap_mem_heap_open(void);
mem_heap *__real_mem_heap_open(void);
void *__wrap_mem_heap_realloc(mem_heap *heap, void *block, size_t old_bytes, size_t bytes);
void *__real_mem_heap_realloc(mem_heap *heap, void *block, size_t old_bytes, size_t bytes);

/* monitor.c */
extern const conn_events __wrap_host_events;
extern const conn_events __real_host_events;
void __wrap_conn_keep(conn *c, size_t len, size_t need);
void __real_conn_keep(conn *c, size_t len, size_t need);
void __wrap_conn_consume(conn *c, size_t len);
void __real_conn_consume(conn *c, size_t len);
io_status __wrap_conn_unread(conn *c, const void *data, size_t len);
io_status __real_conn_unread(conn *c, const void *data, size_t len);
conn *__wrap_conn_open(conn_set *set, io_socket socket, const net_addr *peer, const conn_config *config);
conn *__real_conn_open(conn_set *set, io_socket socket, const net_addr *peer, const conn_config *config);
conn *__wrap_conn_connect(conn_set *set, const net_uri *target, const conn_config *config, io_status *status);
conn *__real_conn_connect(conn_set *set, const net_uri *target, const conn_config *config, io_status *status);
io_status __wrap_conn_send(conn *c, const void *data, size_t len);
io_status __real_conn_send(conn *c, const void *data, size_t len);
io_status __wrap_conn_send_last(conn *c, const void *data, size_t len);
io_status __real_conn_send_last(conn *c, const void *data, size_t len);
io_status __wrap_conn_draw(conn *c, void *buffer, size_t len, size_t *bytes);
io_status __real_conn_draw(conn *c, void *buffer, size_t len, size_t *bytes);

#endif
