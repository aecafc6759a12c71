# wrapped.cmake - what stands in for the system: wraps.h.
set(wrapped
  net_listen net_open_stream net_local net_set_nodelay net_set_keepalive net_close net_addr_resolve
  os_monotonic_ns os_realtime_ns os_random os_write_stderr os_stderr_is_terminal os_news_post
  os_thread_start os_thread_join os_thread_interrupt os_thread_cpu_ns
  os_mutex_open os_mutex_close os_mutex_lock os_mutex_unlock
  os_cond_open os_cond_close os_cond_wait os_cond_signal os_cond_broadcast
  mem_alloc mem_zalloc mem_realloc mem_strdup mem_heap_open mem_heap_realloc
  file_read_ordinary host_events conn_open conn_connect conn_send conn_send_last conn_draw conn_keep conn_consume conn_unread)
